"""Which parameters go to which optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from merkhet.memory.table import ValueTable


def parameter_groups(model: nn.Module) -> dict[str, list[Any]]:
    """Return a network's parameters in two lists: "values" for `RowwiseAdam`, and "others".

    Args:
        model: A network with memories in it; shared tables count once.
    """
    tables = {id(part.weight) for part in model.modules() if isinstance(part, ValueTable)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "values": [parameter for parameter in trained if id(parameter) in tables],
        "others": [parameter for parameter in trained if id(parameter) not in tables],
    }
