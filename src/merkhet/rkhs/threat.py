"""What an attacker may do: move each example within a ball, and stay among valid inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose

NORMS = ("l2", "linf")
ROUNDS = 8  # of moving a point back that rounding left outside
MIXER = 1_000_003  # seeds of (seed, row, turn) differ by multiples of it, modulo 2^32


@dataclass(frozen=True)
class Examples:
    """Labelled examples under attack, each with random numbers of its own.

    The random numbers of an example depend on the seed and on its row in the data alone, so an
    attack finds the same whatever the batches are, and whichever examples still stand.

    Attributes:
        x: Inputs (n, ...).
        y: Labels (n,), int64.
        rows: Where they stand in the data, (n,), int64.
        seed: Of the random numbers.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    seed: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: Tensor) -> Examples:
        """Return those chosen by indices, or by a mask (n,)."""
        there, rows = which.to(self.x.device), self.rows[which.to(self.rows.device)]
        return replace(self, x=self.x[there], y=self.y[there], rows=rows)

    def split(self, size: int) -> list[Examples]:
        """Return them in batches of at most a size."""
        return [self.take(part) for part in torch.arange(len(self)).split(size)]

    def to(self, device: torch.device) -> Examples:
        """Return them on a device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def generators(self, turn: int) -> list[torch.Generator]:
        """Return a generator for each example, seeded for one turn of an attack."""
        seeds = [((self.seed * MIXER + row) * MIXER + turn) % 2**32 for row in self.rows.tolist()]
        return [torch.Generator().manual_seed(seed) for seed in seeds]


@dataclass(frozen=True)
class Threat:
    """A ball around each example, cut to the inputs that are valid.

    Attributes:
        norm: "l2" or "linf", over all numbers of an example.
        clip: The least and the largest valid value of an input, or None for no limit.

    Raises:
        InputError: No such norm, or the limits are not two increasing numbers.
    """

    norm: str = "l2"
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        choose("norm", self.norm, NORMS)
        if self.clip is None:
            return
        if not _are_limits(self.clip):
            raise InputError(f"clip {self.clip}: give (least, largest), as (0, 1), or None")

    def sizes(self, x: Tensor, points: Tensor) -> Tensor:
        """Return the distances of points (n, ...) from inputs (n, ...), (n,) in float64."""
        return self._lengths(points.double() - x.double())

    def steepest(self, gradients: Tensor) -> Tensor:
        """Return the steps (n, ...) of size 1 that follow gradients (n, ...) furthest.

        A gradient of zero, or one that is not finite, gives a step of zero.
        """
        flat: Tensor = gradients.flatten(1)
        flat = torch.where(flat.isfinite().all(1, keepdim=True), flat, 0.0)
        if self.norm == "linf":
            return flat.sign().view_as(gradients)
        tiny = torch.finfo(flat.dtype).tiny
        flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)  # squares may underflow
        lengths: Tensor = flat.norm(dim=1, keepdim=True)
        return (flat / lengths.clamp_min(tiny)).view_as(gradients)

    def reach(self, x: Tensor, points: Tensor, radius: float) -> Tensor:
        """Return points (n, ...) moved into the ball around x, then among valid inputs.

        Both moves bring a point nearer to x, in every coordinate, so the second keeps the first.
        """
        moved = points - x
        if self.norm == "linf":
            return self.valid(x + moved.clamp(-radius, radius))
        sizes = moved.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        shrink = (radius / sizes).clamp_max(1.0)
        return self.valid(x + moved * shrink.view(-1, *[1] * (x.dim() - 1)))

    def whole(self, x: Tensor) -> float:
        """Return a radius whose ball around any of x (n, ...) holds all valid inputs.

        Without limits, one ten times as far as the inputs go from zero.
        """
        side = 10 * float(x.abs().max()) if self.clip is None else self.clip[1] - self.clip[0]
        return side if self.norm == "linf" else side * math.sqrt(x[0].numel())

    def within(self, x: Tensor, radius: float) -> float:
        """Return a radius so much smaller that rounding a point of its ball stays in the ball."""
        rounding = torch.finfo(x.dtype).eps * (float(x.abs().max()) + radius)
        return max(radius - rounding, 0.0)

    def settle(self, x: Tensor, points: Tensor, radius: float) -> Tensor:
        """Return points (n, ...) in x's dtype whose distance from x is at most radius, exactly.

        Distances are of the rounded points, in float64. A point that cannot be brought inside
        becomes the input itself.
        """
        exact = x.double()
        moved = (points.to(x.device).double() - exact).nan_to_num(0.0, 0.0, 0.0)
        settled = self.valid((exact + moved).to(x.dtype))
        for turn in range(ROUNDS):
            sizes = self.sizes(x, settled)
            if bool((sizes <= radius).all()):
                return settled
            room = max(0.0, 1 - 2.0 ** (-22 + 3 * turn))
            shrink = torch.where(sizes > radius, room * radius / sizes, 1.0)
            moved = (settled.double() - exact) * shrink.view(-1, *[1] * (x.dim() - 1))
            settled = self.valid((exact + moved).to(x.dtype))
        outside = self.sizes(x, settled) > radius
        return torch.where(outside.view(-1, *[1] * (x.dim() - 1)), x, settled)

    def draw(self, examples: Examples, radius: float, turn: int, *, edge: bool = False) -> Tensor:
        """Return random points (n, ...): uniform in the ball, or at its edge, then made valid.

        The edge is the sphere for "l2" and the cube's corners for "linf".
        """
        x, shape = examples.x, examples.x.shape[1:]
        drawn = [self._drawn(shape, each, edge) for each in examples.generators(turn)]
        return self.valid(x + radius * torch.stack(drawn).to(x.device, x.dtype))

    def valid(self, points: Tensor) -> Tensor:
        """Return points (n, ...) clipped to the valid values."""
        return points if self.clip is None else points.clamp(*self.clip)

    def _drawn(self, shape: torch.Size, generator: torch.Generator, edge: bool) -> Tensor:
        """Return one point of the unit ball, or of its edge."""
        if self.norm == "linf":
            cube = 2 * torch.rand(shape, generator=generator) - 1
            return torch.where(cube < 0, -1.0, 1.0) if edge else cube
        direction = torch.randn(shape, generator=generator)
        length = torch.rand((), generator=generator).pow(1 / max(1, direction.numel()))
        unit: Tensor = direction / direction.norm()
        return unit if edge else unit * length

    def _lengths(self, moved: Tensor) -> Tensor:
        """Return the norms (n,) of moves (n, ...)."""
        flat = moved.flatten(1)
        lengths: Tensor = flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)
        return lengths


def _are_limits(clip: object) -> bool:
    """Return whether these are two finite numbers that increase."""
    if not isinstance(clip, tuple | list) or len(clip) != 2:
        return False
    numbers = all(isinstance(one, int | float) and math.isfinite(one) for one in clip)
    return numbers and clip[0] < clip[1]
