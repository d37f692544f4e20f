"""Attacks in plain PyTorch: projected gradient, and random points at the edge of the ball."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.rkhs.attacked import Attacked, Loss, margin, misjudged, soft_margin
from merkhet.rkhs.threat import Examples, Threat

LOSSES: dict[str, Loss] = {"cross_entropy": soft_margin, "margin": margin}


class Attack(ABC):
    """A search for points near examples that a network gets wrong.

    What it returns is judged by `find`: points outside of the ball are moved back and the
    network is asked again, so an attack can be weak but not wrong.

    Attributes:
        by_gradients: Whether it follows the network's gradients.
    """

    by_gradients: ClassVar[bool] = True

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in results."""

    @abstractmethod
    def search(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> Tensor:
        """Return the best point found for each example, (n, ...).

        Args:
            network: Under attack.
            examples: One batch, on the network's device, all judged rightly.
            threat: The norm and the valid inputs.
            radius: Of the ball.
        """

    def find(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> tuple[Tensor, Tensor]:
        """Return valid points of the balls (n, ...), and which of them are misjudged, (n,).

        Args:
            network: Under attack.
            examples: Any number, on any device, all judged rightly.
            threat: The norm and the valid inputs.
            radius: Of the balls, above 0.

        Raises:
            InputError: It did not return a point for each example.
        """
        found = []
        for batch in examples.split(network.batch_size):
            points = self.search(network, batch.to(network.device), threat, radius)
            if not isinstance(points, Tensor) or points.shape != batch.x.shape:
                raise InputError(
                    f"the attack {self.name} returned {_what(points)} for examples "
                    f"{tuple(batch.x.shape)}: return a point for each"
                )
            found.append(threat.settle(batch.x, points.detach(), radius))
        points = torch.cat(found) if found else examples.x
        return points, network.wrong(points, examples.y)


def _what(points: object) -> str:
    """Return what an attack returned, in words."""
    return str(tuple(points.shape)) if isinstance(points, Tensor) else type(points).__name__


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent: Madry et al., ICLR 2018 (arXiv 1706.06083).

    Steps of 2.5 radius / steps along the steepest direction of the norm. The first start is the
    example, the others are uniform in the ball. Each example keeps its best point and stops once
    it is misjudged. The ascent is on `soft_margin`, which has the directions of the cross-entropy
    and does not vanish where the softmax is saturated, or on the margin, which does not depend on
    the scores' scale.

    Attributes:
        loss: "cross_entropy" or "margin".
        steps: Of each start.
        restarts: Random starts after the one from the example.
        scale: Factor on the scores before the loss.

    Raises:
        InputError: No such loss, no steps, or fewer than no restarts.
    """

    loss: str = "cross_entropy"
    steps: int = 40
    restarts: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        choose("loss", self.loss, LOSSES)
        whole = self.steps == int(self.steps) and self.restarts == int(self.restarts)
        if not whole or self.steps < 1 or self.restarts < 0 or not 0 < self.scale < math.inf:
            raise InputError(
                f"steps={self.steps}, restarts={self.restarts}, scale={self.scale}: give 1 step "
                "or more, 0 restarts or more, a finite scale above 0"
            )

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "pgd" if self.loss == "cross_entropy" else f"pgd-{self.loss}"

    def search(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> Tensor:
        """Return the best point found for each example, (n, ...)."""
        best = examples.x.clone()
        values = best.new_full((len(best),), -torch.inf, dtype=torch.float64)
        left = torch.arange(len(best), device=best.device)
        radius = threat.within(examples.x, radius)
        for turn in range(self.restarts + 1):
            some = examples.take(left)
            start = some.x if turn == 0 else threat.draw(some, radius, turn)
            points, reached = self._climb(network, some, start, threat, radius)
            better = reached > values[left]
            best[left[better]], values[left[better]] = points[better], reached[better]
            left = left[reached < torch.inf]
            if not len(left):
                break
        return best

    def _climb(
        self, network: Attacked, examples: Examples, start: Tensor, threat: Threat, radius: float
    ) -> tuple[Tensor, Tensor]:
        """Return the best points on the way up (n, ...), and their losses, inf when misjudged."""
        point, best = start, start.clone()
        values = best.new_full((len(best),), -torch.inf, dtype=torch.float64)
        running = torch.arange(len(best), device=best.device)
        for step in range(self.steps + 1):
            y = examples.y[running]
            scores, losses, gradients = network.gradient(point, y, self._loss)
            wrong = misjudged(scores, y)
            reached = torch.where(wrong, torch.inf, losses)
            better = reached > values[running]
            best[running[better]], values[running[better]] = point[better], reached[better]
            running, point, gradients = running[~wrong], point[~wrong], gradients[~wrong]
            if step == self.steps or not len(running):
                break
            moved = point + 2.5 * radius / self.steps * threat.steepest(gradients)
            point = threat.reach(examples.x[running], moved, radius)
        return best, values

    def _loss(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the loss to climb, (n,), of scores (n, classes) and labels (n,)."""
        return LOSSES[self.loss](self.scale * scores.double(), y)


@dataclass(frozen=True)
class Noise(Attack):
    """Random points at the edge of the ball: an attack that asks for no gradient.

    Attributes:
        draws: Points tried for each example.

    Raises:
        InputError: No draws.
    """

    by_gradients: ClassVar[bool] = False
    draws: int = 20

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"draws={self.draws}: give 1 or more")

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "noise"

    def search(
        self, network: Attacked, examples: Examples, threat: Threat, radius: float
    ) -> Tensor:
        """Return a misjudged point for each example, (n, ...), itself where none was drawn."""
        found = examples.x.clone()
        left = torch.arange(len(found), device=found.device)
        radius = threat.within(examples.x, radius)
        for turn in range(self.draws):
            some = examples.take(left)
            points = threat.draw(some, radius, turn, edge=True)
            wrong = network.wrong(points, some.y)
            found[left[wrong]] = points[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return found
