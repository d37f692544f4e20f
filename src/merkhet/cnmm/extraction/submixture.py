"""A node set of a stage as a plain module: the edges that are left, with constant weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.sequences import hooked, steps
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
        self.edges = sorted(set_edges(self.nodes), key=lambda edge: (edge[1], edge[0]))
        self.blocks = nn.ModuleDict({_key(edge): part for edge, part in blocks.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of the last node."""
        states = {self.nodes[0]: x}
        for i, j in self.edges:
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
    left = steps(block)
    while left and type(left[-1]) in HOMOGENEOUS and not hooked(left[-1]):
        left.pop()
    last = left[-1] if left else nn.Identity()
    scaled = type(last) in AFFINE and last.weight is not None
    return last if scaled and not hooked(last) and _is_alone(last, block) else None


def _is_alone(step: nn.Module, block: nn.Module) -> bool:
    """Tell whether a step and its parameters are used once in a block."""
    own = {id(parameter) for parameter in step.parameters(recurse=False)}
    uses = [id(one) in own for _, one in block.named_parameters(remove_duplicate=False)]
    return sum(uses) == len(own)


def _key(edge: Edge) -> str:
    """Return the name of an edge's block in the state_dict."""
    return f"{edge[0]}_{edge[1]}"
