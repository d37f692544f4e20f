"""Product keys against flat ones, a key for each slot: the same found, at another price."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merkhet.core.timing import interleaved
from merkhet.memory import ProductKeyMemory
from merkhet.memory.experiments.language import LANGUAGES, Language, compare, over_seeds
from merkhet.models import Transformer
from merkhet.report import Record, Trial, experiment
from merkhet.report.lines import draw_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS: dict[str, Any] = {"num_heads": 2, "top_k": 16}
# Sub-keys of a half: of models that are trained, and of layers that are timed alone.
TRAINED = {"small": (32, 64, 128), "full": (32, 64, 128, 256)}
TIMED = {"small": (32, 64, 128, 256, 512), "full": (32, 64, 128, 256, 512)}
KINDS = ("product", "flat")
REPEATS = 7


class FlatKeyMemory(ProductKeyMemory):
    """A memory whose queries are compared with a key of each slot: what product keys save.

    Args:
        dim: Width of the tokens.
        options: Those of `ProductKeyMemory`.
        seed: Of all that is drawn.

    Shapes: (..., dim) -> (..., dim); keys (num_heads, num_subkeys**2, key_dim).
    """

    def __init__(self, dim: int, *, seed: int = 0, **options: Any) -> None:
        super().__init__(dim, seed=seed, **options)
        generator = torch.Generator().manual_seed(seed)
        keys = torch.rand(self.num_heads, self.num_subkeys**2, self.key_dim, generator=generator)
        self.keys = nn.Parameter((2 * keys - 1) * (self.key_dim / 2) ** -0.5)
        del self.subkeys

    def retrieve(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return slots and weights, both (..., num_heads, top_k), over all keys."""
        queries = self.query(x).flatten(0, -3)
        scores = torch.bmm(queries.transpose(0, 1), self.keys.transpose(1, 2)).transpose(0, 1)
        best = scores.topk(self.top_k)
        shape = (*x.shape[:-1], self.num_heads, self.top_k)
        return best.indices.view(shape), best.values.softmax(-1).view(shape)


@experiment
def product_versus_flat(trial: Trial) -> None:
    """Held-out loss and time of product keys against flat keys, as slots grow."""
    language = LANGUAGES[trial.size]
    language.note(trial)
    trained, timed = TRAINED[trial.size], TIMED[trial.size]
    trial.record.settings |= {**OPTIONS, "trained": list(trained), "timed": list(timed)}
    for subkeys in timed:
        for kind, (median, interval) in trial.step(
            f"time, {subkeys}", partial(_times, language, subkeys)
        ).items():
            trial.figure(f"time, {kind}, {subkeys**2} slots", median, "ms", interval)
    for subkeys in trained:
        found = {
            kind: over_seeds(
                trial,
                language,
                f"{kind}, {subkeys**2} slots",
                partial(_build, language, kind, subkeys),
            )
            for kind in KINDS
        }
        compare(trial, f"product - flat, {subkeys**2} slots", found["product"], found["flat"])
    trial.record.notes = (
        "Intervals of losses are Student's over seeds, differences paired by seeds; those of times "
        "are quartiles of interleaved runs of the layer alone, forward and backward, on random "
        "tokens of one training step."
    )
    trial.picture(draw_product_versus_flat(trial.record))


def draw_product_versus_flat(record: Record) -> Figure:
    """Draw loss and time against the number of slots, a line for each kind of keys."""
    from merkhet.report.figures import figure

    made, axes = figure(1, 2, width=3.6, height=2.9)
    for axis, (what, sizes) in zip(axes, {"loss": "trained", "time": "timed"}.items(), strict=True):
        slots = [subkeys**2 for subkeys in record.settings[sizes]]
        for kind in KINDS:
            names = [f"{what}, {kind}, {count} slots" for count in slots]
            draw_line(axis, record, slots, names, f"{kind} keys")
        axis.set(xlabel="slots", xscale="log")
    axes[0].set(ylabel="held-out loss, nats")
    axes[1].set(ylabel="ms a step, the layer alone", yscale="log")
    axes[1].legend(frameon=False, fontsize=8)
    return made


def _build(language: Language, kind: str, subkeys: int, seed: int) -> Transformer:
    """Return a fresh model with a memory of either kind of keys."""
    network = language.with_memory(seed, num_subkeys=subkeys, **OPTIONS)
    if kind == "flat":
        beside = network.get_submodule(f"layers.{language.place}.feed_forward")
        beside.memory = _layer(language, kind, subkeys, seed)
    return network


def _layer(language: Language, kind: str, subkeys: int, seed: int = 0) -> ProductKeyMemory:
    """Return a memory alone."""
    makers: dict[str, Callable[..., ProductKeyMemory]] = {
        "product": ProductKeyMemory,
        "flat": FlatKeyMemory,
    }
    options = {**language.memory, **OPTIONS, "num_subkeys": subkeys}
    return makers[kind](language.width, seed=seed, **options)


def _times(language: Language, subkeys: int) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return milliseconds and quartiles of both layers over the tokens of a step."""
    x = torch.randn(language.batch * language.context, language.width)
    layers = {kind: _layer(language, kind, subkeys) for kind in KINDS}

    def run(layer: ProductKeyMemory) -> None:
        layer(x).square().mean().backward()
        layer.zero_grad()

    times = interleaved({kind: partial(run, layer) for kind, layer in layers.items()}, REPEATS)
    return {
        kind: (1000 * median, (1000 * low, 1000 * high))
        for kind, (median, (low, high)) in times.items()
    }
