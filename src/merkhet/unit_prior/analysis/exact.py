"""Rows of an analysis from the law of a unit, where the network is a chain of dense layers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.analysis.result import Measured, Row
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.prior import UnitPrior

SHALLOWEST, DEEPEST = 0.9, 1e-30  # probabilities between which curves are drawn
POINTS = 120
Where = tuple[int, bool]  # layer, after the activation?


def prior_places(prior: UnitPrior) -> dict[str, tuple[Place, Where]]:
    """Return the places of a prior without a network: "g_1", "h_1" = phi(g_1), "g_2", ...

    Args:
        prior: The prior.
    """
    spec, found = prior.spec, {}
    for layer in range(1, spec.layers + 1):
        units = spec.widths[layer - 1] if layer < spec.layers else 1
        found[f"g_{layer}"] = Place(f"g_{layer}", "weights", units, True, 0), (layer, False)
        if layer < spec.layers:
            name = spec.activation.name
            found[f"h_{layer}"] = Place(f"h_{layer}", name, units, False, 0), (layer, True)
    return found


def exact_row(
    prior: UnitPrior, place: Place, where: Where, probabilities: tuple[float, ...]
) -> Row:
    """Return what the law says about a unit.

    Args:
        prior: The units' prior.
        place: Of the unit.
        where: Its layer, and whether after the activation.
        probabilities: At which the local index is found.

    Raises:
        InputError: The layer has no law that can be computed.
    """
    layer, post = where
    asked = functools.partial(_asked, layer=layer, post=post)
    return Row(
        path=place.path,
        operation=place.operation,
        units=place.units,
        weighted=place.weighted,
        theta=prior.tail_parameter(layer, post=post),
        bound=False,
        index=None,
        reason=_reason(prior, where),
        std=asked(prior.std),
        kurtosis=asked(prior.kurtosis),
        effective={p: asked(functools.partial(prior.effective_tail, p)) for p in probabilities},
        zero=asked(prior.zero_mass),
        method=prior.law(layer).method,
    )


def exact_curve(prior: UnitPrior, where: Where) -> tuple[Tensor, Tensor]:
    """Return the survival of a unit to be drawn: t (k,) and log P(|u| > t) (k,).

    Args:
        prior: The units' prior.
        where: Layer, and whether after the activation.
    """
    layer, post = where
    off_zero = 1 - float(prior.zero_mass(layer, post=post))
    ends = [min(SHALLOWEST, 0.9 * off_zero), DEEPEST]
    low, high = prior.quantile(ends, layer, post=post).value.tolist()
    t = torch.from_numpy(np.geomspace(low, high, POINTS))
    return t, prior.log_survival(t, layer, post=post).value


def _reason(prior: UnitPrior, where: Where) -> str:
    """Return why the tail in the limit is what it is."""
    layer, post = where
    if not post:
        return "Gaussian" if layer == 1 else "Gaussian weights add 1/2"
    phi = prior.spec.activation
    return f"{phi.name} grows like |u|^{phi.growth:g}" if phi.growth else f"{phi.name} is bounded"


def _asked(ask: Callable[..., Answer], layer: int, post: bool) -> Measured:
    """Return an answer as a number without an interval, or why it is refused."""
    try:
        return Measured(float(ask(layer=layer, post=post)))
    except InputError as error:
        return Measured(None, note=str(error))
