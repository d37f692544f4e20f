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
from merkhet.core.graph import Network
from merkhet.core.modes import evaluating
from merkhet.core.outputs import captured
from merkhet.unit_prior.analysis.dense_chains import Chain, chain_of
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import read_tails
from merkhet.unit_prior.sampling.fresh import fresh_copy
from merkhet.unit_prior.sampling.fresh_roles import WEIGHT, roles
from merkhet.unit_prior.sampling.runs import Tell
from merkhet.unit_prior.sampling.ways import draw_by_cheapest
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
class Start:
    """A network that is to be initialised, and where it is looked at.

    Attributes:
        module: The network.
        network: Its graph.
        example: One input, with a batch dimension of 1.
        layers: Where to look, and at which unit.
    """

    module: nn.Module
    network: Network
    example: Tensor
    layers: Sequence[Place]


@dataclass(frozen=True)
class Units:
    """What units are, by path.

    Attributes:
        numbers: Standard deviation, kurtosis and probability of being 0, by path.
        method: How they were got.
    """

    numbers: Mapping[str, Numbers]
    method: str


def schemes(names: Sequence[str]) -> list[Scheme]:
    """Return initialisations by name, each once.

    Raises:
        InputError: No names, or such as do not exist.
    """
    if isinstance(names, str) or not names:
        raise InputError(f"names = {names!r}: give several, such as ('he', 'xavier', 'init')")
    return [scheme(name) for name in dict.fromkeys(names)]


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


def units_of(start: Start, given: Scheme, n: int, generator: torch.Generator, tell: Tell) -> Units:
    """Return what units of some layers are under an initialisation, for one input.

    Args:
        start: The network, and where to look.
        given: The initialisation.
        n: Draws, where nothing exact is known.
        generator: Of the draws.
        tell: Is told how many more draws are done.
    """
    if given.prior is None:
        return _orthogonal(start, n, generator, tell)
    chain = chain_of(start.module, start.network, start.example, given.prior)
    if not isinstance(chain, str) and chain[0].exact:
        tell(n)
        return _exact(chain, start.layers)
    units = {place.path: [place.unit] for place in start.layers}
    found, how = draw_by_cheapest(
        start.module, start.example, given.prior, n, units, generator, chain=chain, tell=tell
    )
    numbers = {path: moments(one[:, 0, 0], given.prior.index) for path, one in found.items()}
    return Units(numbers, f"{n} draws, {how}")


def tails_of(start: Start, given: Scheme) -> Mapping[str, Any]:
    """Return the tail parameter of each module's output, by path.

    Entries of orthogonal matrices are bounded, as uniform weights are.
    """
    return read_tails(start.module, start.network, given.prior or Uniform()).modules


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


def _exact(chain: Chain, layers: Sequence[Place]) -> Units:
    """Return what is known exactly of a chain with a closed law."""
    found, where = UnitPrior.from_spec(chain[0]), chain[1]
    numbers = {place.path: _exact_numbers(found, *where[place.path]) for place in layers}
    return Units(numbers, "exact")


def _exact_numbers(prior: UnitPrior, layer: int, post: bool) -> Numbers:
    """Return the numbers of one layer."""
    assert not post  # layers with weights come before their activation
    measures = (prior.std(layer), prior.kurtosis(layer), prior.zero_mass(layer))
    std, kurtosis, dead = (float(one) for one in measures)
    return std, kurtosis, dead


def _orthogonal(start: Start, n: int, generator: torch.Generator, tell: Tell) -> Units:
    """Return what units of networks with orthogonal weights are, from one copy after the other."""
    fresh = fresh_copy(start.module, "gaussian", generator)
    weights = [name for name, role in roles(fresh).items() if role.kind == WEIGHT]
    parameters = dict(fresh.named_parameters())
    draw = functools.partial(nn.init.orthogonal_, gain=math.sqrt(2.0), generator=generator)
    found: dict[str, list[Tensor]] = {place.path: [] for place in start.layers}
    copies = min(n, MOST_COPIES)
    with evaluating(fresh), captured(fresh, list(found)) as kept:
        for copy in range(copies):
            for name in weights:
                draw(parameters[name])
            fresh(start.example)
            for place in start.layers:
                found[place.path].append(kept[place.path].double().flatten()[place.unit])
            tell(n * (copy + 1) // copies - n * copy // copies)
    numbers = {path: moments(torch.stack(values)) for path, values in found.items()}
    return Units(numbers, f"{copies} copies with orthogonal weights")
