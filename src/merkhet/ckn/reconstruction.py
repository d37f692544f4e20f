"""The signal back from its representation: a linear decoder, then descent on what is left.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078): what the layers keep of a
signal.

n pictures, d numbers of a picture.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from merkhet.ckn.decoder import decode, patch_decoders
from merkhet.ckn.descent import minimise
from merkhet.ckn.fitting import Images
from merkhet.ckn.network import CKN
from merkhet.core.building import as_generator, check_positive
from merkhet.core.errors import InputError
from merkhet.core.modes import in_mode
from merkhet.core.progress import progress_bar

RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
TOGETHER = 32  # pictures that descend at a time
SMOOTH = 1e-3  # differences far below this count by their squares in the total variation


@dataclass(frozen=True)
class Reconstruction:
    """Signals that have, or nearly have, given representations.

    Attributes:
        images: (n, in_channels, *size).
        residuals: (n,) |Phi(image) - features| / |features|, float64: how nearly.
        start_residuals: (n,) the same of the linear decoder, or of noise for group networks.
    """

    images: Tensor
    residuals: Tensor
    start_residuals: Tensor


def reconstruct(
    network: CKN,
    features: Tensor,
    size: int | tuple[int, ...],
    *,
    images: Images | None = None,
    steps: int = 100,
    ridge: float | None = None,
    penalty: float = 0.0,
    seed: int | torch.Generator = 0,
    progress: bool = False,
) -> Reconstruction:
    """Return signals whose representation is the given one, as nearly as they are found.

    A linear decoder goes first: from the last layer down, patches are linear functions of their
    maps, and are laid over each other with the pooling undone. That keeps the signal where the
    pooling steps by no more than the side of the patches, up to the bandwidth of the pooling. Then
    L-BFGS steps on |Phi(z) - features|^2 / |features|^2 from there; the residual never rises.

    What the network does not keep cannot come back: with centred or whitened patches and
    padding="valid", a constant in each channel is lost; what the pooling smooths away comes back as
    zero from the decoder, and the descent leaves it there. A group network has averaged over the
    poses, so that any pose has the features: there is no linear decoder, the descent starts at
    noise, and what it finds is one picture with nearly these features, in a pose of its own.

    Args:
        network: The network.
        features: (n, filters, *size') of pictures of the size (`network.output_shape`).
        size: (height, width) of the pictures, or the length of signals.
        images: Pictures like those sought, (count, in_channels, *size) or a data set: the decoder
            is fitted to their patches. Without, to mixtures of filters, which is cruder.
        steps: Of the descent, at most; 0 stops at the linear decoder.
        ridge: Of undoing the pooling, over the largest eigenvalue along a side. None tries
            1e-8 to 0.1 and keeps for each picture what comes nearest to its features.
        penalty: Weight, beside the squared relative residual, of the total variation: the sum of
            absolute differences between neighbours over the number of pixels. With it, that sum
            never rises, and the residual may.
        seed: Of the patches drawn, and of the noise for group networks.
        progress: Whether a terminal shows progress.

    Raises:
        InputError: Features that do not have the shape of such representations or are not finite,
            numbers out of range, or no steps for a group network.

    Example:
        >>> from merkhet.ckn import CKN
        >>> network = CKN(1, filters=(64,), kernel_size=3, pooling=2)
        >>> picture = torch.rand(1, 1, 12, 12)
        >>> found = reconstruct(network, network(picture).detach(), (12, 12))
        >>> bool(found.residuals < 0.05)
        True
    """
    size = (size,) if isinstance(size, int) else tuple(size)
    _check_features(network, features, size)
    _check_numbers(network, steps, ridge, penalty)
    generator = as_generator(seed)
    fit = _Fit(network, features.detach(), penalty)
    with in_mode(network, training=False):
        if network.group is None:
            start = fit.decoded(size, images, RIDGES if ridge is None else (ridge,), generator)
        else:
            start = fit.noise(size, generator)
        before = fit.residuals(start)
        found = _descended(fit, start, steps, progress) if steps else start
        after = fit.residuals(found)
    if not penalty:  # rounding alone can have raised it
        found, after = _better(found, after, start, before)
    return Reconstruction(found, after, before)


def _check_features(network: CKN, features: Tensor, size: tuple[int, ...]) -> None:
    """Refuse features that no pictures of the size have."""
    if len(size) != network.dims:
        wanted = "(height, width)" if network.dims == 2 else "the length of the signals"
        raise InputError(f"size = {size}: give {wanted}")
    shape = network.output_shape(*size)
    if features.dim() != len(shape) + 1 or features.shape[1:] != shape:
        raise InputError(
            f"features of shape {tuple(features.shape)}: pictures of {'x'.join(map(str, size))} "
            f"have (n, {', '.join(map(str, shape))}); give these, or the size that they came of"
        )
    if not bool(features.isfinite().all()):
        raise InputError("features hold NaN or infinity: give those of finite pictures")


def _check_numbers(network: CKN, steps: int, ridge: float | None, penalty: float) -> None:
    """Refuse numbers out of range, and group networks without descent."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"steps = {steps!r}: give a whole number, 0 for the linear decoder alone")
    check_positive(ridge=1.0 if ridge is None else ridge)
    if not isinstance(penalty, int | float) or not 0 <= penalty < math.inf:
        raise InputError(f"penalty = {penalty!r}: give a number of at least 0")
    if network.group is not None and not steps:
        raise InputError(
            f"steps = 0 for a network that averages over {network.group.name}: the mean has no "
            "pose for a linear decoder to find; give steps=100 or so"
        )


class _Fit:
    """How far representations of pictures are from the features given, with gradients."""

    def __init__(self, network: CKN, features: Tensor, penalty: float) -> None:
        self.network, self.penalty = network, penalty
        self.features = features.to(network.layer(0).filters.detach())
        # Without gradients of the network's own, only the pictures' are computed.
        self.fixed = {name: one.detach() for name, one in network.named_parameters()}
        lengths = self.features.double().flatten(1).norm(dim=1)
        self.lengths = lengths.where(lengths > 0, 1)

    def represent(self, images: Tensor) -> Tensor:
        """Return the representation of pictures."""
        found: Tensor = functional_call(self.network, self.fixed, (images,))
        return found

    def residuals(self, images: Tensor) -> Tensor:
        """Return relative distances (n,), float64, from the features of all pictures."""
        with torch.no_grad():
            found = torch.cat([self.represent(some) for some in images.split(TOGETHER)])
            apart = (found.double() - self.features.double()).flatten(1).norm(dim=1)
        relative: Tensor = apart / self.lengths
        return relative

    @torch.no_grad()
    def decoded(
        self,
        size: tuple[int, ...],
        images: Images | None,
        ridges: tuple[float, ...],
        generator: torch.Generator,
    ) -> Tensor:
        """Return what the linear decoder finds, (n, channels, *size), by the best of the ridges."""
        decoders = patch_decoders(self.network, images, generator)
        tried = [
            decode(self.network, self.features, size, decoders, ridge).to(self.features)
            for ridge in ridges
        ]
        best, least = tried[0], self.residuals(tried[0])
        for other in tried[1:]:
            best, least = _better(best, least, other, self.residuals(other))
        return best

    def noise(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return noise (n, channels, *size) whose representations are as long as the features.

        Representations grow in proportion to pictures, so that a factor brings them there.
        """
        shape = (len(self.features), self.network.in_channels, *size)
        drawn = torch.rand(shape, generator=generator).to(self.features)
        with torch.no_grad():
            found = torch.cat([self.represent(some) for some in drawn.split(TOGETHER)])
        factors = self.lengths / found.double().flatten(1).norm(dim=1)
        scaled: Tensor = drawn * factors.to(drawn).reshape(-1, *[1] * (drawn.dim() - 1))
        return scaled

    def value(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is minimised (n,) and its gradient at the pictures of some rows."""
        with torch.enable_grad():
            at = images.detach().requires_grad_()
            apart = (self.represent(at) - self.features[rows]).flatten(1).square().sum(1)
            values = apart / self.lengths[rows].to(apart).square()
            if self.penalty:
                values = values + self.penalty * _variation(at)
            (gradient,) = torch.autograd.grad(values.sum(), at)
        return values.detach(), gradient


def _better(
    images: Tensor, residuals: Tensor, others: Tensor, theirs: Tensor
) -> tuple[Tensor, Tensor]:
    """Return, picture by picture, those with the lesser residuals, and these."""
    worse = ~(residuals <= theirs)
    kept = torch.where(worse.reshape(-1, *[1] * (images.dim() - 1)), others, images)
    return kept, torch.where(worse, theirs, residuals)


def _variation(images: Tensor) -> Tensor:
    """Return the sum of differences between neighbours (n,), over the number of pixels."""
    axes = range(2, images.dim())
    sums = [
        ((images.diff(dim=axis).square() + SMOOTH**2).sqrt() - SMOOTH).flatten(1).sum(1)
        for axis in axes
    ]
    return torch.stack(sums).sum(0) / math.prod(images.shape[2:])


def _descended(fit: _Fit, start: Tensor, steps: int, progress: bool) -> Tensor:
    """Return pictures after L-BFGS, some at a time."""
    found = []
    total = steps * -(-len(start) // TOGETHER)
    with progress_bar("reconstruction", total, unit="steps", shown=progress) as advance:
        for low, some in zip(itertools.count(0, TOGETHER), start.split(TOGETHER), strict=False):

            def objective(x: Tensor, rows: Tensor, low: int = low) -> tuple[Tensor, Tensor]:
                values, gradient = fit.value(x.reshape(-1, *start.shape[1:]), rows + low)
                return values, gradient.flatten(1)

            found.append(minimise(objective, some.flatten(1), steps, advance))
    return torch.cat(found).reshape(start.shape)
