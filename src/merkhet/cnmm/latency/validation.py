"""How well a table of latencies predicts whole networks: measured on random ones."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.extract import assemble
from merkhet.cnmm.latency.device import batch_of, check_repeats, using_threads
from merkhet.cnmm.latency.parts import spread_paths
from merkhet.cnmm.latency.table import LatencyTable
from merkhet.cnmm.network import mixture_of
from merkhet.cnmm.nodes import Nodes, written
from merkhet.core.building import check_counts
from merkhet.core.timing import interleaved


@dataclass(frozen=True)
class Predicted:
    """One network, its latency as the table predicts it and as it was measured.

    Attributes:
        nodes: Of the network.
        predicted: Seconds.
        measured: Seconds, the median.
    """

    nodes: Nodes
    predicted: float
    measured: float


@dataclass(frozen=True)
class Prediction:
    """Predicted latencies against measured ones.

    Attributes:
        rows: Of every network, from the quickest measured on.
    """

    rows: tuple[Predicted, ...]

    @property
    def error(self) -> float:
        """Mean over the networks of |predicted - measured| / measured."""
        return statistics.fmean(abs(row.predicted / row.measured - 1) for row in self.rows)

    @property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation; not a number where one side does not vary."""
        from scipy.stats import spearmanr  # slow to import

        pairs = [[row.predicted for row in self.rows], [row.measured for row in self.rows]]
        if any(len(set(side)) < 2 for side in pairs):
            return float("nan")
        return float(spearmanr(*pairs).statistic)

    def __str__(self) -> str:
        lines = [
            f"{row.predicted * 1e3:9.3f}  {row.measured * 1e3:9.3f}  {written(row.nodes)}"
            for row in self.rows
        ]
        said = f"mean error {self.error:.1%}, rank correlation {self.rank_correlation:.3f}"
        return "\n".join(["predicted   measured  nodes (milliseconds)", *lines, said])


def validate_latency(
    table: LatencyTable,
    model: nn.Module,
    example: Tensor,
    *,
    paths: int = 10,
    repeats: int = 30,
    seed: int = 0,
) -> Prediction:
    """Measure random networks of a mixture against what a table predicts for them.

    The networks, from short to long, are extracted and run in turns, with the threads, batch and
    dtype of the table.

    Args:
        table: From `measure_latency`, of this mixture on this machine.
        model: The mixture.
        example: Pictures, (n, channels, height, width).
        paths: How many networks; fewer where the mixture has not so many.
        repeats: Passes through each, two or more.
        seed: Draws the networks.

    Raises:
        InputError: The table is about something else, or numbers are not these.
    """
    check_counts(paths=paths)
    check_repeats(repeats)
    about = table.provenance.situation
    dtype: torch.dtype = getattr(torch, about.dtype)
    table.check(model, example, batch=about.batch, threads=about.threads, dtype=dtype)
    mixture = mixture_of(model)
    x = batch_of(example, about.batch).to(next(mixture.parameters()).device, dtype)
    chosen = spread_paths(mixture.counts, paths, seed)
    networks = {nodes: assemble(mixture, nodes).to(dtype) for nodes in chosen}
    with using_threads(about.threads), torch.no_grad():
        runs = {written(nodes): partial(each, x) for nodes, each in networks.items()}
        found = interleaved(runs, repeats)
    rows = [
        Predicted(nodes, table.costs.of_path(nodes), found[written(nodes)][0]) for nodes in chosen
    ]
    return Prediction(tuple(sorted(rows, key=lambda row: row.measured)))
