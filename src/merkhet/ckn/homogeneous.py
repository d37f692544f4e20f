"""Convolutions whose networks lie in the RKHS of a convolutional kernel network.

Shapes: B pictures, C channels, H rows, W columns.

Source: Bietti and Mairal, JMLR 2019 (arXiv 1706.03078).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.ckn.activation_series import ACTIVATIONS
from merkhet.ckn.form import PADDINGS
from merkhet.core import building
from merkhet.core.errors import InputError, choose


class HomogeneousConv2d(nn.Module):
    """A convolution with an activation that keeps the scale: N(u) s(<w, z(u)> / N(u)).

    z(u) is the patch around u, and N(u) its norm: what torch's convolution sees, without the
    kernel network's factor of one over the square root of the patch's size. Where N(u) is 0 the
    answer is 0.

    A single layer divides by the norm of its own patch. Deeper in a network the N(u) for which
    the network lies in the RKHS is the norm of the patch of the kernel network's map, not of the
    layer's input: |<w, x>|, made by two layers that each divide by the norm of their own patch
    ("linear", then "square"), has a kink and lies in no such space. `HomogeneousNetwork` hands the
    right norm from layer to layer.

    Args:
        in_channels: C of the input.
        out_channels: Filters.
        kernel_size: Side of a patch.
        activation: "smooth_relu" (u + u erf(u) + exp(-u^2) / sqrt(pi)) / 2, "linear" u,
            "square" u^2, "sine" sin(u) or "exp" exp(u).
        padding: "same" (zeros around) or "valid".
        seed: Of the filters, normal with variance 1 / (C kernel_size^2): of norm 1 or so.

    Shapes:
        weight: (out_channels, in_channels, kernel_size, kernel_size).

    Raises:
        InputError: A count below 1, or a name that does not exist.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        activation: str = "smooth_relu",
        padding: str = "same",
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        building.check_counts(
            in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = kernel_size
        self.activation = choose("activation", activation, ACTIVATIONS)
        self.padding = choose("padding", padding, PADDINGS)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.reset_parameters(building.as_generator(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the filters anew."""
        building.draw_normal(self.weight, self.weight[0].numel() ** -0.5, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps (B, out_channels, H', W') of pictures (B, C, H, W).

        Raises:
            InputError: Another number of dimensions or channels, or pictures below a patch.
        """
        self.check(x)
        return self.respond(x, self.patch_energy(x.square().sum(1, keepdim=True)))

    def respond(self, x: Tensor, energy: Tensor) -> Tensor:
        """Return N s(<w, z> / N) for an N that is given.

        Args:
            x: (B, C, H, W).
            energy: N^2, (B, 1, H', W').

        Returns:
            (B, out_channels, H', W').
        """
        products = self.convolve(x, self.weight)
        alive = energy > 0
        # The root of 0 has no finite gradient: dead patches are taken out before and after.
        norms = energy.where(alive, torch.ones_like(energy)).sqrt()
        maps = norms * ACTIVATIONS[self.activation](products / norms)
        return maps.where(alive, torch.zeros_like(maps))

    def patch_energy(self, energy: Tensor) -> Tensor:
        """Return the sum over each patch of (B, 1, H, W), as (B, 1, H', W')."""
        ones = energy.new_ones(1, 1, self.kernel_size, self.kernel_size)
        return self.convolve(energy, ones)

    def extra_repr(self) -> str:
        """Return what tells the layer from others."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"activation={self.activation!r}, padding={self.padding!r}"
        )

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the convolution; sides of even length have one zero more after than before."""
        if self.padding == "same":
            before, after = (self.kernel_size - 1) // 2, self.kernel_size // 2
            x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, weight)

    def check(self, x: Tensor) -> None:
        """Refuse input of another shape.

        Raises:
            InputError: Another number of dimensions or channels, or pictures below a patch.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise InputError(
                f"x of shape {tuple(x.shape)}: give (pictures, {self.in_channels}, rows, columns)"
            )
        if self.padding == "valid" and min(x.shape[2:]) < self.kernel_size:
            raise InputError(
                f"x of shape {tuple(x.shape)}: patches of side {self.kernel_size} need as many "
                'rows and columns, or padding="same"'
            )
