"""Priors on weights: families, their tails, their scale by fan-in, and draws from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merkhet.core.building import check_positive
from merkhet.core.errors import InputError, choose
from merkhet.unit_prior.weight_draws import DRAWS, SCALES

CALL = re.compile(r"(\w+)(?:\(([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\))?")

SHAPED = {"generalised_normal": "beta", "student": "degrees of freedom"}
FAMILIES = (*DRAWS, "init")


@dataclass(frozen=True)
class WeightPrior:
    """Independent weights of one family, symmetric about 0.

    Attributes:
        family: One of `FAMILIES`; "init" is torch.nn's own initialisation of each module.
        shape: Of "generalised_normal" beta, with density ~ exp(-|w / a|^beta); of "student" the
            degrees of freedom; None for the others.
        scale: "he", "xavier", "lecun" or a number: the standard deviation of a weight. Where
            that is infinite (Cauchy, Student with at most 2 degrees of freedom) the scale
            parameter: what a standard variable is multiplied by.
        bias: The same number for biases, which have the same family; 0 keeps biases at 0.

    Raises:
        InputError: No such family or scale, a shape that is missing, superfluous or not
            positive, or a scale or bias for "init".
    """

    family: str
    shape: float | None = None
    scale: str | float = "he"
    bias: float = 0.0

    def __post_init__(self) -> None:
        choose("family of weights", self.family, FAMILIES)
        _check_shape(self.family, self.shape)
        if self.family == "init" and (self.scale != "he" or self.bias != 0):
            raise InputError("prior 'init' has torch.nn's own scales: write TorchInit() alone")
        if isinstance(self.scale, str):
            choose("scale of weights", self.scale, SCALES)
        else:
            check_positive(scale=self.scale)
        if self.bias != 0:
            check_positive(bias=self.bias)

    @property
    def tail(self) -> float:
        """theta_w, with P(|w| > x) ~ exp(-x^(1 / theta_w)) on a log scale.

        0 for bounded weights (among them torch.nn's own of layers), inf for regularly varying
        ones, whose tails are powers.
        """
        if self.family == "generalised_normal":
            assert self.shape is not None
            return 1 / self.shape
        known = {"gaussian": 0.5, "laplace": 1.0, "uniform": 0.0, "init": 0.0}
        return known.get(self.family, math.inf)

    @property
    def index(self) -> float | None:
        """The nu of P(|w| > x) ~ x^-nu, up to slowly varying factors; None for other tails."""
        return 1.0 if self.family == "cauchy" else self.shape if self.family == "student" else None

    def std(self, fan_in: int, fan_out: int) -> float:
        """Return the standard deviation of a weight, or the scale parameter where that is infinite.

        Args:
            fan_in: How many entries a unit takes in.
            fan_out: How many units an entry goes to.

        Raises:
            InputError: The prior is "init".
        """
        self._refuse_init()
        return SCALES[self.scale](fan_in, fan_out) if isinstance(self.scale, str) else self.scale

    def draw(
        self,
        shape: Sequence[int],
        fan_in: int,
        fan_out: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Draw weights.

        They are drawn in float64 on the generator's device, so that a seed gives the same
        weights in every dtype, up to rounding.

        Args:
            shape: Of the result.
            fan_in: As in `std`.
            fan_out: As in `std`.
            generator: Of the draws.
            dtype: Of the result.

        Raises:
            InputError: The prior is "init".
        """
        std = self.std(fan_in, fan_out)
        return self._standard(tuple(shape), generator).mul_(std).to(dtype)

    def draw_bias(
        self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Draw biases; zeros where `bias` is 0.

        Args:
            shape: Of the result.
            generator: Of the draws.
            dtype: Of the result.

        Raises:
            InputError: The prior is "init".
        """
        self._refuse_init()
        if self.bias == 0:
            return torch.zeros(tuple(shape), dtype=dtype, device=generator.device)
        return self._standard(tuple(shape), generator).mul_(self.bias).to(dtype)

    def _standard(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw from the family at standard deviation 1, or scale parameter 1 where it has none."""
        empty = torch.empty(shape, dtype=torch.float64, device=generator.device)
        return DRAWS[self.family](empty, self.shape or math.nan, generator)

    def _refuse_init(self) -> None:
        """Refuse what only a module knows."""
        if self.family == "init":
            raise InputError(
                "prior 'init' is each module's own reset_parameters and has no single scale: use "
                "fresh_copy(module, 'init', generator), or a family such as 'uniform'"
            )

    def __str__(self) -> str:
        return self.family if self.shape is None else f"{self.family}({self.shape:g})"


def _check_shape(family: str, shape: float | None) -> None:
    """Refuse a shape where there is none to give, and none where there is."""
    if family not in SHAPED:
        if shape is not None:
            raise InputError(f"{family} takes no number, but {shape!r} was given: write {family!r}")
    elif shape is None:
        raise InputError(f"{family} needs its {SHAPED[family]}: write '{family}(3)'")
    else:
        check_positive(**{SHAPED[family].replace(" ", "_"): shape})


@dataclass(frozen=True)
class Gaussian(WeightPrior):
    """N(0, std^2) weights: theta_w = 1/2. Arguments as of `WeightPrior`: scale, bias."""

    family: str = field(default="gaussian", init=False, repr=False)
    shape: None = field(default=None, init=False, repr=False)


@dataclass(frozen=True)
class Laplace(WeightPrior):
    """Weights with density ~ exp(-sqrt(2) |w| / std): theta_w = 1."""

    family: str = field(default="laplace", init=False, repr=False)
    shape: None = field(default=None, init=False, repr=False)


@dataclass(frozen=True)
class GeneralisedNormal(WeightPrior):
    """Weights with density ~ exp(-|w / a|^shape): theta_w = 1 / shape."""

    family: str = field(default="generalised_normal", init=False, repr=False)


@dataclass(frozen=True)
class StudentT(WeightPrior):
    """Student-t weights with `shape` degrees of freedom: power tails of that index."""

    family: str = field(default="student", init=False, repr=False)


@dataclass(frozen=True)
class Cauchy(WeightPrior):
    """Cauchy weights: power tails of index 1; `scale` is their scale parameter."""

    family: str = field(default="cauchy", init=False, repr=False)
    shape: None = field(default=None, init=False, repr=False)


@dataclass(frozen=True)
class Uniform(WeightPrior):
    """Weights uniform on +-sqrt(3) std: bounded, theta_w = 0."""

    family: str = field(default="uniform", init=False, repr=False)
    shape: None = field(default=None, init=False, repr=False)


@dataclass(frozen=True)
class TorchInit(WeightPrior):
    """torch.nn's own initialisation of each module, as reset_parameters draws it."""

    family: str = field(default="init", init=False, repr=False)
    shape: None = field(default=None, init=False, repr=False)
    scale: str | float = field(default="he", init=False, repr=False)
    bias: float = field(default=0.0, init=False, repr=False)


CONSTRUCTORS: dict[str, Callable[..., WeightPrior]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "generalised_normal": GeneralisedNormal,
    "student": StudentT,
    "cauchy": Cauchy,
    "uniform": Uniform,
    "init": TorchInit,
}


def weight_prior(given: str | WeightPrior) -> WeightPrior:
    """Return a prior on weights by name.

    Args:
        given: A name from `FAMILIES`, with its number where it has one: "student(3)",
            "generalised_normal(0.5)". A `WeightPrior` is handed back.

    Raises:
        InputError: No such family; names the nearest.

    Example:
        >>> weight_prior("student(3)").index
        3.0
    """
    if isinstance(given, WeightPrior):
        return given
    match = CALL.fullmatch(given.strip().lower()) if isinstance(given, str) else None
    if match is None:
        raise InputError(
            f"weight prior {given!r}: write a name, as in 'gaussian' or 'student(3)', or a "
            "constructor, as in Gaussian(scale='xavier', bias=0.1)"
        )
    family, number = match.groups()
    choose("family of weights", family, FAMILIES)
    shape = float(number) if number else None
    _check_shape(family, shape)
    return CONSTRUCTORS[family]() if shape is None else CONSTRUCTORS[family](shape)
