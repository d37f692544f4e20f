"""The audit's check of the tangent kernel: what gradient descent learns here first, and last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.alignment import ROUNDING, Labelled, Seen, entropy_rank, look
from merkhet.kernels.checks.norm_code import normalised
from merkhet.kernels.checks.reach import unreached
from merkhet.kernels.sampled import Sampled, sampled_ntk
from merkhet.report import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.figures import figure, to_svg

FEWEST = 16  # inputs below which a spectrum says nothing
DOMINANT = 0.9  # of the trace in one direction; from here on it is a finding
REFERENCES = (
    "Spectrum, ranks and alignment are those of the kernel with the mean over inputs taken off. "
    "Rank: (sum of eigenvalues)^2 / sum of squares. Condition: largest eigenvalue over smallest.",
    "Jacot et al., NeurIPS 2018, arXiv 1806.07572; alignment: Cortes et al., JMLR 2012, arXiv "
    "1203.0550.",
)


def refuse(subject: Subject) -> str | None:
    """Say why the tangent kernel cannot be measured, or return None."""
    output = subject.output
    if not output.is_floating_point() or not output.dim() or not output.numel():
        return f"the network's output has shape {tuple(output.shape)} and {output.dtype}"
    if not any(value.is_floating_point() for value in subject.module.parameters()):
        return "the network has no parameters"
    if len(subject.inputs) < FEWEST:
        return f"{len(subject.inputs)} inputs are too few: {FEWEST} at least"
    return None


def tangent_kernel(subject: Subject, seconds: float) -> Section:
    """Measure the tangent kernel of the network on as many inputs as the time allows."""
    inputs = subject.preprocess(subject.inputs[:256].clone())
    frozen = not any(value.requires_grad for value in subject.module.parameters())
    names = [name for name, _ in subject.module.named_parameters()] if frozen else None
    if FEWEST * subject.seconds_each > seconds:
        raise InputError(
            f"{FEWEST} inputs need about {FEWEST * subject.seconds_each:.0f} s forward alone and "
            f"{seconds:.0f} s are left: allow more seconds, or give smaller inputs"
        )
    found = sampled_ntk(subject.module, inputs, seconds, parameters=names, seed=subject.seed)
    notes = _notes(subject, found, frozen)
    broken = _broken(found.kernel)
    if broken is not None:
        return Section(
            "Tangent kernel",
            broken.sentence,
            findings=(broken,),
            figures={broken.name: broken.value},
            notes=notes,
        )
    section = _section(subject, found.kernel, notes)
    return replace(section, findings=(*unreached(subject), *section.findings))


CHECKS = (Check("tangent_kernel", 3.0, refuse=refuse, run=tangent_kernel, steady=True),)


def _section(subject: Subject, kernel: Tensor, notes: tuple[str, ...]) -> Section:
    """Return what is to be said of a kernel."""
    count = len(kernel)
    labels = None if subject.labels is None else subject.labels[:count].cpu()
    raw = _raw_kernel(subject, count)
    network = look(kernel, labels, subject.seed)
    pixels = None if raw is None else look(raw, labels, subject.seed)
    return Section(
        title="Tangent kernel",
        summary=f"On {count} inputs, gradient descent moves the network's outputs along about "
        f"{network.rank:.1f} directions at comparable speed, besides one common to all inputs, "
        f"which has {network.top:.0%} of the kernel's trace.{_goes(network.labelled, pixels)}",
        findings=tuple(_findings(subject, network, pixels)),
        tables=(_table(network, pixels),),
        pictures=(_picture(network, pixels),),
        figures=_figures(network, pixels, kernel),
        notes=notes,
    )


def _goes(known: Labelled | None, pixels: Seen | None) -> str:
    """Say how the kernel goes with the labels, or nothing where there are none."""
    if known is None:
        return ""
    raw = (
        ""
        if pixels is None or pixels.labelled is None
        else (f"the inputs themselves: {pixels.labelled.alignment:.2f}, ")
    )
    return f" It aligns with the labels by {known.alignment:.2f} ({raw}chance: {known.chance:.2f})."


def _raw_kernel(subject: Subject, count: int) -> Tensor | None:
    """Return the linear kernel of the inputs as they are, or None where they are tokens."""
    if subject.kind == "tokens":
        return None
    flat = subject.inputs[:count].flatten(1).cpu().double()
    return flat @ flat.mT


def _broken(kernel: Tensor) -> Finding | None:
    """Find gradients that are not finite, or do not reach the parameters."""
    own = kernel.diagonal()
    bad, dead = (~own.isfinite()).double().mean().item(), (own == 0).double().mean().item()
    if bad:
        return Finding(
            name="tangent_kernel(not_finite)",
            value=bad,
            sentence=f"The gradient of the outputs is NaN or infinite for {bad:.0%} of the inputs.",
            yardstick="none",
            remedy="Find the operation: torch names it when it traces NaN backward.",
            code="import torch\n"
            "torch.autograd.set_detect_anomaly(True)  # backward() then names the operation",
            weight=0.95,
        )
    if dead < 1:
        return None
    return Finding(
        name="tangent_kernel(dead)",
        value=dead,
        sentence="No gradient of the outputs reaches any parameter: the network cannot learn.",
        yardstick="none",
        remedy="Units that are always off pass no gradient: draw the weights afresh.",
        code="network.apply(lambda part: getattr(part, 'reset_parameters', lambda: None)())",
        weight=0.95,
    )


def _findings(subject: Subject, network: Seen, pixels: Seen | None) -> Iterator[Finding]:
    """Find what slows or misleads gradient descent."""
    yield from _of_labels(network.labelled, None if pixels is None else pixels.labelled)
    needed = 2 if network.labelled is None else network.labelled.classes - 1
    if network.rank < needed:
        yield Finding(
            name="tangent_kernel(effective_rank)",
            value=network.rank,
            sentence=f"The tangent kernel has an effective rank of {network.rank:.1f}: the "
            "gradients of different inputs are much alike.",
            yardstick=f"{needed} directions, as many as the labels span"
            if network.labelled
            else f"{needed} directions",
            remedy="Normalisation between layers keeps the gradients of different inputs apart.",
            code=normalised(subject),
            weight=0.4,
        )
    if network.top > DOMINANT and subject.kind != "tokens":
        yield Finding(
            name="tangent_kernel(top_share)",
            value=network.top,
            sentence=f"One direction, common to all inputs, has {network.top:.0%} of the tangent "
            "kernel: it bounds the learning rate, and all others learn slowly.",
            yardstick="the inputs themselves: " + (f"{pixels.top:.0%}" if pixels else "unknown"),
            remedy="Standardise the inputs, in training as in use.",
            code="inputs = (inputs - inputs.mean()) / inputs.std()",
            weight=0.3,
        )


def _of_labels(network: Labelled | None, pixels: Labelled | None) -> Iterator[Finding]:
    """Find a kernel that has less to do with the labels than chance or the inputs have."""
    if network is None:
        return
    if network.alignment <= network.chance:
        yield Finding(
            name="tangent_kernel(alignment)",
            value=network.alignment,
            sentence=f"The tangent kernel aligns with the labels by {network.alignment:.2f}, no "
            "more than with labels in random order.",
            yardstick=f"19 of 20 random orders stay below {network.chance:.2f}",
            remedy="Check that the weights are loaded and that the labels belong to the inputs.",
            code="print(network(preprocess(inputs[:8])), labels[:8])",
            weight=0.7,
        )
    elif pixels is not None and network.alignment < pixels.alignment:
        yield Finding(
            name="tangent_kernel(alignment)",
            value=network.alignment,
            sentence=f"The tangent kernel aligns with the labels by {network.alignment:.2f}, less "
            f"than the inputs themselves do ({pixels.alignment:.2f}).",
            yardstick=f"the linear kernel of the inputs: {pixels.alignment:.2f}",
            remedy="With few labels, an exact kernel of an infinitely wide network learns better.",
            code="from merkhet.kernels import KernelClassifier; "
            "classifier = KernelClassifier().fit(inputs.flatten(1), labels)",
            weight=0.3 + 0.4 * (1 - network.alignment / pixels.alignment),
        )


def _table(network: Seen, pixels: Seen | None) -> Table:
    """Return the network's kernel beside that of the inputs."""
    names = ("effective rank", "entropy rank", "top share", "condition", "alignment", "by chance")
    known = ("labels in the first eigenvectors", "by chance")
    shown = [seen for seen in (network, pixels) if seen is not None]
    heads = ("", "network", "inputs themselves")[: 1 + len(shown)]
    cells = zip(*(_cells(seen) for seen in shown), strict=True)
    rows = tuple((name, *row) for name, row in zip((*names, *known), cells, strict=False))
    beside = "" if pixels is None else ", and the linear kernel of the inputs"
    return Table(f"The tangent kernel{beside}", heads, rows)


def _cells(seen: Seen) -> list[str]:
    """Return the numbers of one kernel, as the table has them."""
    least = "at least " if seen.condition >= 0.99 / ROUNDING else ""
    cells = [f"{seen.rank:.1f}", f"{entropy_rank(seen.spectrum):.1f}", f"{seen.top:.0%}"]
    cells.append(f"{least}{seen.condition:.1e}")
    known = seen.labelled
    if known is not None:
        cells += [f"{known.alignment:.3f}", f"{known.chance:.3f}"]
        cells += [f"{known.energy:.0%}", f"{known.share:.0%}"]
    return cells


def _picture(network: Seen, pixels: Seen | None) -> Picture:
    """Draw the spectrum."""
    made, (axis, *_) = figure()
    for seen, name, style in ((network, "network", "-"), (pixels, "inputs themselves", "--")):
        if seen is not None:
            values = seen.spectrum[seen.spectrum > ROUNDING * seen.spectrum[0]]
            share = values / values[:1]
            axis.loglog(torch.arange(1, len(share) + 1).numpy(), share.numpy(), style, label=name)
    axis.set(xlabel="place", ylabel="eigenvalue / largest")
    axis.legend(fontsize=8, frameon=False)
    beside = "" if pixels is None else "; dashed, of the linear kernel of inputs"
    return Picture(f"Eigenvalues of the centred tangent kernel{beside}.", to_svg(made))


def _figures(network: Seen, pixels: Seen | None, kernel: Tensor) -> dict[str, float]:
    """Return every number by its machine-readable name."""
    named = {
        "effective_rank": network.rank,
        "entropy_rank": entropy_rank(network.spectrum),
        "top_share": network.top,
        "condition": network.condition,
        "mean_diagonal": float(kernel.diagonal().mean()),
    }
    if pixels is not None:
        named |= {"effective_rank,inputs": pixels.rank, "top_share,inputs": pixels.top}
    for seen, suffix in ((network, ""), (pixels, ",inputs")):
        if seen is not None and seen.labelled is not None:
            named[f"alignment{suffix}"] = seen.labelled.alignment
            named[f"label_energy{suffix}"] = seen.labelled.energy
    if network.labelled is not None:
        named |= {"alignment,shuffled": network.labelled.chance}
        named |= {"label_energy,chance": network.labelled.share}
    return {f"tangent_kernel({name})": value for name, value in named.items()}


def _notes(subject: Subject, found: Sampled, frozen: bool) -> tuple[str, ...]:
    """Say what was sampled, and what was left out."""
    of = f"all {found.outputs} outputs"
    if not found.exact:
        ways = "direction" if found.directions == 1 else "directions"
        of = f"{found.directions} random {ways} (signs) among {found.outputs} outputs"
    notes = [
        f"{len(found.kernel)} of {len(subject.inputs)} inputs, as far as the time went; "
        f"{found.parameters:,} parameters; the mean over {of}, in evaluation mode."
    ]
    if frozen:
        notes.append("No parameter requires a gradient: all of them were taken.")
    if found.loop:
        notes.append(f"One input after another: {found.loop}.")
    return (*notes, *REFERENCES)
