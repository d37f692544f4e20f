"""Kernels of convolutional networks on processors: float32 within 2e-6, ten times quicker.

The layers of one x against several y, the lanes, run in the caches of one core. The loops are
compiled by numba where they are first used, and run on the threads that torch has.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from merkhet.core.threads import in_parallel
from merkhet.kernels.images import Array, Images, patches_of, with_inverses
from merkhet.kernels.plain import after_network, kinds_of
from merkhet.kernels.plan import Plan
from merkhet.kernels.runs import Memory, PairRun, PlaneRun, Run
from merkhet.kernels.state import State
from merkhet.kernels.variances import equal_positions

LANES = 8  # images y at once, where all pairs of positions are computed
PLANE_LANES = 32  # where only equal ones are
SHARE = 8  # tasks that a thread does with one piece of memory
Task = tuple[int, int, int]  # an x, and the first and last y of some lanes


class Convolutional:
    """Computes the kernels of a convolutional network between images.

    Attributes:
        side: Rows and columns of the blocks that suit it.
    """

    side = 64

    def __init__(self, plan: Plan, x: Tensor, y: Tensor, kind: str) -> None:
        self._plan, self._x, self._y, self._kind = plan, x, y, kind
        self._ready: dict[tuple[bool, int, int], Images] = {}
        equal = all(block.pool is None for block in plan.blocks)
        self._run: type[Run] = PlaneRun if equal else PairRun
        self._lanes = PLANE_LANES if equal else LANES

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Return the kernels (kinds, rows, columns) between some x and some y, float64."""
        x, y = self._images(rows, of_y=False), self._images(columns, of_y=True)
        found = np.zeros((2, len(x.norms), len(y.norms)))
        cuts = pairwise([*range(0, len(y.norms), self._lanes), len(y.norms)])
        upper = self._x is self._y and rows == columns
        tasks = [
            (place, first, last)
            for first, last in cuts
            for place in range(last if upper else len(x.norms))
        ]
        in_parallel(self._fill, _shares(len(tasks)), tasks, x, y, found)
        of_x, of_y = torch.from_numpy(x.own[0])[:, None], torch.from_numpy(y.own[0])[None]
        return self._after(torch.from_numpy(found), of_x, of_y)

    def diagonal(self) -> Tensor:
        """Return the kernels (kinds, n) of each x with itself, float64."""
        cuts = pairwise([*range(0, len(self._x), self.side), len(self._x)])
        parts = [self._images(slice(*cut), of_y=False).own for cut in cuts]
        own = torch.from_numpy(np.concatenate(parts, -1))
        return self._after(own, own[0], own[0])

    def _images(self, part: slice, *, of_y: bool) -> Images:
        """Return some images made ready; each is only once, and kept."""
        of_y = of_y and self._x is not self._y
        key = (of_y, part.start, part.stop)
        if key not in self._ready:
            patches, norms = patches_of(self._plan.first, (self._y if of_y else self._x)[part])
            self._ready[key] = self._with_own(patches, norms)
        return self._ready[key]

    def _with_own(self, patches: Array, norms: Array) -> Images:
        """Return images with the norms at their later activations, and kernels with themselves."""
        if self._run is PlaneRun:
            own, later_norms = equal_positions(self._plan, norms)
            return Images(patches, norms, tuple(map(with_inverses, later_norms)), own)
        count = len(norms)
        own, later = np.empty((2, count)), [dict[int, Array]() for _ in range(count)]
        only, types = Images(patches, norms), self._plan.types

        def measure(low: int, high: int) -> None:
            memory = Memory()
            for place in range(low, high):
                run = self._run(self._plan, 2, 1, memory, None)
                own[:, place] = run(only.one(place, types), self._lanes_of(only, place, place + 1))[
                    :, 0
                ]
                later[place] = run.norms

        in_parallel(measure, _shares(count))
        places = sorted(later[0])
        kept = tuple(with_inverses(np.stack([found[place] for found in later])) for place in places)
        return Images(patches, norms, kept, own)

    def _fill(
        self, low: int, high: int, tasks: list[Task], x: Images, y: Images, found: Array
    ) -> None:
        """Do some tasks."""
        memory, kinds = Memory(), 1 if self._kind == "nngp" else 2
        before = None
        for place, first, last in tasks[low:high]:
            if before != (first, last):  # tasks with the same y follow each other
                before = (first, last)
                side_by_side = self._lanes_of(y, first, last), y.lanes_later(first, last)
            later = x.one_later(place), side_by_side[1]
            run = self._run(self._plan, kinds, last - first, memory, later)
            found[:kinds, place, first:last] = run(x.one(place, self._plan.types), side_by_side[0])

    def _lanes_of(self, images: Images, first: int, last: int) -> tuple[Array, Array]:
        """Return the patches and norms of some images side by side."""
        by_position = self._run is PlaneRun
        return images.lanes(first, last, self._plan.types, by_position=by_position)

    def _after(self, st: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
        """Return the kinds of kernel asked for after the layers that take vectors."""
        tangent = None if self._kind == "nngp" else st[1]
        state = State(st[0], of_x, of_y, tangent, axes=0, centred=self._plan.centred)
        return kinds_of(after_network(self._plan.rest, state), self._kind)


def _shares(count: int) -> list[tuple[int, int]]:
    """Return parts of `range(count)` for threads to take in turns."""
    return list(pairwise([*range(0, count, SHARE), count])) if count else []
