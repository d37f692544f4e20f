"""Figures in one style, made without touching matplotlib's global state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by readers who see fewer colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 4.2, height: float = 3.1
) -> tuple[Figure, list[Axes]]:
    """Return a figure of rows x columns axes, and the axes row by row.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Width of one axes in inches.
        height: Height of one axes in inches.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = list(made.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_prop_cycle(color=COLOURS)
    return made, axes


def label(name: str) -> str:
    """Return a name as a label that shows it as it is.

    matplotlib reads mathematics between dollar signs, and leaves names that start with an
    underscore out of legends.
    """
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def to_svg(made: Figure) -> str:
    """Return the figure as SVG text that can stand inside an HTML page.

    The ids are salted by the contents, so that two figures in one page do not clash, and the
    same figure gives the same text.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "merkhet", "svg.fonttype": "none"}):
        buffer = io.StringIO()
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
