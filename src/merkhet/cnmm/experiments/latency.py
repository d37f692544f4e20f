"""What extracted networks take: against a table's sums, a twin by hand, and other runtimes."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merkhet import data
from merkhet.cnmm.experiments.twin import NODES, WIDTHS, against_twin
from merkhet.cnmm.extraction.export import export_network, onnx_session
from merkhet.cnmm.extraction.extract import extract
from merkhet.cnmm.latency.device import batch_of, using_threads
from merkhet.cnmm.latency.measure import measure_latency
from merkhet.cnmm.latency.validation import validate_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier
from merkhet.cnmm.nodes import every_path, full_nodes, written
from merkhet.core.calls import first_line
from merkhet.core.errors import MissingExtraError
from merkhet.core.intervals import student
from merkhet.core.timing import interleaved
from merkhet.report import Trial, experiment

BATCHES = (1, 16)
THREADS = (1, 2)
ERROR, RANKS, DIFFERENCE, RATIO = 0.10, 0.95, 1e-5, 0.05  # what the goals allow


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large the experiment is.

    Attributes:
        repeats: Passes through each network that is timed.
        paths: Random networks that a table is held against.
        rounds: Of the comparison with the twin, each with its own ratio.
    """

    repeats: int
    paths: int
    rounds: int


PLANS = {"small": Plan(60, 20, 12), "full": Plan(200, 100, 30)}


@experiment
def latency(trial: Trial) -> None:
    """Latency tables against whole networks, extracted ones against a twin and runtimes."""
    plan = PLANS[trial.size]
    trial.record.seeds = [0]
    trial.record.settings = {
        **{"data": "fashion-mnist", "channels": WIDTHS, "num_nodes": 5, "stride": 2},
        **{"batches": BATCHES, "threads": THREADS, "twin": written(NODES)},
        **dataclasses.asdict(plan),
    }
    model, pictures = _mixture()
    tables = _tables(trial, plan, model, pictures)
    _tell_twin(
        trial,
        trial.step(
            "twin", partial(against_twin, model, pictures, BATCHES, plan.rounds, plan.repeats)
        ),
    )
    found = trial.step("runtimes", partial(_runtimes, plan, model, pictures))
    for name, seconds in found["seconds"].items():
        trial.figure(name, 1e3 * seconds, "ms")
    trial.record.notes = (
        "Fresh weights, batch norms recalibrated on 256 training pictures and folded; float32; "
        "nothing but this ran on the machine. Tables: the sum over a network's parts against its "
        "measured latency, for random networks from short to long. Ratios: of medians of runs in "
        "turns, the mean over rounds that take turns in which comes first, with Student's "
        "interval over rounds. Operations: ATen's, with the shapes of their results, as "
        "torch.export sees them. One thread for twin and runtimes. Dearest and cheapest network "
        "by the table. " + " ".join(found["notes"])
    )
    trial.picture(_draw(tables))


def _mixture() -> tuple[CNMM, Tensor]:
    """Return the mixture and training pictures."""
    pictures = data.load("fashion-mnist", "train").sample(256, seed=0).floats()
    return cnmm_classifier(1, 10, WIDTHS, 5, stride=2).eval(), pictures


def _tables(trial: Trial, plan: Plan, model: CNMM, pictures: Tensor) -> dict[str, Any]:
    """Measure a table for each batch and number of threads, and record how well it predicts."""
    tables = {}
    for batch in BATCHES:
        for threads in THREADS:
            name = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
            one = trial.step(name, partial(_table, plan, model, pictures, batch, threads))
            _tell_table(trial, name, one)
            tables[name] = one
    return tables


def _table(plan: Plan, model: CNMM, pictures: Tensor, batch: int, threads: int) -> dict[str, Any]:
    """Return what one table predicts, and what was measured."""
    example = pictures[:batch]
    table = measure_latency(model, example, batch=batch, threads=threads, repeats=plan.repeats)
    held = validate_latency(table, model, example, paths=plan.paths, repeats=plan.repeats)
    ordered = sorted(every_path(model.counts), key=table.costs.of_path)
    ends = {"cheapest": ordered[0], "dearest": ordered[-1]}
    networks = {name: extract(model, nodes, [pictures]) for name, nodes in ends.items()}
    with using_threads(threads), torch.no_grad():
        runs = {name: partial(each, example) for name, each in networks.items()}
        times = interleaved(runs, plan.repeats)
    return {
        "error": held.error,
        "ranks": held.rank_correlation,
        "spread": table.provenance.spread,
        "predicted": [row.predicted for row in held.rows],
        "measured": [row.measured for row in held.rows],
        "ends": {name: seconds for name, (seconds, _) in times.items()},
        "nodes": {name: written(nodes) for name, nodes in ends.items()},
    }


def _tell_table(trial: Trial, name: str, one: dict[str, Any]) -> None:
    """Record one table's figures and goals."""
    trial.figure(f"prediction, mean error, {name}", 100 * one["error"], "%")
    trial.figure(f"prediction, rank correlation, {name}", one["ranks"])
    trial.figure(f"spread of the measurements, {name}", 100 * one["spread"], "%")
    for end, seconds in one["ends"].items():
        trial.figure(f"{end} network, {name}", 1e3 * seconds, "ms")
    ratio = one["ends"]["dearest"] / one["ends"]["cheapest"]
    trial.figure(f"dearest over cheapest network, {name}", ratio)
    trial.record.settings[f"cheapest and dearest network, {name}"] = list(one["nodes"].values())
    error, ranks = one["error"], one["ranks"]
    goal = f"prediction of random networks, {name}: mean error"
    trial.goal(goal, f"at most {ERROR:.0%}", f"{error:.1%}", error <= ERROR)
    goal = f"prediction of random networks, {name}: rank correlation"
    trial.goal(goal, f"at least {RANKS}", ranks, ranks >= RANKS)


def _tell_twin(trial: Trial, one: dict[str, Any]) -> None:
    """Record figures and goals of the comparison with the twin."""
    trial.figure("operations of the extracted network", one["count"])
    same = "the same" if one["operations"] else "others"
    trial.goal("operations, extracted against twin", "the same", same, one["operations"])
    for of in ("twin", "mixture"):
        goal = f"largest difference of outputs over the largest output, extracted against {of}"
        trial.goal(goal, f"at most {DIFFERENCE:g}", one[of], one[of] <= DIFFERENCE)
    for batch, ratios in one["ratios"].items():
        mean = statistics.fmean(ratios)
        name = f"latency, extracted over twin, batch {batch}"
        trial.figure(name, mean, "", student(ratios) if len(ratios) > 1 else None)
        trial.goal(name, f"1.00 ± {RATIO}", mean, math.fabs(mean - 1) <= RATIO)


def _runtimes(plan: Plan, model: CNMM, pictures: Tensor) -> dict[str, Any]:
    """Return the seconds of the longest network by runtime, and what could not be run."""
    network = extract(model, full_nodes(model.counts), [pictures])
    seconds: dict[str, float] = {}
    notes: list[str] = []
    with using_threads(1), torch.no_grad():
        for batch in BATCHES:
            x = batch_of(pictures, batch)
            runs: dict[str, Callable[[], object]] = {"eager": partial(network, x)}
            for name, make in (("torch.compile", _compiled), ("ONNX Runtime", _onnx)):
                made = make(network, x)
                if isinstance(made, str):
                    notes.append(made)
                else:
                    runs[name] = partial(made, x)
            times = interleaved(runs, plan.repeats)
            seconds |= {f"longest network, {n}, batch {batch}": t for n, (t, _) in times.items()}
    return {"seconds": seconds, "notes": list(dict.fromkeys(notes))}


def _compiled(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor] | str:
    """Return the compiled network, or in words why there is none."""
    made: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
    try:
        made(x)
    except Exception as error:  # compilers fail in many ways; without one there is nothing to time
        return f"torch.compile is left out: {first_line(error)}."
    return made


def _onnx(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor] | str:
    """Return the network in ONNX Runtime, or in words why it is not there."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported = export_network(network, x, Path(folder), ("onnx",))
            return onnx_session(exported.files["onnx"], threads=1)
    except MissingExtraError as error:
        return f"ONNX Runtime is left out: {error}."


def _draw(tables: dict[str, Any]) -> Any:
    """Draw measured against predicted latency, a panel for each batch."""
    from merkhet.report.figures import figure

    made, axes = figure(columns=len(BATCHES), width=4.4, height=3.8)
    for axis, batch in zip(axes, BATCHES, strict=True):
        for name, one in tables.items():
            if name.startswith(f"batch {batch}, "):
                predicted, measured = (
                    [1e3 * t for t in one[key]] for key in ("predicted", "measured")
                )
                axis.plot(predicted, measured, "o", ms=4, label=name.partition(", ")[2])
        low, high = axis.get_xlim()
        axis.axline((low, low), (high, high), color="0.5", lw=1, ls="--")
        axis.set(xlabel="sum of the table, ms", title=f"Batch {batch}")
        axis.legend(frameon=False)
    axes[0].set_ylabel("measured, ms")
    return made
