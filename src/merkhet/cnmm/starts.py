"""Starts of the deepest network: networks that share its first blocks, run together.

Start k is the network whose first k inner nodes are active, counted through the stages: it goes
with the deepest network as far as node k, leaps to the last node of that stage, and takes the
fewest blocks from there. Start 0 is the network of fewest blocks, the last one the deepest itself.
All of them together cost little more than the deepest: each adds its leap and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from merkhet.cnmm.nodes import Nodes
from merkhet.core.errors import InputError

if TYPE_CHECKING:
    from merkhet.cnmm.network import CNMM


@dataclass(frozen=True)
class Starts:
    """Some starts of a mixture's deepest network; a mixture called with them runs them together.

    Attributes:
        numbers: Which, rising, each once.
    """

    numbers: tuple[int, ...]


def inner_nodes(counts: Sequence[int]) -> int:
    """Return how many inner nodes stages have together: the number of the deepest start."""
    return sum(count - 2 for count in counts)


def start_nodes(counts: Sequence[int], number: int) -> Nodes:
    """Return the path of a start.

    Args:
        counts: How many nodes each stage has.
        number: From 0 to `inner_nodes(counts)`.
    """
    found = []
    for count in counts:
        active = min(number, count - 2)
        found.append((*range(active + 1), count - 1))
        number -= active
    return tuple(found)


def as_starts(numbers: Iterable[int], counts: Sequence[int]) -> Starts:
    """Return starts, checked against the stages.

    Args:
        numbers: Which; order and repeats do not count.
        counts: How many nodes each stage has.

    Raises:
        InputError: None, or a number that is not there.
    """
    most = inner_nodes(counts)
    chosen = sorted(set(map(index, numbers)))
    if not chosen or chosen[0] < 0 or chosen[-1] > most:
        raise InputError(f"starts {chosen}: give numbers from 0 to {most}, at least one")
    return Starts(tuple(chosen))


def run_starts(model: CNMM, x: Tensor, starts: Starts) -> Tensor:
    """Return the outputs of some starts by number, shape (starts, batch, ...).

    Args:
        model: The mixture.
        x: What its stem gives for pictures, (batch, channels, height, width).
        starts: Which.
    """
    ends = _ends(model, x, starts.numbers)
    return torch.stack([_finished(model, place, states) for place, states in ends])


def _ends(model: CNMM, x: Tensor, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield for each start the stage that it leaps in, and the states of that stage's last node."""
    number = place = 0
    for place, stage in enumerate(model.parts()):
        last = stage.num_nodes - 1
        for node in range(last - 1):
            if number in numbers:
                yield place, stage.block(node, last)(x)
            if number == numbers[-1]:
                return
            x = stage.block(node, node + 1)(x)
            number += 1
        x = stage.block(last - 1, last)(x)
    yield place, x


def _finished(model: CNMM, place: int, states: Tensor) -> Tensor:
    """Return the output, from a stage's last states, by the fewest blocks of those that follow."""
    for stage in model.parts()[place + 1 :]:
        states = stage.block(0, stage.num_nodes - 1)(states)
    return cast("Tensor", model.head(states))
