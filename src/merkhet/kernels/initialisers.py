"""Standard deviations of weights and biases of torch networks: the caller's, or of a named scheme.

Standard deviations are those of `merkhet.kernels`: of a weight times sqrt(fan_in), and of a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from merkhet.core.errors import InputError, choose
from merkhet.kernels.layers import ROOT_2, Number

Fans = tuple[int, int]  # what a unit takes from, what it gives to
Stds = Number | Mapping[str, Number] | Callable[[str], Number]

# For each scheme, of (fan_in, fan_out): weight_std and bias_std.
SCHEMES: dict[str, Callable[[Fans], tuple[float, float]]] = {
    # nn.Linear and nn.Conv2d: kaiming_uniform_(a=sqrt(5)); biases uniform in +-1 / sqrt(fan_in)
    "torch": lambda fans: (math.sqrt(1 / 3), 1 / math.sqrt(3 * fans[0])),
    **dict.fromkeys(("he", "kaiming_normal", "kaiming_uniform", "ntk"), lambda fans: (ROOT_2, 0.0)),
    "lecun": lambda fans: (1.0, 0.0),
    **dict.fromkeys(
        ("xavier_normal", "xavier_uniform"),
        lambda fans: (math.sqrt(2 * fans[0] / sum(fans)), 0.0),
    ),
}


@dataclass(frozen=True)
class Deviations:
    """Answers, for every layer with weights, what their standard deviations are.

    Args:
        weight_std: A number, a dict by the layer's path, or a function of it; None for the
            scheme's.
        bias_std: Likewise; None for the scheme's, which is 0 where there is none.
        initialiser: Name of a scheme in `SCHEMES`, or None.

    Raises:
        InputError: There is neither weight_std nor a scheme, or the scheme is unknown.
    """

    weight_std: Stds | None
    bias_std: Stds | None
    initialiser: str | None

    def __post_init__(self) -> None:
        if self.initialiser is not None:
            choose("initialiser", self.initialiser, SCHEMES)
        elif self.weight_std is None:
            raise InputError(
                "from_module does not guess standard deviations from weights: give weight_std=..., "
                f"or initialiser= one of {', '.join(sorted(SCHEMES))}"
            )

    def of(self, path: str, weight: torch.Size, *, biased: bool) -> dict[str, Number]:
        """Return weight_std and bias_std of the layer at a path.

        Args:
            path: Of the module that holds the weights.
            weight: Their shape, (out, in, *kernel).
            biased: Whether the layer has biases.
        """
        field = math.prod(weight[2:])
        usual = {"weight_std": 0.0, "bias_std": 0.0}
        if self.initialiser is not None:
            found = SCHEMES[self.initialiser]((weight[1] * field, weight[0] * field))
            usual = dict(zip(usual, found, strict=True))
        own = {"weight_std": self.weight_std, "bias_std": self.bias_std if biased else 0.0}
        if not biased:
            usual["bias_std"] = 0.0
        return {
            name: usual[name] if std is None else _at(name, std, path) for name, std in own.items()
        }

    def check(self, paths: list[str]) -> None:
        """Refuse dicts that name layers which are not there.

        Args:
            paths: Of all layers with weights.

        Raises:
            InputError: Names them.
        """
        for name, std in (("weight_std", self.weight_std), ("bias_std", self.bias_std)):
            extra = [path for path in std if path not in paths] if isinstance(std, Mapping) else []
            if extra:
                raise InputError(
                    f"{name} names {', '.join(map(repr, extra))}: the layers with weights are "
                    f"{', '.join(map(repr, paths)) or 'none'}"
                )


def _at(name: str, std: Stds, path: str) -> Number:
    """Return the standard deviation at a path."""
    if isinstance(std, Mapping):
        if path not in std:
            raise InputError(f"{name} has nothing for the layer {path!r}: add it to the dict")
        return std[path]
    return std(path) if callable(std) and not isinstance(std, torch.Tensor) else std
