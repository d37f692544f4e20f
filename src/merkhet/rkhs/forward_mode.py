"""Derivatives of all logits along one direction an example: J d, by one pass in forward mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from merkhet.rkhs.input_gradients import input_gradient, told
from merkhet.rkhs.looks import full_precision, widened

CONVOLUTIONS = frozenset(
    f"conv{transposed}{dims}d" for transposed in ("", "_transpose") for dims in (1, 2, 3)
)
NORMS = frozenset({"batch_norm", "group_norm"})
CHECKPOINTS = "checkpoints, and other hooks on saved tensors, are not known in forward mode"
NAMES = """
__add__ __bool__ __get__ __getitem__ __len__ __mul__ __neg__ __radd__ __rmul__ __rsub__
__rtruediv__ __sub__ __truediv__ abs add bmm cat celu chunk clamp clone concat contiguous cos
detach dim div dropout elu exp expand flatten float gelu hardswish hardtanh is_floating_point
leaky_relu linear log log_sigmoid matmul mean mish mm mul ndim neg numel pad permute
pixel_shuffle prelu relu relu6 relu_ reshape selu sigmoid silu sin size softplus split sqrt
square squeeze stack sub sum t tanh to transpose unflatten unsqueeze view
"""
# Functions whose derivative in forward mode can be differentiated, and rightly: of layer and
# instance norm it cannot (the statistics count as constants), nor of softmax (written in place).
# Methods of tensors go by the same names.
KNOWN = (
    CONVOLUTIONS
    | NORMS
    | {f"{kind}_pool{dims}d" for kind in ("_max", "max", "avg") for dims in (1, 2, 3)}
    | {f"adaptive_avg_pool{dims}d" for dims in (1, 2, 3)}
    | frozenset(NAMES.split())
)


class NoForwardModeError(Exception):
    """An operation cannot be differentiated in forward mode; two gradients take its place."""


def value_and_slopes(
    function: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return a function at `x` and its derivatives there along `directions`, with their graphs.

    Args:
        function: Of inputs (n, *in), returns (n, ...).
        x: (n, *in).
        directions: Like `x`.

    Returns:
        The value, and the derivatives like it; None where nothing depends on the input, or
        something on the way (a wrapper that copies its inputs) has lost the direction.

    Raises:
        NoForwardModeError: An operation has no forward mode, or none that is known to be
            differentiated rightly.
    """
    with forward_ad.dual_level():
        try:
            with _ForwardMode(), _without_saving_hooks():
                answer = function(forward_ad.make_dual(x, directions))
        except NotImplementedError as error:  # what torch raises for an operation without one
            raise NoForwardModeError(str(error)) from error
        value, slopes = forward_ad.unpack_dual(answer)
    return value, slopes


def slopes_by_gradients(value: Tensor, x: Tensor, directions: Tensor) -> Tensor:
    """Return the derivatives of `value` along `directions`, like `value`, without a graph.

    J^T u is linear in u, and the gradient of <J^T u, d> by u is J d. It has no graph because a
    third derivative would be taken through it, which PyTorch gets wrong for layer norm; what is
    wanted is in `weighted_squares`.

    Args:
        value: (n, K), computed from `x`; its graph is kept.
        x: (n, *in), requires a gradient.
        directions: Like `x`.
    """
    if not value.requires_grad:
        return torch.zeros_like(value)
    u = torch.zeros_like(value, requires_grad=True)
    with told(), full_precision(x.device):
        (back,) = torch.autograd.grad(value, x, u, create_graph=True, materialize_grads=True)
        (slopes,) = torch.autograd.grad(back, u, directions, materialize_grads=True)
    return slopes.detach()


def weighted_squares(
    weights: Tensor, slopes: Tensor, value: Tensor, x: Tensor, directions: Tensor
) -> Tensor:
    """Return sum_ik w_ik s_ik^2, shape (), differentiable in the parameters.

    Where the slopes s = J d have no graph, the gradient comes from <J^T (w s), d>, which at fixed
    w s has half of it: of second order, as that of a gradient penalty.

    Args:
        weights: w (n, K), without a graph.
        slopes: s (n, K).
        value: (n, K), computed from `x`; its graph is kept.
        x: (n, *in), requires a gradient where the slopes have no graph.
        directions: d, like `x`.
    """
    total = (weights * slopes.square()).sum()
    if slopes.requires_grad:
        return total
    back = input_gradient((weights * slopes * value).sum(), x, again=True)
    half = (widened(back) * widened(directions)).sum()
    return total + 2 * (half - half.detach())


@contextmanager
def _without_saving_hooks() -> Iterator[None]:
    """Refuse checkpoints, which compute again without the direction that came with the input.

    Raises:
        NoForwardModeError: There is one.
    """
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTS):
            yield
    except RuntimeError as error:
        if CHECKPOINTS not in str(error):
            raise
        raise NoForwardModeError(CHECKPOINTS) from error


class _ForwardMode(TorchFunctionMode):
    """Refuses functions that are not known, and convolves by weights that do not move.

    PyTorch's own rule of convolutions convolves the input with the weight's derivative even where
    that is zero, and keeps a graph of it, which makes a step half as dear again.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", str(func))
        moving = any(map(_moves, _pytree.tree_leaves((args, named))))
        if not moving:
            return func(*args, **named)
        if name not in KNOWN:
            raise NoForwardModeError(f"{name} is not known in forward mode")
        if name in NORMS and args[0].dtype in (torch.float16, torch.bfloat16):
            raise NoForwardModeError(f"{name} has no forward mode in half precision")
        if name in CONVOLUTIONS and len(args) > 1 and not any(map(_moves, args[1:])):
            return _convolve(func, args, named)
        return func(*args, **named)


def _convolve(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Return a convolution of the input and of its direction, by a weight that does not move."""
    x, direction = forward_ad.unpack_dual(args[0])
    without_bias = {name: value for name, value in named.items() if name != "bias"}
    slopes = func(direction, args[1], None, *args[3:], **without_bias)
    dual: Tensor = forward_ad.make_dual(func(x, *args[1:], **named), slopes)
    return dual


def _moves(value: Any) -> bool:
    """Tell whether an argument has a direction itself."""
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None
