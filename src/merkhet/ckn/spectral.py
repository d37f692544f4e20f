"""The spectral complexity of recent generalisation bounds, to set beside RKHS norms.

Source: Bartlett, Foster and Telgarsky, "Spectrally-normalized margin bounds for neural networks",
NeurIPS 2017 (arXiv 1706.08498).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.ckn.gaussian_pool import GaussianPool2d
from merkhet.ckn.homogeneous import HomogeneousConv2d
from merkhet.core.errors import InputError
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.power import power_norm
from merkhet.core.linear.scaling import weights_of, with_weights
from merkhet.core.linear.steps import Sizes, Step

LIPSCHITZ = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Softsign)  # of constant 1, and 0 at 0
KEEPERS = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
POOLINGS = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, GaussianPool2d)
LINEAR = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class LayerNorms:
    """A layer's norms at the size of its input.

    Attributes:
        spectral: |A|_2, an estimate by power iteration, from below.
        rows: |A^T|_(2,1): the sum over outputs of the norms of the rows of A, exact.
        lipschitz: Lipschitz constant of what comes after, up to the next layer.
    """

    spectral: float
    rows: float
    lipschitz: float


def spectral_complexity(
    network: nn.Sequential, input_shape: tuple[int, ...], *, seed: int = 0
) -> float:
    """Return the spectral complexity R of a feed-forward network, with reference matrices 0.

    R = prod_i rho_i |A_i|_2 (sum_i (|A_i^T - M_i^T|_(2,1) / |A_i|_2)^(2/3))^(3/2), M_i = 0, where
    A_i is the layer's whole linear map at this size of input, zero padding and strides included,
    and rho_i the Lipschitz constant of what follows it: 1 for the activations allowed, the
    operator norm for pooling. Biases are not counted, as in the bound itself. Divided by the
    margin and the root of the number of examples, times the norm of the data, it bounds the
    error; it is an estimate here, since the spectral norms are.

    A single `HomogeneousConv2d` that comes first answers |z| s(W z / |z|): a function of (W z, z),
    which is (A, P) x for the matrix P that reads patches. With (0, P) as its reference the sum is
    that of W alone, its spectral norm is at most sqrt(|A|_2^2 + |P|_2^2), |P|_2^2 at most the
    size of a patch, and rho^2 = sup s'^2 + p sup (s - t s')^2 for p filters: 1 + p / (4 pi) for
    "smooth_relu", 1 for "linear". Deeper ones take norms from other layers, which this bound
    does not describe, and are refused.

    Args:
        network: nn.Sequential of nn.Linear, nn.Conv1d, nn.Conv2d, one `HomogeneousConv2d` at
            most, nn.ReLU and other activations of Lipschitz constant 1 that keep 0, average or
            Gaussian pooling, nn.MaxPool2d without overlap, nn.Flatten.
        input_shape: Of one example: (channels, rows, columns), (channels, length) or (features,).
        seed: Of the power iteration's start.

    Raises:
        InputError: A layer that the bound does not cover; says which and why.
    """
    norms = layer_norms(network, input_shape, seed=seed)
    if any(layer.spectral == 0 for layer in norms):
        return 0.0
    product = math.prod(layer.lipschitz * layer.spectral for layer in norms)
    total = math.fsum((layer.rows / layer.spectral) ** (2 / 3) for layer in norms)
    return product * math.pow(total, 1.5)


def layer_norms(
    network: nn.Sequential, input_shape: tuple[int, ...], *, seed: int = 0
) -> list[LayerNorms]:
    """Return the norms of each layer with weights; see `spectral_complexity`.

    Pooling that comes before them all shrinks the data, and counts with the first.

    Raises:
        InputError: A layer that the bound does not cover; says which and why.
    """
    if not isinstance(network, nn.Sequential):
        raise InputError(f"{type(network).__name__}: give an nn.Sequential without branches")
    shape, before = tuple(input_shape), 1.0
    norms: list[LayerNorms] = []
    for name, layer in _leaves(network):
        _check(name, layer, first=not norms)
        if isinstance(layer, (*LINEAR, HomogeneousConv2d)):
            norms.append(_of_layer(layer, shape, seed))
        elif isinstance(layer, POOLINGS):
            one = shape if len(shape) < 2 else (1, *shape[1:])
            norm = power_norm(Chain((_step(layer),), one), seed=seed)
            before = before * norm if not norms else before
            if norms:
                last = norms[-1]
                norms[-1] = LayerNorms(last.spectral, last.rows, last.lipschitz * norm)
        shape = _shape_after(layer, shape)
    if not norms:
        raise InputError("the network has no layer with weights")
    first = norms[0]
    return [LayerNorms(first.spectral, first.rows, first.lipschitz * before), *norms[1:]]


def _of_layer(layer: nn.Module, shape: Sizes, seed: int) -> LayerNorms:
    """Return the norms of a linear or homogeneous layer."""
    step = _step(layer)
    spectral = power_norm(Chain((step,), shape), seed=seed)
    # A row's squared norm is what squared weights make of ones: padding has none.
    found = weights_of(step)
    assert found is not None
    squared = with_weights(step, found[1].square())
    rows = float(squared.apply(torch.ones(1, *shape).double()).clamp(min=0).sqrt().sum())
    if not isinstance(layer, HomogeneousConv2d):
        return LayerNorms(spectral, rows, 1.0)
    constant = layer.out_channels / (4 * math.pi) if layer.activation == "smooth_relu" else 0.0
    extended = math.sqrt(spectral**2 + layer.kernel_size**2)
    return LayerNorms(extended, rows, math.sqrt(1 + constant))


@dataclass(frozen=True, eq=False)
class _Homogeneous(Step):
    """The convolution inside a homogeneous layer."""

    layer: HomogeneousConv2d
    weight: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return W x, what the layer reads patches by."""
        return self.layer.convolve(x, self.weight)

    def output_shape(self, input_shape: Sizes) -> Sizes:
        """Return the shape of one answer."""
        return tuple(self.apply(torch.zeros(1, *input_shape).to(self.weight)).shape[1:])


@dataclass(frozen=True, eq=False)
class _Gaussian(Step):
    """Gaussian pooling."""

    layer: GaussianPool2d

    def apply(self, x: Tensor) -> Tensor:
        """Return means over windows."""
        answer: Tensor = self.layer(x)
        return answer

    def output_shape(self, input_shape: Sizes) -> Sizes:
        """Return the shape of one answer."""
        return tuple(self.apply(torch.zeros(1, *input_shape).double()).shape[1:])


def _step(layer: nn.Module) -> Step:
    """Return a layer's linear map, with weights in float64 on the processor."""
    if isinstance(layer, GaussianPool2d):
        return _Gaussian(layer)
    if isinstance(layer, HomogeneousConv2d):
        return _Homogeneous(layer, layer.weight.detach().double().cpu())
    (step,) = steps_of(layer)
    found = weights_of(step)
    return with_weights(step, found[1].detach().double().cpu()) if found else step


def _leaves(network: nn.Sequential, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Return the layers of a network and of those inside it, with their names."""
    found: list[tuple[str, nn.Module]] = []
    for name, layer in network._modules.items():  # also those that come twice
        if isinstance(layer, nn.Sequential):
            found += _leaves(layer, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", layer))
    return found


@torch.no_grad()
def _shape_after(layer: nn.Module, shape: Sizes) -> Sizes:
    """Return the shape of a layer's answer."""
    parameter = next(layer.parameters(), torch.empty(0))
    answer: Tensor = layer(torch.zeros(1, *shape).to(parameter))
    return tuple(answer.shape[1:])


def _check(name: str, layer: nn.Module, *, first: bool) -> None:
    """Refuse what the bound does not cover."""
    why = _why_not(layer, first)
    if why is not None:
        raise InputError(f"layer {name} ({layer}): {why}")


def _why_not(layer: nn.Module, first: bool) -> str | None:
    """Return why the bound does not cover a layer, or None."""
    if isinstance(layer, HomogeneousConv2d):
        if not first:
            return "it divides by norms that are no function of the layer's own linear map"
        known = layer.activation in ("smooth_relu", "linear")
        return None if known else f"{layer.activation!r} has no Lipschitz constant on all numbers"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return "fold it into the layer before it"
    if isinstance(layer, nn.MaxPool1d | nn.MaxPool2d):
        apart = layer.stride == layer.kernel_size and layer.dilation in (1, (1, 1))
        return None if apart else "windows that overlap have no Lipschitz constant of 1"
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode != "zeros":
        return 'give padding_mode="zeros": other paddings are not counted'
    if isinstance(layer, (*LINEAR, *LIPSCHITZ, *POOLINGS, *KEEPERS)):
        return None
    return "not known to be linear, or to keep 0 and have Lipschitz constant 1"
