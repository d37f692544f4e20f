"""What a prior on weights says about the units of a network, place by place, for one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError, choose
from merkhet.core.graph import Unknown
from merkhet.unit_prior.analysis.exact import Where, exact_curve, exact_row, prior_places
from merkhet.unit_prior.analysis.figures import MOST_CURVES, spread
from merkhet.unit_prior.analysis.places import MOST_PLACES, Place, first_example, places
from merkhet.unit_prior.analysis.result import Analysis, Row
from merkhet.unit_prior.analysis.sampled import sampled_row
from merkhet.unit_prior.chain import Where as Places
from merkhet.unit_prior.chain import as_unit_prior
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import Tail, TailReading, tail_rule
from merkhet.unit_prior.sampling.sample_units import sample_units
from merkhet.unit_prior.weight_priors import WeightPrior
from merkhet.unit_prior.weight_priors import weight_prior as parse

PROBABILITIES = (1e-2, 1e-3, 1e-5)
OF_SAMPLES = (
    "intervals are 95 %, of the sampling error; theta(p) is Hill's estimate beyond p; the kurtosis "
    "of a sample is too small where tails are heavy"
)


def analyze(
    module: nn.Module | UnitPrior,
    x: Any = None,
    weight_prior: str | WeightPrior = "gaussian",
    *,
    n: int = 10_000,
    paths: Sequence[str] | None = None,
    generator: int | torch.Generator = 0,
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

    Raises:
        InputError: x is missing, not finite or without a batch; the network does not run on it; a
            path does not exist; n is below 1.

    Example:
        >>> print(analyze(UnitPrior((10, 10)), paths=["g_3"]).row("g_3").tail)
        1.5
    """
    check_counts(n=n)
    source = as_generator(generator)
    if isinstance(module, UnitPrior):
        if x is not None:
            raise InputError("a UnitPrior has its own input: give analyze(prior) without x")
        return _of_prior(module, n, paths, source)
    if x is None:
        raise InputError("give an input that the network takes, as in analyze(module, x)")
    prior, example = parse(weight_prior), first_example(x)
    found, notes = _chosen(places(module, example, paths), paths)
    reading = tail_rule(module, example, prior)
    chain = _chain(module, example, prior)
    if isinstance(chain, str):
        made = _by_draws(module, example, prior, found, reading, n, source)
        notes = (*notes, f"no exact law: {chain}")
    else:
        law, where = chain
        given = {place.path: (place, where[place.path]) for place in found}
        made = _by_law(law, given, n, source)
        rows = tuple(ruled(row, reading.modules[row.path]) for row in made.rows)
        made = replace(made, rows=rows, prior=str(prior))
    return replace(made, notes=(*notes, *made.notes))


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


def _of_prior(
    prior: UnitPrior, n: int, paths: Sequence[str] | None, generator: torch.Generator
) -> Analysis:
    """Return the analysis of a prior without a network."""
    known = prior_places(prior)
    for path in paths or ():
        choose("place", path, known)
    asked = list(known) if paths is None else list(dict.fromkeys(paths))
    found, notes = _chosen([known[path][0] for path in asked], paths)
    made = _by_law(prior, {place.path: known[place.path] for place in found}, n, generator)
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


def _chain(module: nn.Module, example: Any, prior: WeightPrior) -> tuple[UnitPrior, Places] | str:
    """Return a network as a chain of dense layers with its places by path, or why it is none."""
    if isinstance(example, Tensor) and example.is_floating_point() and not example.any():
        return "the input is 0"
    found = as_unit_prior(module, example, prior)
    if isinstance(found, str):
        return found
    law = UnitPrior.from_spec(found[0])
    try:
        law.law(law.spec.layers)
    except InputError as error:  # of an activation that grows too fast
        return str(error)
    return law, found[1]


def _by_law(
    prior: UnitPrior,
    given: dict[str, tuple[Place, Where]],
    n: int,
    generator: torch.Generator,
) -> Analysis:
    """Return the analysis of a chain, with exact curves and draws of a few places beside them."""
    rows = tuple(exact_row(prior, place, where, PROBABILITIES) for place, where in given.values())
    shown = _shown(rows)
    curves = {path: exact_curve(prior, given[path][1]) for path in shown}
    samples = {}
    for path in shown:
        layer, post = given[path][1]
        samples[path] = prior.sample(n, layer, generator, post=post)
    return Analysis(rows, repr(prior), n, (), curves, samples, prior)


def _by_draws(
    module: nn.Module,
    example: Any,
    prior: WeightPrior,
    found: list[Place],
    reading: TailReading,
    n: int,
    generator: torch.Generator,
) -> Analysis:
    """Return the analysis of any network from draws of its weights."""
    units = {place.path: [place.unit] for place in found}
    drawn = sample_units(module, example, prior, n, units, generator)
    samples = {path: values[:, 0, 0] for path, values in drawn.values.items()}
    rows = []
    for place in found:
        tail = reading.modules[place.path]
        index = None if isinstance(tail, Unknown) else tail.index
        row = sampled_row(place, samples[place.path], PROBABILITIES, index)
        rows.append(ruled(row, tail))
    shown = _shown(rows)
    notes = (f"{n:,} draws, {drawn.method}", OF_SAMPLES)
    return Analysis(tuple(rows), str(prior), n, notes, {}, {path: samples[path] for path in shown})


def _shown(rows: Sequence[Row]) -> list[str]:
    """Return the places whose survival is drawn: after weights, and the output."""
    deep = [row.path for row in rows if row.weighted or not row.path]
    return spread(deep or [row.path for row in rows], MOST_CURVES)
