"""What a remedy changed, on pictures that it was not trained on: figures with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.audit.demo_motions import Motion
from merkhet.core.intervals import bootstrap, wilson
from merkhet.core.modes import evaluating
from merkhet.data import Pictures
from merkhet.report import Figure

BATCH = 256
POINTS = 100


@dataclass(frozen=True)
class Effect:
    """One share of pictures before and after.

    Attributes:
        what: The share, in words.
        before: Of the network as it was, with Wilson's interval.
        after: Of the remedied network.
        change: After less before, with the bootstrap interval of pairs.
        better: 1 where more is better, -1 where less is.
    """

    what: str
    before: Figure
    after: Figure
    change: Figure
    better: int

    @property
    def verdict(self) -> str:
        """Whether that is better, worse, or not clear."""
        assert self.change.interval is not None
        low, high = self.change.interval
        if low <= 0 <= high:
            return "no clear change"
        return "better" if self.change.value * self.better > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The effect as a line of text."""
        return (
            f"{self.what}: {_told(self.before)} before, {_told(self.after)} after, "
            f"{_told(self.change, signed=True)} points: {self.verdict}"
        )

    def cells(self) -> tuple[str, ...]:
        """Return the effect as a row of a table, the change in points."""
        change = _told(self.change, signed=True)
        return self.what, _told(self.before), _told(self.after), change, self.verdict


def effects(
    before: nn.Module, after: nn.Module, pictures: Pictures, motion: Motion, seed: int
) -> list[Effect]:
    """Measure what a remedy changed, each picture moved alike for both networks.

    Args:
        before: The network as it was.
        after: The remedied one.
        pictures: With labels, that neither was trained on.
        motion: What it was trained against.
        seed: Of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = [pictures.floats(rows) for rows in torch.arange(len(pictures)).split(BATCH)]
    moved = [motion.exactly(part, generator) for part in parts]
    assert pictures.labels is not None
    labels = pictures.labels
    plain = [_classes(network, parts) for network in (before, after)]
    turned = [_classes(network, moved) for network in (before, after)]
    changed = [one != other for one, other in zip(plain, turned, strict=True)]
    return [
        _effect(f"answers that {motion.words} changes", changed[0], changed[1], -1),
        _effect("accuracy on pictures moved so", turned[0] == labels, turned[1] == labels, 1),
        _effect("accuracy on pictures as they are", plain[0] == labels, plain[1] == labels, 1),
    ]


def _classes(network: nn.Module, parts: list[Tensor]) -> Tensor:
    """Return the classes (n,) of pictures that are given in parts."""
    with evaluating(network):
        return torch.cat([network(part).argmax(1) for part in parts])


def _effect(what: str, before: Tensor, after: Tensor, better: int) -> Effect:
    """Return an effect on which pictures (n,) something is true of."""
    change = POINTS * (after.double() - before.double())
    paired = Figure(float(change.mean()), "points", bootstrap(change))
    return Effect(what, _share(before), _share(after), paired, better)


def _share(true: Tensor) -> Figure:
    """Return a share in percent with its interval."""
    hits = int(true.sum())
    low, high = wilson(hits, len(true))
    return Figure(POINTS * hits / len(true), "%", (POINTS * low, POINTS * high))


def _told(figure: Figure, *, signed: bool = False) -> str:
    """Return a figure with its interval."""
    assert figure.interval is not None
    low, high = figure.interval
    if signed:
        return f"{figure.value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{figure.value:.1f} % [{low:.1f}, {high:.1f}]"
