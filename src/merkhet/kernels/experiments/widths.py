"""Trained networks against the gradient flow of their kernel, as they grow wider."""

from __future__ import annotations

import math
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from merkhet import data
from merkhet.core.intervals import student
from merkhet.kernels import (
    Layer,
    Linear,
    ReLU,
    Sequential,
    empirical_ntk,
    gradient_flow,
    gradient_flow_ensemble,
    gram,
)
from merkhet.report import Trial, experiment

WIDTHS = {"small": (64, 128, 256, 512, 1024), "full": (64, 256, 1024, 4096, 16384)}
SEEDS = {"small": 10, "full": 50}
TRAIN, TEST, STEPS = 40, 40, 400
RATE = 0.1  # of a step, by the inverse of the kernel's largest eigenvalue
BIAS = 0.1
KERNEL: Layer = Sequential(
    Linear(bias_std=BIAS), ReLU(), Linear(bias_std=BIAS), ReLU(), Linear(bias_std=BIAS)
)
NAMES = ("output", "kernel at initialisation", "kernel's change in training")


class Wide(nn.Module):
    """Two hidden ReLU layers in the NTK parameterisation: weights of unit variance, scaled.

    Args:
        dim: Features of the input.
        width: Of the hidden layers.
        generator: Draws the weights.
    """

    def __init__(self, dim: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        shapes = [(width, dim), (width, width), (1, width)]
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.weights = nn.ParameterList([draw(*shape) for shape in shapes])
        self.biases = nn.ParameterList([draw(shape[0]) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (n, 1) for x (n, dim)."""
        last = len(self.weights) - 1
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight.mT * math.sqrt(2 / weight.shape[1]) + BIAS * bias
            x = x if place == last else x.relu()
        return x


@experiment
def infinite_width(trial: Trial) -> None:
    """Trained networks come to the kernel's gradient flow like a power of their width."""
    widths = WIDTHS[trial.size]
    trial.record.seeds = list(range(SEEDS[trial.size]))
    trial.record.settings = {"data": "digits, even against odd", "train": TRAIN, "test": TEST}
    trial.record.settings |= {"widths": list(widths), "steps": STEPS, "hidden layers": 2}
    runs = {
        width: [
            trial.step(f"width {width}, seed {seed}", partial(_run, width, seed))
            for seed in trial.record.seeds
        ]
        for width in widths
    }
    for name in NAMES:
        _powers(trial, name, {width: [run[name] for run in of] for width, of in runs.items()})
    _ensemble(trial, runs[widths[-1]])
    trial.record.notes = (
        "Errors are root mean squares over test inputs, or Frobenius norms, by that of the exact "
        "one; intervals are Student's over seeds. Plain gradient descent on half the sum of "
        "squares, rate a tenth of the inverse of the largest eigenvalue."
    )
    trial.picture(_draw(trial, widths))


def _task() -> tuple[Tensor, Tensor, Tensor]:
    """Return digits to train on, their targets 1 and -1, and digits to test on."""
    digits = data.load("digits", "train", limit=TRAIN + TEST)
    assert digits.labels is not None
    x = digits.floats().flatten(1).double()
    return x[:TRAIN], (digits.labels[:TRAIN] % 2 * 2 - 1).double()[:, None], x[TRAIN:]


def _run(width: int, seed: int) -> dict[str, Any]:
    """Train one network; return how far it is from its limit, and its outputs."""
    x, targets, test = _task()
    exact = gram(KERNEL, x, dtype=torch.float64, progress=False)
    cross = gram(KERNEL, test, x, dtype=torch.float64, progress=False)
    rate = RATE / float(torch.linalg.eigvalsh(exact)[-1])
    network = Wide(x.shape[1], width, torch.Generator().manual_seed(seed))
    before = empirical_ntk(network, x)
    with torch.no_grad():
        start, start_test = network(x), network(test)
    for _ in range(STEPS):
        network.zero_grad()
        (0.5 * (network(x) - targets).square().sum()).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter.sub_(rate * parameter.grad)
    after = empirical_ntk(network, x)
    flow = start_test + gradient_flow(exact, cross, targets - start, STEPS, rate)
    with torch.no_grad():
        outputs = network(test)
    return {
        NAMES[0]: float((outputs - flow).norm() / flow.norm()),
        NAMES[1]: float((before - exact).norm() / exact.norm()),
        NAMES[2]: float((after - before).norm() / before.norm()),
        "outputs": outputs[:, 0].tolist(),
    }


def _powers(trial: Trial, name: str, errors: dict[int, list[float]]) -> None:
    """Record an error at each width, and the power of the width that it falls by."""
    for width, values in errors.items():
        mean = statistics.mean(values)
        trial.figure(f"{name}, width {width}, relative", mean, interval=student(values))
    logs = torch.tensor(list(errors), dtype=torch.float64).log()
    centred = logs - logs.mean()
    by_seed = torch.tensor(list(errors.values()), dtype=torch.float64).log()
    slopes = (centred @ by_seed / centred.square().sum()).tolist()
    power = statistics.mean(slopes)
    trial.figure(f"{name}, power of the width", power, interval=student(slopes))
    trial.goal(f"{name} falls with the width", "power of -0.4 or below", power, power <= -0.4)


def _ensemble(trial: Trial, runs: list[dict[str, Any]]) -> None:
    """Compare mean and spread over seeds of the widest networks with what the kernels say."""
    x, targets, test = _task()
    own, cross = (
        gram(KERNEL, *given, kind="both", dtype=torch.float64, progress=False)
        for given in ((x,), (test, x))
    )
    tested = gram(KERNEL, test, kind="both", dtype=torch.float64, progress=False)
    rate = RATE / float(torch.linalg.eigvalsh(own.ntk)[-1])
    found = gradient_flow_ensemble(own, cross, tested.nngp.diagonal(), targets, STEPS, rate)
    outputs = torch.tensor([run["outputs"] for run in runs], dtype=torch.float64)
    deviation = found.variance.sqrt()
    score = (outputs.mean(0) - found.mean[:, 0]) / (deviation / len(runs) ** 0.5)
    spread = float((outputs.var(0) / found.variance).mean())
    size = float(score.square().mean().sqrt())
    trial.figure("mean over seeds, in standard errors from the kernel's", size)
    trial.figure("variance over seeds / the kernel's", spread)
    trial.goal("variance over seeds / the kernel's", "0.5 to 2", spread, 0.5 <= spread <= 2)
    trial.goal("mean over seeds, in standard errors", "below 2", size, size < 2)


def _draw(trial: Trial, widths: tuple[int, ...]) -> Any:
    """Draw the errors against the width."""
    from merkhet.report.figures import COLOURS, figure

    made, (axis,) = figure()
    for name, colour in zip(NAMES, COLOURS, strict=False):
        found = [trial.record.figures[f"{name}, width {width}, relative"] for width in widths]
        ends = [one.interval or (one.value, one.value) for one in found]
        lows, highs = [max(low, 1e-6) for low, _ in ends], [high for _, high in ends]
        axis.fill_between(widths, lows, highs, alpha=0.2, color=colour)
        axis.plot(widths, [one.value for one in found], "o-", ms=3, color=colour, label=name)
    first = trial.record.figures[f"{NAMES[1]}, width {widths[0]}, relative"].value
    line = [first * (width / widths[0]) ** -0.5 for width in widths]
    axis.plot(widths, line, "k--", linewidth=1, label="width^-1/2")
    axis.set(xscale="log", yscale="log", xlabel="width", ylabel="relative difference")
    axis.legend(frameon=False, fontsize=8)
    return made
