"""Spherical k-means: unit centres that points are nearest to in angle, on as many as memory holds.

Lloyd's steps on growing samples, then on all points: most of the way is gone where a step is cheap.

n points of dimension d, k centres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.ckn.kmeans_repair import SAME, Assignment, repair
from merkhet.core.building import as_generator
from merkhet.core.errors import InputError
from merkhet.core.progress import progress_bar

BLOCK = 4096  # rows that are worked on at once
SAMPLES = 16, 4  # parts of the points that steps begin on
WORTH = 32  # points for each centre that make a sample worth steps


@dataclass(frozen=True)
class Clustering:
    """What `spherical_kmeans` found.

    Attributes:
        centres: (k, d) unit rows, of the points' data type, each the direction of the sum of its
            points' directions.
        objective: Mean cosine of points with the centre that they were put with; with the nearest
            one it is no less.
        labels: (n,) which centre each point was put with, -1 where a point was left out.
        iterations: Lloyd's steps on all points.
        history: The objective after each of these; it never falls, but for rounding.
    """

    centres: Tensor
    objective: float
    labels: Tensor
    iterations: int
    history: tuple[float, ...]


@torch.no_grad()
def spherical_kmeans(
    points: Tensor,
    centres: int,
    *,
    iterations: int = 20,
    tolerance: float = 2e-3,
    seed: int | torch.Generator = 0,
    progress: bool = False,
) -> Clustering:
    """Find unit centres z_1 .. z_k of large sum over points of max_j cos(x_i, z_j).

    Lloyd's algorithm (Dhillon and Modha, Machine Learning 2001) from points drawn at random, on
    nested samples first. A centre without points becomes the point that fits its own centre worst.
    Points of float32 on the CPU take a fast path, whose result does not depend on the threads.

    Args:
        points: (n, d), float32 or float64. Each counts by its direction; rows of norm below some
            roundings of the largest norm have none and are left out.
        centres: k, how many to find.
        iterations: Lloyd's steps on all points, at most, and on each sample.
        tolerance: Stop when a step gains less than this share of what is missing to 1; 0 goes on
            until nothing is gained.
        seed: A seed or a generator.
        progress: Whether a terminal shows a bar.

    Raises:
        InputError: Points of another shape or type, NaN or infinity, fewer directions than
            centres, or a setting out of its range.
    """
    _check(points, centres, iterations, tolerance)
    rows, order = _unit_rows(points, centres, as_generator(seed))
    sizes = [len(rows) // part for part in SAMPLES if len(rows) // part >= WORTH * centres]
    sizes.append(len(rows))
    total = iterations * sum(sizes)
    with progress_bar("k-means", total, unit="points", shown=progress) as tell:
        run = Lloyd(rows[:centres].clone(), iterations, tolerance)
        for size in sizes:
            run.on(rows[:size], tell)
    if run.dead:
        raise InputError(
            f"{centres} centres of points with {centres - run.dead} directions: "
            f"give centres={centres - run.dead} or fewer, or points that vary more"
        )
    labels = torch.full((len(points),), -1, device=points.device).index_copy_(0, order, run.labels)
    return Clustering(run.centres, run.history[-1], labels, len(run.history), tuple(run.history))


class Lloyd:
    """Lloyd's steps from given centres.

    Args:
        centres: (k, d) unit rows.
        iterations: Steps on a set of points, at most.
        tolerance: A gain that ends them, as a share of what is missing to 1.

    Attributes:
        centres: Those of the last step.
        labels: (n,), of the points last gone over.
        history: Objectives on the points last gone over.
        dead: How many centres have no point there, though every point fits its own.
    """

    def __init__(self, centres: Tensor, iterations: int, tolerance: float) -> None:
        self.centres = centres
        self.iterations = iterations
        self.tolerance = tolerance

    def on(self, points: Tensor, tell: Callable[[int], None]) -> None:
        """Take steps on points, (n, d) unit rows, until the objective moves little."""
        self.history: list[float] = []
        for step in range(self.iterations):
            moved = self._step(points)
            tell(len(points))
            if not moved and self._settled():
                tell(len(points) * (self.iterations - step - 1))
                break

    def _step(self, points: Tensor) -> int:
        """Take one step; return how many centres were moved because they had no point."""
        assigned = assign(points, self.centres)
        moved, self.dead = repair(points, assigned)
        self.labels, _, sums, counts = assigned
        lengths = sums.norm(dim=1)
        # Opposite points may cancel: what is left is rounding, and any centre is as good.
        clear = lengths > torch.finfo(points.dtype).eps * counts
        turned = (sums / lengths.clamp(min=1e-300)[:, None]).to(points.dtype)
        self.centres = torch.where(clear[:, None], turned, self.centres)
        self.history.append(float(lengths.sum()) / len(points))
        return moved

    def _settled(self) -> bool:
        """Tell whether the last step gained too little to go on."""
        if len(self.history) < 2:
            return False
        before, after = self.history[-2:]
        return after - before <= self.tolerance * abs(1 - after)


def assign(points: Tensor, centres: Tensor) -> Assignment:
    """Return what `plain_step` does, by the fast path where there is one."""
    if points.dtype == torch.float32 and points.device.type == "cpu":
        from merkhet.ckn import kmeans_loops

        return kmeans_loops.assign(points, centres)
    return plain_step(points, centres)


def plain_step(points: Tensor, centres: Tensor) -> Assignment:
    """Put each point with the centre of largest cosine, and sum the points of each centre.

    Args:
        points: (n, d) unit rows.
        centres: (k, d) unit rows.

    Returns:
        Labels (n,), the cosines (n,) with those centres, sums (k, d) in float64, counts (k,).
    """
    nearest = [(block @ centres.T).max(dim=1) for block in points.split(BLOCK)]
    labels = torch.cat([found.indices for found in nearest])
    counts = labels.bincount(minlength=len(centres))
    # By sorted labels, in the points' order: on a GPU too the sums are the same in each run.
    grouped = points[labels.sort(stable=True).indices].double()
    sums = torch.segment_reduce(grouped, "sum", lengths=counts, axis=0)
    return labels, torch.cat([found.values for found in nearest]), sums, counts


def _unit_rows(points: Tensor, centres: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the directions of points in random order, (m, d), and which points they are, (m,)."""
    peak = torch.stack(torch.aminmax(points)).abs().max().double()
    blocks = points.split(BLOCK)
    if peak > 0:
        norms = torch.cat([torch.linalg.vector_norm(b.double() / peak, dim=1) for b in blocks])
    else:
        norms = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    kept = (norms > SAME * torch.finfo(points.dtype).eps * norms.max()).nonzero().flatten()
    if len(kept) < centres:
        raise InputError(
            f"{centres} centres of {len(kept)} points that are not zero (of {len(points)}): "
            "give as many points as centres, or fewer centres"
        )
    drawn = torch.randperm(len(kept), generator=generator, device=generator.device)
    order = kept[drawn.to(points.device)]
    rows = torch.empty(len(order), points.shape[1], dtype=points.dtype, device=points.device)
    for to, places in zip(rows.split(BLOCK), order.split(BLOCK), strict=True):
        to.copy_(points[places].double() / peak / norms[places, None])
    return rows, order


def _check(points: Tensor, centres: int, iterations: int, tolerance: float) -> None:
    """Refuse what cannot be clustered."""
    if not isinstance(points, Tensor) or points.dtype not in (torch.float32, torch.float64):
        given = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise InputError(f"points are {given}: give a tensor of float32 or float64")
    if points.ndim != 2 or 0 in points.shape:
        raise InputError(f"points of shape {tuple(points.shape)}: give (n, d), as x.flatten(1)")
    for name, value in (("centres", centres), ("iterations", iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} = {value!r}: give an integer of 1 or more")
    if not tolerance >= 0:
        raise InputError(f"tolerance = {tolerance!r}: give 0 or more")
    if not bool(points.sum().isfinite()):
        _check_finite(points)


def _check_finite(points: Tensor) -> None:
    """Refuse NaN and infinity; a sum may overflow without them."""
    bad = (~points.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"points[{bad[0]}] holds NaN or infinity ({len(bad)} rows do): "
            "give points[points.isfinite().all(1)]"
        )
