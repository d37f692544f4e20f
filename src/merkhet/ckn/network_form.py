"""How a network is read whose RKHS norm is bounded: its layers, its head, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.ckn.dot_products import DotProductKernel
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.ckn.homogeneous_network import KEEPERS, POOLINGS, HomogeneousNetwork
from merkhet.core.errors import InputError

REFUSED: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    (
        (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.CELU, nn.SELU),
        "it has a kink at 0, and the RKHS holds activations with a Taylor series: use "
        'HomogeneousConv2d(..., activation="smooth_relu")',
    ),
    (
        (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Mish),
        "it does not keep the scale of its input (s(c u) = c s(u) fails), as every function in "
        "the RKHS's layers does: use HomogeneousConv2d",
    ),
    (
        (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d),
        "it is not linear: use GaussianPool2d or nn.AvgPool2d",
    ),
    (
        (nn.BatchNorm2d, nn.BatchNorm1d),
        "fold it into the filters before it; its shift has no place in the RKHS",
    ),
    (
        (nn.Conv2d,),
        "its activation stands apart from the norm of its patch: use HomogeneousConv2d",
    ),
)


@dataclass(frozen=True)
class NetworkForm:
    """What a bound needs of a network.

    Attributes:
        layers: The convolutions.
        head: (outputs, channels, rows, columns) of the last linear layer, float64.
        bias: Whether that has a bias.
    """

    layers: list[HomogeneousConv2d]
    head: Tensor
    bias: bool


def read_network(
    network: nn.Sequential, input_shape: tuple[int, int, int], kernel: DotProductKernel
) -> NetworkForm:
    """Return the convolutions and the head of a network of homogeneous convolutions.

    Raises:
        InputError: Another network; names the layer and the reason.
    """
    if not isinstance(network, nn.Sequential):
        raise InputError(
            f"{type(network).__name__}: give an nn.Sequential of HomogeneousConv2d, pooling, "
            "nn.Flatten and nn.Linear; sums and branches of layers have no bound here"
        )
    layers = list(_leaves(network))
    if not layers or not isinstance(layers[-1][1], nn.Linear):
        raise InputError("the network must end with nn.Linear, after nn.Flatten()")
    convolutions = [layer for _, layer in layers if isinstance(layer, HomogeneousConv2d)]
    if not convolutions:
        raise InputError("the network has no HomogeneousConv2d: its first layer must be one")
    _check_norms(network, convolutions, kernel)
    shape = _shape_of_maps(layers, input_shape, convolutions)
    _check_finite(layers)
    last = layers[-1][1]
    head = last.weight.detach().double().cpu().unflatten(1, shape)
    return NetworkForm(convolutions, head, last.bias is not None)


def _leaves(network: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a network and of those inside it, with their names."""
    for name, layer in network._modules.items():  # also those that come twice
        if isinstance(layer, nn.Sequential):
            yield from _leaves(layer, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", layer


@torch.no_grad()
def _shape_of_maps(
    layers: list[tuple[str, nn.Module]],
    input_shape: tuple[int, int, int],
    convolutions: list[HomogeneousConv2d],
) -> tuple[int, int, int]:
    """Return channels, rows and columns of what is flattened; refuse what does not belong."""
    if len(input_shape) != 3:
        raise InputError(f"input_shape = {tuple(input_shape)}: give (channels, rows, columns)")
    maps = torch.zeros(1, *input_shape).to(convolutions[0].weight)
    flat = False
    for name, layer in layers[:-1]:
        if isinstance(layer, nn.Linear) or (flat and not isinstance(layer, KEEPERS)):
            raise InputError(f"layer {name} ({layer}): only the last nn.Linear may follow Flatten")
        if isinstance(layer, nn.Flatten):
            flat = True
        elif isinstance(layer, (HomogeneousConv2d, *POOLINGS)):
            maps = layer(maps)
        elif not isinstance(layer, KEEPERS):
            raise InputError(f"layer {name} ({layer}): {_why(layer)}")
    features, name = layers[-1][1].in_features, layers[-1][0]
    if not flat or features != maps[0].numel():
        raise InputError(
            f"layer {name} reads {features} numbers: put nn.Flatten() before it, and give "
            f"nn.Linear({maps[0].numel()}, ...) for maps of {tuple(maps.shape[1:])}"
        )
    channels, rows, columns = maps.shape[1:]
    return channels, rows, columns


def _check_finite(layers: list[tuple[str, nn.Module]]) -> None:
    """Refuse weights that are not numbers."""
    for name, layer in layers:
        if not all(bool(weight.isfinite().all()) for weight in layer.parameters()):
            raise InputError(f"layer {name} ({layer}): its weights hold NaN or infinity; mend them")


def _why(layer: nn.Module) -> str:
    """Return why a layer has no place in the RKHS."""
    for kinds, reason in REFUSED:
        if isinstance(layer, kinds):
            return reason
    return (
        "not known to keep to the RKHS: use HomogeneousConv2d, GaussianPool2d, nn.AvgPool2d, "
        "nn.Flatten and nn.Linear"
    )


def _check_norms(
    network: nn.Sequential, convolutions: list[HomogeneousConv2d], kernel: DotProductKernel
) -> None:
    """Refuse layers that divide by other norms than those of the kernel network's map."""
    for part in network.modules():
        if isinstance(part, HomogeneousNetwork) and all(
            layer in list(part) for layer in convolutions
        ):
            if part.pools_between() and part.kernel != kernel:
                raise InputError(
                    f"the network's norms are those of {part.kernel}: give that kernel, not "
                    f"{kernel}"
                )
            return
    # A linear layer gives <w, z> whatever it divides by.
    if any(layer.activation != "linear" for layer in convolutions[1:]):
        raise InputError(
            "several HomogeneousConv2d in nn.Sequential divide by the norms of their own inputs, "
            "and the network is in no RKHS of smooth kernels: use HomogeneousNetwork(...)"
        )
