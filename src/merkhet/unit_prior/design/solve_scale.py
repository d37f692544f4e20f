"""The scale of weights, or the width, with which a unit has a law as wanted."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.design.scale_target import SHAPED, Target, parse_target
from merkhet.unit_prior.spec import Spec, make_spec

LEAST, MOST = 2.0**-10, 2.0**10  # gains that are tried
WIDEST = 10_000
ACCURACY = 1e-9  # relative, of the gain


@dataclass(frozen=True)
class Scale:
    """Weights with which a unit has a law as wanted.

    Attributes:
        target: What was wanted.
        spec: The widths and scales that have it.
        layer: Of the unit.
        post: Whether the unit is seen after the activation.
        varied: What was solved for: "weight_std" or "width".
        gain: Factor on the "he" scale of every weight matrix.
        attained: The number of the target under `spec`.
    """

    target: Target
    spec: Spec
    layer: int
    post: bool
    varied: str
    gain: float
    attained: Answer

    @property
    def weight_std(self) -> tuple[float, ...]:
        """Standard deviation of a weight of each matrix."""
        return self.spec.weight_std

    def init_code(self) -> str:
        """Return lines of torch that draw the linear layers of a `module` so.

        They stop where it has other layers than the scale is for.
        """
        bias = self.spec.bias_std
        drawn = f".normal_(0.0, {bias:.10g})" if bias else ".zero_()"
        widths, stds = list(self.spec.widths), [f"{std:.10g}" for std in self.weight_std]
        lines = [
            "import torch",
            f"# for inputs of l2 norm {self.spec.input_norm:g}: the first layer's scale is by it",
            f"stds = ({', '.join(stds)},)",
            "layers = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]",
            "widths = [layer.out_features for layer in layers]",
            f"if len(widths) != {len(stds)} or widths[:-1] != {widths}:",
            f"    raise ValueError(f'hidden layers are to be {widths} wide, not {{widths[:-1]}}')",
            "with torch.no_grad():",
            "    for layer, std in zip(layers, stds, strict=True):",
            "        layer.weight.normal_(0.0, std)",
            "        if layer.bias is not None:",
            f"            layer.bias{drawn}",
        ]
        if self.varied == "width":
            lines.insert(0, f"# hidden layers of width {', '.join(map(str, widths))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        unit = f"a unit of layer {self.layer}" + (" after the activation" if self.post else "")
        how = f"gain {self.gain:.6g} on 'he'"
        if self.varied == "width":
            how = f"hidden layers of width {self.spec.widths[0]}"
        return f"{how}: {unit} has {self.target.measure} {self.attained}"


def solve_scale(
    target: str | Target,
    widths: Sequence[int],
    activation: str | Activation = "relu",
    *,
    layer: int | None = None,
    bias_std: float = 0.0,
    input_norm: float = 1.0,
    post: bool = False,
) -> Scale:
    """Return the scale of weights with which a unit meets a target.

    What grows with the weights ("std", "median", "quantile") is met by one gain on the "he"
    scales of all matrices: in closed form where units are homogeneous in the weights, by root
    finding elsewhere. What scale does not move there ("kurtosis", "effective_tail") is met by
    the smallest equal width of all hidden layers with at most the value.

    Args:
        target: A `Target`, or text such as "std=1", "quantile(0.01)=3", "kurtosis=4".
        widths: Of the hidden layers; where the width is solved for, only their number counts.
        activation: By name or itself.
        layer: Of the unit, from 1; by default the output.
        bias_std: Standard deviation of a bias, which is kept.
        input_norm: |x|, l2.
        post: Whether the unit is seen after the activation.

    Raises:
        InputError: The target is out of reach; says what can be reached.
    """
    wanted = parse_target(target)
    start = make_spec(widths, activation, "he", bias_std, input_norm)
    layer = start.check_layer(len(start.widths) + (not post) if layer is None else layer, post=post)
    solve = _by_width if wanted.measure in SHAPED else _by_gain
    spec, gain = solve(wanted, start, layer, post)
    varied = "width" if wanted.measure in SHAPED else "weight_std"
    return Scale(wanted, spec, layer, post, varied, gain, _attained(wanted, spec, layer, post))


def _attained(wanted: Target, spec: Spec, layer: int, post: bool) -> Answer:
    """Return the number of the target under a spec."""
    from merkhet.unit_prior.prior import UnitPrior

    return wanted.of(UnitPrior.from_spec(spec), layer, post=post)


def _by_gain(wanted: Target, start: Spec, layer: int, post: bool) -> tuple[Spec, float]:
    """Return the spec that meets a target by its gain, and the gain."""

    def measure(gain: float) -> float:
        return float(_attained(wanted, scaled(start, gain), layer, post))

    first = measure(1.0)
    if start.exact:
        if first == 0:
            raise _is_zero(wanted, start, layer)
        gain = (wanted.value / first) ** (1 / layer)
    else:
        gain = _root(wanted, measure, first)
    return scaled(start, gain), gain


def scaled(spec: Spec, gain: float) -> Spec:
    """Return a spec with all weights, not biases, times a gain."""
    return replace(spec, weight_std=tuple(gain * std for std in spec.weight_std))


def _is_zero(wanted: Target, start: Spec, layer: int) -> InputError:
    """Return the error of a quantile that is 0 at every scale."""
    p = 0.5 if wanted.p is None else wanted.p
    return InputError(
        f"{wanted}: a unit of layer {layer} with widths {start.widths} is off 0 with less "
        f"probability than {p:g}, so that this quantile is 0 at every scale; give a smaller p"
    )


def _root(wanted: Target, measure: Callable[[float], float], first: float) -> float:
    """Return the gain that meets a target, by bisection of its logarithm and Brent's method.

    Raises:
        InputError: No gain from `LEAST` to `MOST` does.
    """
    from scipy.optimize import brentq

    def excess(log_gain: float) -> float:
        return measure(math.exp(log_gain)) - wanted.value

    grow = first < wanted.value
    step = math.log(2.0) * (1 if grow else -1)
    near, far = 0.0, step
    while (excess(far) < 0) == grow:
        near, far, step = far, far + 2 * step, 2 * step
        if not LEAST <= math.exp(far) <= MOST:
            raise _unreachable(wanted, measure, grow)
    found: float = brentq(excess, near, far, xtol=ACCURACY, rtol=ACCURACY)
    return math.exp(found)


def _unreachable(wanted: Target, measure: Callable[[float], float], grow: bool) -> InputError:
    """Return the error of a value beyond what gains reach."""
    limit = measure(MOST if grow else LEAST)
    side = "at most" if grow else "at least"
    return InputError(
        f"{wanted} is out of reach: {wanted.measure} is {side} about {limit:.4g}, however "
        f"{'large' if grow else 'small'} the weights are; change bias_std or the activation"
    )


def _by_width(wanted: Target, start: Spec, layer: int, post: bool) -> tuple[Spec, float]:
    """Return the spec with the smallest equal width that has at most the value; its gain is 1.

    Raises:
        InputError: No width has, or the narrowest that has the measure has less already.
    """
    if layer == 1 and not post:
        raise InputError(
            f"{wanted}: a unit of layer 1 is normal at every width; give a layer from 2 on"
        )

    def spec(width: int) -> Spec:
        widths, kept = (width,) * len(start.widths), (start.bias_std, start.input_norm)
        return make_spec(widths, start.activation, "he", *kept)

    def told(width: int) -> float:
        return float(_attained(wanted, spec(width), layer, post))

    @functools.cache
    def measure(width: int) -> float:
        try:
            return told(width)
        except InputError:  # where a narrow layer is 0 too often to have it: it is above all values
            return math.inf

    narrowest = smallest_width(measure, sys.float_info.max)
    if narrowest is None:
        told(WIDEST)  # raises what the measure is refused for
        raise InputError(f"{wanted} is out of reach: {wanted.measure} is infinite at every width")
    width = smallest_width(measure, wanted.value)
    if width is None or (width == narrowest and measure(width) < wanted.value):
        raise InputError(
            f"{wanted} is out of reach: from width {narrowest} to {WIDEST:,} {wanted.measure} "
            f"goes from {told(narrowest):.4g} to {told(WIDEST):.4g}"
        )
    return spec(width), 1.0


def smallest_width(measure: Callable[[int], float], value: float) -> int | None:
    """Return the least width, up to `WIDEST`, whose measure is at most a value; it falls."""
    high = 1
    while measure(high) > value:
        if high == WIDEST:
            return None
        high = min(2 * high, WIDEST)
    low = high // 2  # its measure is above the value, or it is 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(middle) <= value else (middle, high)
    return high
