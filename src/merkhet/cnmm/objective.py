"""The loss that trains a mixture: parts of it in turns, gates held back by cost and entropy.

A step trains networks drawn from the mixture, each on its share of the batch, and by a schedule
the network of fewest blocks, the deepest one, and the mixture itself, whose output is what single
networks are distilled from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM, mixture_of
from merkhet.cnmm.nodes import full_nodes, shortest_nodes
from merkhet.cnmm.recalibration import kept_statistics
from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError

Fit = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of a batch -> scalar
TEACHERS = ("mixture", "longest")  # the network of fewest blocks has nothing to teach the others
SURE = 0.02  # a gate nearer to 0 or 1 than this has all but chosen


@dataclass(frozen=True)
class Schedule:
    """What a step trains, and how its parts count.

    Attributes:
        mixture_every: Steps from one that trains the mixture to the next.
        longest_every: The same of the deepest network; it is the teacher where the mixture is not
            run.
        shortest_every: The same of the network of fewest blocks.
        draws: Networks that are drawn in a step.
        portion: The share of the batch that each of them sees; they take turns through it.
        temperature: Of the draws (`gates.swept`) at the end; it falls from 1, evenly in its log.
        frozen: The share of the steps, from the first, in which gates do not move.
        distillation: Weight of the divergence of a network's output from its teacher's.
        cost: Weight of the expected cost of a network, the deepest one's being 1.
        entropy: Weight of the gates' entropy, 1 where all are open with probability 1/2; it
            keeps gates from choosing early.

    Raises:
        InputError: A value is out of its range.
    """

    mixture_every: int = 4
    longest_every: int = 2
    shortest_every: int = 1
    draws: int = 4
    portion: float = 0.5
    temperature: float = 0.1
    frozen: float = 0.15
    distillation: float = 1.0
    cost: float = 0.05
    entropy: float = 0.02

    def __post_init__(self) -> None:
        check_counts(
            mixture_every=self.mixture_every,
            longest_every=self.longest_every,
            shortest_every=self.shortest_every,
            draws=self.draws,
        )
        check_positive(temperature=self.temperature)
        for name in ("frozen", "distillation", "cost", "entropy"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise InputError(f"{name} = {value!r}: give a number from 0 on")
        check_positive(portion=self.portion)
        for name in ("frozen", "portion"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} = {getattr(self, name)}: give a share, at most 1")

    @property
    def cycle(self) -> int:
        """After how many steps the same parts are trained again."""
        return math.lcm(self.mixture_every, self.longest_every, self.shortest_every)


class Objective:
    """The loss of a mixture, for `training.fit`.

    Args:
        steps: Of the whole run.
        fit: The loss of outputs against targets, such as cross-entropy.
        costs: What the expected cost is computed from.
        schedule: What a step trains.
    """

    def __init__(
        self, steps: int, fit: Fit, costs: CostTable, schedule: Schedule | None = None
    ) -> None:
        check_counts(steps=steps)
        self.steps, self.fit, self.costs = steps, fit, costs
        self.schedule = schedule or Schedule()
        self.step = 0

    def at_step(self, step: int) -> None:
        """Take the number of steps made before this one."""
        self.step = step

    def __call__(
        self, module: nn.Module, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the loss of a batch, a scalar, and its parts by name.

        Args:
            module: The mixture, wrapped or not.
            batch: Pictures (batch, channels, height, width) and targets.
        """
        model = mixture_of(module)
        x, targets = batch
        logs: dict[str, Tensor | float] = {}
        total, teacher = x.new_zeros(()), None
        for name, gates in self._wholes(model):
            output = self._run(module, x, gates, statistics=name == "mixture")
            loss = self.fit(output, targets)
            logs[f"{name}_loss"] = loss.detach()
            total = total + loss + self._apart(output, teacher)
            if teacher is None and name in TEACHERS:
                teacher = output.detach()
        drawn, fit = self._drawn(module, x, targets, teacher)
        logs |= {"sampled_loss": fit} | gate_logs(model, self.costs)
        return total + drawn + self._gate_terms(model), logs

    def _wholes(self, model: CNMM) -> list[tuple[str, Sequence[Gates]]]:
        """Return what this step trains on the whole batch, the teacher first."""
        turn, schedule = self.step, self.schedule
        found: list[tuple[str, Sequence[Gates]]] = []
        if turn % schedule.mixture_every == 0:
            found.append(("mixture", self._held(model.mixture())))
        if turn % schedule.longest_every == schedule.longest_every - 1:
            found.append(("longest", model.path(full_nodes(model.counts))))
        if turn % schedule.shortest_every == 0:
            found.append(("shortest", model.path(shortest_nodes(model.counts))))
        return found

    def _drawn(
        self, module: nn.Module, x: Tensor, targets: Tensor, teacher: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of networks that are drawn: summed by share, and the mean fit."""
        model = mixture_of(module)
        temperature = self.schedule.temperature ** (self.step / self.steps)
        shares = torch.arange(len(x), device=x.device).chunk(self._shares(len(x)))
        losses, fits = [], []
        for turn in range(self.schedule.draws):
            share = shares[turn % len(shares)]
            output = self._run(module, x[share], model.sweep(temperature), statistics=False)
            fits.append(self.fit(output, targets[share]))
            own = None if teacher is None else teacher[share]
            losses.append((fits[-1] + self._apart(output, own)) * (len(share) / len(x)))
        return torch.stack(losses).sum(), torch.stack(fits).mean().detach()

    def _shares(self, count: int) -> int:
        """Return how many shares a batch has: of two examples at the least, for batch norms."""
        return max(1, min(round(1 / self.schedule.portion), count // 2))

    def _apart(self, output: Tensor, teacher: Tensor | None) -> Tensor | float:
        """Return the term of distillation, 0 where there is no teacher."""
        if teacher is None or not self.schedule.distillation:
            return 0.0
        return self.schedule.distillation * divergence(output, teacher)

    def _run(
        self, module: nn.Module, x: Tensor, gates: Sequence[Gates], *, statistics: bool
    ) -> Tensor:
        """Run one part; the mixture alone moves the running statistics of batch norms."""
        if statistics:
            return cast("Tensor", module(x, gates))
        with kept_statistics(module):
            return cast("Tensor", module(x, gates))

    def _gate_terms(self, model: CNMM) -> Tensor:
        """Return the terms of expected cost and entropy, a scalar; 0 while gates are held."""
        logits = model.logits()
        most = sum(len(own) for own in logits) * math.log(2)
        if self._holding() or not most:
            return logits[0].new_zeros(())
        spent = self.costs.expected(logits) / self.costs.of_path(full_nodes(model.counts))
        return self.schedule.cost * spent - self.schedule.entropy * model.entropy() / most

    def _holding(self) -> bool:
        """Tell whether gates do not move yet."""
        return self.step < self.schedule.frozen * self.steps

    def _held(self, gates: tuple[Gates, ...]) -> tuple[Gates, ...]:
        """Return gates, on request without a gradient."""
        if not self._holding():
            return gates
        return tuple(Gates(own.values.detach(), own.nodes, own.hard) for own in gates)


def divergence(output: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean KL(teacher, output) of the classes' probabilities, a scalar.

    Args:
        output: Logits, (batch, classes, ...).
        teacher: Logits of the same shape, without gradient.
    """
    likely = teacher.log_softmax(1)
    return (likely.exp() * (likely - output.log_softmax(1))).sum(1).mean()


@torch.no_grad()
def gate_logs(model: CNMM, costs: CostTable) -> dict[str, Tensor | float]:
    """Return how the gates stand: entropy and expected cost, as shares, and gates that chose.

    Args:
        model: The mixture.
        costs: Its costs.
    """
    open = torch.cat([logits.sigmoid() for logits in model.logits()])
    if not len(open):
        return {}
    chose = (open < SURE) | (open > 1 - SURE)
    return {
        "entropy": model.entropy() / (len(open) * math.log(2)),
        "expected_cost": costs.expected(model.logits()) / costs.of_path(full_nodes(model.counts)),
        "gates_chosen": chose.float().mean(),
    }
