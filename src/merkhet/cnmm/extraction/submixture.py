"""A node set of a stage as a plain module: the edges that are left, with constant weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from merkhet.cnmm.nodes import set_edges

Edge = tuple[int, int]

# f(w x) = w f(x) for every w >= 0: a weight can be moved from behind them to before them.
HOMOGENEOUS = (
    nn.AvgPool2d,
    nn.Dropout,
    nn.Identity,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.ReLU,
    nn.Upsample,
)
# What computes weight * something + bias: a factor goes into both.
AFFINE = (nn.Conv2d, nn.GroupNorm, nn.BatchNorm2d)


class Weighted(nn.Module):
    """x -> weight * block(x), with a weight that is a constant.

    Args:
        block: From the states of one node to those of another.
        weight: A scalar; kept as a buffer.

    Shapes:
        Those of the block.
    """

    weight: Tensor

    def __init__(self, block: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("weight", weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted result."""
        return self.weight * self.block(x)  # type: ignore[no-any-return]


class SubMixture(nn.Module):
    """The mixture of all chains through some nodes of a stage: h_j = sum_i g_ij(h_i).

    Each g_ij = w_ij f_ij carries its weight inside it.

    Args:
        blocks: g_ij for every edge (i, j) among the nodes.
        nodes: The nodes, in order.

    Shapes:
        (batch, channels, height, width) -> what the blocks into the last node give.
    """

    def __init__(self, blocks: Mapping[Edge, nn.Module], nodes: Sequence[int]) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.blocks = nn.ModuleDict({_key(edge): part for edge, part in blocks.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of the last node."""
        states = {self.nodes[0]: x}
        for i, j in sorted(set_edges(self.nodes), key=lambda edge: (edge[1], edge[0])):
            term = self.blocks[_key((i, j))](states[i])
            states[j] = states[j] + term if j in states else term
        return states[self.nodes[-1]]

    def extra_repr(self) -> str:
        """Return the nodes."""
        return f"nodes={self.nodes}"


def weighted(block: nn.Module, weight: Tensor) -> nn.Module:
    """Return weight * block, the weight inside the block's last affine step where that is exact.

    It is exact where only homogeneous steps follow (ReLU, pooling, interpolation); elsewhere
    (GELU, a residual sum) the result is multiplied.

    Args:
        block: May be changed.
        weight: A scalar, 0 or more.
    """
    last = _last_affine(block)
    if last is None:
        return Weighted(block, weight)
    with torch.no_grad():
        for parameter in last.parameters(recurse=False):
            parameter.mul_(weight.to(parameter))
    return block


def _last_affine(block: nn.Module) -> nn.Module | None:
    """Return the step that a factor of the block's result can be moved into, if there is one."""
    steps = list(_steps(block))
    while steps and type(steps[-1]) in HOMOGENEOUS:
        steps.pop()
    last = steps[-1] if steps else None
    alone = sum(step is last for step in steps) == 1  # not where it also comes earlier
    plain = type(last) in AFFINE and getattr(last, "weight", None) is not None
    return last if alone and plain else None


def _steps(block: nn.Module) -> list[nn.Module]:
    """Return the steps of a sequence, those of sequences inside it among them."""
    if type(block) is not nn.Sequential:
        return [block]
    return [step for part in block for step in _steps(part)]


def _key(edge: Edge) -> str:
    """Return the name of an edge's block in the state_dict."""
    return f"{edge[0]}_{edge[1]}"
