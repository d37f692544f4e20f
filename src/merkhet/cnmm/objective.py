"""The loss that trains a mixture: parts of it in turns, gates held back by cost and entropy.

A step trains the deepest network with some of its starts (`cnmm.starts`), networks drawn from the
mixture, each on its share of the batch, and now and then the mixture itself. Single networks are
distilled from the mixture where it is run, else from the deepest one.
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
from merkhet.cnmm.nodes import full_nodes
from merkhet.cnmm.recalibration import kept_statistics
from merkhet.cnmm.starts import Starts, inner_nodes
from merkhet.core.building import check_counts, check_positive
from merkhet.core.errors import InputError

Logs = dict[str, Tensor | float]
Fit = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of a batch -> scalar
SURE = 0.02  # a gate nearer to 0 or 1 than this has all but chosen


@dataclass(frozen=True)
class Schedule:
    """What a step trains, and how its parts count.

    Attributes:
        mixture_every: Steps from one that trains the mixture to the next.
        starts: Starts of the deepest network that a step trains beside it: the network of fewest
            blocks and some that are drawn anew each time, the shorter the likelier: they share
            less with the deepest.
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

    mixture_every: int = 16
    starts: int = 4
    draws: int = 1
    portion: float = 0.25
    temperature: float = 0.1
    frozen: float = 0.15
    distillation: float = 1.0
    cost: float = 0.05
    entropy: float = 0.02

    def __post_init__(self) -> None:
        check_counts(mixture_every=self.mixture_every, starts=self.starts, draws=self.draws)
        check_positive(temperature=self.temperature)
        for name in ("frozen", "distillation", "cost", "entropy"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise InputError(f"{name} = {value!r}: give a number from 0 on")
        check_positive(portion=self.portion)
        for name in ("frozen", "portion"):
            if getattr(self, name) > 1:
                raise InputError(f"{name} = {getattr(self, name)}: give a share, at most 1")


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
        whole, teacher, logs = self._whole(module, x, targets)
        starts, deepest, more = self._starts(module, x, targets, teacher)
        teacher = deepest if teacher is None else teacher
        drawn, fit = self._drawn(module, x, targets, teacher)
        logs |= more | {"sampled_loss": fit} | gate_logs(model, self.costs)
        return whole + starts + drawn + self._gate_terms(model), logs

    def _whole(
        self, module: nn.Module, x: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None, Logs]:
        """Return the mixture's loss, its output to teach by, and logs; 0, None where not run."""
        if self.step % self.schedule.mixture_every:
            return x.new_zeros(()), None, {}
        output = self._run(module, x, self._held(mixture_of(module).mixture()), statistics=True)
        loss = self.fit(output, targets)
        return loss, output.detach(), {"mixture_loss": loss.detach()}

    def _starts(
        self, module: nn.Module, x: Tensor, targets: Tensor, teacher: Tensor | None
    ) -> tuple[Tensor, Tensor, Logs]:
        """Return the loss of the deepest network and some starts, the first's output, and logs."""
        model = mixture_of(module)
        most = inner_nodes(model.counts)
        numbers = self._numbers(most)
        outputs = self._run(module, x, model.starts([*numbers, most]), statistics=False)
        deepest = outputs[-1].detach()
        fits = torch.stack([self.fit(output, targets) for output in outputs])
        apart = [self._apart(output, deepest if teacher is None else teacher) for output in outputs]
        logs: Logs = {"longest_loss": fits[-1].detach()}
        if numbers:
            logs["starts_loss"] = fits[:-1].detach().mean()
        return fits.sum() + sum(apart), deepest, logs

    def _numbers(self, most: int) -> list[int]:
        """Return the starts of a step: 0, and others, number k with a weight of 1 / (k + 1)."""
        drawn = min(self.schedule.starts, most) - 1
        if drawn < 1:
            return [0] if most else []
        weights = 1 / torch.arange(2.0, most + 1)
        return [0, *(1 + torch.multinomial(weights, drawn)).tolist()]

    def _drawn(
        self, module: nn.Module, x: Tensor, targets: Tensor, teacher: Tensor
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
            apart = self._apart(output, teacher[share])
            losses.append((fits[-1] + apart) * (len(share) / len(x)))
        return torch.stack(losses).sum(), torch.stack(fits).mean().detach()

    def _shares(self, count: int) -> int:
        """Return how many shares a batch has: of two examples at the least, for batch norms."""
        return max(1, min(round(1 / self.schedule.portion), count // 2))

    def _apart(self, output: Tensor, teacher: Tensor) -> Tensor | float:
        """Return the term of distillation; that of an output from itself is 0, without slope."""
        if not self.schedule.distillation:
            return 0.0
        return self.schedule.distillation * divergence(output, teacher)

    def _run(
        self, module: nn.Module, x: Tensor, gates: Sequence[Gates] | Starts, *, statistics: bool
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
