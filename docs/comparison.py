"""The comparison page: ours beside other libraries and plain ways, from committed records alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from result_pages import ROOT, anchor, interval, shown, table

from merkhet.report import Figure, read_record

PEERS = "benchmarks/results"
EXPERIMENTS = "docs/results"
TEXT = """\
(comparison)=
# Comparison

What else does the same, and how the two compare on the same machine and data. Every row is made
from a committed record when these pages are built. The verdict is that of a rule:
*ahead* or *behind* where the intervals of both lie apart (or, without intervals, where the numbers
differ), *level* where they touch. Where the record has their difference, paired, its interval
decides in their place. Intervals are those of the record, which says of what.

## Other libraries

{peers}

## The plain way

What you would write without this library, or take in its place.

{plain}

## What was not beaten

{behind}

Goals that were set for these and other comparisons, met or not, are on the [results](#results).
"""


@dataclass(frozen=True)
class Row:
    """Two figures of one record that are about the same thing.

    Attributes:
        what: What was measured.
        other: What ours is compared with.
        record: Path of the record, from the repository's root.
        ours: Name of our figure.
        theirs: Name of the other's.
        less: Whether less is better.
        difference: Name of the figure of ours less theirs, paired, where the record has it.
    """

    what: str
    other: str
    record: str
    ours: str
    theirs: str
    less: bool = True
    difference: str = ""


KMEANS = f"{PEERS}/ckn_kmeans.json"
ATTACKS = f"{PEERS}/rkhs_attacks.json"
NORMS = f"{PEERS}/rkhs_norms.json"
PEER_ROWS = (
    *(
        Row(f"NTK of {name}", "neural-tangents 0.6.5", f"{PEERS}/kernels_peers.json",
            f"{short}: ours", f"{short}: neural-tangents")
        for name, short in (("four dense layers, 2,000 inputs", "dense"),
                            ("five convolutions, 64 pictures", "convolutions"))
    ),
    Row("training step of a memory of 262,144 slots, lazy", "product-key-memory 0.3.0 with Adam",
        f"{PEERS}/memory_step.json", "lazy", "package"),
    Row("training step of a memory, equal to dense Adam", "product-key-memory 0.3.0 with Adam",
        f"{PEERS}/memory_step.json", "caught up", "package"),
    Row("k-means of 500,000 patches, 512 centres", "scikit-learn's MiniBatchKMeans", KMEANS,
        "spherical_kmeans, centred: seconds", "MiniBatchKMeans, centred: seconds"),
    Row("k-means, mean cosine to the centres", "scikit-learn's MiniBatchKMeans", KMEANS,
        "spherical_kmeans, centred: mean cosine", "MiniBatchKMeans, centred: mean cosine", False),
    Row("k-means, mean squared distance to the centres", "scikit-learn's MiniBatchKMeans", KMEANS,
        "spherical_kmeans, centred: mean squared distance to its own centre",
        "MiniBatchKMeans, centred: mean squared distance to its own centre"),
    *(
        Row(f"accuracy that an attack leaves, {ball} (an attack wants less)",
            "adversarial-robustness-toolbox, best of three", ATTACKS,
            f"{ball}, pgd-margin: accuracy", f"{ball}, apgd-dlr: accuracy")
        for ball in ("l2 0.5", "linf 0.03")
    ),
)  # fmt: skip
PLAIN_ROWS = (
    Row("encoding 60,000 pictures by a CKN", "the same in plain torch",
        f"{PEERS}/ckn_encode.json", "compiled loops, for 60,000", "plain torch, for 60,000"),
    Row("convolutional NTK, pairs a second", "its plain form",
        f"{PEERS}/kernels_gram.json", "relu", "relu, plain form", False),
    Row("leave-one-out for 20 ridges, 5,000 inputs", "solving for each",
        f"{PEERS}/kernels_ridge.json", "both", "direct form"),
    *(
        Row(f"forward pass of a memory, width {width}", "the feed-forward layer",
            f"{PEERS}/memory_forward.json", f"memory, width {width}",
            f"feed-forward, width {width}")
        for width in (1024, 512)
    ),
    Row("training step of a memory of 262,144 slots", "the feed-forward layer",
        f"{PEERS}/memory_step.json", "lazy", "feed-forward"),
    Row("held-out loss, six layers and a memory", "twelve layers",
        f"{EXPERIMENTS}/memory/layers_versus_memory.json", "loss, memory", "loss, layers",
        difference="loss, memory - layers"),
    Row("certified norms of VGG11's layers", "power iteration, which proves nothing", NORMS,
        "VGG11, certified, together", "VGG11, power, together"),
    Row("certified norms of 512 to 512 channels", "power iteration, which proves nothing", NORMS,
        "512x512x3x3, certified, together", "512x512x3x3, power, together"),
    Row("a draw of a unit behind four layers", "a loop over modules",
        f"{PEERS}/unit_prior_draws.json", "one input", "a loop over modules, one input"),
    *(
        Row(f"Fashion-MNIST, {labels} labels: conv NTK", f"{other}",
            f"{EXPERIMENTS}/kernels/small_data.json", f"conv NTK, {labels} labels",
            f"{short}, {labels} labels", False,
            f"conv NTK - {short}, {labels} labels")
        for labels in (100, 300, 1000)
        for other, short in (("an RBF kernel", "RBF"), ("a tuned CNN", "CNN"))
    ),
    Row("turned MNIST, 300 labels: CKN of eight rotations", "a CNN on turned copies",
        f"{EXPERIMENTS}/ckn/rotations.json", "test accuracy, C8 CKN, 300 labels",
        "test accuracy, CNN, turned copies, 300 labels", False,
        "C8 CKN - CNN, turned copies, 300 labels"),
)  # fmt: skip


def page() -> str:
    """Return the page."""
    plain = [*PLAIN_ROWS, *_trained_alone()]
    behind = [row for row in (*PEER_ROWS, *plain) if _verdict(row) != "ahead"]
    return TEXT.format(peers=_table(PEER_ROWS), plain=_table(plain), behind=_table(behind))


def _trained_alone() -> list[Row]:
    """Return a row for each network of a mixture that was trained by itself too."""
    record = f"{EXPERIMENTS}/cnmm/fashion.json"
    mark = "alone "
    networks = [name.removeprefix(mark) for name in _all(record) if name.startswith(mark)]
    return [
        Row(
            f"Fashion-MNIST, network {nodes} of a mixture",
            "the same trained by itself",
            record,
            f"point {nodes}: test accuracy",
            f"{mark}{nodes}",
            less=False,
        )
        for nodes in networks
    ]


def _table(rows: Sequence[Row]) -> str:
    """Return rows as a table."""
    heads = ("what", "verdict", "ours", "the other", "which other")
    return table(heads, map(_cells, rows))


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells."""
    ours, theirs = _figures(row)
    link = f"[{row.what}](#{anchor(row.record)})"
    return link, _verdict(row), _told(ours), _told(theirs), row.other


def _told(figure: Figure) -> str:
    """Return a figure with its interval."""
    ends = interval(figure)
    return f"{shown(figure)} ({ends})" if ends else shown(figure)


def _figures(row: Row) -> tuple[Figure, Figure]:
    """Return both figures of a row; a name that the record lacks stops the build."""
    figures = _all(row.record)
    return figures[row.ours], figures[row.theirs]


def _verdict(row: Row) -> str:
    """Tell whether ours is ahead, by the rule that the page states."""
    if row.difference:
        low, high = _ends(_all(row.record)[row.difference])
    else:
        (low, high), (other_low, other_high) = map(_ends, _figures(row))
        low, high = low - other_high, high - other_low
    if low <= 0 <= high:
        return "level"
    return "ahead" if (high < 0) == row.less else "behind"


def _ends(figure: Figure) -> tuple[float, float]:
    """Return a figure's interval, of no width where it has none."""
    return figure.interval or (figure.value, figure.value)


@functools.cache
def _all(record: str) -> dict[str, Figure]:
    """Return the figures of a record."""
    return read_record(ROOT / record).figures
