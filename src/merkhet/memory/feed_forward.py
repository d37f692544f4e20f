"""Feed-forward layers of transformers, as anyone writes them, and what a memory costs instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

# The paper's defaults, for what a memory would cost.
HEADS, TOP_K, KEYS, KEY_DIM = 4, 32, 512, 256


@dataclass(frozen=True)
class FeedForward:
    """A layer that goes up by one matrix and down again by another.

    Attributes:
        path: What it is called: the module that holds both, or "UP and DOWN".
        up: Path of the module of the way up, or of the whole layer.
        down: Path of the matrix of the way down, where that is another module; else "".
        width: Of the tokens.
        hidden: Of what is between.
    """

    path: str
    up: str
    down: str
    width: int
    hidden: int

    @property
    def code(self) -> str:
        """The lines that put a memory in its place, for a network by that name."""
        if not self.down:
            return f"from merkhet.memory import attach\nattach(network, [{self.up!r}], 'replace')"
        return (
            "import torch\nfrom merkhet.memory import attach\n"
            f"attach(network, [{self.down!r}], 'replace', dim={self.width})\n"
            f"network.set_submodule({self.up!r}, torch.nn.Identity())"
        )


def feed_forward_layers(module: nn.Module) -> list[FeedForward]:
    """Return the layers that go up and down again by matrices alone, in the network's order.

    Such a layer is a module with two or more matrices, the last of which leads back to the width
    of the first, and no other parts with parameters; or two modules that follow each other, one
    of which has the matrix up, and the other the matrix down and whatever comes after it, as in
    BERT.
    """
    found: list[FeedForward] = []
    for path, part in module.named_modules():
        whole = _whole(path, part)
        found += [whole] if whole else list(_pairs(path, part))
    return found


def memory_cost(width: int) -> int:
    """Return the multiply-adds of a memory of the paper's size for one token."""
    return HEADS * (width * KEY_DIM + KEYS * KEY_DIM + TOP_K * width)


def _whole(path: str, part: nn.Module) -> FeedForward | None:
    """Return a module as a feed-forward layer, where it is one."""
    inner = [one for one in part.children() if any(True for _ in one.parameters())]
    sizes = [size for one in inner if (size := _matrix(one))]
    if not path or len(sizes) < 2 or len(sizes) < len(inner):
        return None
    (width, hidden), down = sizes[0], sizes[-1]
    if width >= hidden or down != (hidden, width):
        return None
    return FeedForward(path, path, "", width, hidden)


def _pairs(path: str, part: nn.Module) -> Iterator[FeedForward]:
    """Yield the feed-forward layers that two children of a module are together."""
    inner = [(name, one) for name, one in part.named_children() if not _matrix(one)]
    for (first, up), (second, down) in pairwise(inner):
        rising, falling = _matrices(up), _matrices(down)
        if len(rising) != 1 or len(falling) != 1 or len(list(up.parameters())) > 2:
            continue
        ((_, (width, hidden)), (name, (wide, back))) = rising[0], falling[0]
        if width == back < hidden == wide:
            paths = [".".join(filter(None, (path, *names))) for names in ((first,), (second, name))]
            yield FeedForward(f"{paths[0]} and {second}", paths[0], paths[1], width, hidden)


def _matrices(part: nn.Module) -> list[tuple[str, tuple[int, int]]]:
    """Return path and size of the matrices inside a module."""
    inside = ((name, _matrix(one)) for name, one in part.named_modules())
    return [(name, size) for name, size in inside if size]


def _matrix(part: nn.Module) -> tuple[int, int] | None:
    """Return from which width to which a matrix leads, None for what is no matrix."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    weight = getattr(part, "weight", None)
    if type(part).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2:
        return int(weight.shape[0]), int(weight.shape[1])  # of transformers: (in, out)
    return None
