"""Dense and convolutional layers that draw their outputs, given their inputs, and no weights.

With independent Gaussian weights the outputs of a layer, given its inputs X (R, in), are
independent from unit to unit and N(0, s_w^2 X X^T + s_b^2) over the R rows. A layer that is called
once, and whose weights nothing else sees, can be drawn so whatever the network around it is.

R rows: inputs, times positions; G groups.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.unit_prior.sampling.conditional_guard import taken
from merkhet.unit_prior.sampling.conditional_root import output_root
from merkhet.unit_prior.sampling.fresh_roles import CONVOLUTIONS, fans
from merkhet.unit_prior.weight_priors import WeightPrior

NORMAL = 20  # products that cost as much as to draw one normal number
Drawn = Callable[[Tensor], Tensor]
Calls = dict[nn.Module, list[tuple[torch.Size, torch.Size]]]


@dataclass(frozen=True)
class Sizes:
    """What a call of a layer multiplies.

    Attributes:
        rows: R.
        fan_in: Entries that a unit sums.
        units: Outputs of a row, of one group.
        groups: G.
        gathers: Whether rows are gathered from a picture, by a product with the identity.
    """

    rows: int
    fan_in: int
    units: int
    groups: int = 1
    gathers: bool = False

    @property
    def noise(self) -> tuple[int, int, int]:
        """The shape of the normal numbers that a draw takes, (G, R, units)."""
        return self.groups, self.rows, self.units

    @property
    def cheaper(self) -> bool:
        """Whether to draw outputs costs less than to draw weights and multiply by them."""
        gathered = self.fan_in**2 if self.gathers else 0
        given = self.units * (NORMAL + self.rows) + self.rows * (self.fan_in + self.rows)
        weights = self.units * self.fan_in * (NORMAL + self.rows)
        return self.rows * (given + gathered) < weights


@contextmanager
def recorded(module: nn.Module) -> Iterator[Calls]:
    """Yield a dict that takes the shapes of what each layer is given and returns."""
    calls: Calls = {}

    def note(layer: nn.Module, given: Any, output: Any) -> None:
        shapes = given[0].shape if given else torch.Size(), output.shape
        calls.setdefault(layer, []).append(shapes)

    handles = [layer.register_forward_hook(note) for layer in module.modules() if _known(layer)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def drawable(module: nn.Module, calls: Calls) -> dict[str, Sizes]:
    """Return the layers whose outputs can be drawn, where that is cheaper, by path.

    Args:
        module: The network.
        calls: What `recorded` saw in one run.
    """
    parameters = (value for _, value in module.named_parameters(remove_duplicate=False))
    uses = Counter(map(id, parameters))
    found = {}
    for path, layer in module.named_modules():
        own = all(uses[id(value)] == 1 for value in layer.parameters())
        if len(calls.get(layer, ())) == 1 and own:
            sizes = _sizes(layer, *calls[layer][0])
            if sizes.cheaper:
                found[path] = sizes
    return found


def one_row_each(calls: Calls) -> bool:
    """Tell whether all layers are dense and saw one row, as in a chain at one input."""
    given = [shape for each in calls.values() for shape, _ in each]
    return all(isinstance(layer, nn.Linear) for layer in calls) and all(
        math.prod(shape[:-1]) == 1 for shape in given
    )


def _known(layer: nn.Module) -> bool:
    """Tell whether a module is a plain dense layer or convolution, with weights of its own."""
    return type(layer) in (nn.Linear, *CONVOLUTIONS) and "weight" in layer._parameters


def _sizes(layer: nn.Module, given: torch.Size, output: torch.Size) -> Sizes:
    """Return what a call multiplies."""
    if isinstance(layer, nn.Linear):
        return Sizes(math.prod(given[:-1]), layer.in_features, layer.out_features)
    assert isinstance(layer, CONVOLUTIONS)
    fan_in, _ = fans(layer, layer.weight)
    rows = math.prod(output) // layer.out_channels
    return Sizes(rows, fan_in, layer.out_channels // layer.groups, layer.groups, True)


@torch.no_grad()
def draw_outputs(
    module: nn.Module, layers: dict[str, Sizes], prior: WeightPrior
) -> dict[str, Tensor]:
    """Make layers of a network draw their outputs, in place; it serves for nothing else after.

    Their weights become NaN, for what sees them all the same; a `Guard` tells.

    Args:
        module: A copy of the network.
        layers: As `drawable` found them.
        prior: A Gaussian one.

    Returns:
        A dict which must hold normal numbers (G, R, units) for every path when the network runs,
        float32 or finer. A call takes its own out; a second one raises `SeenError`.
    """
    noise: dict[str, Tensor] = {}
    for path in layers:
        layer = module.get_submodule(path)
        bias_std = 0.0 if layer.bias is None else prior.bias
        stds = prior.std(*fans(layer, layer.weight)), bias_std  # type: ignore[arg-type]
        drawn = functools.partial(_outputs, noise, path, stds)
        run: Callable[[Tensor], Tensor] = functools.partial(_dense, drawn)
        if isinstance(layer, CONVOLUTIONS):
            run = functools.partial(_convolution, layer, layer.weight.shape, drawn)
        layer.forward = run
        for value in layer.parameters():
            value.fill_(torch.nan)
    return noise


def _dense(drawn: Drawn, input: Tensor) -> Tensor:
    """Return outputs (..., units) of a dense layer at input (..., in)."""
    rows = input.reshape(1, -1, input.shape[-1])
    return drawn(rows).reshape(*input.shape[:-1], -1)


def _convolution(layer: Any, shape: torch.Size, drawn: Drawn, input: Tensor) -> Tensor:
    """Return outputs (B, G units, *places) of a convolution at input (B, in, *places).

    Args:
        layer: The convolution.
        shape: Of its weight, which is not looked at.
        drawn: Its outputs (G, R, units), given rows (G, R, fan_in).
        input: May be without B.
    """
    batched = input if input.dim() == len(shape) else input[None]
    patches = _patches(layer, shape, batched)  # (B, G, fan_in, *places)
    count, places = len(batched), patches.shape[3:]
    rows = patches.flatten(3).permute(1, 0, 3, 2).flatten(1, 2)  # (G, B places, fan_in)
    found: Tensor = drawn(rows).unflatten(1, (count, -1))
    found = found.permute(1, 0, 3, 2).flatten(1, 2).unflatten(2, places)
    unbatched: Tensor = found if input.dim() == len(shape) else found[0]
    return unbatched


def _patches(layer: Any, weight: torch.Size, x: Tensor) -> Tensor:
    """Return what each place of a convolution sees, (B, G, fan_in, *places).

    A convolution by the identity gathers it: padding, strides and dilation are the layer's own.
    """
    fan_in = math.prod(weight[1:])
    shape = (fan_in, *weight[1:])
    each = torch.eye(fan_in, dtype=x.dtype, device=x.device).reshape(shape)
    found: Tensor = layer._conv_forward(x, torch.cat([each] * layer.groups), None)
    apart: Tensor = found.unflatten(1, (layer.groups, fan_in))
    return apart


def _outputs(
    noise: dict[str, Tensor], path: str, stds: tuple[float, float], rows: Tensor
) -> Tensor:
    """Return outputs (G, R, units) at rows (G, R, fan_in)."""
    z = taken(noise, path, rows.shape[-2])
    return (output_root(rows, *stds).to(z.dtype) @ z).to(rows.dtype)
