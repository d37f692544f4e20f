"""The audit's checks of memory: slots that are wasted, and arithmetic that a memory would save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from torch import nn

from merkhet.core.costs import Costs, costs
from merkhet.memory.pictures import plot_usage
from merkhet.memory.table import ValueTable
from merkhet.memory.usage import Usage, usage
from merkhet.report import Check, Finding, Picture, Section, Subject, Table
from merkhet.report.figures import to_svg

WASTED = 0.5  # of the slots that even use would reach; fewer are a finding
SKEWED = 0.9  # Gini coefficient from which the few outweigh the many
WORTH = 0.1  # of all multiply-adds; less is not worth a memory
# The paper's defaults, for what a memory would cost.
HEADS, TOP_K, KEYS, KEY_DIM = 4, 32, 512, 256


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
    findings = [one for path, used in found.items() for one in _findings(path, used)]
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
    widths = feed_forward_layers(subject.module)
    tokens = math.prod(subject.inputs.shape[1:])
    spent = {path: _multiply_adds(counted, path) for path in widths}
    share = sum(spent.values()) / max(counted.multiply_adds, 1)
    saved = {path: spent[path] - tokens * memory_cost(width) for path, width in widths.items()}
    best = max(saved, key=lambda path: saved[path])
    worth = saved[best] / max(counted.multiply_adds, 1)
    finding = Finding(
        name=f"memory(feed_forward,{best})",
        value=share,
        sentence=f"Feed-forward layers take {share:.0%} of the multiply-adds. A memory of "
        f"{KEYS**2:,} values in the place of {best} would save {worth:.0%} of all and add "
        f"{KEYS**2 * widths[best] / 1e6:.0f} M parameters.",
        yardstick=f"a memory of {HEADS} heads, k = {TOP_K}, keys of width {KEY_DIM}",
        remedy="Replace one layer past the middle of the network, and train on.",
        code=f"from merkhet.memory import attach; attach(module, ['{best}'], 'replace')",
        weight=min(0.5, worth),
    )
    return Section(
        title="Feed-forward layers",
        summary=f"{len(widths)} feed-forward layers take {share:.0%} of the multiply-adds.",
        findings=(finding,) if worth >= WORTH else (),
        figures={"memory(feed_forward_share)": share, "memory(saved)": worth},
        notes=("Counted, not measured; the read of a memory is bound by memory, not arithmetic.",),
    )


CHECKS = (
    Check("feed_forward", 0.2, refuse=has_no_feed_forward, run=feed_forward, quiet=True),
    Check("memory", 2.0, refuse=has_no_memory, run=slots, quiet=True),
)


def feed_forward_layers(module: nn.Module) -> dict[str, int]:
    """Return paths and widths of the modules that go up and down again by matrices alone.

    They hold two or more linear layers, the last of which leads back to the width of the first,
    and no other module with parameters.
    """
    found: dict[str, int] = {}
    for path, part in module.named_modules():
        matrices = [one for one in part.children() if isinstance(one, nn.Linear)]
        weighted = [one for one in part.children() if any(True for _ in one.parameters())]
        if path and len(matrices) >= 2 and len(weighted) == len(matrices):
            first, last = matrices[0], matrices[-1]
            if first.in_features == last.out_features < first.out_features:
                found[path] = first.in_features
    return found


def memory_cost(width: int) -> int:
    """Return the multiply-adds of a memory of the paper's size for one token."""
    return HEADS * (width * KEY_DIM + KEYS * KEY_DIM + TOP_K * width)


def _findings(path: str, used: Usage) -> Iterator[Finding]:
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
            code='ProductKeyMemory(..., query_norm="batch")',
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
            code="ProductKeyMemory(..., num_heads=8)",
            weight=0.3,
        )


def _batches(subject: Subject, seconds: float, read: list[int]) -> Iterator[object]:
    """Yield prepared batches while there is time; note how many inputs were read."""
    stop = time.perf_counter() + seconds
    for part in subject.inputs.split(subject.batch_size):
        yield subject.preprocess(part.clone())
        read.append(len(part))
        if time.perf_counter() > stop:
            return


def _multiply_adds(counted: Costs, path: str) -> float:
    """Return the multiply-adds of a module with everything inside it."""
    within = {node.name for node in counted.network.within(path)}
    return sum(cost.multiply_adds or 0 for cost in counted if cost.node.name in within)
