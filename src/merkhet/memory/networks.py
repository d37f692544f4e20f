"""Networks with memories, by name: a run of them is rebuilt from its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError, need
from merkhet.core.files import write_text
from merkhet.memory.attach import Beside, attach
from merkhet.memory.layer import NORMS, ProductKeyMemory
from merkhet.models import Transformer
from merkhet.models.pretrained import load_weights
from merkhet.models.streams import StoredTensors

MEMORIES = "memories.json"
WEIGHTS = "model.safetensors"


def memory_transformer(
    vocab_size: int,
    dim: int = 256,
    layers: int = 6,
    heads: int = 4,
    places: tuple[int, ...] = (3,),
    mode: str = "beside",
    memory: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Transformer:
    """Return a language model with memories, to be trained from scratch.

    Shapes: tokens (batch, length) -> logits (batch, length, vocab_size).

    Args:
        vocab_size: Number of tokens.
        dim: Width of the states.
        layers: Blocks.
        heads: Heads of attention.
        places: Blocks that get a memory, from 0; past the middle is the best place for one.
        mode: "beside" the feed-forward layer or "replace" it.
        memory: Options of `ProductKeyMemory`, by name; its own defaults otherwise.
        seed: Of all weights.

    Raises:
        InputError: A block that is not there, an option that is not there, or other numbers out
            of range.
    """
    within = all(0 <= place < layers for place in places)
    if not places or not within or len(set(places)) < len(places):
        raise InputError(f"places {list(places)}: give blocks from 0 to {layers - 1}, each once")
    network = Transformer(vocab_size, dim, layers, heads, seed=seed)
    paths = [f"layers.{place}.feed_forward" for place in places]
    for added in attach(network, paths, mode, seed=seed, **(memory or {})):
        added.values.reset_parameters()  # from scratch, beside a layer too
    return network


def next_token_loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the next tokens, a scalar.

    Args:
        module: From tokens (batch, length) to logits (batch, length, vocab_size).
        batch: Tokens, and the same one further.
    """
    tokens, targets = batch
    return F.cross_entropy(module(tokens).flatten(0, 1), targets.flatten())


def save_pretrained(model: Any, folder: Path | str) -> None:
    """Write a model of transformers with memories, as its `save_pretrained`, and `memories.json`.

    Args:
        model: A `PreTrainedModel` that `attach` put memories into.
        folder: The folder to write.

    Raises:
        InputError: It has no memory, or two that share a table.
    """
    described = [_describe(model, path, memory) for path, memory in _memories(model)]
    described.sort(key=lambda entry: entry["layers"][0].count("."))  # the outer ones first
    tables = {id(memory.values) for _, memory in _memories(model)}
    if not described or len(tables) < len(described):
        raise InputError(f"{type(model).__name__} needs memories, each with a table of its own")
    whole = "1000TB"  # one file: the table is read back piece by piece anyway
    model.save_pretrained(folder, max_shard_size=whole)
    write_text(Path(folder) / MEMORIES, json.dumps(described, indent=1) + "\n")


def from_pretrained(folder: Path | str) -> nn.Module:
    """Return the model that `save_pretrained` wrote, with its memories, in evaluation mode.

    Needs the extra `hf`. Nothing in the folder is run.

    Args:
        folder: With config.json, model.safetensors and memories.json.

    Raises:
        InputError: A file is missing or damaged, or the weights do not fit.
    """
    folder = Path(folder)
    transformers = need("transformers", "hf")
    for name in (MEMORIES, "config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}: give a folder that merkhet.memory.networks."
                "save_pretrained wrote"
            )
    try:
        described = json.loads((folder / MEMORIES).read_text(encoding="utf-8"))
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        model: nn.Module = getattr(transformers, config.architectures[0])(config)
        with torch.device("meta"):  # a table is allocated once, in the data type of the file
            for entry in described:
                (path,), mode, options = entry["layers"], entry["mode"], entry["options"]
                attach(model, [path], mode, **options)
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{folder} holds no model with memories: {first_line(error)}") from error
    _allocate(model, folder / WEIGHTS)
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def _allocate(model: nn.Module, path: Path) -> None:
    """Give the tensors of a network the data types that a file has, and memory where they fit."""
    stored = StoredTensors(path)
    for inside, owner in model.named_modules():
        own = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for name, tensor in own:
            key = f"{inside}.{name}".removeprefix(".")
            if stored.shapes.get(key) != tuple(tensor.shape):
                continue  # `load_weights` says so
            if tensor.is_meta:
                fresh = torch.empty(tensor.shape, dtype=stored.dtypes[key])
                trained = isinstance(tensor, nn.Parameter)
                setattr(owner, name, nn.Parameter(fresh) if trained else fresh)
            else:
                tensor.data = tensor.data.to(stored.dtypes[key])  # tied ones stay tied


# What other packages find: networks by name, and readers of folders by a file that tells them.
NETWORKS = {"memory_transformer": memory_transformer}
FOLDERS = {MEMORIES: from_pretrained}


def _memories(model: nn.Module) -> Iterator[tuple[str, ProductKeyMemory]]:
    """Yield the memories of a network with their paths."""
    for path, part in model.named_modules():
        if isinstance(part, ProductKeyMemory):
            yield path, part


def _describe(model: nn.Module, path: str, memory: ProductKeyMemory) -> dict[str, Any]:
    """Return how `attach` makes a memory again."""
    owner, _, name = path.rpartition(".")
    beside = name == "memory" and isinstance(model.get_submodule(owner), Beside)
    kinds = {nn.BatchNorm1d: NORMS[0], nn.LayerNorm: NORMS[1], nn.RMSNorm: NORMS[2]}
    return {
        "layers": [owner if beside else path],
        "mode": "beside" if beside else "replace",
        "options": {
            "dim": memory.dim,
            "num_subkeys": memory.num_subkeys,
            "num_heads": memory.num_heads,
            "top_k": memory.top_k,
            "key_dim": memory.key_dim,
            "value_dim": memory.values.dim,
            "query_norm": kinds.get(type(memory.query_norm)),
            "gated": memory.gate is not None,
        },
    }
