"""Networks of homogeneous convolutions, with the norms that keep them in the RKHS.

Shapes: B pictures, C channels, H rows, W columns.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.core.errors import InputError

POOLINGS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, GaussianPool2d)
KEEPERS = (nn.Identity, nn.Dropout, nn.Dropout2d)  # what evaluation leaves as it is


class HomogeneousNetwork(nn.Sequential):
    """A CNN in the RKHS of a convolutional kernel network: layers that share their norms.

    Layer k answers N_k(u) s(<w, z(u)> / N_k(u)), where N_k(u) is the norm of the patch of the
    kernel network's map (the paper's n_k(u) = |P_k x_(k-1)(u)|), times the square roots of the
    patches' sizes since torch does not divide by them. It depends on the picture alone, not on
    the filters. The kernel map keeps norms, so without pooling N_k^2 is the sum of N_(k-1)^2
    over the patch, from N_0 = |x(u)|. Pooling between two convolutions averages vectors of which
    the kernel must tell the angles: then the kernels between all pairs of positions of a picture
    are computed, (H W)^2 numbers a picture, exactly.

    Args:
        layers: `HomogeneousConv2d`, with `GaussianPool2d`, nn.AvgPool2d or nn.AdaptiveAvgPool2d
            between them; then whatever reads the maps, such as nn.Flatten and nn.Linear.
        kernel: The kernel of every layer; needed where pooling lies between convolutions.

    Raises:
        InputError: Pooling between convolutions and no kernel, or another layer between them.
    """

    def __init__(self, *layers: nn.Module, kernel: DotProductKernel | None = None) -> None:
        super().__init__(*layers)
        self.kernel = kernel
        for layer in self._between():
            if not isinstance(layer, (HomogeneousConv2d, *POOLINGS, *KEEPERS)):
                raise InputError(
                    f"{type(layer).__name__} between convolutions: only HomogeneousConv2d, "
                    "GaussianPool2d, nn.AvgPool2d and nn.AdaptiveAvgPool2d keep to the RKHS"
                )
        if kernel is None and self.pools_between():
            raise InputError(
                "pooling between convolutions: the norms of pooled maps depend on the kernel. "
                'Give it, as in kernel=DotProductKernel("inverse"), or pool after the last one'
            )

    def pools_between(self) -> bool:
        """Tell whether a pooling layer lies between two convolutions."""
        return any(isinstance(layer, POOLINGS) for layer in self._between())

    def kernel_map_lipschitz(self, input_shape: tuple[int, ...]) -> float:
        """Return an upper bound of the Lipschitz constant of its RKHS's kernel map, l2 to l2.

        Args:
            input_shape: (channels, rows, columns).

        Raises:
            InputError: The network was made without a kernel.
        """
        from merkhet.ckn.map_lipschitz import homogeneous_lipschitz

        self._own_kernel()
        return homogeneous_lipschitz(self, input_shape)

    def rkhs_norm_upper(
        self, network: nn.Module, input_shape: tuple[int, ...]
    ) -> tuple[Tensor, str]:
        """Return upper bounds (outputs,) of RKHS norms, and why one is infinite, or "".

        Args:
            network: The whole network, with its linear head; this one or one around it.
            input_shape: (channels, rows, columns).

        Raises:
            InputError: The network was made without a kernel, or has layers without a bound.
        """
        from merkhet.ckn.cnn_norm import cnn_norm_bound

        channels, rows, columns = input_shape
        assert isinstance(network, nn.Sequential)
        found = cnn_norm_bound(network, (channels, rows, columns), self._own_kernel())
        return found.norm, found.reason or ""

    def _own_kernel(self) -> DotProductKernel:
        """Return the kernel; refuse a network that was made without one."""
        if self.kernel is None:
            raise InputError(
                "a norm is one in the RKHS of a kernel: give it, as in HomogeneousNetwork(..., "
                'kernel=DotProductKernel("inverse"))'
            )
        return self.kernel

    def _between(self) -> list[nn.Module]:
        """Return the layers from the first convolution to the last."""
        layers = list(self)
        places = [i for i, layer in enumerate(layers) if isinstance(layer, HomogeneousConv2d)]
        return layers[places[0] : places[-1] + 1] if places else []

    def forward(self, input: Tensor) -> Tensor:
        """Return the last layer's answer to pictures (B, C, H, W).

        Raises:
            InputError: Pictures of a shape that a layer cannot take.
        """
        pairs, left = self.pools_between(), len(self._between())
        norms: _Energies | _Pairs | None = None
        x = input
        for layer in self:
            if isinstance(layer, HomogeneousConv2d):
                layer.check(x)
                if norms is None:
                    norms = _Pairs(x, self.kernel) if pairs else _Energies(x)
                x = layer.respond(x, norms.convolve(layer))
            else:
                x = layer(x)
                if norms is not None and left > 0:
                    norms.pool(layer)
            left -= norms is not None
        return x


class _Energies:
    """The squared norms N^2 of the kernel network's map, (B, 1, H, W), without pooling."""

    def __init__(self, x: Tensor) -> None:
        self.energy = x.square().sum(1, keepdim=True)

    def convolve(self, layer: HomogeneousConv2d) -> Tensor:
        """Go on to the layer's map and return its squared norms."""
        self.energy = layer.patch_energy(self.energy)
        return self.energy

    def pool(self, layer: nn.Module) -> None:
        """Leave the norms: no pooling lies between the convolutions."""
        assert not isinstance(layer, POOLINGS)


class _Pairs:
    """Inner products of the kernel network's map at all pairs of positions, (B, H, W, H, W)."""

    def __init__(self, x: Tensor, kernel: DotProductKernel | None) -> None:
        assert kernel is not None
        self.kernel = kernel
        self.pairs = torch.einsum("bchw,bcij->bhwij", x, x)

    def convolve(self, layer: HomogeneousConv2d) -> Tensor:
        """Go on to the layer's map and return its squared norms, (B, 1, H', W')."""
        patches = _patch_pairs(self.pairs, layer.kernel_size, layer.padding)
        flat = patches.flatten(3).flatten(1, 2)
        energy = flat.diagonal(dim1=1, dim2=2).clamp(min=0)
        alive = energy > 0
        norms = energy.where(alive, torch.ones_like(energy)).sqrt()
        scale = norms[:, :, None] * norms[:, None]
        both = alive[:, :, None] & alive[:, None]
        maps = scale * self.kernel.value(flat / scale)
        self.pairs = maps.where(both, torch.zeros_like(maps)).view_as(patches)
        return energy.view(len(flat), 1, *patches.shape[1:3])

    def pool(self, pooling: nn.Module) -> None:
        """Pool both positions."""
        if not isinstance(pooling, POOLINGS):
            return
        half = pooling(self.pairs.flatten(3).permute(0, 3, 1, 2))  # (B, H W, H', W')
        size = half.shape[2:]
        whole = pooling(half.unflatten(1, self.pairs.shape[3:]).flatten(3).permute(0, 3, 1, 2))
        self.pairs = whole.unflatten(1, size)


def _patch_pairs(pairs: Tensor, size: int, padding: str) -> Tensor:
    """Return sum over offsets v of the patch of pairs(u + v, u' + v), (B, H', W', H', W')."""
    if padding == "same":
        before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
        pairs = F.pad(pairs, (before, after) * 4)
    rows, columns = (length - size + 1 for length in pairs.shape[1:3])
    total = pairs.new_zeros(len(pairs), rows, columns, rows, columns)
    for i in range(size):
        for j in range(size):
            down, right = slice(i, i + rows), slice(j, j + columns)
            total = total + pairs[:, down, right, down, right]
    return total
