"""How fast the kernels' eigenvalues fall, and what that says of learning."""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING, Any

from merkhet.core.intervals import student
from merkhet.kernels import GELU, Erf, Layer, Linear, ReLU, Sequential
from merkhet.kernels import spectrum as eigenvalues
from merkhet.kernels.experiments.curves import measure, predict
from merkhet.kernels.pictures import draw_spectra
from merkhet.report import Trial, experiment
from merkhet.report.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEPTHS, KINDS = (1, 2, 3), ("ntk", "nngp")
DIMS = {3: 200, 10: 100}  # highest degree by dimension
NOISE, DIM = 0.05, 3
SIZES = {"small": (16, 32, 64, 128, 256, 512, 1024), "full": (16, 64, 256, 1024, 4096)}
# Without biases one hidden layer has no odd degrees from 3 on.
ROUGH = {k: 1 / k for k in range(2, 81, 2)}
TARGETS = {
    "smooth": {1: 0.5, 2: 0.5},
    "rough": {k: share / sum(ROUGH.values()) for k, share in ROUGH.items()},
}
WITHIN, NEAR = 0.05, 1.25


def network(hidden: int, act: Layer | None = None) -> Layer:
    """Return a dense network with so many hidden layers."""
    steps = [step for _ in range(hidden) for step in (act or ReLU(), Linear())]
    return Sequential(Linear(weight_std=1.0), *steps)


@experiment
def spectrum(trial: Trial) -> None:
    """Eigenvalues fall like k^-p (NTK) and k^-(p+2) (NNGP) at any depth; learning follows them."""
    trial.record.seeds = list(range(5 if trial.size == "small" else 20))
    for dim, degrees in DIMS.items():
        for hidden in DEPTHS:
            for kind in KINDS:
                _decay(trial, dim, degrees, hidden, kind)
    ratios = [_curve(trial, of, kind) for of in TARGETS for kind in KINDS]
    middle = statistics.median(ratio for each in ratios for ratio in each)
    trial.figure("measured / predicted error, median", middle)
    near = 1 / NEAR <= middle <= NEAR
    trial.goal("measured / predicted error, median", f"within a factor {NEAR}", middle, near)
    _compare(trial)
    trial.record.settings = {
        "dims": {str(dim): degrees for dim, degrees in DIMS.items()},
        "targets": {name: {str(k): v for k, v in of.items()} for name, of in TARGETS.items()},
        "noise": NOISE,
        "points": list(SIZES[trial.size]),
    }
    trial.record.notes = (
        "Exponents by least squares over the upper half of the degrees; intervals of errors are "
        "Student's over seeds, which draw points, target and noise. The ridge is chosen on noisy "
        "validation points."
    )
    trial.picture(_draw(trial))


def _decay(trial: Trial, dim: int, degrees: int, hidden: int, kind: str) -> None:
    """Record the exponent of one kernel."""

    def fitted() -> dict[str, float | None]:
        found = eigenvalues(network(hidden), dim, kind, degrees=degrees).decay()
        return {"even": found.even, "odd": found.odd, "theory": found.theory}

    name = f"{kind.upper()}, {hidden} hidden, p = {dim}"
    found = trial.step(f"decay of {name}", fitted)
    theory = found["theory"]
    assert theory is not None
    for parity in ("even", "odd"):
        if (power := found[parity]) is None:
            continue
        trial.figure(f"exponent, {name}, {parity} degrees", power)
        if parity == "even":
            met = abs(power - theory) <= WITHIN * abs(theory)
            trial.goal(f"exponent of {name}", f"{theory:g} within 5 %", power, met)


def _curve(trial: Trial, of: str, kind: str) -> list[float]:
    """Record a learning curve and its prediction; return measured over predicted."""
    sizes = SIZES[trial.size]
    runs = [
        trial.step(
            f"{kind} on the {of} target, seed {seed}",
            partial(measure, network(1), kind, DIM, sizes, TARGETS[of], NOISE, seed),
        )
        for seed in trial.record.seeds
    ]
    known = eigenvalues(network(1), DIM, kind, degrees=DIMS[DIM])
    ratios = []
    for place, size in enumerate(sizes):
        errors = [run[place] for run in runs]
        name = f"error, {of} target, {kind.upper()}, n = {size}"
        trial.figure(name, statistics.mean(errors), interval=student(errors))
        wanted = predict(known, size, TARGETS[of], NOISE)
        trial.figure(f"{name}, predicted", wanted)
        ratios.append(statistics.mean(errors) / wanted)
    return ratios


def _compare(trial: Trial) -> None:
    """Record which kernel learns which target better, as measured and as predicted."""
    figures, size = trial.record.figures, SIZES[trial.size][-1]
    for of in TARGETS:
        one, other = (f"error, {of} target, {kind.upper()}, n = {size}" for kind in KINDS)
        found = figures[one].value / figures[other].value
        wanted = figures[f"{one}, predicted"].value / figures[f"{other}, predicted"].value
        trial.figure(f"error of NTK / NNGP, {of} target, n = {size}", found)
        met = (found > 1) == (wanted > 1)
        side = f"{'above' if wanted > 1 else 'below'} 1, as predicted ({wanted:.2f})"
        trial.goal(f"error of NTK / NNGP, {of} target", side, found, met)


def _draw(trial: Trial) -> Any:
    """Draw spectra by depth and by activation, and the learning curves."""
    from merkhet.report.figures import figure

    made, axes = figure(1, 4, width=3.4)
    depths = {
        f"{kind.upper()}, {hidden} hidden": eigenvalues(network(hidden), 3, kind, degrees=DIMS[3])
        for kind in KINDS
        for hidden in (1, 3)
    }
    draw_spectra(axes[0], depths)
    acts = {"ReLU": ReLU(), "GELU": GELU(), "erf": Erf()}
    others = {name: eigenvalues(network(1, act), 3, degrees=DIMS[3]) for name, act in acts.items()}
    draw_spectra(axes[1], others)
    for axis, of in zip(axes[2:], TARGETS, strict=True):
        _draw_curves(trial, axis, of)
    return made


def _draw_curves(trial: Trial, axis: Axes, of: str) -> None:
    """Draw the learning curves of one target."""
    sizes, figures = SIZES[trial.size], trial.record.figures
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        found = [figures[f"error, {of} target, {kind.upper()}, n = {n}"] for n in sizes]
        ends = [one.interval or (one.value, one.value) for one in found]
        axis.fill_between(
            sizes, [low for low, _ in ends], [high for _, high in ends], alpha=0.2, color=colour
        )
        axis.plot(sizes, [one.value for one in found], "o", ms=3, color=colour, label=kind.upper())
        names = [f"error, {of} target, {kind.upper()}, n = {n}, predicted" for n in sizes]
        axis.plot(sizes, [figures[name].value for name in names], "--", color=colour, linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="training points", ylabel="mean squared error")
    axis.set_title(f"{of} target (dashed: predicted)", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
