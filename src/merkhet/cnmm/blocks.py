"""What an edge of a mixture computes: plain, residual and separable blocks between two places.

A block takes states of one place, its number of channels and its scale (pixels of the picture to a
pixel of the state), to those of another. Where the scale grows, the first convolution has a
stride; where it falls, the block's result is made larger, bilinearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from merkhet.core.building import check_counts
from merkhet.core.errors import InputError, choose
from merkhet.core.layers import activation_layer, norm_layer

SIZE = 3


@dataclass(frozen=True)
class Place:
    """What the states of a node are like.

    Attributes:
        channels: Of the states.
        scale: Pixels of the stage's input, along one side, to a pixel of the states.
    """

    channels: int
    scale: int = 1

    def __post_init__(self) -> None:
        check_counts(channels=self.channels, scale=self.scale)


class Residual(nn.Module):
    """x -> activation(shortcut(x) + body(x)).

    Args:
        body: Two convolutions with norms.
        shortcut: The identity, or a convolution 1x1 with norm where channels or scale change.
        activation: What follows the sum.

    Shapes:
        (batch, channels, height, width) -> (batch, channels', height', width').
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's result."""
        return self.activation(self.shortcut(x) + self.body(x))  # type: ignore[no-any-return]


def block(
    kind: str, source: Place, target: Place, norm: str = "batch", activation: str = "relu"
) -> nn.Module:
    """Return a fresh block from one place to another.

    Args:
        kind: "plain" (convolution 3x3, norm, activation), "separable" (depthwise 3x3 and 1x1,
            each with norm and activation) or "residual" (two convolutions 3x3 and a shortcut).
        source: What it takes.
        target: What it gives.
        norm: "batch" or "group"; a mixture needs one or the other.
        activation: "relu" or "gelu".

    Raises:
        InputError: A name that is not there, or scales neither of which divides the other.
    """
    build = KINDS[choose("block", kind, KINDS)]
    choose("norm", norm, ("batch", "group"))
    stride = _ratio(target.scale, source.scale)
    made = build(source.channels, target.channels, stride, norm, activation)
    grown = _ratio(source.scale, target.scale)
    if grown > 1:
        made = nn.Sequential(*_parts(made), nn.Upsample(scale_factor=grown, mode="bilinear"))
    return made


def _plain(before: int, after: int, stride: int, norm: str, activation: str) -> nn.Module:
    """Return convolution, norm, activation."""
    return nn.Sequential(*_normed(before, after, SIZE, stride, norm), activation_layer(activation))


def _separable(before: int, after: int, stride: int, norm: str, activation: str) -> nn.Module:
    """Return depthwise convolution, norm, activation, convolution 1x1, norm, activation."""
    return nn.Sequential(
        *_normed(before, before, SIZE, stride, norm, groups=before),
        activation_layer(activation),
        *_normed(before, after, 1, 1, norm),
        activation_layer(activation),
    )


def _residual(before: int, after: int, stride: int, norm: str, activation: str) -> nn.Module:
    """Return a residual block of two convolutions."""
    body = nn.Sequential(
        *_normed(before, after, SIZE, stride, norm),
        activation_layer(activation),
        *_normed(after, after, SIZE, 1, norm),
    )
    same = before == after and stride == 1
    shortcut = nn.Identity() if same else nn.Sequential(*_normed(before, after, 1, stride, norm))
    return Residual(body, shortcut, activation_layer(activation))


KINDS: dict[str, Callable[[int, int, int, str, str], nn.Module]] = {
    "plain": _plain,
    "residual": _residual,
    "separable": _separable,
}


def _normed(
    before: int, after: int, size: int, stride: int, norm: str, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution without bias, and its norm."""
    convolution = nn.Conv2d(
        before, after, size, stride, padding=size // 2, groups=groups, bias=False
    )
    return [convolution, norm_layer(norm, after)]


def _parts(made: nn.Module) -> list[nn.Module]:
    """Return the parts of a sequence, or the module itself as the only one."""
    return list(made) if isinstance(made, nn.Sequential) else [made]


def _ratio(larger: int, smaller: int) -> int:
    """Return how many times the smaller scale goes into the larger, 1 where that is not larger."""
    if larger <= smaller:
        return 1
    if larger % smaller:
        raise InputError(
            f"scales {smaller} and {larger} in one stage: each must divide the next larger one, "
            "as 1, 2, 4 do"
        )
    return larger // smaller
