"""The figure of a memory's use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merkhet.memory.usage import Usage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_usage(found: Usage) -> Figure:
    """Draw the use of the slots, the most used first, on logarithmic axes.

    Args:
        found: From `usage`.
    """
    from merkhet.report.figures import figure

    made, (axis,) = figure()
    ordered = found.mass.sort(descending=True).values * found.slots
    ranks = torch.arange(1, found.slots + 1) / found.slots
    seen = ordered > 0
    axis.loglog(ranks[seen].numpy(), ordered[seen].numpy())
    axis.axhline(1.0, color="#666666", linewidth=0.8, linestyle="--")
    axis.set(xlabel="share of the slots, most used first", ylabel="use / even use")
    axis.set_title(f"{found.used:.1%} used, KL {found.kl:.2f}, Gini {found.gini:.2f}")
    return made
