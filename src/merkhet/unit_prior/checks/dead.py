"""The check of dead units: what is 0 whatever the input, now and in fresh networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from merkhet.report import Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.unit_prior.analysis.dense_chains import chain_of
from merkhet.unit_prior.checks.looking import (
    COMPARE,
    PASSES,
    affordable,
    example_of,
    fresh_networks,
    has_no_layers,
    run,
)
from merkhet.unit_prior.checks.streams import SETTLE, unsettled_norms
from merkhet.unit_prior.checks.switches import Switch, is_switch, switches
from merkhet.unit_prior.pictures import plot_by_depth
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.weight_priors import Gaussian

UNSETTLED = (
    "Batch norms hold the statistics they were made with, where those of the fresh networks have "
    "seen the sample: let them see training data in training mode first."
)
MANY = 0.05  # of a layer's units; more that are dead are a finding


@dataclass
class Alive:
    """Which units were above 0 for an input so far, by path."""

    axes: dict[str, int]
    seen: dict[str, Tensor] = field(default_factory=dict)

    def take(self, path: str, output: Tensor) -> None:
        """Take in a batch of outputs."""
        axis = self.axes[path]
        alive = (output > 0).movedim(axis, 0).flatten(1).any(1)
        self.seen[path] = self.seen[path] | alive if path in self.seen else alive

    def dead(self) -> dict[str, float]:
        """Return the share of units that never were, by path."""
        return {path: 1 - float(alive.double().mean()) for path, alive in self.seen.items()}


def has_no_switch(subject: Subject) -> str | None:
    """Say why dead units cannot be looked for, or return None."""
    refusal = has_no_layers(subject)
    if refusal:
        return refusal
    if not any(is_switch(node) for node in subject.network.nodes):
        return "no activation of the network is 0 on a side, as ReLU is: units cannot die"
    if not switches(subject)[0]:
        return "no module gives what its ReLUs are applied to, or return: write them as modules"
    return None


def dead_units(subject: Subject, seconds: float) -> Section:
    """Count the units that are 0 for all inputs of the sample, here and in fresh copies."""
    count = affordable(subject, seconds, PASSES)
    inputs = subject.inputs[:count]
    watched, missed = switches(subject)
    now = _dead(subject, subject.module, inputs, watched)
    make, how = fresh_networks(subject, inputs)
    copies = [_dead(subject, fresh, inputs, watched) for fresh in make()]
    fresh = {path: [copy[path] for copy in copies] for path in now}
    off = _off(subject)
    return Section(
        title="Dead units",
        summary=_summary(now, fresh, count),
        findings=_findings(
            {switch.path: switch.relu for switch in watched},
            now,
            fresh,
            unsettled=bool(unsettled_norms(subject.module)),
        ),
        tables=(_table(now, fresh),),
        pictures=_pictures(now, fresh),
        figures=_figures(now, fresh) | ({} if off is None else {"dead_units(layer_off)": off}),
        notes=_notes(subject, count, how, missed, off),
    )


def _dead(
    subject: Subject, module: nn.Module, inputs: Tensor, watched: Sequence[Switch]
) -> dict[str, float]:
    """Return the share of units that are 0 for all inputs, by path."""
    alive = Alive({switch.path: switch.axis for switch in watched})
    run(subject, module, inputs, list(alive.axes), alive.take)
    return alive.dead()


def _off(subject: Subject) -> float | None:
    """Return the probability that the output of a fresh chain is 0, exactly; None elsewhere."""
    chain = chain_of(subject.module, subject.network, example_of(subject), Gaussian())
    if isinstance(chain, str):
        return None
    prior = UnitPrior.from_spec(chain[0])
    return float(prior.zero_mass(prior.spec.layers))


def _mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers."""
    return sum(values) / len(values)


def _summary(now: dict[str, float], fresh: dict[str, list[float]], count: int) -> str:
    """Say which layer has the most dead units."""
    worst = max(now, key=lambda path: now[path])
    if not now[worst]:
        return f"Every unit looked at is above 0 for some of {count} inputs."
    return (
        f"Of the units of {worst}, {now[worst]:.0%} are 0 for all of {count} inputs, more than in "
        f"any other layer looked at; in fresh networks {_mean(fresh[worst]):.0%} are."
    )


def _findings(
    relus: dict[str, str],
    now: dict[str, float],
    fresh: dict[str, list[float]],
    *,
    unsettled: bool,
) -> tuple[Finding, ...]:
    """Find layers with dead units: more than fresh ones have, or fresh ones that have many."""
    worst = max(now, key=lambda path: now[path])
    usual, most = _mean(fresh[worst]), max(fresh[worst])
    died = now[worst] > 2 * most
    if now[worst] < MANY or not (died or usual >= MANY):
        return ()
    remedy, code = (UNSETTLED, SETTLE) if died and unsettled else _remedy(relus[worst], died)
    return (
        Finding(
            name=f"dead_units({worst})",
            value=now[worst],
            sentence=f"{now[worst]:.0%} of the units are 0 for every input of the sample "
            f"after the ReLU at {worst}: no gradient reaches their weights, and they cost what "
            "others cost.",
            yardstick=f"freshly initialised networks: {usual:.0%} on average, {most:.0%} at most",
            remedy=remedy,
            code=code,
            weight=min(0.8, 0.2 + now[worst] * (0.8 if died else 0.5)),
        ),
    )


def _remedy(relu: str, died: bool) -> tuple[str, str]:
    """Return what to do about the dead units before a ReLU, in words and as lines."""
    if not died:
        return (
            "They are dead from the start: a wider layer, a slope below 0, or another "
            "initialisation of weights and biases, of which this compares some at the first input.",
            COMPARE,
        )
    leaky = "torch.nn.LeakyReLU(0.1)"
    return (
        "In fresh networks they are alive, so they died since: a lower learning rate, a warm-up, "
        "or a slope below 0 keeps units alive.",
        f"import torch\nnetwork.set_submodule({relu!r}, {leaky})"
        if relu
        else f"import torch\n{leaky}  # in place of torch.relu",
    )


def _table(now: dict[str, float], fresh: dict[str, list[float]]) -> Table:
    """Return the shares by layer."""
    rows = tuple(
        (path, f"{share:.1%}", f"{_mean(fresh[path]):.1%}", f"{max(fresh[path]):.1%}")
        for path, share in now.items()
    )
    columns = ("ReLU at", "dead here", "in fresh networks", "at most")
    return Table("Units that are 0 for all inputs of the sample", columns, rows)


def _pictures(now: dict[str, float], fresh: dict[str, list[float]]) -> tuple[Picture, ...]:
    """Draw the shares by depth, where there is one to see."""
    if len(now) < 2:
        return ()
    shares = {
        "here": [100 * share for share in now.values()],
        "fresh networks": [100 * _mean(values) for values in fresh.values()],
    }
    drawn = plot_by_depth(shares, "% of units that are always 0", places=list(now))
    return (Picture("Units that are 0 for all inputs of the sample, by depth.", to_svg(drawn)),)


def _figures(now: dict[str, float], fresh: dict[str, list[float]]) -> dict[str, float]:
    """Return every number by its machine-readable name."""
    figures = {f"dead_units({path})": share for path, share in now.items()}
    return figures | {f"dead_units(fresh,{path})": _mean(got) for path, got in fresh.items()}


def _notes(
    subject: Subject, count: int, how: str, missed: int, off: float | None
) -> tuple[str, ...]:
    """Say what was looked at, and what was not."""
    left = f" {missed} ReLUs inside larger modules could not be looked at." if missed else ""
    notes = [
        f"{count} of {len(subject.inputs)} inputs; {how}. A unit is a feature, or a channel with "
        f"all its positions; one that is 0 on the sample may be on for other inputs.{left}"
    ]
    if off is not None:
        notes.append(
            "At one input, a fresh network with Gaussian weights and no bias has an output of 0, "
            f"for a layer that is off as a whole, with probability {off:.2g}, exactly."
        )
    return tuple(notes)
