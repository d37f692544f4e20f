"""A chain of dense layers under a Gaussian prior, checked: what every computation starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation, activation, two_sided

HE = math.sqrt(2.0)
WIDEST = 10**7  # a ReLU layer's law is a sum over its units: half a minute here


@dataclass(frozen=True)
class Spec:
    """Layers g_l = W_l phi(g_(l-1)) + b_l, l = 1 ... L + 1, of one input x.

    Entries of W_l are independent N(0, weight_std[l-1]^2), of b_l N(0, bias_std^2).

    Attributes:
        widths: Units of the hidden layers, H_1 ... H_L.
        activation: phi.
        weight_std: Standard deviation of a weight, one for each of the L + 1 matrices.
        bias_std: Standard deviation of a bias, of every layer; 0 for none.
        input_norm: |x|, l2.
    """

    widths: tuple[int, ...]
    activation: Activation
    weight_std: tuple[float, ...]
    bias_std: float
    input_norm: float

    @property
    def layers(self) -> int:
        """Number of weight matrices, L + 1."""
        return len(self.widths) + 1

    @property
    def exact(self) -> bool:
        """Whether a unit is a product of independent factors: phi homogeneous, no bias."""
        return self.activation.homogeneous and self.bias_std == 0

    def first_layer(self) -> Spec:
        """Return the first layer alone, as a linear model without bias and of the same law."""
        linear, without = two_sided("linear", 1.0, 1.0), self.weight_std[0] * self.input_norm
        if self.bias_std == 0 or math.isinf(without):
            return Spec((), linear, self.weight_std[:1], 0.0, self.input_norm)
        return Spec((), linear, (math.hypot(without, self.bias_std),), 0.0, 1.0)

    def check_layer(self, layer: int, *, post: bool = False) -> int:
        """Return `layer` if there is such a one.

        Raises:
            InputError: It is not from 1 to L + 1, or to L after the activation.
        """
        last = self.layers - post
        if isinstance(layer, bool) or not isinstance(layer, int) or not 1 <= layer <= last:
            after = ", after the activation" if post else ""
            raise InputError(
                f"layer {layer!r}: {len(self.widths)} hidden layers have layers 1 to {last}{after}"
                f"; layer {self.layers} is the output"
            )
        return layer


def make_spec(
    widths: Sequence[int],
    given: str | Activation = "relu",
    weight_std: str | float | Sequence[float] = "he",
    bias_std: float = 0.0,
    input_norm: float = 1.0,
) -> Spec:
    """Return a checked `Spec`.

    Args:
        widths: Of the hidden layers; none for a linear model.
        given: The activation, by name or itself.
        weight_std: Standard deviation of a weight: a number, one for each of the
            len(widths) + 1 matrices, or "he": sqrt(2 / width before), and for the first layer
            what gives g_1 the variance input_norm^2.
        bias_std: Standard deviation of a bias.
        input_norm: |x|.

    Widths and scales may be arrays or tensors.

    Raises:
        InputError: A width below 1 or above 1e7, a scale that is not finite and positive, x = 0
            without a bias (every unit is 0 then), or a wrong number of scales.
    """
    checked = _widths(widths)
    spread = _stds(checked, weight_std)
    bias_std = _size("bias_std", bias_std)
    input_norm = _size("input_norm", input_norm)
    if input_norm == 0 and bias_std == 0:
        raise InputError(
            "input_norm 0 without a bias: every unit is 0 whatever the weights; give the norm of "
            "an input other than 0, or bias_std above 0"
        )
    return Spec(checked, activation(given), spread, bias_std, input_norm)


def _widths(given: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of the hidden layers, or refuse what is no sequence of such."""
    listed = _listed(given)
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise InputError(f"widths {given!r}: give one for each hidden layer, as in (100, 100)")
    return tuple(_width(width) for width in listed)


def _width(width: Any) -> int:
    """Return a width that is one."""
    whole = 0 if isinstance(width, str) else _real(width)
    if isinstance(width, bool) or not (1 <= whole <= WIDEST and whole == int(whole)):
        raise InputError(
            f"width {width!r}: give whole numbers from 1 to {WIDEST:,}, as in (100, 100)"
        )
    return int(whole)


def _size(what: str, given: Any) -> float:
    """Return a finite number from 0 on."""
    found = _real(given)
    if not 0 <= found < math.inf:
        raise InputError(f"{what} {given!r}: give a finite number from 0 on")
    return found


def _real(given: Any) -> float:
    """Return a real number as a float, and NaN for what is none."""
    if isinstance(given, str | bytes):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # torch's, of tensors with several entries
        return math.nan


def _listed(given: Any) -> Any:
    """Return arrays and tensors as lists or numbers, and anything else as it is."""
    return given.tolist() if isinstance(given, Tensor | np.ndarray) else given


def _stds(widths: tuple[int, ...], given: str | float | Sequence[float]) -> tuple[float, ...]:
    """Return the standard deviation of a weight for each matrix."""
    if isinstance(given, str):
        if given != "he":
            raise InputError(f"weight_std {given!r}: give 'he', a number, or one for each matrix")
        return (1.0, *(HE / math.sqrt(width) for width in widths))
    count = len(widths) + 1
    listed = _listed(given)
    stds = tuple(listed) if isinstance(listed, Iterable) else (listed,) * count
    if len(stds) != count:
        raise InputError(
            f"weight_std has {len(stds)} numbers: {len(widths)} hidden layers have {count} weight "
            "matrices, the output's among them"
        )
    for std in stds:
        if not 0 < _real(std) < math.inf:
            raise InputError(f"weight_std {std!r}: give finite numbers above 0")
    return tuple(map(_real, stds))
