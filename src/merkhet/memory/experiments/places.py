"""Where a memory stands: which layer, in its place or beside it, one memory or two."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from merkhet.memory.experiments.language import LANGUAGES, compare, over_seeds
from merkhet.report import Record, Trial, experiment
from merkhet.report.lines import draw_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYERS = {"small": 6, "full": 12}
SUBKEYS = {"small": 256, "full": 512}


@experiment
def placement(trial: Trial) -> None:
    """Held-out loss by the layer of the memory, in its place or beside it, one memory or two."""
    language = dataclasses.replace(LANGUAGES[trial.size], layers=LAYERS[trial.size])
    language.note(trial)
    trial.record.settings["num_subkeys"] = SUBKEYS[trial.size]
    choices = _choices(language.layers)
    none = over_seeds(
        trial, language, "no memory", partial(language.without_memory, language.layers)
    )
    for mode, places in choices:
        build = partial(
            language.with_memory, places=places, mode=mode, num_subkeys=SUBKEYS[trial.size]
        )
        found = over_seeds(trial, language, _name(mode, places), build)
        compare(trial, f"{_name(mode, places)} - no memory", found, none)
    trial.record.settings["choices"] = [[mode, list(places)] for mode, places in choices]
    trial.record.notes = (
        "Layers count from 0. Intervals are Student's over seeds, differences paired by seeds; "
        "usage is the mean over memories."
    )
    trial.picture(draw_placement(trial.record))


def draw_placement(record: Record) -> Figure:
    """Draw the difference in loss that each placement makes."""
    from merkhet.report.figures import figure

    made, (axis,) = figure(1, 1, width=5.2, height=3.4)
    names = [_name(mode, tuple(places)) for mode, places in record.settings["choices"]]
    draw_points(axis, record, names, [f"loss, {name} - no memory" for name in names])
    axis.axvline(0.0, color="#666666", linewidth=0.8, linestyle="--")
    axis.set(xlabel="held-out loss less that without memory, nats")
    return made


def _choices(depth: int) -> list[tuple[str, tuple[int, ...]]]:
    """Return the modes and layers that are compared."""
    thirds = (depth // 3, 2 * depth // 3)
    beside = ((0,), *((place,) for place in thirds), (depth - 1,), thirds)
    replace = ((0,), thirds[1:], thirds)
    return [("beside", places) for places in beside] + [("replace", places) for places in replace]


def _name(mode: str, places: tuple[int, ...]) -> str:
    """Return the name of a placement in the record."""
    layers = " and ".join(str(place) for place in places)
    return f"{mode} {'layers' if len(places) > 1 else 'layer'} {layers}"
