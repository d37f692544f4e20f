"""Spectral norms held under a bound: weights are projected after each step of training.

Source: Bietti, Mialon, Chen and Mairal, "A kernel perspective for regularizing deep neural
networks", ICML 2019, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from merkhet.core import building
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.clipping import clipped
from merkhet.rkhs.decaying import Decaying, decaying
from merkhet.rkhs.followed import Followed, Follower
from merkhet.rkhs.looks import bare
from merkhet.rkhs.operations import Operation, outputs_first, reshaped, weight_of, weighted_layers
from merkhet.rkhs.warm import WarmVectors

__all__ = ["Decaying", "SpectralConstraint", "decaying"]

TOLERANCE = 1e-3  # relative growth of an estimate at which its iteration ends
MOST_ROUNDS = 30  # of a layer in one step


class SpectralConstraint:
    """Holds the spectral norms of a network's layers under a bound, after each step of training.

    `fit(..., after_step=SpectralConstraint(0.8, example=x))` is the use. Weights change in place,
    without a gradient and apart from the optimiser's state; frozen weights stay as they are.

    Linear layers, and every layer in the reshaped norm, are projected exactly: all singular
    values above the bound become the bound, which gives the nearest such matrix in the Frobenius
    norm. They are at most the bound afterwards, up to the rounding of the weights.

    What comes after a layer is not held: batch norm scales its results again, and the factor that
    `lipschitz` shows for the two together can be above the bound.

    The operator of a convolution with its singular values clipped is no convolution of the same
    kernel. Its kernel is scaled instead, by bound / sigma where sigma is above the bound: sigma
    is estimated from below by power iteration, so that the norm is at most the bound up to the
    estimate's error (`spectral_norms` certifies). The iteration goes on from one step to the
    next; resumed runs, and copies, begin it anew and agree up to that error.

    Args:
        schedule: The bound; or a function of the number of steps made, such as
            `decaying(0.8, 2, steps_per_epoch)`.
        norm: "operator", of the layer at the size of its input; or "reshaped", of its weight as
            the matrix out x (in k k), as in the paper's code, which is not the operator's.
        layers: Paths of the layers to hold; None for all with weights.
        example: (n, *in) input, for the sizes that convolutions meet; or call `observe`.
        vectors: How many each convolution's iteration has.
        seed: Of the first vectors.

    Raises:
        InputError: An argument is not of these.
    """

    def __init__(
        self,
        schedule: float | Callable[[int], float],
        norm: str = "operator",
        *,
        layers: Sequence[str] | None = None,
        example: Tensor | None = None,
        vectors: int = 2,
        seed: int = 0,
    ) -> None:
        if not callable(schedule):
            building.check_positive(bound=schedule)
        if layers is not None and (not isinstance(layers, list | tuple) or not layers):
            raise InputError(f"layers = {layers!r}: give a list of paths, or None for all")
        self.schedule, self.norm, self.layers = schedule, norm, layers
        self._example = None if example is None else _first_two(example)
        self._follower = Follower(norm, vectors, seed)

    def observe(self, module: nn.Module, example: Tensor) -> None:
        """See at which sizes of input the layers of a network act.

        Args:
            module: The network, looked at as evaluated and left as found.
            example: (n, *in), one input or more.

        Raises:
            InputError: A layer cannot be held: it is parametrised, or not known by its path.
        """
        self._example = _first_two(example)
        self._operations(bare(module))

    def bound(self, step: int) -> float:
        """Return the bound after `step` steps.

        Raises:
            InputError: The schedule gives no positive number.
        """
        bound = self.schedule(step) if callable(self.schedule) else self.schedule
        building.check_positive(bound=bound)
        return float(bound)

    @torch.no_grad()
    def __call__(self, module: nn.Module, step: int = 0) -> dict[str, float]:
        """Project a network's weights; return the bound, and how many layers were above it.

        Args:
            module: The network.
            step: The number of steps made.

        Raises:
            InputError: A layer cannot be held, the sizes of inputs are not known, or weights are
                not finite.
        """
        followed, found = self._operations(bare(module))
        bound = self.bound(step)
        free = [op for op in found if weight_of(op.layer, op.path).requires_grad]
        exact = [op for op in free if self._is_exact(op)]
        scaled = [op for op in free if not self._is_exact(op)]
        changed = {op.path for op in exact if _clip(op, bound)}
        changed |= _scale(scaled, bound, followed.vectors)
        return {"spectral_bound": bound, "layers_projected": float(len(changed))}

    def state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the vectors of a network, to go on from in another process."""
        return self._follower(bare(module)).vectors.state_dict()

    def load_state_dict(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Go on from vectors that `state_dict` returned.

        Raises:
            InputError: The state does not hold tensors.
        """
        followed, _ = self._operations(bare(module))
        followed.vectors.load_state_dict(state)

    def _is_exact(self, operation: Operation) -> bool:
        """Tell whether an operation's singular values are clipped, not its kernel scaled."""
        return self.norm == "reshaped" or isinstance(operation.layer, nn.Linear)

    def _operations(self, module: nn.Module) -> tuple[Followed, list[Operation]]:
        """Return what is kept of a network, and the operations to hold."""
        layers = weighted_layers(module)
        wanted = [choose("layer", path, layers) for path in self.layers or layers]
        for path in wanted:
            _check(path, layers[path])
        followed = self._follower(module)
        if self._example is None and self.norm == "operator":
            return followed, [_without_size(path, layers[path]) for path in wanted]
        example = self._example if self._example is None else _beside(self._example, module)
        found = followed.operations(module, example)
        return followed, [operation for operation in found if operation.path in wanted]


def _first_two(example: Tensor) -> Tensor:
    """Return two inputs at most, apart from what they were computed by."""
    if not isinstance(example, Tensor) or example.dim() < 1 or not len(example):
        given = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InputError(f"example = {given}: give inputs (n, ...), one or more")
    return example[:2].detach().clone()


def _clip(operation: Operation, bound: float) -> bool:
    """Project a weight, read as a matrix, in place; tell whether it was above the bound."""
    layer = operation.layer
    rows = outputs_first(layer, weight_of(layer, operation.path))
    nearest = clipped(rows.flatten(1), bound)
    if nearest is not None:
        rows.copy_(nearest.reshape(rows.shape))
    return nearest is not None


def _scale(found: list[Operation], bound: float, vectors: WarmVectors) -> set[str]:
    """Scale kernels in place where a norm is above the bound; return the paths of their layers."""
    norms = _norms_above(found, bound, vectors)
    # A weight that several operations share is scaled once, for the largest of their norms.
    largest: dict[Tensor, float] = {}
    for operation in found:
        weight = weight_of(operation.layer, operation.path)
        largest[weight] = max(largest.get(weight, 0.0), norms[operation.name])
    for weight, norm in largest.items():
        if norm > bound:
            weight.mul_(bound / norm)
    return {operation.path for operation in found if norms[operation.name] > bound}


def _norms_above(found: list[Operation], bound: float, vectors: WarmVectors) -> dict[str, float]:
    """Return estimates of norms by the operation's name, good ones for those above the bound."""
    norms: dict[str, float] = {}
    active = found
    for _ in range(MOST_ROUNDS):
        if not active:
            break
        weights = [operation.weight() for operation in active]
        steps = vectors.estimates(active, weights, directions=False)
        before = [norms.get(operation.name, 0.0) for operation in active]
        after = torch.stack([step.norm.to(steps[0].norm) for step in steps]).tolist()
        norms |= {op.name: _finite(op, norm) for op, norm in zip(active, after, strict=True)}
        active = [
            operation
            for operation, old, new in zip(active, before, after, strict=True)
            if new > bound and new - old > TOLERANCE * new
        ]
    return norms


def _finite(operation: Operation, norm: float) -> float:
    """Return an estimate, or refuse one that is not finite."""
    if not math.isfinite(norm):
        raise InputError(f"the weight of {operation.path} is not finite: lower the learning rate")
    return norm


def _check(path: str, layer: nn.Module) -> None:
    """Refuse a layer whose weight is computed from others."""
    if parametrize.is_parametrized(layer, "weight"):
        raise InputError(
            f"layer {path} is parametrised, what is written into its weight is lost: leave it out"
            " of `layers`, or call torch.nn.utils.parametrize.remove_parametrizations first"
        )


def _without_size(path: str, layer: nn.Module) -> Operation:
    """Return the operation of a layer whose input's size is not known; that of a matrix needs none.

    Raises:
        InputError: It is a convolution.
    """
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"the norm of {path} depends on the size of its input: give example=x, or call"
            " constraint.observe(module, x), with one input or more"
        )
    return reshaped(path, layer)


def _beside(example: Tensor, module: nn.Module) -> Tensor:
    """Return the example on the network's device, and in its dtype if it is of floats."""
    parameter = next(module.parameters())
    example = example.to(parameter.device)
    return example.to(parameter.dtype) if example.is_floating_point() else example
