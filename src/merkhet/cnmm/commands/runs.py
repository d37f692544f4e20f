"""Runs of `merkhet cnmm train`, opened again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from merkhet.cnmm.commands.examples import Source
from merkhet.cnmm.network import CNMM
from merkhet.core.errors import InputError

POINTS, LATENCIES = "points.json", "latency.json"


@dataclass(frozen=True)
class Opened:
    """A finished run.

    Attributes:
        model: Its mixture, in evaluation mode.
        source: The data it was trained on.
        network: How the mixture is built: "name" and "arguments".
    """

    model: CNMM
    source: Source
    network: dict[str, Any]


def open_run(folder: Path) -> Opened:
    """Return a finished run of a mixture.

    Raises:
        InputError: There is none in the folder, or it is not finished.
    """
    from merkhet.models import Spec, load_weights
    from merkhet.training import final_weights, read_run
    from merkhet.training.folder import FINISHED, RUN

    run = read_run(folder) if (folder / RUN).is_file() else {}
    spec = run.get("about", {}).get("spec")
    if not spec or "task" not in spec or "model" not in spec:
        raise InputError(f"{folder} is not a run of `merkhet cnmm train`: give its --out folder")
    if run["status"] != FINISHED:
        raise InputError(
            f"the run in {folder} is not finished: give the same `merkhet cnmm train` command "
            "again, which goes on with it"
        )
    weights = final_weights(folder)
    if not weights.is_file():
        raise InputError(f"{folder} has no {weights.name}: the run is not whole")
    model = Spec(spec["model"]["name"], spec["model"]["arguments"]).build()
    load_weights(model, weights)
    return Opened(cast("CNMM", model.eval()), Source.of_run(spec), spec["model"])
