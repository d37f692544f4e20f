"""The normalisation of the queries: which slots are found, and what the model learns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from merkhet.memory.experiments.language import LANGUAGES, compare, over_seeds
from merkhet.report import Record, Trial, experiment
from merkhet.report.lines import draw_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBKEYS = {"small": (64, 256, 512), "full": (128, 256, 512, 1024)}
NORMS = ("batch", "layer", "rms", None)


@experiment
def query_norm(trial: Trial) -> None:
    """Slots used, KL from even use and held-out loss, by the queries' norm and number of slots."""
    language = LANGUAGES[trial.size]
    language.note(trial)
    trial.record.settings["num_subkeys"] = list(SUBKEYS[trial.size])
    for subkeys in SUBKEYS[trial.size]:
        size = f"{subkeys**2} slots"
        found = {
            norm: over_seeds(
                trial,
                language,
                f"{norm} norm, {size}",
                partial(language.with_memory, num_subkeys=subkeys, query_norm=norm),
            )
            for norm in NORMS
        }
        for norm in NORMS[:-1]:
            compare(trial, f"{norm} - None, {size}", found[norm], found[None])
    trial.record.notes = "Intervals are Student's over seeds, differences paired by seeds."
    trial.picture(draw_query_norm(trial.record))


def draw_query_norm(record: Record) -> Figure:
    """Draw loss, share of slots used and KL against the number of slots, a line a norm."""
    from merkhet.report.figures import figure

    made, axes = figure(1, 3, width=3.2, height=2.9)
    slots = [subkeys**2 for subkeys in record.settings["num_subkeys"]]
    labels = {"loss": "held-out loss, nats", "used": "share of slots used", "kl": "KL, nats"}
    for axis, (what, label) in zip(axes, labels.items(), strict=True):
        for norm in NORMS:
            names = [f"{what}, {norm} norm, {count} slots" for count in slots]
            draw_line(axis, record, slots, names, f"{norm} norm" if norm else "no norm")
        axis.set(xlabel="slots", ylabel=label, xscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    return made
