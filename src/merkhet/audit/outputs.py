"""The check of outputs: are they finite, and do they depend on the input at all?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.audit.subject import UNSTEADY
from merkhet.core.modes import evaluating
from merkhet.report import Finding, Section, Subject

SAME = 1e-6  # relative distance below which outputs differ by rounding alone


@dataclass
class _Seen:
    """What the outputs so far were like."""

    first: Tensor  # the first output, that the others are compared with
    count: int = 0
    bad: list[int] = field(default_factory=list)  # inputs whose output is not finite
    low: float = float("inf")
    high: float = float("-inf")
    spread: float = 0.0  # largest distance from the first output

    def add(self, outputs: Tensor) -> None:
        """Take in a batch of outputs."""
        values = outputs.double().reshape(len(outputs), -1)
        finite = values.isfinite()
        self.bad += (self.count + (~finite.all(1)).nonzero().flatten()).tolist()
        self.count += len(values)
        if bool(finite.any()):
            self.low = min(self.low, float(values[finite].min()))
            self.high = max(self.high, float(values[finite].max()))
        apart = (values - self.first).abs().amax(1).nan_to_num(nan=float("inf"))
        self.spread = max(self.spread, float(apart.max()))

    @property
    def constant(self) -> bool:
        """Whether all outputs are the same up to rounding."""
        return self.spread <= SAME * float(self.first.abs().max())


def has_no_numbers(subject: Subject) -> str | None:
    """Say why outputs cannot be looked at, or return None."""
    output = subject.output
    answers = output.dim() and len(output) == len(subject.inputs[:2]) and output.numel()
    if not output.is_floating_point() or not answers:
        return f"the network's output has shape {tuple(output.shape)} and {output.dtype}"
    return None


def outputs(subject: Subject, seconds: float) -> Section:
    """Look at the outputs for as many inputs as the time allows."""
    with evaluating(subject.module):
        example = subject.forward(subject.inputs[:1])
        seen = _Seen(example.double().reshape(1, -1))
        for part in subject.batches(seconds):
            seen.add(subject.forward(part))
    constant = None if seen.bad else _constant(subject, seen)
    findings = (_not_finite(seen), _not_steady(subject), constant)
    return Section(
        title="Outputs",
        summary=f"The output of one example has shape {tuple(example.shape[1:])} and "
        f"{str(example.dtype).removeprefix('torch.')}; on {seen.count} examples its values lie "
        f"between {seen.low:.3g} and {seen.high:.3g}.",
        findings=tuple(found for found in findings if found),
        figures={
            "outputs(not_finite)": len(seen.bad) / seen.count,
            "outputs(low)": seen.low,
            "outputs(high)": seen.high,
            "outputs(noise)": subject.noise,
        },
        notes=(f"{seen.count} of {len(subject.inputs)} inputs, as far as the time went.",),
    )


def _not_finite(seen: _Seen) -> Finding | None:
    """Find outputs that are NaN or infinite."""
    if not seen.bad:
        return None
    share, first = len(seen.bad) / seen.count, seen.bad[0]
    return Finding(
        name="outputs(not_finite)",
        value=share,
        sentence=f"The output is NaN or infinite for {len(seen.bad)} of {seen.count} inputs "
        f"({share:.0%}), first for number {first} of the sample.",
        yardstick="a network that answers every input: 0",
        remedy="Look for a division, a logarithm or an overflow of half precision that these "
        "inputs reach; they count as wrong, and what compares outputs leaves them out.",
        code=f"print(network(preprocess(inputs[{first} : {first + 1}])))",
        weight=1.0,
    )


def _constant(subject: Subject, seen: _Seen) -> Finding | None:
    """Find an output that is the same for inputs that differ."""
    inputs = subject.inputs[: seen.count]
    if not seen.constant or torch.equal(inputs, inputs[:1].expand_as(inputs)):
        return None
    return Finding(
        name="outputs(constant)",
        value=seen.spread,
        sentence="The output is the same for all inputs, up to rounding: nothing can be told "
        "apart by it.",
        yardstick="two different inputs of a network that sees them: some tenths of its length",
        remedy="Look for a layer that is zero, saturated or not connected, or for weights that "
        "were not loaded.",
        code="print({name: float(weight.std()) for name, weight in network.named_parameters()})",
        weight=1.0,
    )


def _not_steady(subject: Subject) -> Finding | None:
    """Find a network that answers the same input differently each time."""
    if subject.noise <= UNSTEADY:
        return None
    return Finding(
        name="outputs(noise)",
        value=subject.noise,
        sentence=f"Called again with the same inputs, in evaluation mode, the network gives an "
        f"output that is {subject.noise:.1%} of its length away: what compares outputs would "
        "measure this noise, and is left out.",
        yardstick="a network that is deterministic: 0",
        remedy="Look for dropout that ignores evaluation mode, or for a random crop, noise or "
        "sampling inside of the network: let `training` switch it off.",
        code="print([name for name, part in network.named_modules() "
        "if 'drop' in type(part).__name__.lower()])",
        weight=0.9,
    )
