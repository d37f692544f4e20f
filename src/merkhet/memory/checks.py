"""The audit's checks of memory: slots that are wasted, and arithmetic that a memory would save."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from merkhet.core.costs import Costs, costs
from merkhet.memory.again import fresh_code
from merkhet.memory.feed_forward import (
    HEADS,
    KEY_DIM,
    KEYS,
    TOP_K,
    FeedForward,
    feed_forward_layers,
    memory_cost,
)
from merkhet.memory.pictures import plot_usage
from merkhet.memory.table import ValueTable
from merkhet.memory.usage import Usage, usage
from merkhet.report import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg

WASTED = 0.5  # of the slots that even use would reach; fewer are a finding
SKEWED = 0.9  # Gini coefficient from which the few outweigh the many
WORTH = 0.1  # of all multiply-adds; less is not worth a memory


def has_no_memory(subject: Subject) -> str | None:
    """Say why the use of slots cannot be measured, or return None."""
    if not any(isinstance(part, ValueTable) for part in subject.module.modules()):
        return "the network has no product-key memory"
    return None


def slots(subject: Subject, seconds: float) -> Section:
    """Measure which slots of each memory are used over as many inputs as the time allows."""
    read: list[int] = []
    found = usage(subject.module, _batches(subject, seconds, read))
    rows = tuple(
        (path, f"{used.slots:,}", f"{used.used:.1%}", f"{used.kl:.2f}", f"{used.gini:.2f}")
        for path, used in found.items()
    )
    findings = [
        one for path, used in found.items() for one in _findings(subject.module, path, used)
    ]
    return Section(
        title="Memory",
        summary=" ".join(
            f"{path} uses {used.used:.1%} of its {used.slots:,} slots; half of the weight is on "
            f"{used.share_of_slots(0.5):.1%} of them."
            for path, used in found.items()
        ),
        findings=tuple(findings),
        tables=(Table("Use of the slots", ("table", "slots", "used", "KL", "Gini"), rows),),
        pictures=tuple(
            Picture(f"Use of the slots of {path}, the most used first", to_svg(plot_usage(used)))
            for path, used in found.items()
        ),
        figures={
            f"memory({name},{path})": value
            for path, used in found.items()
            for name, value in used.figures().items()
        },
        notes=(
            f"{sum(read)} of {len(subject.inputs)} inputs. Used: read with a weight above 0. KL: "
            "divergence from even use, in nats. Gini: 0 is even, 1 all in one slot.",
            "Lample et al., NeurIPS 2019, arXiv 1907.05242, Section 4.4.",
        ),
    )


def has_no_feed_forward(subject: Subject) -> str | None:
    """Say why there is nothing for a memory to replace, or return None."""
    if subject.kind != "tokens":
        return f"memories replace feed-forward layers on tokens, and the inputs are {subject.kind}"
    if not feed_forward_layers(subject.module):
        return "the network has no feed-forward layer of two or more matrices"
    return None


def feed_forward(subject: Subject, seconds: float) -> Section:
    """Count how much of the arithmetic is in feed-forward layers, and what a memory would save."""
    counted = costs(subject.network)
    layers = feed_forward_layers(subject.module)
    tokens = math.prod(subject.inputs.shape[1:])
    spent = [_spent(counted, layer) for layer in layers]
    share = sum(spent) / max(counted.multiply_adds, 1)
    instead = [tokens * memory_cost(layer.width) for layer in layers]
    saved = [before - after for before, after in zip(spent, instead, strict=True)]
    best = [place for place in range(len(layers)) if saved[place] == max(saved)]
    place = best[len(best) // 2]  # past the middle of the network, where a choice is left
    layer, worth = layers[place], saved[place] / max(counted.multiply_adds, 1)
    count = (
        "1 feed-forward layer takes"
        if len(layers) == 1
        else f"{len(layers)} feed-forward layers take"
    )
    return Section(
        title="Feed-forward layers",
        summary=f"{count} {share:.0%} of the multiply-adds. "
        + _in_its_place(layer, worth, instead[place] / max(spent[place], 1)),
        findings=(_worth_a_memory(layer, share, worth),) if worth >= WORTH else (),
        figures={"memory(feed_forward_share)": share, "memory(saved)": worth},
        notes=(
            f"A memory of {HEADS} heads, k = {TOP_K}, {KEYS} half keys of width {KEY_DIM} and "
            f"{KEYS**2:,} values. Counted, not measured; the read of a memory is bound by memory, "
            "not arithmetic.",
            "Lample et al., NeurIPS 2019, arXiv 1907.05242.",
        ),
    )


def _in_its_place(layer: FeedForward, worth: float, times: float) -> str:
    """Say what a memory would save or waste in the place of a layer."""
    if worth > 0:
        return (
            f"A product-key memory in the place of {layer.path} would save {worth:.0%} of all "
            f"and add {_added(layer)} parameters."
        )
    return (
        f"A product-key memory in the place of {layer.path} would waste arithmetic: it takes "
        f"{times:.3g} times the layer's, for most of its cost, the search of keys, does not shrink "
        f"with the width of {layer.width}. Wider layers, or fewer and narrower keys, are another "
        "matter."
    )


def _worth_a_memory(layer: FeedForward, share: float, worth: float) -> Finding:
    """Return the finding of arithmetic that a memory would save."""
    return Finding(
        name=f"memory(feed_forward,{layer.path})",
        value=share,
        sentence=f"Feed-forward layers take {share:.0%} of the multiply-adds. A memory of "
        f"{KEYS**2:,} values in the place of {layer.path} would save {worth:.0%} of all and add "
        f"{_added(layer)} parameters.",
        yardstick=f"a memory of {HEADS} heads, k = {TOP_K}, keys of width {KEY_DIM}",
        remedy="Replace one layer past the middle of the network, and train on.",
        code=layer.code,
        weight=min(0.5, worth),
    )


def _added(layer: FeedForward) -> str:
    """Return the parameters of a memory's values in words."""
    return f"{KEYS**2 * layer.width / 1e6:.0f} M"


def _spent(counted: Costs, layer: FeedForward) -> float:
    """Return the multiply-adds of a layer, on the way up and down."""
    parts = filter(None, (layer.up, layer.down))
    return sum(_multiply_adds(counted, path) for path in parts)


CHECKS = (
    Check(
        "feed_forward",
        0.2,
        refuse=has_no_feed_forward,
        run=feed_forward,
        quiet=True,
        gives=("memory",),
    ),
    Check("memory", 2.0, refuse=has_no_memory, run=slots, quiet=True),
)


def _findings(module: nn.Module, path: str, used: Usage) -> Iterator[Finding]:
    """Find slots that are never read, and use that is skewed."""
    reads = int(used.counts.sum())
    even = 1 - math.exp(-reads / used.slots)
    if used.used < WASTED * even:
        yield Finding(
            name=f"memory(used,{path})",
            value=used.used,
            sentence=f"{path} uses {used.used:.1%} of its {used.slots:,} slots; as many reads "
            f"spread evenly would reach {even:.1%}.",
            yardstick=f"{reads:,} reads spread evenly: {even:.1%}",
            remedy="Normalise the queries over the batch, or take fewer slots.",
            code=fresh_code(module, path, query_norm="batch"),
            weight=min(0.9, 0.9 * (1 - used.used / even)),
        )
    if used.gini > SKEWED and used.used >= WASTED * even:
        share = used.share_of_slots(0.9)
        yield Finding(
            name=f"memory(gini,{path})",
            value=used.gini,
            sentence=f"{path} has 90% of its weight on {share:.1%} of its slots.",
            yardstick="even use: 90%",
            remedy="More heads or a larger k spread the reads.",
            code=fresh_code(module, path, heads=2),
            weight=0.3,
        )


def _batches(subject: Subject, seconds: float, read: list[int]) -> Iterator[object]:
    """Yield prepared batches while there is time; note how many inputs were read."""
    for part in subject.batches(seconds):
        yield subject.preprocess(part.clone())
        read.append(len(part))


def _multiply_adds(counted: Costs, path: str) -> float:
    """Return the multiply-adds of a module with everything inside it."""
    within = {node.name for node in counted.network.within(path)}
    return sum(cost.multiply_adds or 0 for cost in counted if cost.node.name in within)
