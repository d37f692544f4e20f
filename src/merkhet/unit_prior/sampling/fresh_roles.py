"""What each parameter of a network is under a prior on weights, and how many entries it sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from merkhet.core.errors import InputError

WEIGHT, BIAS, ONES, ZEROS, KEPT = "weight", "bias", "ones", "zeros", "kept"
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
REPARAMETRISED = {"weight_g", "weight_orig"}  # by torch.nn.utils' older weight and spectral norm


@dataclass(frozen=True)
class Role:
    """What a parameter is.

    Attributes:
        kind: "weight" or "bias", which a prior draws; "ones" or "zeros", a norm's scale and
            shift, which stay where they begin; "kept", what no rule covers.
        fan_in: Of a weight, how many entries a unit sums.
        fan_out: Of a weight, how many units an entry goes to.
    """

    kind: str
    fan_in: int = 1
    fan_out: int = 1


def roles(module: nn.Module) -> dict[str, Role]:
    """Return the role of every floating-point parameter, shared ones once, by name.

    A parameter with two axes or more is a weight, whatever module holds it. One with one axis or
    none is a bias where its name says so and its module is no norm. Norms keep the scale 1 and
    the shift 0 that they begin with: they are not under the prior. Other vectors (slopes of
    PReLU, scales of layers) keep the values they have.

    Raises:
        InputError: A weight is made of other parameters (weight norm, pruning, parametrizations).
    """
    found = {}
    for prefix, owner in module.named_modules():
        for name, value in owner.named_parameters(recurse=False):
            if value.is_floating_point():
                found[f"{prefix}.{name}".removeprefix(".")] = _role(prefix, owner, name, value)
    names = [name for name, _ in module.named_parameters()]  # of shared ones, the first
    return {name: found[name] for name in names if name in found}


def is_norm(owner: nn.Module) -> bool:
    """Tell whether a module is a norm, whose scale and shift begin at 1 and 0."""
    if isinstance(owner, NORMS):
        return True
    vectors = all(value.dim() <= 1 for value in owner.parameters(recurse=False))
    return vectors and "norm" in type(owner).__name__.lower()


def _role(prefix: str, owner: nn.Module, name: str, value: Tensor) -> Role:
    """Return the role of a parameter that a module holds itself."""
    if name in REPARAMETRISED or isinstance(owner, nn.utils.parametrize.ParametrizationList):
        raise InputError(
            f"the weight of {prefix or 'the network'} is made of other parameters, on which a "
            "prior on weights says nothing: remove the parametrization first, as by "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if is_norm(owner):
        return Role(ZEROS if name == "bias" else ONES)
    if value.dim() >= 2:
        return Role(WEIGHT, *fans(owner, value))
    return Role(BIAS if "bias" in name else KEPT)


def fans(owner: nn.Module, weight: Tensor) -> tuple[int, int]:
    """Return how many entries a unit sums, and how many units an entry goes to.

    As torch.nn.init counts them, except that groups of a convolution do not see each other and
    that a transposed convolution sums over its first axis (all its taps, whatever the stride). An
    embedding's are (dim, count), as torch.nn.init has it.

    Args:
        owner: The module that holds the weight.
        weight: (out, in, *kernel), or (in, out / groups, *kernel) of transposed convolutions.
    """
    first, second, field = weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
    if isinstance(owner, TRANSPOSED):
        return first // owner.groups * field, second * field
    if isinstance(owner, CONVOLUTIONS):
        return second * field, first // owner.groups * field
    if type(owner).__name__ == "Conv1D":  # Hugging Face's, a dense layer with its matrix turned
        return first, second
    return second * field, first * field


def norms(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms that keep statistics of what they see."""
    for owner in module.modules():
        if isinstance(owner, nn.modules.batchnorm._NormBase) and owner.track_running_stats:
            yield owner
