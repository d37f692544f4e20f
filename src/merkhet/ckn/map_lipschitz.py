"""How far a kernel network's representation moves, at most, when its input does.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Lemma 1 and Section 2.3.
"""

from __future__ import annotations

import math

import torch

from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import POOLINGS, HomogeneousNetwork
from merkhet.ckn.layer import CKNLayer
from merkhet.ckn.network import CKN
from merkhet.core.kernel_maps import averaging_norm
from merkhet.core.pooling import gaussian_windows


@torch.no_grad()
def ckn_lipschitz(network: CKN, input_shape: tuple[int, ...]) -> float:
    """Return an upper bound of the Lipschitz constant of a CKN's representation, l2 to l2.

    Patches over sqrt(|S|) read each entry |S| times at most: norm 1. The kernel map has
    max(1, sqrt(k'(1))), projected on the filters, and less for the ridge; pooling its own norm.
    Lifting to a group copies pictures to each element, sqrt(|G|), and the mean at the end takes
    that back. A group that interpolates has no bound here: inf.

    Args:
        network: The network.
        input_shape: (channels, *size).
    """
    if network.group is not None and not network.group.exact:
        return math.inf
    size, total = tuple(input_shape[1:]), 1.0
    for place in range(len(network.layers)):
        layer = network.layer(place)
        total *= layer.kernel.lipschitz * _reading(layer) * _pooling(layer, size)
        size = layer.output_size(size)
    return total * (1 + 1e-12)


def _reading(layer: CKNLayer) -> float:
    """Return the norm of what takes raw patches to what the kernel sees."""
    if layer.reading is None:
        return 1.0
    return float(torch.linalg.matrix_norm(layer.reading.double(), 2))


def _pooling(layer: CKNLayer, size: tuple[int, ...]) -> float:
    """Return an upper bound of the norm of a layer's pooling, on inputs of a size."""
    scale, step = layer.pooling
    if layer.pooling == (1, 1):
        return 1.0
    lost = layer.patches.side - 1 if layer.form.padding == "valid" else 0
    windows = [gaussian_windows(length - lost, scale, step) for length in size]
    return math.prod(
        averaging_norm(lambda x, w=w: x @ w.mT, (w.shape[1],))  # type: ignore[misc]
        for w in windows
    )


@torch.no_grad()
def homogeneous_lipschitz(network: HomogeneousNetwork, input_shape: tuple[int, ...]) -> float:
    """Return an upper bound of the Lipschitz constant of the kernel map of such a network's RKHS.

    Args:
        network: The network, with its kernel.
        input_shape: (channels, rows, columns).
    """
    assert network.kernel is not None
    maps = torch.zeros(1, 1, *input_shape[1:], dtype=torch.float64)
    total = 1.0
    for layer in network:
        if isinstance(layer, HomogeneousConv2d):
            maps = layer.patch_energy(maps)
            total *= network.kernel.lipschitz
        elif isinstance(layer, POOLINGS):
            total *= averaging_norm(layer, tuple(maps.shape[1:]))
            maps = layer(maps)
    return total * (1 + 1e-12)
