"""What a prior on weights says about the units of a network, place by place, for one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError, choose
from merkhet.core.graph import Unknown, trace
from merkhet.core.progress import progress_bar
from merkhet.unit_prior.analysis.dense_chains import Chain, chain_of
from merkhet.unit_prior.analysis.exact import Where, exact_curve, exact_row, prior_places
from merkhet.unit_prior.analysis.figures import MOST_CURVES, spread
from merkhet.unit_prior.analysis.places import MOST_PLACES, Place, first_example, places
from merkhet.unit_prior.analysis.result import Analysis, Row
from merkhet.unit_prior.analysis.sampled import sampled_row
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import Tail, TailReading, read_tails
from merkhet.unit_prior.sampling.ways import draw_by_cheapest
from merkhet.unit_prior.weight_priors import WeightPrior
from merkhet.unit_prior.weight_priors import weight_prior as parse

DRAWS = 2000  # where none are asked for: the command line has the same
PROBABILITIES = (1e-2, 1e-3, 1e-5)
OF_SAMPLES = (
    "intervals are 95 %, of the sampling error; theta(p) is Hill's estimate beyond p; the kurtosis "
    "of a sample is too small where tails are heavy"
)


@dataclass(frozen=True)
class Drawing:
    """How units are drawn.

    Attributes:
        n: Draws.
        generator: Of the draws.
        progress: Whether a terminal shows a bar.
    """

    n: int
    generator: torch.Generator
    progress: bool


def analyze(
    module: nn.Module | UnitPrior,
    x: Any = None,
    weight_prior: str | WeightPrior = "gaussian",
    *,
    n: int = DRAWS,
    paths: Sequence[str] | None = None,
    generator: int | torch.Generator = 0,
    progress: bool = True,
) -> Analysis:
    """Return what a prior on weights says about units, layer by layer, for one input.

    The tail in the limit is found by rule. The rest comes from the exact law where the network is
    a chain of dense layers under Gaussian weights (`chain.as_unit_prior`), from `n` draws of the
    weights elsewhere, of one unit a place: units of one network are not independent, and of other
    positions have other laws. Each row says which. The module's own weights are not looked at, and
    are left as they are.

    Args:
        module: Any network, or a `UnitPrior`, which has its own input and weights.
        x: Inputs (batch, ...) as the network takes them. The first is meant: others would add
            their own tail.
        weight_prior: "gaussian", "laplace", "student(3)", "init" and others; see `weight_prior`.
        n: Draws of the weights, where there is no exact law, and of points in the figure.
        paths: Module paths; by default those of modules with weights and of activations, at most
            60. Of a `UnitPrior` "g_1", "h_1" = phi(g_1), "g_2" and so on.
        generator: Of the draws, or a seed.
        progress: Whether a terminal shows a bar.

    Raises:
        InputError: x is missing, not finite or without a batch; the network does not run on it; a
            path does not exist; n is below 1.

    Example:
        >>> print(analyze(UnitPrior((10, 10)), paths=["g_3"]).row("g_3").tail)
        1.5
    """
    check_counts(n=n)
    how = Drawing(n, as_generator(generator), progress)
    if isinstance(module, UnitPrior):
        if x is not None:
            raise InputError("a UnitPrior has its own input: give analyze(prior) without x")
        return _of_prior(module, paths, how)
    if x is None:
        raise InputError("give an input that the network takes, as in analyze(module, x)")
    prior, example = parse(weight_prior), first_example(x)
    found, notes = _chosen(places(module, example, paths), paths)
    network = trace(module, example)
    reading = read_tails(module, network, prior)
    zero = isinstance(example, Tensor) and example.is_floating_point() and not example.any()
    chain = "the input is 0" if zero else chain_of(module, network, example, prior)
    law = chain if isinstance(chain, str) else _law(chain)
    if isinstance(chain, str) or isinstance(law, str):
        made = _by_draws(module, example, found, reading, chain, how)
        return replace(made, notes=(*notes, f"no exact law: {law}", *made.notes))
    made = _by_law(law, {place.path: (place, chain[1][place.path]) for place in found}, how)
    rows = tuple(ruled(row, reading.modules[row.path]) for row in made.rows)
    return replace(made, rows=rows, prior=str(prior), notes=(*notes, *made.notes))


def ruled(row: Row, tail: Tail | Unknown) -> Row:
    """Return a row with the tail in the limit as the rule has it.

    Args:
        row: The row.
        tail: What `tail_rule` says of its place.
    """
    if isinstance(tail, Unknown):
        return replace(row, theta=None, bound=False, index=None, reason=tail.reason)
    return replace(
        row, theta=tail.theta, bound=not tail.exact, index=tail.index, reason=tail.reason
    )


def _of_prior(prior: UnitPrior, paths: Sequence[str] | None, how: Drawing) -> Analysis:
    """Return the analysis of a prior without a network."""
    known = prior_places(prior)
    for path in paths or ():
        choose("place", path, known)
    asked = list(known) if paths is None else list(dict.fromkeys(paths))
    found, notes = _chosen([known[path][0] for path in asked], paths)
    made = _by_law(prior, {place.path: known[place.path] for place in found}, how)
    return replace(made, notes=notes)


def _chosen(found: list[Place], paths: Sequence[str] | None) -> tuple[list[Place], tuple[str, ...]]:
    """Return the places to look at, and in words what was left out.

    Raises:
        InputError: There is none.
    """
    if not found:
        raise InputError("no place to look at: the network has no weights; give paths=['']")
    if paths is not None or len(found) <= MOST_PLACES:
        return found, ()
    note = f"{MOST_PLACES} of {len(found)} places, evenly spaced; give paths= for others"
    return spread(found, MOST_PLACES), (note,)


def _law(chain: Chain) -> UnitPrior | str:
    """Return the law of a chain's units, or why there is none."""
    law = UnitPrior.from_spec(chain[0])
    try:
        law.law(law.spec.layers)
    except InputError as error:  # of an activation that grows too fast
        return str(error)
    return law


def _by_law(prior: UnitPrior, given: dict[str, tuple[Place, Where]], how: Drawing) -> Analysis:
    """Return the analysis of a chain, with exact curves and draws of a few places beside them."""
    rows, curves, samples = [], {}, {}
    shown = _shown([place for place, _ in given.values()])
    steps = len(given) + len(shown)
    with progress_bar("law", steps, unit="rows and curves", shown=how.progress) as tell:
        for place, where in given.values():
            rows.append(exact_row(prior, place, where, PROBABILITIES))
            tell(1)
        for path in shown:
            layer, post = given[path][1]
            curves[path] = exact_curve(prior, given[path][1])
            samples[path] = prior.sample(how.n, layer, how.generator, post=post)
            tell(1)
    return Analysis(tuple(rows), repr(prior), how.n, (), curves, samples, prior)


def _by_draws(
    module: nn.Module,
    example: Any,
    found: list[Place],
    reading: TailReading,
    chain: Chain | str,
    how: Drawing,
) -> Analysis:
    """Return the analysis of any network from draws of its weights."""
    units, prior = {place.path: [place.unit] for place in found}, reading.prior
    with progress_bar("units", how.n, unit="draws", shown=how.progress) as tell:
        drawn, method = draw_by_cheapest(
            module, example, prior, how.n, units, how.generator, chain=chain, tell=tell
        )
    samples = {path: values[:, 0, 0] for path, values in drawn.items()}
    rows = []
    for place in found:
        tail = reading.modules[place.path]
        index = None if isinstance(tail, Unknown) else tail.index
        row = sampled_row(place, samples[place.path], PROBABILITIES, index)
        rows.append(ruled(row, tail))
    notes = (f"{how.n:,} draws, {method}", OF_SAMPLES)
    of_shown = {path: samples[path] for path in _shown(found)}
    return Analysis(tuple(rows), str(prior), how.n, notes, {}, of_shown)


def _shown(found: Sequence[Place]) -> list[str]:
    """Return the places whose survival is drawn: after weights, and the output."""
    deep = [place.path for place in found if place.weighted or not place.path]
    return spread(deep or [place.path for place in found], MOST_CURVES)
