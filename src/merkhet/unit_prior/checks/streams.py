"""What scales are compared along: the main stream of residual networks; norms that never ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from merkhet.core.graph import Network, Node
from merkhet.core.graph.kinds import KINDS
from merkhet.report import Finding

SETTLE = "network.train()\nnetwork(preprocess(inputs))\nnetwork.eval()"
SUMS = ("add", "sub")
PASSED = (
    *("mul", "div", "clone", "pad", *KINDS["shape"], *KINDS["dropout"]),
    *KINDS["normalisation"],
)


def stream(network: Network, paths: Sequence[str]) -> list[str]:
    """Return the layers whose scales tell how signals and gradients fare from first to last.

    What a residual branch ends in is added to the stream that passes it by: that it is small
    there, as many networks make it on purpose, takes nothing from the stream. The first layer and
    the last stay.

    Args:
        network: The graph of the network.
        paths: Of layers, from first to last.
    """
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in network.nodes:
        for name in set(node.inputs):
            readers[name].append(node)
    inner = [path for path in paths[1:-1] if not _ends_branch(network, path, readers)]
    return [*paths[:1], *inner, *paths[1:][-1:]]


def _ends_branch(network: Network, path: str, readers: dict[str, list[Node]]) -> bool:
    """Tell whether what a layer returns goes into a sum with other results, and nowhere else."""
    within = network.within(path)
    node = within[-1] if within else None
    while node is not None:
        reading = readers[node.name]
        node = reading[0] if len(reading) == 1 else None
        if node is not None and node.op in SUMS and len(set(node.inputs)) > 1:
            return True
        if node is not None and (node.op not in (*PASSED, *SUMS) or len(set(node.inputs)) > 1):
            return False
    return False


def unsettled_norms(module: nn.Module) -> tuple[Finding, ...]:
    """Find batch norms that hold the statistics they were made with, not those of any data."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    held = [(norm.running_mean, norm.running_var) for norm in norms]
    fresh = sum(
        mean is not None and var is not None and not mean.any() and bool((var == 1).all())
        for mean, var in held
    )
    if not fresh:
        return ()
    return (
        Finding(
            name="scales(unsettled_norms)",
            value=float(fresh),
            sentence=f"{fresh} of {len(norms)} batch norms hold the statistics that they were made "
            "with, mean 0 and variance 1, and not those of any data: in use they do not normalise.",
            yardstick="a trained network: 0",
            remedy="Load the weights with their buffers (running_mean, running_var), or let the "
            "norms see training data in training mode once before use.",
            code=SETTLE,
            weight=0.5,
        ),
    )
