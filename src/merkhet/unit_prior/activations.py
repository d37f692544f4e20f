"""Activations as the tails of units see them: the function, its growth, its two slopes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.errors import InputError, choose

CALL = re.compile(r"(\w+)(?:\(([^()]*)\))?")


@dataclass(frozen=True)
class Activation:
    """A function of each unit.

    Attributes:
        name: As it is written: "relu", "leaky_relu(0.2)".
        function: Maps tensors entry by entry, in any dtype.
        growth: p where the larger side grows as |u|^p: 1 for ReLU and its smooth relatives (the
            extended envelope property of Vladimirova et al., ICML 2019), 0 where it is bounded.
        slopes: (below 0, above 0) where the function is linear on each side of 0, else None.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    growth: float = 1.0
    slopes: tuple[float, float] | None = None

    @property
    def homogeneous(self) -> bool:
        """Whether phi(t u) = t phi(u) for t > 0, which makes units exact products."""
        return self.slopes is not None

    @property
    def envelope(self) -> bool:
        """Whether it has the extended envelope property: at most linear, and linear on a side."""
        return self.growth == 1.0

    def __call__(self, u: Tensor) -> Tensor:
        """Return phi(u), of u's shape."""
        return self.function(u)


def two_sided(name: str, below: float, above: float) -> Activation:
    """Return the activation that is linear on each side of 0.

    Args:
        name: What to call it.
        below: Slope for u < 0.
        above: Slope for u > 0.

    Raises:
        InputError: A slope is NaN or infinite.
    """
    slopes = (below, above)
    if not all(map(math.isfinite, slopes)):
        raise InputError(f"slopes {slopes}: give finite numbers")
    return Activation(name, functools.partial(_two_sided, *slopes), float(any(slopes)), slopes)


def _two_sided(below: float, above: float, u: Tensor) -> Tensor:
    """Return below u where u < 0, above u elsewhere."""
    return torch.where(u < 0, below * u, above * u)


def _gelu(u: Tensor) -> Tensor:
    """Return u Phi(u): torch's own loses its digits from u = -3 down and is 0 below -8.3."""
    return 0.5 * u * torch.erfc(u * -math.sqrt(0.5))


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": _gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
}
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "softsign": F.softsign,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
}
TWO_SIDED = {"relu": (0.0, 1.0), "linear": (1.0, 1.0), "abs": (-1.0, 1.0)}
SLOPED = {"leaky_relu": 0.01, "prelu": 0.25}  # by torch's slopes below 0
PROBES = torch.tensor([-3.0, -1.0, -0.1, 0.0, 0.1, 0.7, 3.0], dtype=torch.float64)
NAMES = (*TWO_SIDED, *SLOPED, *SMOOTH, *BOUNDED, "square")


def activation(given: str | Activation) -> Activation:
    """Return an activation by name.

    Args:
        given: One of `NAMES`; "leaky_relu(0.2)" gives the slope below 0. An `Activation` is
            handed back, but for one that is a named one by its name and its values: for a
            function of your own write `Activation("mine", function, growth=1.0)`.

    Raises:
        InputError: No such activation, whose nearest is named, or a slope that is no finite
            number.
    """
    if isinstance(given, Activation):
        return _named(given)
    match = CALL.fullmatch(given.strip().lower()) if isinstance(given, str) else None
    if match is None:
        raise InputError(f"activation {given!r}: write a name, as in 'relu' or 'leaky_relu(0.2)'")
    name, slope = match.groups()
    choose("activation", name, NAMES)
    if name in SLOPED:
        below = SLOPED[name] if slope is None else _slope(slope, given)
        return two_sided(f"{name}({below:g})", below, 1.0)
    if slope is not None:
        raise InputError(f"activation {given!r}: {name} takes no number; write {name!r}")
    if name in TWO_SIDED:
        return two_sided(name, *TWO_SIDED[name])
    if name == "square":
        return Activation(name, torch.square, growth=2.0)
    growth = float(name in SMOOTH)
    return Activation(name, (SMOOTH | BOUNDED)[name], growth)


def _named(given: Activation) -> Activation:
    """Return the named activation that a given one is, or itself: torch's GELU has fewer digits."""
    own = (SMOOTH | BOUNDED).get(given.name)
    if own is None or given.function is own or given.slopes is not None:
        return given
    with torch.no_grad():
        same = torch.allclose(given(PROBES), own(PROBES), rtol=1e-6, atol=0)
    return activation(given.name) if same else given


def _slope(text: str, given: object) -> float:
    """Return a slope that is written in an activation's name."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"activation {given!r}: {text!r} is no slope; give a finite number")
    return found
