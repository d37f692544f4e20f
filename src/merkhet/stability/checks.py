"""The audit's check of stability: how far the layers move when inputs are moved."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.report import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg
from merkhet.stability.curves import StabilityCurve
from merkhet.stability.distances import measure_yardsticks
from merkhet.stability.kinds import Conditions, deformed
from merkhet.stability.measure import stability_curves
from merkhet.stability.pictures import plot_curves

FEWEST = 16  # inputs below which the intervals say nothing
INNER_LAYERS = 3
QUIET = 0.2  # of the yardstick; below it a movement is no finding
FEW = 0.02  # of the predicted labels; fewer that change are no finding either
SAME = 1e-6  # relative distance below which outputs differ by rounding alone
OUTPUT = ""


@dataclass(frozen=True)
class Motion:
    """A kind of deformation as the audit measures it.

    Attributes:
        kind: Its name in `stability_curve`.
        sizes: The sizes of the curve, for pictures of 32 pixels where they are pixels.
        standard: The size that the finding speaks of.
        words: The finding's words for it, with the size to be filled in.
        remedy: What makes a network more stable to it.
        code: The lines that augment training inputs with it.
    """

    kind: str
    sizes: tuple[float, ...]
    standard: float
    words: str
    remedy: str
    code: str


MOTIONS = (
    Motion(
        "translation",
        (0.25, 0.5, 1.0, 2.0, 4.0),
        2.0,
        "A shift by {size:g} pixels",
        "Train on shifted copies, and average before sub-sampling (a wider last pooling buys "
        "invariance).",
        "import torch\nfrom merkhet.core.deformations import translate\n"
        "moved = translate(inputs, {size:g} * torch.randn(len(inputs), 2))",
    ),
    Motion(
        "rotation",
        (1.0, 2.0, 5.0, 10.0, 20.0),
        10.0,
        "A rotation by {size:g} degrees",
        "Train on rotated copies; networks of merkhet.ckn with a group ignore rotations by design.",
        "import torch\nfrom merkhet.core.deformations import rotate\n"
        "moved = rotate(inputs, {size:g} * torch.randn(len(inputs)))",
    ),
    Motion(
        "scaling",
        (0.01, 0.02, 0.05, 0.1, 0.2),
        0.1,
        "A change of size by {size:.0%}",
        "Train on scaled copies.",
        "import torch\nfrom merkhet.core.deformations import rescale\n"
        "moved = rescale(inputs, 1 + {size:g} * (2 * torch.rand(len(inputs)) - 1))",
    ),
    Motion(
        "deformation",
        (0.25, 0.5, 1.0, 2.0, 4.0),
        2.0,
        "A smooth deformation by up to {size:g} pixels",
        "Train on deformed copies; small patches buy stability to deformations.",
        "import torch\nfrom merkhet.core.deformations import deform, smooth_displacement\n"
        "field = smooth_displacement(inputs.shape[2:], {size:g}, {gradient:.2g}, "
        "count=len(inputs), generator=torch.default_generator)\n"
        "moved = deform(inputs, field)",
    ),
)


def refuse(subject: Subject) -> str | None:
    """Say why stability cannot be measured, or return None."""
    if subject.kind not in ("pictures", "signals"):
        return f"translations and deformations act on pictures and signals, not on {subject.kind}"
    if min(subject.inputs.shape[2:]) < 4:
        return f"the inputs are too small to be moved: {tuple(subject.inputs.shape[2:])}"
    output = subject.output
    if not output.is_floating_point():
        return f"the network's output is {output.dtype}, which has no distances"
    if output.dim() == subject.inputs.dim() and min(output.shape[2:]) > 1:
        return (
            f"the output is a map, of shape {tuple(output.shape[1:])}, that should move with its "
            "input: measure merkhet.stability.equivariance_error instead"
        )
    if len(subject.inputs) < FEWEST:
        return f"{len(subject.inputs)} inputs are too few: {FEWEST} at least"
    return None


def stability(subject: Subject, seconds: float) -> Section:
    """Measure how far the output and some layers before it move under each kind of deformation."""
    motions = [scaled(motion, subject) for motion in MOTIONS if _applies(motion, subject)]
    conditions = Conditions(
        seed=subject.seed, batch_size=subject.batch_size, interpolation="bicubic"
    )
    count = _affordable(subject, seconds, motions, conditions)
    inputs = subject.inputs[:count]
    labels = None if subject.labels is None else subject.labels[:count]
    layers = (*inner_layers(subject), OUTPUT)
    yardsticks = measure_yardsticks(
        subject.module,
        inputs,
        layers=layers,
        labels=labels,
        preprocess=subject.preprocess,
        conditions=conditions,
    )
    curves = {
        motion.kind: stability_curves(
            subject.module,
            inputs,
            motion.kind,
            motion.sizes,
            layers=layers,
            preprocess=subject.preprocess,
            yardsticks=yardsticks,
            conditions=conditions,
        )
        for motion in motions
    }
    changed = {motion.kind: _changed(subject, inputs, motion, conditions) for motion in motions}
    outputs = {kind: found[OUTPUT] for kind, found in curves.items()}
    findings = [_finding(motion, outputs[motion.kind], changed[motion.kind]) for motion in motions]
    return Section(
        title="Stability",
        summary=_summary(motions, outputs, changed),
        findings=tuple(finding for finding in findings if finding),
        tables=(_table(motions, curves, changed),),
        pictures=(_picture(curves),),
        figures=_figures(motions, outputs, changed),
        notes=(
            f"{count} of {len(subject.inputs)} inputs, one random direction or field for each, "
            "the same for all sizes; what comes in from outside is 0. Inputs are moved by bicubic "
            "interpolation, so that a motion by part of a step also blurs a little.",
            "Distance: |f(x') - f(x)| / |f(x)| in the layer. The yardsticks are the same distance "
            "between different inputs. Bands are 95 % intervals over inputs.",
            "Bietti and Mairal, JMLR 2019, arXiv 1706.03078.",
        ),
    )


CHECKS = (
    Check(
        "stability",
        8.0,
        refuse=refuse,
        run=stability,
        gives=("stability", "labels_changed"),
        steady=True,
    ),
)


def scaled(motion: Motion, subject: Subject) -> Motion:
    """Return a motion for the inputs at hand.

    Its pixels are a 32nd of the longest side, to the nearest power of 2.
    """
    words, code = _for_kind(motion.words, subject), _for_kind(motion.code, subject)
    if motion.kind not in ("translation", "deformation"):
        return replace(motion, words=words, code=code)
    side = max(subject.inputs.shape[2:])
    unit = 2.0 ** round(math.log2(side / 32))
    standard = unit * motion.standard
    return replace(
        motion,
        sizes=tuple(unit * size for size in motion.sizes),
        standard=standard,
        words=words,
        code=code.replace("{gradient:.2g}", f"{4 / side * standard:.2g}"),
    )


def _for_kind(text: str, subject: Subject) -> str:
    """Return words or code for the inputs at hand: a signal has samples, along one axis."""
    if subject.kind != "signals":
        return text
    for here, there in (
        ("len(inputs), 2)", "len(inputs))"),
        ("pixels", "samples"),
    ):
        text = text.replace(here, there)
    return text


def inner_layers(subject: Subject) -> tuple[str, ...]:
    """Return some layers from first to last, spread evenly over what the network computes.

    They are the outermost modules that are called, one after the other, once each: blocks of a
    network rather than its single convolutions where there are enough blocks.
    """
    order = {
        node.path: place
        for place, node in enumerate(subject.network.nodes)
        if node.path and node.shapes and node.shape[:1] == subject.network.inputs[0].shape[:1]
    }
    modules = dict(subject.module.named_modules(remove_duplicate=False))
    depths = sorted({path.count(".") + 1 for path in order})
    blocks: list[str] = []
    for depth in depths:
        blocks = list(dict.fromkeys(_block(modules, path, depth) for path in order))
        blocks = [path for path in blocks if not _holds_another(path, blocks)]
        if len(blocks) > INNER_LAYERS:
            break
    blocks = [path for path in blocks if _called_once(subject, path, blocks)][:-1]
    step = max(1, len(blocks) / INNER_LAYERS)
    return tuple(blocks[int(place * step)] for place in range(min(INNER_LAYERS, len(blocks))))


def _block(modules: dict[str, nn.Module], path: str, depth: int) -> str:
    """Return the first names of a module's path, one more after a list, which is not called."""
    names = path.split(".")
    for length in range(min(depth, len(names)), len(names)):
        part = modules.get(".".join(names[:length]))
        if not isinstance(part, nn.ModuleList | nn.ModuleDict):
            return ".".join(names[:length])
    return path


def _holds_another(path: str, blocks: list[str]) -> bool:
    """Tell whether another block is inside: then this one returns much what that does."""
    return any(other.startswith(f"{path}.") for other in blocks)


def _called_once(subject: Subject, path: str, blocks: list[str]) -> bool:
    """Tell whether a module is called, only once, and under this path alone."""
    modules = dict(subject.module.named_modules(remove_duplicate=False))
    same = [other for other in blocks if modules.get(other) is modules.get(path)]
    calls = dict[str, int]()
    for node in subject.network.within(path):
        calls[node.path] = max(node.call, calls.get(node.path, 0))
    again = all(calls.values())  # every part: one that a block calls twice says nothing of it
    return path in modules and len(same) == 1 and not again


def _applies(motion: Motion, subject: Subject) -> bool:
    """Tell whether a motion makes sense for the inputs."""
    return subject.kind == "pictures" or motion.kind != "rotation"


def _affordable(
    subject: Subject, seconds: float, motions: list[Motion], conditions: Conditions
) -> int:
    """Return how many inputs fit the time, each moved and read as often as the curves want.

    Raises:
        InputError: Fewer than say anything.
    """
    passes = sum(len(motion.sizes) + 3 for motion in motions)
    each = subject.seconds_each
    if FEWEST * passes * each < seconds:  # worth measuring more closely, with the motion itself
        batch = subject.inputs[: min(FEWEST, subject.batch_size)]
        start = time.perf_counter()
        moved = deformed(batch, motions[-1].kind, motions[-1].standard, conditions=conditions)
        with evaluating(subject.module):
            subject.forward(moved)
        each = (time.perf_counter() - start) / len(batch)
    fitting = int(seconds / (passes * max(each, 1e-9)))
    if fitting < FEWEST:
        raise InputError(
            f"{FEWEST} inputs, the fewest that say anything, need about "
            f"{math.ceil(FEWEST * passes * each)} s and {seconds:.0f} s are left for it: allow "
            "more seconds, or give smaller inputs"
        )
    return min(len(subject.inputs), fitting)


@torch.no_grad()
def _changed(
    subject: Subject, inputs: Tensor, motion: Motion, conditions: Conditions
) -> float | None:
    """Return the share of inputs whose predicted label the standard size changes, or None."""
    if subject.labels is None:
        return None
    moved = deformed(inputs, motion.kind, motion.standard, conditions=conditions)
    with evaluating(subject.module):
        before, after = (
            torch.cat([subject.forward(part) for part in every.split(subject.batch_size)])
            for every in (inputs, moved)
        )
    if before.dim() != 2:
        return None
    return (before.argmax(1) != after.argmax(1)).double().mean().item()


def _yardstick(curve: StabilityCurve) -> tuple[str, float] | None:
    """Return the yardstick's words and value: the same label's where there are labels.

    None where there is no pair of inputs, or where all outputs are the same.
    """
    yardsticks = (
        ("two different inputs of one label", curve.same_label),
        ("two different inputs", curve.all_label),
    )
    for words, apart in yardsticks:
        if apart is not None and apart.value >= SAME:
            return words, apart.value
    return None


def _finding(motion: Motion, curve: StabilityCurve, changed: float | None) -> Finding | None:
    """Say what one kind of deformation does to the output, if it does much."""
    moved, yardstick = curve.at(motion.standard), _yardstick(curve)
    share = moved / (yardstick[1] if yardstick else 1.0)
    if share < QUIET if changed is None else changed < FEW:
        return None
    far = f"by {moved:.2f} of its length"
    if yardstick:
        far = f"{share:.2f} times as far as {yardstick[0]} are apart"
    flips = "" if changed is None else f"changes the predicted label of {changed:.0%} and "
    return Finding(
        name=f"stability({motion.kind},{motion.standard:g})",
        value=moved,
        sentence=f"{_one(motion.words.format(size=motion.standard))} {flips}moves the output "
        f"{far}.",
        yardstick=f"{yardstick[0]} are {yardstick[1]:.2f} of its length apart"
        if yardstick
        else "the output's own length",
        remedy=motion.remedy,
        code=motion.code.format(size=motion.standard),
        weight=min(0.95, max(0.75 * share, 5 * (changed or 0.0))),
    )


def _one(words: str) -> str:
    """Return words with "1 pixels" as "1 pixel"."""
    return re.sub(r"\b1 (pixel|sample)s\b", r"1 \1", words)


def _summary(
    motions: list[Motion], outputs: dict[str, StabilityCurve], changed: dict[str, float | None]
) -> str:
    """Say which deformation moves the output most."""
    worst = max(motions, key=lambda motion: outputs[motion.kind].at(motion.standard))
    moved = outputs[worst.kind].at(worst.standard)
    flips = changed[worst.kind]
    return (
        f"Of {', '.join(motion.kind for motion in motions)}, at the sizes of the table, "
        f"{worst.kind} moves the output most: by {moved:.2f} of its length"
        + ("." if flips is None else f", with {flips:.0%} of the predicted labels changed.")
    )


def _table(
    motions: list[Motion],
    curves: dict[str, dict[str, StabilityCurve]],
    changed: dict[str, float | None],
) -> Table:
    """Return the distance of every layer at the standard sizes, with the yardsticks."""
    rows = []
    for motion in motions:
        for path, curve in curves[motion.kind].items():
            flips = changed[motion.kind] if path == OUTPUT else None
            rows.append(
                (
                    _one(f"{motion.kind} {motion.standard:g} {curve.unit}"),
                    path or "output",
                    f"{curve.at(motion.standard):.3f}",
                    *(
                        "" if one is None else f"{one.value:.3f}"
                        for one in (curve.same_label, curve.all_label)
                    ),
                    "" if flips is None else f"{flips:.0%}",
                )
            )
    columns = ("deformation", "layer", "distance", "same label", "all labels", "labels changed")
    return Table("Relative distance in each layer", columns, tuple(rows))


def _picture(curves: dict[str, dict[str, StabilityCurve]]) -> Picture:
    """Draw the curves of every kind."""
    layers = next(iter(curves.values()))
    named = {path: [found[path] for found in curves.values()] for path in layers}
    return Picture(
        "Relative distance in each layer against the size of the deformation; dashed, the "
        "distance between different inputs of one label; dotted, of any labels.",
        to_svg(plot_curves(named, columns=2)),
    )


def _figures(
    motions: list[Motion], outputs: dict[str, StabilityCurve], changed: dict[str, float | None]
) -> dict[str, float]:
    """Return every number of the output by its machine-readable name."""
    figures: dict[str, float] = {}
    for motion in motions:
        curve, size = outputs[motion.kind], f"{motion.standard:g}"
        figures[f"stability({motion.kind},{size})"] = curve.at(motion.standard)
        yardstick = _yardstick(curve)
        if yardstick is not None:
            figures[f"stability({motion.kind},yardstick)"] = yardstick[1]
        flips = changed[motion.kind]
        if flips is not None:
            figures[f"labels_changed({motion.kind},{size})"] = flips
    return figures
