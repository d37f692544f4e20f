"""Figures: spectra of kernels by degree, with the slope that theory gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from merkhet.core.errors import InputError
from merkhet.kernels.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_spectra(spectra: Mapping[str, Spectrum]) -> Figure:
    """Return a figure of eigenvalues against degrees from 1 on, both on logarithmic axes.

    A dashed line goes through each spectrum's last eigenvalue with the slope that theory gives
    for large degrees, where there is one. Eigenvalues below their error are left out.

    Args:
        spectra: By the names that the legend shows.

    Raises:
        InputError: No spectrum.
    """
    from merkhet.report.figures import figure

    if not spectra:
        raise InputError("no spectra to plot: give at least one, as {'NTK': spectrum(network, 3)}")
    made, axes = figure()
    draw_spectra(axes[0], spectra)
    return made


def draw_spectra(axis: Axes, spectra: Mapping[str, Spectrum]) -> None:
    """Draw spectra into axes that are there, as `plot_spectra` does.

    Args:
        axis: The axes.
        spectra: By the names that the legend shows.
    """
    from matplotlib.lines import Line2D

    from merkhet.report.figures import COLOURS, label

    for number, (name, found) in enumerate(spectra.items()):
        colour = COLOURS[number % len(COLOURS)]
        shown = found.resolved & (found.degrees > 0)
        degrees, values = found.degrees[shown], found.eigenvalues[shown]
        axis.plot(degrees, values, ".", markersize=4, color=colour, label=label(name))
        if found.theory is not None and len(degrees) > 1:
            middles = degrees + (found.dim - 2) / 2
            line = values[-1] * (middles / middles[-1]) ** found.theory
            late = degrees >= degrees[-1] / 8
            axis.plot(degrees[late], line[late], "--", linewidth=1, color=colour)
    axis.set(xscale="log", yscale="log", xlabel="degree k", ylabel="eigenvalue μ of degree k")
    handles, labels = axis.get_legend_handles_labels()
    if any(found.theory is not None for found in spectra.values()):
        handles.append(Line2D([], [], color="#666666", linestyle="--", linewidth=1))
        labels.append("theory")
    axis.legend(handles, labels, frameon=False, fontsize=8)
