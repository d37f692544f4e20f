"""Lower bounds of a network's Lipschitz constant: ratios that occur, all in float64.

n examples, K outputs, d numbers of an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.outputs import main_tensor
from merkhet.rkhs.jacobian import top_directions

STRIDES = (1e-5, 1e-3, 1e-1, 1.0)  # along a direction, relative to the example's norm
PUSH = 0.1  # first step of an ascent, relative likewise
ROUNDING = 1e-12  # relative error granted to each output; what it may hide is taken off
PAIRS = 256  # inputs that all pairs are taken of


@dataclass(frozen=True)
class Lower:
    """A lower bound of a Lipschitz constant.

    Attributes:
        value: A ratio |f(x) - f(x')| / |x - x'| that occurs, less what rounding may bring to it.
        where: Between which points.
    """

    value: float
    where: str


def lower_bound(
    model: nn.Module, inputs: Tensor, *, ascents: int = 4, steps: int = 20, seed: int = 0
) -> Lower:
    """Return the largest ratio found: along Jacobians, between inputs, and pushed up from there.

    The Jacobian only gives the direction: at a kink its norm may be above every ratio.

    Args:
        model: The network in float64, evaluated, its parameters without gradients.
        inputs: (n, *shape).
        ascents: Examples that are pushed further.
        steps: Of each push.
        seed: Of the first directions.
    """
    x = inputs.detach().to("cpu", torch.float64)
    ratios = Ratios(model)
    size = x.flatten(1).norm(dim=1).clamp(min=1).view(-1, *(1,) * (x.dim() - 1))
    directions = top_directions(ratios.output, x, seed=seed) * size
    found = torch.stack([ratios(x, x + t * directions) for t in STRIDES])
    best, strides = found.max(0)
    place = int(best.argmax())
    answers = [
        Lower(float(best[place]), f"along the Jacobian at input {place}"),
        _between(ratios, x[:PAIRS]),
    ]
    starts = best.topk(min(ascents, len(x))).indices
    if len(starts) and steps:
        offsets = torch.tensor(STRIDES, dtype=x.dtype)[strides[starts]].view(size[starts].shape)
        pushed = climb(ratios, x[starts], offsets * directions[starts], steps)
        place = int(pushed.argmax())
        answers.append(Lower(float(pushed[place]), f"by ascent from input {int(starts[place])}"))
    return max(answers, key=lambda one: one.value)


class Ratios:
    """The ratios |f(x) - f(x')| / |x - x'| of a network.

    Args:
        model: The network.
        select: Which outputs to take of (n, outputs); all by default.
    """

    def __init__(self, model: nn.Module, select: Callable[[Tensor], Tensor] | None = None) -> None:
        self.model, self.select = model, select

    def output(self, x: Tensor) -> Tensor:
        """Return the main output of each example, (n, outputs)."""
        flat = main_tensor(self.model(x)).reshape(len(x), -1)
        return flat if self.select is None else self.select(flat)

    @torch.no_grad()
    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the ratios (n,) of pairs, less what rounding may bring to them."""
        return ratio(self.output(x), self.output(other), x, other)


def ratio(y: Tensor, other_y: Tensor, x: Tensor, other_x: Tensor) -> Tensor:
    """Return |y - y'| / |x - x'| of rows, less what rounding may bring to it; 0 where x = x'."""
    apart = (x - other_x).flatten(1).norm(dim=1)
    granted = ROUNDING * (y.norm(dim=1) + other_y.norm(dim=1))
    moved = ((y - other_y).norm(dim=1) - granted).clamp(min=0)
    found = moved / torch.where(apart > 0, apart, 1.0) * (1 - ROUNDING)
    return torch.where((apart > 0) & found.isfinite(), found, 0.0)


@torch.no_grad()
def _between(ratios: Ratios, x: Tensor) -> Lower:
    """Return the largest ratio between two of the inputs."""
    y = ratios.output(x)
    one, other = torch.triu_indices(len(x), len(x), 1)
    if not len(one):
        return Lower(0.0, "no two inputs")
    found = torch.cat(
        [
            ratio(y[a], y[b], x[a], x[b])
            for a, b in zip(one.split(4 * PAIRS), other.split(4 * PAIRS), strict=True)
        ]
    )
    place = int(found.argmax())
    return Lower(float(found[place]), f"between inputs {int(one[place])} and {int(other[place])}")


def climb(ratios: Ratios, x: Tensor, offsets: Tensor, steps: int) -> Tensor:
    """Return the largest ratio (n,) on the way of pairs (x, x + offset) up its gradient.

    Both ends move by normalised gradients of the logarithm of the ratio, in steps that shrink.
    """
    first, second = x.clone(), x + offsets
    best = ratios(first, second)
    unit = x.flatten(1).norm(dim=1).clamp(min=1)
    for step in range(steps):
        length = PUSH * unit * (1 - step / steps)
        ends = [end.detach().requires_grad_() for end in (first, second)]
        with torch.enable_grad():
            moved = (ratios.output(ends[0]) - ratios.output(ends[1])).square().sum(1)
            apart = (ends[0] - ends[1]).flatten(1).square().sum(1)
            tiny = torch.finfo(moved.dtype).tiny
            height = (moved.clamp(min=tiny).log() - apart.clamp(min=tiny).log()).sum()
            slopes = torch.autograd.grad(height, ends)
        first, second = (
            (end + _along(slope, length)).detach() for end, slope in zip(ends, slopes, strict=True)
        )
        best = torch.maximum(best, ratios(first, second))
    return best


def _along(slope: Tensor, length: Tensor) -> Tensor:
    """Return each example's slope at a length."""
    norms = slope.flatten(1).norm(dim=1)
    factor = torch.where(norms > 0, length / torch.where(norms > 0, norms, 1.0), 0.0)
    return slope.nan_to_num(0, 0, 0) * factor.view(-1, *(1,) * (slope.dim() - 1))
