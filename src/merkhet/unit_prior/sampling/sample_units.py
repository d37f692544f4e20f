"""Units of any network over draws of its weights, by the cheapest way that is exact.

`sample_units` picks one of four ways, once, and says which:

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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts
from merkhet.core.calls import as_call, named_tensors
from merkhet.unit_prior.chain import Where, as_unit_prior
from merkhet.unit_prior.sampling.conditional import Calls, drawable, one_row_each, recorded
from merkhet.unit_prior.sampling.draws import draw_layers, draw_units
from merkhet.unit_prior.sampling.fresh import copied_module
from merkhet.unit_prior.sampling.fresh_init import seeded
from merkhet.unit_prior.sampling.fresh_roles import norms
from merkhet.unit_prior.sampling.runs import Draws, fresh_networks
from merkhet.unit_prior.sampling.wanted import (
    Units,
    Wanted,
    asked_units,
    checked_units,
    count_inputs,
    count_units,
)
from merkhet.unit_prior.spec import Spec
from merkhet.unit_prior.weight_priors import WeightPrior, weight_prior


@dataclass(frozen=True)
class Samples:
    """Units over draws of the weights.

    Attributes:
        values: By module path, (n, inputs, units) float64. A row is one network: units and
            inputs of a row belong together, rows are independent.
        method: How they were drawn, in words.
        n: Draws.
    """

    values: dict[str, Tensor]
    method: str
    n: int


def sample_units(
    module: nn.Module,
    x: Any,
    weight_prior: str | WeightPrior = "gaussian",
    n: int = 1000,
    units: Units = None,
    generator: int | torch.Generator | None = None,
) -> Samples:
    """Draw units of a network over fresh weights, at given inputs.

    The network runs in evaluation mode, with batch norms as they begin; it is left as it is, and
    so are the global generators. Its own values serve for parameters that no prior covers
    (`draw_parameters` says which).

    Args:
        module: Any network.
        x: A batch of inputs (inputs, ...) as the network takes them, or a tuple or mapping of
            arguments.
        weight_prior: A `WeightPrior` or its name; "init" is what the modules draw themselves.
        n: Draws.
        units: By module path, which units: numbers within the flattened output for one input. A
            path or a sequence of them takes unit 0 of each; None is unit 0 of the output, "".
        generator: A generator or a seed; None is the seed 0.

    Returns:
        The units' values, as the modules return them, and how they were drawn.

    Raises:
        InputError: NaN or infinity in x, a network that does not run on x or gives no numbers for
            each input, no such module, or units that it does not have.
    """
    check_counts(n=n)
    given, source = _prior(weight_prior), as_generator(0 if generator is None else generator)
    args, kwargs = as_call(x)
    inputs = count_inputs(args, kwargs)
    network = copied_module(module).eval()
    asked = asked_units(network, units)
    for norm in norms(network):
        norm.reset_running_stats()  # type: ignore[operator]
    with seeded(source), _plainly(), torch.no_grad():
        with recorded(network) as calls:
            sizes = count_units(network, args, kwargs, list(asked), inputs)
        alive = sum(math.prod(output) for each in calls.values() for _, output in each)
        wanted = Wanted(args, kwargs, inputs, checked_units(asked, sizes), alive)
        values, method = _drawn(network, wanted, calls, given, n, source)
    if not any(bool(value.any()) for value in values.values()) and _is_zero(args, kwargs):
        method += "; all units are 0, for x is 0 and no bias is drawn"
    return Samples(values, method, n)


def _drawn(
    network: nn.Module,
    wanted: Wanted,
    calls: Calls,
    prior: WeightPrior,
    n: int,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], str]:
    """Pick the way, and return the units (n, inputs, units) by path with the way in words."""
    if prior.family == "init":
        return fresh_networks(network, wanted, prior, n, generator)
    chain = _chain(network, wanted, prior) if one_row_each(calls) else None
    if chain is not None:
        return _recursion(*chain, wanted.units, n, generator)
    layers = drawable(network, calls) if prior.family == "gaussian" else {}
    return Draws(network, wanted, prior, layers).run(n, generator)


def _prior(given: str | WeightPrior) -> WeightPrior:
    """Return a prior by name; `sample_units` has an argument of the function's name."""
    return weight_prior(given)


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


def _chain(network: nn.Module, wanted: Wanted, prior: WeightPrior) -> tuple[Spec, Where] | None:
    """Return the network as a chain of layers, if it is one, for one input that is not 0."""
    x = wanted.args[0] if len(wanted.args) == 1 and not wanted.kwargs else None
    if wanted.inputs > 1 or not isinstance(x, Tensor) or not bool(x.any()):
        return None
    found = as_unit_prior(network, x, prior)
    if isinstance(found, str) or any(path not in found[1] for path in wanted.units):
        return None
    return found


def _recursion(
    spec: Spec, where: Where, units: dict[str, list[int]], n: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], str]:
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
