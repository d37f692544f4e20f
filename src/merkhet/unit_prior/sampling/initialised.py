"""Units of a freshly initialised network: exactly for chains, by draws elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.outputs import captured
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.chain import as_unit_prior
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import tail_rule
from merkhet.unit_prior.sampling.fresh import fresh_copy
from merkhet.unit_prior.sampling.fresh_roles import WEIGHT, roles
from merkhet.unit_prior.sampling.sample_units import sample_units
from merkhet.unit_prior.weight_priors import Gaussian, Uniform, WeightPrior, weight_prior

ORTHOGONAL = "orthogonal"
MOST_COPIES = 200  # of a network, where each draw is a copy
Numbers = tuple[float, float, float]  # standard deviation, kurtosis, probability of 0


@dataclass(frozen=True)
class Scheme:
    """An initialisation by name.

    Attributes:
        name: As it was asked for.
        prior: The prior on weights; of orthogonal matrices None.
    """

    name: str
    prior: WeightPrior | None


@dataclass(frozen=True)
class Units:
    """What units are, by path.

    Attributes:
        numbers: Standard deviation, kurtosis and probability of being 0, by path.
        method: How they were got.
    """

    numbers: Mapping[str, Numbers]
    method: str


def scheme(name: str) -> Scheme:
    """Return an initialisation.

    Args:
        name: "orthogonal", a scale ("he", "xavier", "lecun": Gaussian), a scale with "_uniform",
            or a prior as `weight_prior` takes it.

    Raises:
        InputError: There is none of that name.
    """
    if name == ORTHOGONAL:
        return Scheme(name, None)
    if name in ("he", "xavier", "lecun"):
        return Scheme(name, Gaussian(scale=name))
    if name in ("he_uniform", "xavier_uniform", "lecun_uniform"):
        return Scheme(name, Uniform(scale=name.removesuffix("_uniform")))
    try:
        return Scheme(str(name), weight_prior(name))
    except InputError as error:
        raise InputError(
            f"{error} Initialisations are also he, xavier, lecun, each with _uniform, orthogonal"
        ) from None


def units_of(
    module: nn.Module,
    example: Tensor,
    layers: Sequence[Place],
    given: Scheme,
    n: int,
    generator: torch.Generator,
) -> Units:
    """Return what units of some layers are under an initialisation, for one input.

    Args:
        module: The network.
        example: One input, with a batch dimension of 1.
        layers: Where to look, and at which unit.
        given: The initialisation.
        n: Draws, where nothing exact is known.
        generator: Of the draws.
    """
    if given.prior is not None:
        exact = _exact(module, example, layers, given.prior)
        if exact is not None:
            return exact
    if given.prior is None:
        drawn, method = _orthogonal(module, example, layers, min(n, MOST_COPIES), generator)
    else:
        units = {place.path: [place.unit] for place in layers}
        found = sample_units(module, example, given.prior, n, units, generator)
        drawn = {path: values[:, 0, 0] for path, values in found.values.items()}
        method = f"{n} draws, {found.method}"
    index = None if given.prior is None else given.prior.index
    return Units({path: moments(values, index) for path, values in drawn.items()}, method)


def tails_of(module: nn.Module, example: Tensor, given: Scheme) -> Mapping[str, Any]:
    """Return the tail parameter of each module's output, by path.

    Entries of orthogonal matrices are bounded, as uniform weights are.
    """
    return tail_rule(module, example, given.prior or Uniform()).modules


def moments(sample: Tensor, index: float | None = None) -> Numbers:
    """Return the standard deviation, the kurtosis and the share of zeros of a sample.

    Args:
        sample: (n,) draws.
        index: Of tails that are powers, which have no moments from that order on.
    """
    dead = float((sample == 0).double().mean())
    centred = sample.double() - sample.double().mean()
    largest = float(centred.abs().max())
    if index is not None and index <= 2:
        return math.inf, math.inf, dead
    if largest == 0:
        return 0.0, math.nan, dead
    scaled = centred / largest  # a far tail's fourth power may overflow
    variance = float(scaled.square().mean())
    kurtosis = float(scaled.pow(4).mean()) / variance**2
    heavy = index is not None and index <= 4
    return largest * math.sqrt(variance), math.inf if heavy else kurtosis, dead


def _exact(
    module: nn.Module, example: Tensor, layers: Sequence[Place], prior: WeightPrior
) -> Units | None:
    """Return what is known exactly, or None where the network is no chain with a closed law."""
    chain = as_unit_prior(module, example, prior)
    if isinstance(chain, str) or not chain[0].exact:
        return None
    found, where = UnitPrior.from_spec(chain[0]), chain[1]
    numbers = {place.path: _exact_numbers(found, *where[place.path]) for place in layers}
    return Units(numbers, "exact")


def _exact_numbers(prior: UnitPrior, layer: int, post: bool) -> Numbers:
    """Return the numbers of one layer."""
    assert not post  # layers with weights come before their activation
    measures = (prior.std(layer), prior.kurtosis(layer), prior.zero_mass(layer))
    std, kurtosis, dead = (float(one) for one in measures)
    return std, kurtosis, dead


def _orthogonal(
    module: nn.Module,
    example: Tensor,
    layers: Sequence[Place],
    n: int,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], str]:
    """Draw units of networks with orthogonal weights, one copy after the other."""
    fresh = fresh_copy(module, "gaussian", generator)
    weights = [name for name, role in roles(fresh).items() if role.kind == WEIGHT]
    parameters = dict(fresh.named_parameters())
    draw = functools.partial(nn.init.orthogonal_, gain=math.sqrt(2.0), generator=generator)
    found: dict[str, list[Tensor]] = {place.path: [] for place in layers}
    with evaluating(fresh), captured(fresh, list(found)) as kept:
        for _ in range(n):
            for name in weights:
                draw(parameters[name])
            fresh(example)
            for place in layers:
                found[place.path].append(kept[place.path].double().flatten()[place.unit])
    drawn = {path: torch.stack(values) for path, values in found.items()}
    return drawn, f"{n} copies with orthogonal weights"
