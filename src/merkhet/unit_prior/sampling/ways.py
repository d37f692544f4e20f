"""The four ways to draw units over weights, of which the cheapest that is exact is picked once.

1. A chain of dense layers, one input, Gaussian weights: products or the recursion of `draws`.
2. Gaussian weights: layers that are called once draw their outputs given their inputs
   (`conditional`) where that is cheaper than to draw weights; all else runs as it is.
3. Other priors: weights are drawn, and `torch.vmap` runs many networks at once.
4. A loop over networks, where they initialise themselves or `torch.vmap` refuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.calls import as_call, named_tensors
from merkhet.unit_prior.chain import Where, as_unit_prior
from merkhet.unit_prior.sampling.conditional import Calls, drawable, one_row_each, recorded
from merkhet.unit_prior.sampling.draws import draw_layers, draw_units
from merkhet.unit_prior.sampling.fresh import copied_module
from merkhet.unit_prior.sampling.fresh_init import seeded
from merkhet.unit_prior.sampling.fresh_roles import norms
from merkhet.unit_prior.sampling.runs import Draws, Tell, Tensors, fresh_networks
from merkhet.unit_prior.sampling.wanted import (
    Units,
    Wanted,
    asked_units,
    checked_units,
    count_inputs,
    count_units,
)
from merkhet.unit_prior.spec import Spec
from merkhet.unit_prior.weight_priors import WeightPrior

Chain = tuple[Spec, Where]
Drawn = tuple[Tensors, str]  # units (n, inputs, units) by path, and the way in words


def untold(_more: int) -> None:
    """Take no note of how many more draws are done."""


def draw_by_cheapest(
    module: nn.Module,
    x: Any,
    prior: WeightPrior,
    n: int,
    units: Units,
    generator: torch.Generator,
    *,
    chain: Chain | str | None = None,
    tell: Tell = untold,
) -> Drawn:
    """Draw units as `sample_units` says, for those who know more of the network.

    Args:
        module: Any network.
        x: A batch of inputs.
        prior: On its weights.
        n: Draws.
        units: Which ones, by module path.
        generator: Of the draws.
        chain: What `as_unit_prior` said of the network at x; None to ask it.
        tell: Is told how many more draws are done.

    Raises:
        InputError: As `sample_units`.
    """
    args, kwargs = as_call(x)
    inputs = count_inputs(args, kwargs)
    network = copied_module(module).eval()
    asked = asked_units(network, units)
    for norm in norms(network):
        norm.reset_running_stats()  # type: ignore[operator]
    with seeded(generator), _plainly(), torch.no_grad():
        with recorded(network) as calls:
            sizes = count_units(network, args, kwargs, list(asked), inputs)
        alive = sum(math.prod(output) for each in calls.values() for _, output in each)
        wanted = Wanted(args, kwargs, inputs, checked_units(asked, sizes), alive)
        found = _chain(network, wanted, prior, calls, chain)
        if found is not None:
            values, method = _recursion(*found, wanted.units, n, generator)
            tell(n)
        else:
            values, method = _drawn(network, wanted, calls, prior, n, generator, tell)
    if not any(bool(value.any()) for value in values.values()) and _is_zero(args, kwargs):
        method += "; all units are 0, for x is 0 and no bias is drawn"
    return values, method


def _drawn(
    network: nn.Module,
    wanted: Wanted,
    calls: Calls,
    prior: WeightPrior,
    n: int,
    generator: torch.Generator,
    tell: Tell,
) -> Drawn:
    """Draw units of a network that is no chain."""
    if prior.family == "init":
        return fresh_networks(network, wanted, prior, n, generator, tell)
    layers = drawable(network, calls) if prior.family == "gaussian" else {}
    return Draws(network, wanted, prior, layers).run(n, generator, tell)


def _is_zero(args: Any, kwargs: Any) -> bool:
    """Tell whether all that the network is given is 0."""
    return not any(bool(given.any()) for _, given in named_tensors([*args, *kwargs.values()]))


@contextmanager
def _plainly() -> Iterator[None]:
    """Keep attention from fused kernels, which vmap does not take and hooks do not see."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _chain(
    network: nn.Module, wanted: Wanted, prior: WeightPrior, calls: Calls, told: Chain | str | None
) -> Chain | None:
    """Return the network as a chain of layers, if it is one, for one input that is not 0."""
    x = wanted.args[0] if len(wanted.args) == 1 and not wanted.kwargs else None
    if wanted.inputs > 1 or not isinstance(x, Tensor) or not bool(x.any()):
        return None
    if told is None and one_row_each(calls):
        told = as_unit_prior(network, x, prior)
    if not isinstance(told, tuple) or any(path not in told[1] for path in wanted.units):
        return None
    return told


def _recursion(
    spec: Spec, where: Where, units: dict[str, list[int]], n: int, generator: torch.Generator
) -> Drawn:
    """Draw units of a chain without its weights; those of several layers of the same networks."""
    chosen: dict[int, set[int]] = {}
    for path, places in units.items():
        chosen.setdefault(where[path][0], set()).update(places)
    counts = {layer: len(places) for layer, places in chosen.items()}
    if len(counts) == 1:
        ((layer, count),) = counts.items()
        drawn = {layer: draw_units(spec, layer, n, count, generator)}
    else:
        drawn = draw_layers(spec, counts, n, generator)
    products = len(counts) == 1 and spec.exact
    values = {}
    for path, places in units.items():
        layer, post = where[path]
        columns = {place: column for column, place in enumerate(sorted(chosen[layer]))}
        found = drawn[layer][:, [columns[place] for place in places]]
        values[path] = (spec.activation(found) if post else found)[:, None]
    how = "products of independent factors" if products else "the recursion over units"
    return values, f"scale recursion: a chain of {spec.layers} layers, by {how}"
