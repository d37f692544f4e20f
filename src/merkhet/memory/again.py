"""The code that puts a fresh memory with other settings in the place of one that a network has."""

from __future__ import annotations

from typing import Any

from torch import nn

from merkhet.memory.layer import ProductKeyMemory

SETTINGS = ("dim", "num_subkeys", "num_heads", "top_k", "key_dim")


def fresh_code(module: nn.Module, table: str, *, heads: int = 1, **changes: Any) -> str:
    """Return lines that replace a memory by a fresh one, for findings of the audit.

    Args:
        module: The network.
        table: Path of the memory's table of values.
        heads: How many times as many heads it is to have.
        changes: Other settings of `ProductKeyMemory` that are to change.
    """
    path = table.rpartition(".")[0]
    memory = module.get_submodule(path)
    if not isinstance(memory, ProductKeyMemory):  # a table in a layer of the user's own
        return f"print(network.get_submodule({path!r}))"
    own = {name: getattr(memory, name) for name in SETTINGS}
    given = {**own, "num_heads": heads * memory.num_heads, **changes}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    if not path:
        return f"from merkhet.memory import ProductKeyMemory\nnetwork = ProductKeyMemory({words})"
    return f"from merkhet.memory import attach\nattach(network, [{path!r}], 'replace', {words})"
