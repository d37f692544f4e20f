"""The linear decoder of a network: the maps before a layer, from the maps after it.

A kernel with a linear term has z -> <w, z> in its RKHS, so that a patch is a linear function of
its map psi(z). Linear functions of channels commute with the pooling: decoded maps are pooled
patches. Where the windows step by no more than a patch, these together cover the pooled signal,
and only the pooling is left to undo. Covering and un-pooling are one least-squares problem,

    min over x of sum over v of |C (A S_v x - d_v)|^2,

with d_v the decoded maps of place v in the patch, S_v the signal moved to that place, A the pooling
and C the centring of patches, where there is one. A and S_v act along each side by itself, so that
it is solved exactly, by one small factorisation a side.

N pictures, C channels, K side of a patch, p = C K^dims numbers of a patch, m filters, L positions
along a side, w windows along it.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), on signal preservation; the
joint solution is ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.ckn.fitting import Images, draw_patches
from merkhet.core.pooling import gaussian_windows

if TYPE_CHECKING:
    from merkhet.ckn.layer import CKNLayer
    from merkhet.ckn.network import CKN

FITTED = 1e-8  # ridge of decoders of patches, over the largest eigenvalue
DRAWN = 10_000  # patches that a decoder is fitted to
MIXED = 4  # filters in a mixture, at most
BATCH = 256  # pictures in one pass


def patch_decoders(network: CKN, images: Images | None, generator: torch.Generator) -> list[Tensor]:
    """Return the matrix (p, m), float64, from maps to patches of each layer.

    Args:
        network: Without a group.
        images: That patches are drawn of; None for mixtures of filters.
        generator: Draws patches or mixtures, on the CPU.
    """
    found = []
    for place in range(len(network.layers)):
        layer = network.layer(place)
        if images is None:
            read = mixtures(layer, DRAWN, generator)
        else:
            read = _as_read(layer, draw_patches(network, place, images, DRAWN, BATCH, generator))
        found.append(patch_decoder(layer, read))
    return found


def decode(
    network: CKN, features: Tensor, size: tuple[int, ...], decoders: list[Tensor], ridge: float
) -> Tensor:
    """Return pictures (N, channels, *size), float64, from representations, by linear maps alone.

    Args:
        network: Without a group.
        features: (N, filters, *size').
        size: Of the pictures.
        decoders: `patch_decoders`.
        ridge: Of the covering, over the largest eigenvalue along each side (see `uncover`).
    """
    sizes = [size]
    for place in range(len(network.layers)):
        sizes.append(network.layer(place).output_size(sizes[-1]))
    maps = features.double()
    for place in reversed(range(len(network.layers))):
        pooled = torch.einsum("pm,nm...->np...", decoders[place], maps)
        maps = uncover(network.layer(place), pooled, sizes[place], ridge)
    return maps


def patch_decoder(layer: CKNLayer, read: Tensor, ridge: float = FITTED) -> Tensor:
    """Return the matrix (p, m), float64, from psi(z) to the patch z by regularised least squares.

    Args:
        layer: The layer; where it centres patches, z is the centred one.
        read: (n, d) patches as the kernel sees them.
        ridge: Over the largest eigenvalue.
    """
    psi = patch_map(layer, read)
    gram = psi.mT @ psi
    gram.diagonal().add_(ridge * torch.linalg.eigvalsh(gram)[-1].clamp_min(1e-300))
    found = torch.linalg.solve(gram, psi.mT @ read)
    if layer.reading is None:
        return layer.patches.raw(found).mT
    raw: Tensor = torch.linalg.pinv(layer.reading.double()) @ found.mT
    return raw


def patch_map(layer: CKNLayer, read: Tensor) -> Tensor:
    """Return psi (n, m), float64, of patches (n, d) as the kernel sees them."""
    norms = read.norm(dim=1, keepdim=True)
    units = F.normalize(layer.filters.detach().double(), dim=1)
    values = norms * layer.kernel.value(read @ units.mT / norms.where(norms > 0, 1))
    found: Tensor = values @ layer.root().detach().mT / math.sqrt(layer.patches.positions)
    return found


def mixtures(layer: CKNLayer, count: int, generator: torch.Generator) -> Tensor:
    """Return unit vectors (count, d), float64: the filters, then mixtures of some of them.

    Weights are positive: filters fitted to patches lie in the cone of these.

    Args:
        layer: The layer.
        count: How many, filters included.
        generator: On the CPU.
    """
    units = F.normalize(layer.filters.detach().double(), dim=1)
    drawn = max(0, count - len(units))
    which = torch.randint(len(units), (drawn, MIXED), generator=generator)
    shares = torch.rand(drawn, MIXED, generator=generator, dtype=torch.float64)
    weights = -torch.log1p(-shares).to(units)  # of any size beside each other
    mixed = torch.einsum("nk,nkd->nd", weights, units[which.to(units.device)])
    return torch.cat([units, F.normalize(mixed)])


def uncover(layer: CKNLayer, pooled: Tensor, size: tuple[int, ...], ridge: float) -> Tensor:
    """Return the signal (N, C, *size) whose patches, pooled, are nearest to those given.

    Where patches are centred, each lacks its mean and the signal is determined but for a constant
    in each channel; zeros around ("same") fix it, faintly. Otherwise it comes out as 0 or so.

    Args:
        layer: The layer: its patches, padding and pooling.
        pooled: (N, p, *windows), float64.
        size: Of the signal.
        ridge: Over the largest eigenvalue.
    """
    dims, side, centred = layer.form.dims, layer.patches.side, layer.patches.centred
    maps = pooled.unflatten(1, (-1, *(side,) * dims))
    if centred:
        maps = maps - maps.mean(tuple(range(2, 2 + dims)), keepdim=True)
    means, bases = maps.new_ones(()), []
    for axis, length in enumerate(size):
        covering = patches_along(layer, length).to(maps)
        basis, kept = _diagonalised(covering, side, centred, ridge)
        bases.append(basis)
        means = means[..., None] * kept
        # The first place and the first windows left: (K, w) become L coordinates, put last.
        weights = (covering @ basis).unflatten(0, (side, -1))
        maps = torch.tensordot(maps, weights, dims=([2, 2 + dims - axis], [0, 1]))
    found: Tensor = maps / (1 - means).clamp_min(ridge)  # constants that the patches do not have
    for basis in bases:
        found = torch.tensordot(found, basis, dims=([2], [1]))
    return found


def patches_along(layer: CKNLayer, length: int) -> Tensor:
    """Return pooled patches along a side, (K w, L), float64: A S_v for each place v, one by one."""
    side, same = layer.patches.side, layer.form.padding == "same"
    count, before = (length, (side - 1) // 2) if same else (length - side + 1, 0)
    reads = torch.arange(count) + torch.arange(side)[:, None] - before
    moved = (reads[..., None] == torch.arange(length)).double()
    if layer.pooling != (1, 1):
        moved = gaussian_windows(count, *layer.pooling) @ moved
    found: Tensor = moved.flatten(0, 1)
    return found


def _diagonalised(
    covering: Tensor, side: int, centred: bool, ridge: float
) -> tuple[Tensor, Tensor]:
    """Return V (L, L) and the diagonal (L,) of V^T Q V, where V^T (B^T B + ridge) V = 1.

    B are pooled patches along the side and Q is what their means take of B^T B: with patches
    centred the problem has the matrix kron(B^T B) - kron(Q), which V makes diagonal. Q = 0 without.
    """
    gram = covering.mT @ covering
    gram.diagonal().add_(ridge * torch.linalg.eigvalsh(gram)[-1])
    factor = torch.linalg.cholesky(gram)
    identity = torch.eye(len(gram)).to(gram)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    if not centred:
        return inverse.mT, gram.new_zeros(len(gram))
    sums = covering.unflatten(0, (side, -1)).sum(0) @ inverse.mT
    kept, vectors = torch.linalg.eigh(sums.mT @ sums / side)
    return inverse.mT @ vectors, kept


def _as_read(layer: CKNLayer, raw: Tensor) -> Tensor:
    """Return raw patches (n, p) as the kernel sees them, (n, d), float64."""
    raw = raw.double()
    return layer.patches.seen(raw) if layer.reading is None else raw @ layer.reading.double().mT
