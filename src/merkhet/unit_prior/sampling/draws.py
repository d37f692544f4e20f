"""Draws of units of a dense chain under a Gaussian prior, for one input, without its weights.

    >>> from merkhet.unit_prior.spec import make_spec
    >>> draw_units(make_spec((100, 100)), 3, 1000).shape
    torch.Size([1000, 1])

Given the layer before, units of a layer are independent normals: g = sqrt(q) z, with
q = s_w^2 |phi(g_before)|^2 + s_b^2. So a draw needs O(H) numbers a layer and no matrix
(`draw_layers`, the plain form); and for homogeneous phi without bias |phi(z)|^2 is a sum of two
chi-squared numbers and a draw needs a few numbers a layer whatever the width (`_products`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from merkhet.core.building import as_generator, check_counts
from merkhet.core.errors import InputError
from merkhet.core.threads import in_parallel
from merkhet.unit_prior.sampling.streams import blocks, normals, streams
from merkhet.unit_prior.spec import Spec

AT_ONCE = 2**20  # numbers of one layer that are alive at once: 8 MB


def draw_units(
    spec: Spec,
    layer: int,
    n: int,
    units: int = 1,
    generator: int | torch.Generator | None = None,
    *,
    post: bool = False,
) -> Tensor:
    """Draw units of one layer, (n, units) float64, on the CPU.

    Rows are independent; the units of a row belong to one network and share the layers before.
    A seed gives the same numbers whatever the number of threads.

    Args:
        spec: The network's prior.
        layer: 1 ... L + 1, counted by weight matrices.
        n: Draws.
        units: How many units of the layer, at most its width.
        generator: A generator or a seed; None is the seed 0.
        post: Whether after the activation.

    Raises:
        InputError: No such layer, more units than it has, or n below 1.
    """
    check_counts(n=n, units=units)
    spec.check_layer(layer, post=post)
    _check_units(spec, layer, units)
    source = as_generator(0 if generator is None else generator)
    if spec.exact:
        drawn = _products(spec, layer, n, units, source)
    else:
        drawn = draw_layers(spec, {layer: units}, n, source)[layer]
    return spec.activation(drawn) if post else drawn


def draw_layers(
    spec: Spec, wanted: Mapping[int, int], n: int, generator: torch.Generator
) -> dict[int, Tensor]:
    """Draw units of several layers of the same networks, by the recursion over all units.

    Any activation, any bias. The plain form of `draw_units`.

    Args:
        spec: The network's prior.
        wanted: How many units, by layer.
        n: Draws.
        generator: Of the draws.

    Returns:
        Pre-activations (n, units) float64 by layer.

    Raises:
        InputError: A layer has fewer units.
    """
    for layer, units in wanted.items():
        _check_units(spec, layer, units)
    widest = max([*spec.widths[: max(wanted) - 1], *wanted.values()])
    most = max(1, AT_ONCE // widest)
    parts = [_chunk(spec, wanted, min(most, n - start), generator) for start in range(0, n, most)]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in wanted}


def _chunk(
    spec: Spec, wanted: Mapping[int, int], n: int, generator: torch.Generator
) -> dict[int, Tensor]:
    """Draw so many networks at once."""
    found, last = {}, max(wanted)
    spread = torch.full((n, 1), math.hypot(spec.weight_std[0] * spec.input_norm, spec.bias_std))
    spread = spread.double()
    for layer in range(1, last + 1):
        units = wanted.get(layer, 0)
        width = units if layer == last else spec.widths[layer - 1]
        g = normals((n, width), generator).mul_(spread)
        if units:
            found[layer] = g[:, :units].clone()
        if layer < last:
            h = torch.linalg.vector_norm(spec.activation(g), dim=1, keepdim=True)
            spread = torch.hypot(spec.weight_std[layer] * h, h.new_tensor(spec.bias_std))
    return found


def _products(spec: Spec, layer: int, n: int, units: int, generator: torch.Generator) -> Tensor:
    """Draw scale R_1 ... R_(l-1) z by compiled loops: O(1) numbers a layer."""
    from merkhet.unit_prior.sampling.loops import BLOCK, fill_products

    assert spec.activation.slopes is not None
    widths = np.array(spec.widths[: layer - 1], np.int64)
    squares = np.square(np.array(spec.activation.slopes))
    means = np.maximum(widths * squares.mean(), np.finfo(float).tiny)  # of R^2, as good as any
    slopes = squares / means[:, None]
    factors = [spec.input_norm, *spec.weight_std[:layer], *np.sqrt(means).tolist()]
    out = torch.empty(n, units, dtype=torch.float64, device="cpu")
    parts = blocks(n, BLOCK)
    seeds = streams(len(parts), generator)
    in_parallel(fill_products, parts, seeds, widths, slopes, _product(factors), out.numpy())
    return out


def _product(factors: list[float]) -> tuple[float, int]:
    """Return a product as mantissa and exponent of 2, which cannot overflow."""
    mantissa, exponent = 1.0, 0
    for factor in factors:
        mantissa, more = math.frexp(mantissa * factor)
        exponent += more
    return mantissa, exponent


def _check_units(spec: Spec, layer: int, units: int) -> None:
    """Refuse more units than a hidden layer has."""
    if layer <= len(spec.widths) and units > spec.widths[layer - 1]:
        raise InputError(
            f"{units} units of layer {layer}, which has {spec.widths[layer - 1]}: give units up to "
            "that"
        )
