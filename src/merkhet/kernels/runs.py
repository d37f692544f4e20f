"""One image against a few, the lanes, through all layers with positions: calls of compiled loops.

L lanes, H and W rows and columns of a map, M = W L; st is a covariance and, upon it, a tangent
kernel. The images' norms at later activations come from `Images`; of an image with itself they are
found on the way and kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from merkhet.kernels import loops
from merkhet.kernels.images import Array, with_inverses
from merkhet.kernels.plan import RECTIFIED, Act, Block, Patch, Plan

Ready = tuple[Array, Array]  # patches and norms


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
            their inverses; None for an x with itself.
        norms: (H, W) at each later activation of an x with itself.
    """

    plan: Plan
    kinds: int
    lanes: int
    memory: Memory
    later: tuple[list[Array], list[Array]] | None
    norms: dict[int, Array] = field(default_factory=dict)
    by_position: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L) where positions end.

        Args:
            x: Patches (H, W, K) and norms (H, W).
            y: Patches and norms as `Images.lanes` arranges them, with `by_position`.
        """

    @abstractmethod
    def variances(self, st: Array) -> Array:
        """Return the variances (H, W) of an x with itself."""

    def norms_at(self, act: Act, st: Array) -> tuple[Array, Array]:
        """Return the norms at a later activation, of x and of the y."""
        if self.later is not None:
            return self.later[0][act.place], self.later[1][act.place]
        if act.place not in self.norms:
            self.norms[act.place] = np.sqrt(np.maximum(self.variances(st), 0)).astype(np.float64)
        own = with_inverses(self.norms[act.place])
        return own, own

    @property
    def sums(self) -> Any:
        """The type of what is summed between activations.

        Later cosines near 1 come from sums, and the slope of a ReLU has a root there: float32
        would leave a thousandth of it. A smooth activation has none.
        """
        acts = [step for block in self.plan.blocks for step in block.steps]
        kinks = any(isinstance(act, Act) and act.kind == RECTIFIED for act in acts)
        return np.float64 if kinks else np.float32

    def room(self, length: int) -> Array:
        """Return the room (3, length) that activations need, float64."""
        return self.memory.take("room", 3, length, dtype=np.float64)


class PairRun(Run):
    """All positions of x with all of y, offset of rows after offset of rows."""

    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L), as `Run` says."""
        pooled: Array | None = None
        for number, block in enumerate(self.plan.blocks):
            if block.pool is None:
                assert pooled is not None
                st = self._rows(0, block, (x, y), pooled)[: self.kinds]
                return self._equal(st.swapaxes(0, 1))
            if pooled is None and len(block.steps) == 1:
                pooled = self._quickly(block, x, y)
            else:
                pooled = self._block(number, block, (x, y), pooled)
        assert pooled is not None
        return self._equal(np.stack([pooled[i, i] for i in range(len(pooled))]))

    def variances(self, st: Array) -> Array:
        """Return the variances (H, W) of an x with itself from st (2, H, W, W) at offset 0."""
        found: Array = np.ascontiguousarray(st[0].diagonal(axis1=-2, axis2=-1))
        return found

    def _equal(self, rows: Array) -> Array:
        """Return the means (kinds, L) over equal positions of (H, kinds, W, M)."""
        by_lane = rows.reshape(*rows.shape[:-1], -1, self.lanes).astype(np.float64)
        means: Array = np.einsum("ikwwl->kl", by_lane) / (rows.shape[0] * rows.shape[2])
        return means

    def _quickly(self, block: Block, x: Ready, y: Ready) -> Array:
        """Return the pooled (H_out, H_out, kinds, W_out, M_out) after the first layer alone."""
        act = block.steps[0]
        assert isinstance(act, Act)
        width, length = x[0].shape[1], y[1].shape[1]
        st = self.memory.take("st", 2, 1, width, length)
        narrow, small, half, out = self._pooling_room(0, block, 1, length)
        room = (self.room(length), st, narrow, small, half, out)
        chosen = (act.kind, act.parameter)
        loops.first_block(*x, *y, self.lanes, chosen, block.rows, block.columns, room)
        return out

    def _block(
        self, number: int, block: Block, first: tuple[Ready, Ready], pooled: Array | None
    ) -> Array:
        """Return the pooled (H_out, H_out, kinds, W_out, M_out) after a block."""
        height, width = block.rows.shape[1], block.pool[1].shape[1]  # type: ignore[index]
        room = self._pooling_room(number, block, height, width * self.lanes)
        narrow, small, half, out = room
        half[:] = 0
        for shift in sorted(range(1 - height, height), key=abs):  # 0 first: it gives the norms
            st = self._rows(shift, block, first, pooled)
            loops.pool_rows(shift, st, self.lanes, block.rows, block.columns, narrow, small, half)
        loops.pool_rest(half, block.rows, out)
        return out

    def _pooling_room(
        self, number: int, block: Block, height: int, length: int
    ) -> tuple[Array, Array, Array, Array]:
        """Return what pooling needs: narrow, small, half and out, as `loops` has them."""
        after, across = len(block.rows), len(block.columns[0])
        one = (self.kinds, across, across * self.lanes)
        return (
            self.memory.take("narrow", across, length, dtype=self.sums),
            self.memory.take("small", *one, dtype=self.sums),
            self.memory.take("half", height, after, *one, dtype=self.sums),
            self.memory.take(("out", number), after, after, *one, dtype=self.sums),
        )

    def _rows(
        self, shift: int, block: Block, first: tuple[Ready, Ready], pooled: Array | None
    ) -> Array:
        """Return st (2, H, W, M) at the end of a block; its rows (i, i + shift) are right."""
        steps = block.steps
        if pooled is None:
            st, steps = self._first_rows(shift, steps[0], first), steps[1:]
        else:
            shape = (pooled.shape[0], *pooled.shape[3:])
            st = self.memory.take("st", 2, *shape, dtype=self.sums)
            loops.read_rows(shift, pooled, st)
        for place, step in enumerate(steps):
            if isinstance(step, Act):
                x, y = self.norms_at(step, st)
                own, room = self.later is None, self.room(st.shape[-1])
                loops.activate_rows(shift, st, x, y, step.kind, step.parameter, own, room)
            else:
                st = self._patched(shift, place, step, st)
        return st

    def _first_rows(self, shift: int, act: Any, first: tuple[Ready, Ready]) -> Array:
        """Return st (2, H, W, M) after the first activation."""
        x, y = first
        length = y[1].shape[1]
        st = self.memory.take("st", 2, *x[1].shape, length)
        chosen = (act.kind, act.parameter)
        loops.first_rows(shift, *x, *y, chosen, self.room(length), st)
        return st

    def _patched(self, shift: int, place: int, step: Patch, st: Array) -> Array:
        """Return st (2, H_out, W_out, M_out) of the patches of st (2, H, W, M)."""
        height, width = step.after
        across = (width, width * self.lanes)
        room = self.memory.take("patched", 2, st.shape[1], *across, dtype=self.sums)
        out = self.memory.take(("patches", place), 2, height, *across, dtype=self.sums)
        scale = (step.weight, step.bias)
        loops.patch_rows(shift, st, self.lanes, step.patch, step.low, scale, room, out)
        return out


class PlaneRun(Run):
    """Equal positions of x and y alone: networks without pooling before the end."""

    by_position = True

    def __call__(self, x: Ready, y: Ready) -> Array:
        """Return the kernels (kinds, L), as `Run` says."""
        (block,) = self.plan.blocks
        act = block.steps[0]
        assert isinstance(act, Act)
        st = self.memory.take("st", 2, *x[1].shape, self.lanes)
        room = self.room(self.lanes)
        loops.first_plane(*x, *y, (act.kind, act.parameter), room[0], st)
        for place, step in enumerate(block.steps[1:]):
            if isinstance(step, Act):
                norms = self.norms_at(step, st)
                own = self.later is None
                loops.activate_plane(st, *norms, step.kind, step.parameter, own, room)
            else:
                st = self._patched(place, step, st)
        means: Array = st[: self.kinds].mean((1, 2), dtype=np.float64)
        return means

    def variances(self, st: Array) -> Array:
        """Return the variances (H, W) of an x with itself from st (2, H, W, 1)."""
        found: Array = st[0, :, :, 0]
        return found

    def _patched(self, place: int, step: Patch, st: Array) -> Array:
        """Return st (2, H_out, W_out, L) of the patches of st (2, H, W, L)."""
        height, width = step.after
        room = self.memory.take("patched", 2, st.shape[1], width, self.lanes)
        out = self.memory.take(("patches", place), 2, height, width, self.lanes)
        scale = (step.weight, step.bias)
        loops.patch_plane(st, step.patch, step.low, scale, room, out)
        return out
