"""Heights and widths that a network can take: those that its resolutions divide."""

from __future__ import annotations

from torch import Tensor, nn

from merkhet.core.errors import InputError


class Sides(nn.Module):
    """x -> x, where height and width are multiples of a number; an error in words elsewhere.

    Args:
        multiple: The number.

    Shapes:
        (batch, channels, height, width) -> the same.
    """

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        """Return the pictures.

        Raises:
            InputError: They are no pictures, or a side is no multiple.
        """
        check_sides(x, self.multiple)
        return x

    def extra_repr(self) -> str:
        """Return the number."""
        return f"multiple={self.multiple}"


def check_sides(x: Tensor, multiple: int) -> None:
    """Refuse what is no batch of pictures, and pictures whose sides do not divide.

    Args:
        x: (batch, channels, height, width).
        multiple: What heights and widths must be multiples of.

    Raises:
        InputError: It is something else; names the next sides that divide.
    """
    if x.dim() != 4:
        raise InputError(
            f"pictures of shape {tuple(x.shape)}: give (batch, channels, height, width)"
        )
    height, width = x.shape[2:]
    if height % multiple or width % multiple:
        higher, wider = (-(-side // multiple) * multiple for side in (height, width))
        raise InputError(
            f"pictures of {height}x{width}: heights and widths must be multiples of "
            f"{multiple}; resize or pad them to {higher}x{wider}"
        )
