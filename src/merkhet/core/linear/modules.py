"""The linear operations that a module performs, its bias left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from merkhet.core.errors import InputError
from merkhet.core.linear.steps import (
    AdaptiveAveragePool,
    AveragePool,
    ChannelScale,
    Convolution,
    Dense,
    Flatten,
    Pad,
    PadMode,
    Sides,
    Sizes,
    Step,
    TransposedConvolution,
)
from merkhet.core.modes import uncompiled

Steps = tuple[Step, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAXIMA = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
KEEPERS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
PADS: dict[PadMode, tuple[type[nn.Module], ...]] = {
    "constant": (
        *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
        *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    ),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}


def steps_of(layer: nn.Module) -> Steps:
    """Return what a linear layer does, as steps that keep its weights undetached.

    The bias is left out: the steps are the derivative of an affine layer. Dropout is taken as it
    evaluates, whatever its mode.

    Args:
        layer: nn.Linear, nn.Conv1d to 3d, nn.ConvTranspose1d to 3d, average and adaptive average
            pooling, batch norm in evaluation mode, nn.Flatten, nn.Identity, dropout, padding, or
            an nn.Sequential of these.

    Raises:
        InputError: Another layer, batch norm in training mode, or weights that are not there yet.
    """
    layer = uncompiled(layer)
    if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
        return tuple(step for part in layer for step in steps_of(part))
    if any(is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
        raise InputError(f"{layer}: run the network once, so that its lazy weights take shape")
    for kinds, read in _READERS:
        for kind in kinds:
            if isinstance(layer, kind) and type(layer).forward is kind.forward:
                return read(layer)
    raise InputError(_refusal(layer))


def _refusal(layer: nn.Module) -> str:
    """Return why a layer has no linear steps, and what to do instead."""
    name = str(layer).partition("\n")[0]
    if isinstance(layer, MAXIMA):
        return f"{name}: max pooling is not linear; write lipschitz(layer, inputs) instead"
    return (
        f"{name}: not known to be linear; give nn.Linear, convolutions, average pooling, batch "
        "norm, padding, nn.Flatten or an nn.Sequential of these, or write lipschitz(layer, inputs)"
    )


def _tuple(value: Any, count: int) -> Any:
    """Return a size for each of `count` dimensions."""
    return tuple(value) if isinstance(value, tuple | list) else (value,) * count


def _linear(layer: nn.Module) -> Steps:
    return (Dense(cast(nn.Linear, layer).weight),)


def _convolution(layer: nn.Module) -> Steps:
    """Return a convolution, after its padding where that is not by zeros."""
    given = cast(nn.Conv2d, layer)
    sides = _sides(given)
    none = ((0, 0),) * len(sides)
    zeros = given.padding_mode == "zeros"
    settings = (given.stride, sides if zeros else none, given.dilation, given.groups)
    step = Convolution(given.weight, *settings)
    if zeros or sides == none:
        return (step,)
    return (Pad(sides, cast(PadMode, given.padding_mode)), step)


def _sides(layer: nn.Conv2d) -> Sides:
    """Return how much a convolution pads before and after each dimension."""
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel_size)
    if layer.padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in reach)
    return tuple((int(count), int(count)) for count in layer.padding)


def _transposed(layer: nn.Module) -> Steps:
    given = cast(nn.ConvTranspose2d, layer)
    rank = len(given.kernel_size)
    extra: Sizes = _tuple(given.output_padding, rank)
    padding: Sizes = _tuple(given.padding, rank)
    settings = (given.stride, padding, extra, given.dilation, given.groups)
    return (TransposedConvolution(given.weight, *settings),)


def _average(layer: nn.Module) -> Steps:
    given = cast(nn.AvgPool2d, layer)
    rank = next(i for i, kind in enumerate(POOLS, 1) if isinstance(layer, kind))
    windows = (given.kernel_size, given.stride, given.padding)
    kernel, stride, padding = (_tuple(size, rank) for size in windows)
    settings = (given.ceil_mode, given.count_include_pad)
    divisor = getattr(given, "divisor_override", None)
    return (AveragePool(kernel, stride, padding, *settings, divisor),)


def _adaptive(layer: nn.Module) -> Steps:
    given = cast(nn.AdaptiveAvgPool2d, layer)
    rank = next(i for i, kind in enumerate(ADAPTIVE, 1) if isinstance(layer, kind))
    return (AdaptiveAveragePool(_tuple(given.output_size, rank)),)


def _batch_norm(layer: nn.Module) -> Steps:
    """Return what batch norm with its running variance does to each channel."""
    given = cast(nn.BatchNorm2d, layer)
    if given.training:
        raise InputError(f"{layer}: in training mode it mixes examples; call .eval() first")
    if given.running_var is None:
        raise InputError(f"{layer}: without running statistics it is not linear")
    factor: Tensor = torch.rsqrt(given.running_var.double() + given.eps)
    return (ChannelScale(factor if given.weight is None else given.weight * factor),)


def _flatten(layer: nn.Module) -> Steps:
    given = cast(nn.Flatten, layer)
    if given.start_dim == 0:
        raise InputError(f"{layer}: it mixes the examples; write nn.Flatten(1)")
    start = given.start_dim - 1 if given.start_dim > 0 else given.start_dim
    return (Flatten(start, given.end_dim - 1 if given.end_dim > 0 else given.end_dim),)


def _padding(mode: PadMode) -> Callable[[nn.Module], Steps]:
    """Return the reader of layers that pad in one mode; a constant is a bias, left out."""

    def read(layer: nn.Module) -> Steps:
        counts: Sizes = cast(nn.ZeroPad2d, layer).padding
        pairs = zip(counts[::2], counts[1::2], strict=True)
        return (Pad(tuple(reversed(list(pairs))), mode),)

    return read


def _keep(_layer: nn.Module) -> Steps:
    return ()


_READERS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[nn.Module], Steps]], ...] = (
    ((nn.Linear,), _linear),
    (CONVOLUTIONS, _convolution),
    (TRANSPOSED, _transposed),
    (POOLS, _average),
    (ADAPTIVE, _adaptive),
    (NORMS, _batch_norm),
    ((nn.Flatten,), _flatten),
    (KEEPERS, _keep),
    *((kinds, _padding(mode)) for mode, kinds in PADS.items()),
)
