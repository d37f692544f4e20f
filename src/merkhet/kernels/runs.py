"""One image against a few, the lanes, through all layers with positions: calls of compiled loops.

L lanes, H and W rows and columns of a map, M = W L; s is a covariance, t a tangent kernel, st both.
The images' norms at later activations come from `Images`; of an image with itself they are found on
the way and kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from merkhet.kernels import loops
from merkhet.kernels.images import Array, with_inverses
from merkhet.kernels.plan import Act, Block, Patch, Plan

Ready = tuple[Array, Array]  # patches and norms
Pair = tuple[Array, Array]  # a covariance and a tangent kernel


@dataclass
class Memory:
    """Arrays that one task after another writes into: fresh ones cost as much as the work."""

    arrays: dict[tuple[Any, ...], Array] = field(default_factory=dict)

    def take(self, name: Any, *shape: int, dtype: Any = np.float32) -> Array:
        """Return an array with whatever stands in it, the same for the same name and shape."""
        key = (name, dtype, *shape)
        if key not in self.arrays:
            self.arrays[key] = np.zeros(shape, dtype)
        found: Array = self.arrays[key]
        return found


@dataclass
class Run(ABC):
    """One x against some y.

    Attributes:
        plan: The layers.
        kinds: 1 for covariances alone, 2 with the tangent kernel.
        lanes: How many y.
        memory: For intermediate results.
        later: The norms at later activations, of x (2, H, W) and of the y (2, H, M), each with
            their inverses; None for an x with itself, whose norms are found on the way.
        norms: (H, W) at each later activation of an x with itself.
    """

    plan: Plan
    kinds: int
    lanes: int
    memory: Memory
    later: tuple[list[Array], list[Array]] | None
    norms: dict[int, Array] = field(default_factory=dict)

    @abstractmethod
    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L) where positions end.

        Args:
            x: Patches (H, W, K) and norms (H, W).
            y: Patches and norms as `Images.lanes` arranges them, for planes by position.
        """

    @property
    def types(self) -> tuple[Any, Any]:
        """The types of covariances and of tangent kernels."""
        return self.plan.exact, np.float32

    def both(self, name: Any, *shape: int) -> Pair:
        """Return room for a covariance and a tangent kernel."""
        first, second = self.types
        take = self.memory.take
        return take((name, "s"), *shape, dtype=first), take((name, "t"), *shape, dtype=second)

    def room(self, length: int) -> tuple[Array, Array, Array]:
        """Return the room that activations need: cosines, dual and slope (length,)."""
        take, exact = self.memory.take, self.plan.exact
        return (
            take("u", length, dtype=self.plan.products),
            take("dual", length, dtype=exact),
            take("slope", length, dtype=exact),
        )


class PairRun(Run):
    """All positions of x with all of y, offset of rows after offset of rows."""

    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L), as `Run` says."""
        pooled: Pair | None = None
        for number, block in enumerate(self.plan.blocks):
            if block.pool is None:
                assert pooled is not None
                return self._equal(*self._rows(0, block, (x, y), pooled))
            if pooled is None and len(block.steps) == 1:
                pooled = self._quickly(block, x, y)
            else:
                pooled = self._block(number, block, (x, y), pooled)
        assert pooled is not None
        diagonals = [np.stack([k[i, i] for i in range(len(k))]) for k in pooled[: self.kinds]]
        return self._equal(*diagonals)

    def norms_at(self, act: Act, s: Array) -> tuple[Array, Array]:
        """Return the norms at a later activation, of x and of the y."""
        if self.later is not None:
            return self.later[0][act.place], self.later[1][act.place]
        if act.place not in self.norms:
            self.norms[act.place] = np.sqrt(np.maximum(self._variances(s), 0)).astype(np.float64)
        own = with_inverses(self.norms[act.place])
        return own, own

    def _variances(self, s: Array) -> Array:
        """Return the variances (H, W) of an x with itself from s (H, W, W) at offset 0."""
        found: Array = np.ascontiguousarray(s.diagonal(axis1=-2, axis2=-1))
        return found

    def _equal(self, *given: Array) -> Array:
        """Return the means (kinds, L) over equal positions of (H, W, M) each."""
        means = []
        for k in given[: self.kinds]:
            by_lane = k.reshape(*k.shape[:-1], -1, self.lanes).astype(np.float64)
            means.append(np.einsum("iwwl->l", by_lane) / (k.shape[0] * k.shape[1]))
        return np.stack(means)

    def _quickly(self, block: Block, x: Ready, y: Ready) -> Pair:
        """Return the pooled (H_out, H_out, W_out, M_out) after the first layer alone."""
        act = block.steps[0]
        assert isinstance(act, Act)
        width, length = x[0].shape[1], y[1].shape[1]
        st, (rooms, outs) = self.both("st", 1, width, length), self._pooling(0, block, 1, length)
        pools = tuple(block.windows[kind] for kind in self.types)
        chosen, u = (act.kind, act.parameter), self.room(length)[0]
        loops.first_block(x, y, self.lanes, chosen, pools, u, st, rooms, outs)
        return outs

    def _block(
        self, number: int, block: Block, first: tuple[Ready, Ready], pooled: Pair | None
    ) -> Pair:
        """Return the pooled (H_out, H_out, W_out, M_out) after a block."""
        height, width = (weights.shape[1] for weights in block.pool or ())
        rooms, outs = self._pooling(number, block, height, width * self.lanes)
        kinds = range(self.kinds)
        for kind in kinds:
            rooms[kind][2][:] = 0
        for shift in sorted(range(1 - height, height), key=abs):  # 0 first: it gives the norms
            st = self._rows(shift, block, first, pooled)
            for kind in kinds:
                windows = block.windows[self.types[kind]]
                loops.pool_rows(shift, st[kind], self.lanes, *windows, rooms[kind])
        for kind in kinds:
            loops.pool_rest(rooms[kind][2], block.windows[self.types[kind]][0], outs[kind])
        return outs

    def _pooling(
        self, number: int, block: Block, height: int, length: int
    ) -> tuple[tuple[Any, Any], Pair]:
        """Return what pooling needs, as `loops` has it: narrow, small and half, and out.

        Where no tangent kernel is wanted its out has no rows.
        """
        after, (starts, _) = len(block.windows[np.float32][0]), block.windows[np.float32][1]
        one = (len(starts), len(starts) * self.lanes)
        narrow, small = self.both("narrow", len(starts), length), self.both("small", *one)
        half = self.both("half", height, after, *one)
        s, t = self.both(("out", number), after, after, *one)
        rooms = tuple(zip(narrow, small, half, strict=True))
        return (rooms[0], rooms[1]), (s, t if self.kinds == 2 else t[:0])

    def _rows(
        self, shift: int, block: Block, first: tuple[Ready, Ready], pooled: Pair | None
    ) -> Pair:
        """Return st (H, W, M) each at the end of a block; rows (i, i + shift) are right."""
        steps = block.steps
        if pooled is None:
            st, steps = self._first_rows(shift, steps[0], first), steps[1:]
        else:
            height, _, *rest = pooled[0].shape
            st = self.both("st", height, *rest)
            for kind in range(self.kinds):
                loops.read_rows(shift, pooled[kind], st[kind])
        for place, step in enumerate(steps):
            if isinstance(step, Act):
                x, y = self.norms_at(step, st[0])
                own, room = self.later is None, self.room(st[0].shape[-1])
                loops.activate_rows(shift, st, x, y, (step.kind, step.parameter), own, room)
            else:
                st = self._patched(shift, place, step, st)
        return st

    def _first_rows(self, shift: int, act: Any, first: tuple[Ready, Ready]) -> Pair:
        """Return st (H, W, M) each after the first activation."""
        x, y = first
        length = y[1].shape[1]
        st = self.both("st", *x[1].shape, length)
        loops.first_rows(shift, x, y, (act.kind, act.parameter), self.room(length)[0], st)
        return st

    def _patched(self, shift: int, place: int, step: Patch, st: Pair) -> Pair:
        """Return st (H_out, W_out, M_out) each of the patches of st (H, W, M)."""
        height, width = step.after
        across = (width, width * self.lanes)
        room = self.both("patched", len(st[0]), *across)
        out = self.both(("patches", place), height, *across)
        for k, beside, to in zip(st, room, out, strict=True):
            loops.patch_rows(shift, k, self.lanes, step.patch, step.low, beside, to)
        for i in range(max(0, -shift), min(height, height - shift)):
            loops.weigh(step.weight, step.bias, out[0][i], out[1][i])
        return out


class PlaneRun(Run):
    """Equal positions of x and y alone: networks without pooling before the end."""

    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L), as `Run` says."""
        (block,), later = self.plan.blocks, self.later
        act = block.steps[0]
        assert isinstance(act, Act)
        assert later is not None
        st, room = self.both("st", *x[1].shape, self.lanes), self.room(self.lanes)
        loops.first_plane(x, y, (act.kind, act.parameter), room[0], st)
        for place, step in enumerate(block.steps[1:]):
            if isinstance(step, Act):
                x_norms, y_norms = (norms[step.place] for norms in later)
                loops.activate_plane(st, x_norms, y_norms, (step.kind, step.parameter), room)
            else:
                st = self._patched(place, step, st)
        return np.stack([k.mean((0, 1), dtype=np.float64) for k in st[: self.kinds]])

    def _patched(self, place: int, step: Patch, st: Pair) -> Pair:
        """Return st (H_out, W_out, L) each of the patches of st (H, W, L)."""
        height, width = step.after
        room = self.both("patched", len(st[0]), width, self.lanes)
        out = self.both(("patches", place), height, width, self.lanes)
        for k, beside, to in zip(st, room, out, strict=True):
            loops.patch_plane(k, step.patch, step.low, beside, to)
        loops.weigh(step.weight, step.bias, *out)
        return out
