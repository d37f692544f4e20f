"""Lower bounds of a network's Lipschitz constant: ratios that occur, all in float64.

n examples, K outputs, d numbers of an example.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from merkhet.core.outputs import main_tensor
from merkhet.rkhs.exact_copy import exact_inputs, precision
from merkhet.rkhs.jacobian import top_directions

STRIDES = (1e-5, 1e-3, 1e-1, 1.0)  # along a direction, relative to the example's norm
PUSH = 0.1  # first step of an ascent, relative likewise
ROUNDING = 4504  # times eps: relative error granted to each output, taken off; 1e-12 in float64
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
    x = exact_inputs(inputs)
    ratios = Ratios(model, x)
    size = x.flatten(1).norm(dim=1).clamp(min=1).view(-1, *(1,) * (x.dim() - 1))
    directions = top_directions(ratios.output, x, seed=seed) * size
    y = ratios.output_of(x)
    found = torch.stack([ratios.from_outputs(y, x, x + t * directions) for t in STRIDES])
    best, strides = found.max(0)
    place = int(best.argmax())
    answers = [
        Lower(float(best[place]), f"along the Jacobian at input {place}"),
        _between(ratios, y[:PAIRS], x[:PAIRS]),
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
        model: The network in float64, evaluated.
        x: (n, *shape), to see on how precisely it computes.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model, self.granted = model, ROUNDING * precision(model, x)

    def output(self, x: Tensor) -> Tensor:
        """Return the main output of each example, (n, outputs)."""
        return main_tensor(self.model(x)).reshape(len(x), -1).double()

    @torch.no_grad()
    def output_of(self, x: Tensor) -> Tensor:
        """Return the main output of each example without a graph, (n, outputs)."""
        return self.output(x)

    def from_outputs(self, y: Tensor, x: Tensor, other: Tensor) -> Tensor:
        """Return the ratios (n,) of pairs, y the outputs of the first ones."""
        return self.ratio(y, self.output_of(other), x, other)

    def ratio(self, y: Tensor, other_y: Tensor, x: Tensor, other_x: Tensor) -> Tensor:
        """Return |y - y'| / |x - x'| of rows, less what rounding may add to it; 0 where x = x'."""
        apart = (x - other_x).flatten(1).norm(dim=1)
        granted = self.granted * (y.norm(dim=1) + other_y.norm(dim=1))
        moved = ((y - other_y).norm(dim=1) - granted).clamp(min=0)
        exact = 1 - ROUNDING * torch.finfo(torch.float64).eps
        found = moved / torch.where(apart > 0, apart, 1.0) * exact
        return torch.where((apart > 0) & found.isfinite(), found, 0.0)


@torch.no_grad()
def _between(ratios: Ratios, y: Tensor, x: Tensor) -> Lower:
    """Return the largest ratio between two of the inputs, y their outputs."""
    one, other = torch.triu_indices(len(x), len(x), 1)
    if not len(one):
        return Lower(0.0, "no two inputs")
    found = torch.cat(
        [
            ratios.ratio(y[a], y[b], x[a], x[b])
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
    best = x.new_zeros(len(x))
    unit = x.flatten(1).norm(dim=1).clamp(min=1)
    for step in range(steps):
        length = PUSH * unit * (1 - step / steps)
        ends = [end.detach().requires_grad_() for end in (first, second)]
        with torch.enable_grad():
            one, other = (ratios.output(end) for end in ends)
            best = torch.maximum(best, ratios.ratio(one.detach(), other.detach(), first, second))
            moved = (one - other).square().sum(1)
            apart = (ends[0] - ends[1]).flatten(1).square().sum(1)
            tiny = torch.finfo(moved.dtype).tiny
            height = (moved.clamp(min=tiny).log() - apart.clamp(min=tiny).log()).sum()
            if not height.requires_grad:
                return best
            slopes = torch.autograd.grad(height, ends, allow_unused=True, materialize_grads=True)
        first, second = (
            (end + _along(slope, length)).detach() for end, slope in zip(ends, slopes, strict=True)
        )
    return torch.maximum(best, ratios.from_outputs(ratios.output_of(first), first, second))


def _along(slope: Tensor, length: Tensor) -> Tensor:
    """Return each example's slope at a length."""
    norms = slope.flatten(1).norm(dim=1)
    factor = torch.where(norms > 0, length / torch.where(norms > 0, norms, 1.0), 0.0)
    return slope.nan_to_num(0, 0, 0) * factor.view(-1, *(1,) * (slope.dim() - 1))
