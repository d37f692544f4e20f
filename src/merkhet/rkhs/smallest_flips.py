"""The smallest perturbation found that makes a network misjudge each example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.rkhs.attacked import Attacked, attacked
from merkhet.rkhs.evaluated import Labelled, labelled, rightly_judged
from merkhet.rkhs.threat import Examples, Threat

OVERSHOOT = 1.02  # steps go so far beyond the plane that they aim at
HALVINGS = 16


@dataclass(frozen=True, eq=False)
class Flips:
    """The nearest misjudged point found for each example.

    A size found is an upper bound of the distance to the nearest misjudged point, not it.

    Attributes:
        points: (n, ...) the points, in the units of the inputs; an example itself where the
            network is wrong already, or where none was found.
        sizes: Their distances (n,) float64: 0 where it is wrong already, inf where none was found.
        labels: What the network says at the points, (n,) int64.
        norm: Of the distances.
    """

    points: Tensor
    sizes: Tensor
    labels: Tensor
    norm: str

    @property
    def found(self) -> Tensor:
        """Where a point was found, bools (n,)."""
        return self.sizes.isfinite()


@torch.inference_mode(False)
def smallest_flips(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Labelled,
    norm: str = "l2",
    *,
    clip: tuple[float, float] | None = (0.0, 1.0),
    steps: int = 20,
    classes: int = 5,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 128,
) -> Flips:
    """Find for each example a nearby point that the network misjudges, and the nearest it can.

    Each step takes the network as linear where the search stands, and goes to the nearest of the
    planes where another class wins (DeepFool, Moosavi-Dezfooli et al., CVPR 2016, arXiv
    1511.04599). Once a point is misjudged the way back to the example is halved down to the
    boundary, and the next step is the nearest to the example itself (as in FAB, Croce & Hein,
    ICML 2020, arXiv 1907.02044). For a linear network without limits the first step is exact.

    Args:
        model: A classifier of inputs (n, ...) with scores (n, classes), its normalisation inside.
        data: Inputs (n, ...) and labels (n,), or `merkhet.data.Pictures`.
        norm: "l2" or "linf".
        clip: The least and the largest valid input, or None for no limit.
        steps: Of each start.
        classes: How many other classes, those with the largest scores, each step looks at.
        restarts: Random starts after the one from the example, within half of the distance of the
            nearest point found before; anywhere where there is none.
        seed: Of the random starts.
        batch_size: Examples at once.

    Raises:
        InputError: The data does not fit, as in `evaluate_robustness`, or the numbers do not.
    """
    whole = all(number == int(number) for number in (steps, classes, batch_size, restarts))
    if not whole or min(steps, classes, batch_size) < 1 or restarts < 0:
        raise InputError(
            f"steps={steps}, classes={classes}, batch_size={batch_size}, restarts={restarts}: "
            "give whole numbers, 1 or more, restarts 0 or more"
        )
    threat = Threat(norm, clip)
    examples = labelled(data, threat, seed)
    with attacked(model, batch_size) as network:
        right = rightly_judged(network, examples)
        points, sizes = examples.x.clone(), torch.where(right, math.inf, 0.0).double()
        for batch in examples.take(right).split(batch_size):
            if len(batch):
                walk = _Walk(network, batch.to(network.device), threat, classes)
                for turn in range(restarts + 1):
                    walk.go(turn, steps)
                points[batch.rows], sizes[batch.rows] = walk.nearest.cpu(), walk.sizes.cpu()
        labels = network.scores(points).argmax(1).cpu()
    return Flips(points, sizes, labels, norm)


class _Walk:
    """The search of one batch.

    Attributes:
        nearest: The nearest misjudged points so far, (n, ...).
        sizes: Their distances, (n,) float64; inf where there is none.
    """

    def __init__(self, network: Attacked, examples: Examples, threat: Threat, classes: int) -> None:
        self.network = network
        self.examples = examples
        self.threat = threat
        self.classes = classes
        self._rounding = 1000 * torch.finfo(examples.x.dtype).eps * float(examples.x.abs().max())
        self.nearest = examples.x.clone()
        self.sizes = torch.full((len(examples),), math.inf, dtype=torch.float64).to(self.x.device)

    @property
    def x(self) -> Tensor:
        """The inputs (n, ...)."""
        return self.examples.x

    def go(self, turn: int, steps: int) -> None:
        """Walk from the examples (turn 0) or from random points, keeping what is nearest."""
        points = self.x if turn == 0 else self._start(turn)
        wrong = torch.zeros_like(self.sizes, dtype=torch.bool)
        for _ in range(steps):
            # Until it flips each step goes on from the last; at the boundary, from the example.
            points = self._step(points, torch.where(_wide(wrong, points), self.x, points))
            wrong = self.network.wrong(points, self.examples.y)
            points = torch.where(_wide(wrong, points), self._halved(points, wrong), points)
            sizes = self.threat.sizes(self.x, points)
            nearer = wrong & (sizes < self.sizes)
            self.sizes = torch.where(nearer, sizes, self.sizes)
            self.nearest = torch.where(_wide(nearer, points), points, self.nearest)

    def _start(self, turn: int) -> Tensor:
        """Return random points (n, ...) within half of the nearest found, or anywhere."""
        spread = self.threat.draw(self.examples, self.threat.whole(self.x), turn) - self.x
        lengths = self.threat.sizes(self.x, self.x + spread)
        shrink = (self.sizes / 2 / lengths).clamp_max(1.0)
        return self.threat.valid(self.x + spread * _wide(shrink, self.x).to(self.x.dtype))

    def _step(self, points: Tensor, origins: Tensor) -> Tensor:
        """Return where the network linearised at points (n, ...) flips, nearest to origins."""
        y = self.examples.y
        scores = self.network.scores(points)
        label = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, y[:, None], True)
        count = min(self.classes, scores.shape[1] - 1)
        others = scores.masked_fill(label, -math.inf).topk(count, dim=1).indices
        best = torch.full_like(self.sizes, math.inf)
        found = points
        for other in others.unbind(1):
            target, size = self._plane(points, origins, other)
            nearer = size < best
            best = torch.where(nearer, size, best)
            found = torch.where(_wide(nearer, points), target, found)
        return found

    def _plane(self, points: Tensor, origins: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points (n, ...) nearest to origins where a class wins, and how far (n,)."""
        _, lead, slope = self.network.gradient(
            points,
            self.examples.y,
            lambda scores, y: (
                scores.gather(1, other[:, None]) - scores.gather(1, y[:, None])
            ).squeeze(1),
        )
        # What is at a limit already, and would go beyond, stays there: the others move.
        stuck = self.threat.valid(points + slope.sign()) == points
        base, slope = torch.where(stuck, points, origins), slope.masked_fill(stuck, 0.0)
        flat = slope.flatten(1).double()
        here = lead.double() + (flat * (base - points).flatten(1).double()).sum(1)
        dual = flat.abs().sum(1) if self.threat.norm == "linf" else flat.norm(dim=1)
        length = (-here).clamp_min(0.0) / dual  # nan or inf where the network is flat
        leads = (dual > 0) & length.isfinite()
        length = length.where(leads, 0.0) * OVERSHOOT + self._rounding
        step = _wide(length, points).to(points.dtype) * self.threat.steepest(slope)
        target = self.threat.valid(base + step)
        return target, torch.where(leads, self.threat.sizes(origins, target), math.inf)

    def _halved(self, points: Tensor, wrong: Tensor) -> Tensor:
        """Return misjudged points (n, ...) between the examples and those given."""
        rows = wrong.nonzero().squeeze(1)
        x, y, ends = self.x[rows], self.examples.y[rows], points[rows]
        low, high = torch.zeros_like(self.sizes[rows]), torch.ones_like(self.sizes[rows])
        best = ends
        for _ in range(HALVINGS if len(rows) else 0):
            middle = (low + high) / 2
            tried = torch.lerp(x, ends, _wide(middle, ends).to(ends.dtype))
            flipped = self.network.wrong(tried, y)
            best = torch.where(_wide(flipped, ends), tried, best)
            high = torch.where(flipped, middle, high)
            low = torch.where(flipped, low, middle)
        reached = points.clone()
        reached[rows] = best
        return reached


def _wide(numbers: Tensor, like: Tensor) -> Tensor:
    """Return numbers (n,) in a shape that goes with (n, ...)."""
    return numbers.view(-1, *[1] * (like.dim() - 1))
