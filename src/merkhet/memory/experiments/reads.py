"""Heads, and the slots that each reads: what more of them bring, and what they cost."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from merkhet.core.timing import interleaved
from merkhet.memory import ProductKeyMemory
from merkhet.memory.experiments.language import LANGUAGES, Language, over_seeds
from merkhet.report import Record, Trial, experiment
from merkhet.report.lines import draw_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBKEYS = 256
# Heads, and slots that each reads; (2, 64), (4, 32) and (8, 16) make 128 reads of a token.
READS = ((1, 32), (4, 8), (2, 64), (4, 32), (8, 16), (8, 32))
REPEATS = 15


@experiment
def heads_and_k(trial: Trial) -> None:
    """Held-out loss, slots used and time of the layer, by heads and slots read by each."""
    language = LANGUAGES[trial.size]
    language.note(trial)
    trial.record.settings |= {"num_subkeys": SUBKEYS, "reads": [list(pair) for pair in READS]}
    for pair, milliseconds in trial.step("times", partial(_times, language)).items():
        trial.figure(f"time, {pair}", milliseconds, "ms")
    for heads, top_k in READS:
        build = partial(language.with_memory, num_subkeys=SUBKEYS, num_heads=heads, top_k=top_k)
        over_seeds(trial, language, _name(heads, top_k), build)
    trial.record.notes = (
        "Intervals are Student's over seeds. Times are medians of interleaved runs of the layer "
        "alone, forward and backward, on random tokens of one training step."
    )
    trial.picture(draw_heads_and_k(trial.record))


def draw_heads_and_k(record: Record) -> Figure:
    """Draw loss, share of slots used and time of each pair of heads and slots."""
    from merkhet.report.figures import figure

    made, axes = figure(1, 3, width=3.2, height=2.9)
    pairs = [_name(*pair) for pair in record.settings["reads"]]
    labels = {"loss": "held-out loss, nats", "used": "share of slots used", "time": "ms a step"}
    for axis, (what, label) in zip(axes, labels.items(), strict=True):
        shown = pairs if axis is axes[0] else [""] * len(pairs)
        draw_points(axis, record, shown, [f"{what}, {pair}" for pair in pairs])
        axis.set(xlabel=label)
    return made


def _times(language: Language) -> dict[str, float]:
    """Return milliseconds of each layer, forward and backward over the tokens of a step."""
    x = torch.randn(language.batch * language.context, language.width)
    layers = {
        _name(heads, top_k): ProductKeyMemory(
            language.width, SUBKEYS, heads, top_k, language.memory["key_dim"]
        )
        for heads, top_k in READS
    }

    def run(layer: ProductKeyMemory) -> None:
        layer(x).square().mean().backward()
        layer.zero_grad()

    times = interleaved({pair: partial(run, layer) for pair, layer in layers.items()}, REPEATS)
    return {pair: 1000 * median for pair, (median, _) in times.items()}


def _name(heads: int, top_k: int) -> str:
    """Return the name of a pair in the record."""
    return f"{heads} heads, k = {top_k}"
