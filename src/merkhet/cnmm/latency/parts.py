"""The parts of a mixture whose latency counts, which of them are the same, paths that meet all."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import Nodes
from merkhet.cnmm.part_inputs import Edge, run_parts

LEAST = 6
PLAIN = (bool, int, float, str, torch.dtype, type(None))


@dataclass(frozen=True)
class Parts:
    """The parts of a mixture by the name that they have in an extracted network.

    Attributes:
        kinds: What each part is, "" for one that does nothing: parts of one kind have the same
            structure and meet states of the same shape, so that they take the same time.
        edges: For each stage, the names of its edges' parts.
    """

    kinds: dict[str, str]
    edges: tuple[dict[Edge, str], ...]

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names of the parts that every network has."""
        inside = {name for stage in self.edges for name in stage.values()}
        return tuple(name for name in self.kinds if name not in inside)

    @property
    def fingerprint(self) -> str:
        """A hash of structure and shapes of all parts, whatever their weights."""
        text = "\n".join(f"{name}: {kind}" for name, kind in self.kinds.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_parts(model: CNMM, example: Tensor) -> Parts:
    """Return the parts of a mixture, from one run of it.

    Args:
        model: The mixture; left as it is.
        example: Pictures, (batch, channels, height, width), one is enough.
    """
    like = next(model.parameters())
    kinds: dict[str, str] = {}
    edges: tuple[dict[Edge, str], ...] = tuple({} for _ in model.parts())
    for place, part, x in run_parts(model, example[:1].to(like)):
        if place is None:
            name = "stem" if part is model.stem else "head"
        else:
            stage, (i, j) = place
            name = edges[stage][i, j] = f"stage{stage}_{i}_{j}"
        kinds[name] = _kind(part, x)
    return Parts(kinds, edges)


def covering(parts: Parts, seed: int = 0) -> list[Nodes]:
    """Return paths that together run every kind of part, each through another part of a stage.

    Args:
        parts: Of the mixture.
        seed: Draws the nodes that the kinds leave open.
    """
    draw = random.Random(seed)
    wanted = [list(_one_of_each(parts, stage)) for stage in parts.edges]
    count = max(LEAST, *(len(edges) for edges in wanted))
    return [
        tuple(
            _through(edges[turn % len(edges)], max(j for _, j in stage), draw)
            for edges, stage in zip(wanted, parts.edges, strict=True)
        )
        for turn in range(count)
    ]


def spread_paths(counts: Sequence[int], paths: int, seed: int) -> list[Nodes]:
    """Return random paths from short to long, each once; fewer where there are not so many.

    Path k of n keeps every inner node with probability (k + 1/2) / n: even chances would give
    paths of about one length.

    Args:
        counts: How many nodes each stage has.
        paths: How many to draw.
        seed: Draws them.
    """
    draw = random.Random(seed)
    found: dict[Nodes, None] = {}
    for turn in range(20 * paths):
        keep = (turn % paths + 0.5) / paths
        path = tuple(
            (0, *(node for node in range(1, count - 1) if draw.random() < keep), count - 1)
            for count in counts
        )
        if len(found) < paths:
            found[path] = None
    return list(found)


def _one_of_each(parts: Parts, stage: dict[Edge, str]) -> Iterator[Edge]:
    """Yield one edge of each kind."""
    seen: set[str] = set()
    for edge, name in stage.items():
        if parts.kinds[name] not in seen:
            seen.add(parts.kinds[name])
            yield edge


def _through(edge: Edge, last: int, draw: random.Random) -> tuple[int, ...]:
    """Return a path through a stage that has a given edge."""
    i, j = edge
    others = [node for node in range(1, last) if (node < i or node > j) and draw.random() < 0.5]
    return tuple(sorted({0, last, i, j, *others}))


def _kind(part: nn.Module, x: Tensor) -> str:
    """Return what a part is once it is folded, in text; "" where it does nothing."""
    plain = folded(part)
    if type(plain) is nn.Identity:
        return ""
    lines = [_described(name, inner) for name, inner in plain.named_modules()]
    return f"{tuple(x.shape[1:])} {'; '.join(lines)}"


def _described(name: str, module: nn.Module) -> str:
    """Return class, plain attributes and shapes of the tensors of one module."""
    kept = {
        key: value
        for key, value in sorted(vars(module).items())
        if key[0] != "_" and _is_plain(value)
    }
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    shapes = {key: tuple(tensor.shape) for key, tensor in own}
    return f"{name} {type(module).__module__}.{type(module).__qualname__} {kept} {shapes}"


def _is_plain(value: object) -> bool:
    """Tell whether a value is a number, a text or a tuple or list of them."""
    if isinstance(value, tuple | list):
        return all(_is_plain(one) for one in value)
    return isinstance(value, PLAIN)
