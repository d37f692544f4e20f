"""A stage: nodes, a block for each pair of them, and gates that say which are active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn

from merkhet.cnmm import gates as gating
from merkhet.cnmm.gates import Gates
from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError


class MixtureStage(nn.Module):
    """Every chain of blocks through nodes 0 ... T at once, T = num_nodes - 1.

    The states of node j are h_j = sum_i w_ij f_ij(h_i) over the nodes before it, with the weights
    of `gates.edge_weights` and h_0 the stage's input. For gates of 0 and 1 that is the chain
    through the active nodes, exactly, and no other block is run; for probabilities it is the mean
    of the nodes' states over all 2^(T - 1) chains but for one step: blocks are applied to mean
    states. For affine blocks it is exact.

    Shapes: (batch, channels, height, width) -> what the blocks into the last node give.

    Args:
        num_nodes: T + 1, two or more.
        block: Called with i and j, 0 <= i < j <= T, returns f_ij; all blocks into one node give
            states of one shape.
        open: The probability that an inner node is active at the start.

    Raises:
        InputError: Fewer than two nodes, a block that is not a module or is given twice, or a
            probability that is not between 0 and 1.

    Reference:
        Ruiz and Verbeek, "Adaptative inference cost with convolutional neural mixture models",
        ICCV 2019 (arXiv 1908.06694).
    """

    # Gates learn apart: logits go farther than weights, and decay would pull them to 1/2.
    training_hints: ClassVar[dict[str, dict[str, float | bool]]] = {
        "logits": {"rate": 3.0, "decay": False}
    }

    def __init__(
        self, num_nodes: int, block: Callable[[int, int], nn.Module], open: float = 0.5
    ) -> None:
        super().__init__()
        check_counts(num_nodes=num_nodes)
        if num_nodes == 1:
            raise InputError("a stage of one node has no block: give num_nodes of 2 or more")
        self.num_nodes = num_nodes
        self.logits = nn.Parameter(torch.empty(num_nodes - 2))
        self.reset_gates(open)
        blocks = {_key(i, j): block(i, j) for i, j in combinations(range(num_nodes), 2)}
        _check_blocks(blocks)
        self.blocks = nn.ModuleDict(blocks)

    def reset_gates(self, open: float = 0.5) -> None:
        """Make every inner node active with one probability.

        Args:
            open: The probability.

        Raises:
            InputError: It is not between 0 and 1.
        """
        check_positive(open=open)
        if open >= 1:
            raise InputError(f"open = {open!r}: give a probability between 0 and 1, such as 0.5")
        nn.init.constant_(self.logits, gating.as_logit(open))

    def block(self, i: int, j: int) -> nn.Module:
        """Return f_ij."""
        return self.blocks[_key(i, j)]

    def forward(self, x: Tensor, gates: Gates | None = None) -> Tensor:
        """Return the states of the last node.

        Args:
            x: The stage's input, (batch, channels, height, width).
            gates: By default the probabilities: the mean field.

        Raises:
            InputError: Gates of another number of nodes, or, where several blocks read the states
                of one node, a block that writes into them.
        """
        gates = gating.mixed(self.logits) if gates is None else gates
        if len(gates.values) != self.num_nodes:
            raise InputError(
                f"gates of {len(gates.values)} nodes for a stage of {self.num_nodes}: take them "
                "from this mixture's own path, subset, sample, ..."
            )
        if gates.hard:
            for i, j in gates.edges():
                x = self.block(i, j)(x)
            return x
        weights, states = gates.weights().to(x.dtype), {0: x}
        for i, j in gates.edges():
            written = _writes(states[i])
            term = weights[i, j] * self.block(i, j)(states[i])
            if _writes(states[i]) != written:
                raise InputError(
                    f"block {_key(i, j)} writes into the states it is given, which others read "
                    "too: build it without inplace=True"
                )
            states[j] = _added(states.get(j), term, _key(i, j))
        return states[self.num_nodes - 1]

    def extra_repr(self) -> str:
        """Return how many nodes there are."""
        return f"num_nodes={self.num_nodes}"


def _key(i: int, j: int) -> str:
    """Return the name of a block in the state_dict."""
    return f"{i}_{j}"


def _added(states: Tensor | None, term: Tensor, key: str) -> Tensor:
    """Return the states of a node and one more block's, which must be of their shape."""
    if states is None:
        return term
    if term.shape != states.shape:
        raise InputError(
            f"block {key} gives states of shape {tuple(term.shape[1:])}, another block into the "
            f"same node {tuple(states.shape[1:])}: all blocks into a node give one shape; a chain "
            "of blocks must change resolution as often as one block that skips it"
        )
    return states + term


def _writes(states: Tensor) -> int:
    """Return how often a tensor has been written into, 0 where torch does not count it."""
    uncounted = torch.compiler.is_compiling() or states.is_inference()
    return 0 if uncounted else states._version


def _check_blocks(blocks: dict[str, nn.Module]) -> None:
    """Refuse what is no module, and one module on two edges."""
    for key, one in blocks.items():
        if not isinstance(one, nn.Module):
            raise InputError(f"block {key} is a {type(one).__name__}: return an nn.Module for it")
    if len({id(one) for one in blocks.values()}) < len(blocks):
        raise InputError("two edges share a block: let block(i, j) return a fresh one each time")


def check_stages(stages: Sequence[MixtureStage]) -> None:
    """Refuse what is no stage, and no stage at all."""
    if not stages or not all(isinstance(stage, MixtureStage) for stage in stages):
        raise InputError("a mixture needs stages: give one or more MixtureStage(num_nodes, block)")
