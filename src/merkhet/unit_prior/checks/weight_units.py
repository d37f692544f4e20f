"""What one unit of each layer is over fresh weights: by the law of a chain, by draws elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from merkhet.core.building import as_generator
from merkhet.core.errors import InputError
from merkhet.report import Subject
from merkhet.unit_prior.analysis.dense_chains import Chain
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.sampling.initialised import moments
from merkhet.unit_prior.sampling.ways import draw_by_cheapest
from merkhet.unit_prior.weight_priors import Gaussian

FEWEST, MOST = 200, 4000  # draws
LATE = 1.25  # times as long as they may take: from then on draws are stopped


@dataclass(frozen=True)
class Unit:
    """What a unit of a layer is over fresh weights.

    Attributes:
        place: The layer, and which unit of it.
        kurtosis: Over fresh weights; NaN where the unit is constant.
        error: Its standard error, 0 where it is exact.
        sample: (n,) draws, or None where the law is known.
        layer: By weight matrices, where the network is a chain.
    """

    place: Place
    kurtosis: float
    error: float = 0.0
    sample: Tensor | None = None
    layer: int = 0


def exact_units(prior: UnitPrior, chain: Chain, layers: Sequence[Place]) -> tuple[list[Unit], str]:
    """Return the units of a chain, exactly, and how.

    Args:
        prior: Of the chain's units.
        chain: With the layer of each module.
        layers: Where to look.
    """
    layer = {path: at[0] for path, at in chain[1].items()}
    found = {place: prior.kurtosis(layer[place.path]) for place in layers}
    units = [Unit(one, float(it), layer=layer[one.path]) for one, it in found.items()]
    how = found[layers[-1]].method
    return units, f"The network is a chain of dense layers, of which the law is known: {how}."


def sampled_units(
    subject: Subject, example: Tensor, layers: Sequence[Place], chain: Chain | str, seconds: float
) -> tuple[list[Unit], str]:
    """Return units by as many draws of fresh weights as the time allows, and how.

    Args:
        subject: The network.
        example: One input as it takes it, with a batch dimension of 1.
        layers: Where to look.
        chain: What `chain_of` said of the network.
        seconds: How long it may take.

    Raises:
        InputError: Fewer draws than say anything.
    """
    if FEWEST * subject.seconds_each > seconds:
        raise InputError(
            f"{FEWEST} draws of fresh weights, the fewest that say anything, need about "
            f"{math.ceil(FEWEST * subject.seconds_each)} s forward alone and {seconds:.0f} s are "
            "left for it: allow more seconds"
        )
    asked = {place.path: [place.unit] for place in layers}

    def drawn(count: int) -> tuple[dict[str, Tensor], str]:
        source, tell = as_generator(subject.seed), stopping(seconds)
        return draw_by_cheapest(
            subject.module, example, Gaussian(), count, asked, source, chain=chain, tell=tell
        )

    start, count = time.perf_counter(), FEWEST
    values, method = drawn(count)
    spent = time.perf_counter() - start
    fitting = min(MOST, int(count * (seconds - spent) / spent))
    if fitting >= 2 * count:
        count = fitting
        values, method = drawn(count)
    units = [_of_sample(place, values[place.path][:, 0, 0]) for place in layers]
    return units, f"Kurtosis by {count} draws of Gaussian weights of He's scale: {method}."


def stopping(seconds: float) -> Callable[[int], None]:
    """Return what is told of draws, and stops them where the fewest would take too long.

    A forward pass says little of large networks, where drawing the weights takes most.

    Args:
        seconds: How long the fewest draws may take, from now on.
    """
    start, done = time.perf_counter(), 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        needed = (time.perf_counter() - start) / max(done, 1) * FEWEST
        if done < FEWEST and needed > LATE * seconds:
            raise InputError(
                f"{FEWEST} draws of fresh weights, the fewest that say anything, need about "
                f"{math.ceil(needed)} s and {seconds:.0f} s are left for it: allow more seconds"
            )

    return tell


def _of_sample(place: Place, sample: Tensor) -> Unit:
    """Return a unit with the kurtosis of draws (n,) and its standard error."""
    std, kurtosis, _ = moments(sample)
    if not std > 0:
        return Unit(place, math.nan, sample=sample)
    squares = ((sample - sample.mean()) / std).square()
    influence = squares.square() - 2 * kurtosis * squares  # of the mean of fourth over second^2
    return Unit(place, kurtosis, float(influence.std()) / math.sqrt(len(sample)), sample)
