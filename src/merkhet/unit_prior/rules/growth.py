"""How functions of one argument grow."""

from __future__ import annotations

from dataclasses import dataclass

Side = tuple[float, int] | None  # how it grows, |u|^power, and to which sign; None: bounded


@dataclass(frozen=True)
class Growth:
    """How a function grows towards + and - infinity.

    Attributes:
        right: Where its argument is large and positive.
        left: Where it is large and negative.
        odd: Whether phi(-u) = -phi(u).
        nonneg: Whether it has no negative value.
        open: Whether it is above a positive constant for u >= 0.
        uneven: Whether phi(u) + phi(-u) grows as phi does.
    """

    right: Side = None
    left: Side = None
    odd: bool = False
    nonneg: bool = False
    open: bool = False
    uneven: bool = True

    @property
    def power(self) -> float:
        """The larger of the two powers; 0 for a bounded function."""
        return max((side[0] for side in (self.right, self.left) if side), default=0.0)


UP, DOWN = (1.0, 1), (1.0, -1)
RIGHT = Growth(UP)
GROWTHS: dict[str, Growth] = {
    **dict.fromkeys(
        ("elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "threshold"), RIGHT
    ),
    "relu": Growth(UP, nonneg=True),
    "softplus": Growth(UP, nonneg=True, open=True),
    "log_sigmoid": Growth(None, DOWN),
    "abs": Growth(UP, UP, nonneg=True),
    "neg": Growth(DOWN, UP, odd=True, uneven=False),
    **dict.fromkeys(("hardshrink", "softshrink"), Growth(UP, DOWN, odd=True, uneven=False)),
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), Growth(UP, DOWN, uneven=False)),
    **dict.fromkeys(("tanh", "erf", "softsign", "atan", "sign", "sgn"), Growth(odd=True)),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), Growth(nonneg=True, open=True)),
    "relu6": Growth(nonneg=True),
    **dict.fromkeys(("sin", "cos", "erfc"), Growth()),
    "heaviside": Growth(nonneg=True),
}
