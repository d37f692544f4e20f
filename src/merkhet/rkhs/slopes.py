"""Lipschitz constants of what acts entry by entry, and of softmax.

Each is the supremum of the absolute derivative, rounded up in its last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from merkhet.core.graph import Node
from merkhet.rkhs.rules_constants import Constants

# Derivative at sqrt(2) of x Phi(x), Phi the normal distribution: Phi(sqrt 2) + sqrt(2) phi(sqrt 2).
GELU = 1.128904146
GELU_TANH = 1.128993069
# Of x / (1 + exp(-x)), at the zero of its second derivative near 2.3994.
SILU = 1.099839321
# Of x tanh(log(1 + exp(x))), at the zero of its second derivative near 1.4905.
MISH = 1.088498162
# scale * alpha, the slope at 0 from below.
SELU = 1.758099341
ERF = 1.128379168  # 2 / sqrt(pi)

SLOPES: dict[str, float] = {
    **dict.fromkeys(
        ("relu", "relu6", "hardtanh", "tanh", "abs", "sin", "cos", "atan", "asinh", "log_sigmoid"),
        1.0,
    ),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "softshrink"), 1.0),
    "sigmoid": 0.25,
    "hardsigmoid": math.nextafter(1 / 6, 1),
    "hardswish": 1.5,
    "silu": SILU,
    "mish": MISH,
    "selu": SELU,
    **dict.fromkeys(("erf", "erfc"), ERF),
}
SOFTPLUS_THRESHOLD = 20.0  # torch's own: the step there is 2e-9 / beta, no more than rounding

INFINITE: dict[str, str] = {
    **dict.fromkeys(
        ("exp", "expm1", "pow", "square", "sinh", "cosh"), "its slope grows without bound"
    ),
    **dict.fromkeys(
        ("sqrt", "rsqrt", "log", "log2", "log1p", "reciprocal", "asin", "acos"),
        "its slope is infinite at the end of its domain",
    ),
    **dict.fromkeys(
        ("sign", "floor", "round", "ceil", "trunc", "hardshrink", "argmax", "one_hot", "bucketize"),
        "it jumps",
    ),
    "glu": "a product of two results has no finite bound",
}


def slope(node: Node, constants: Constants) -> float | str:
    """Return the Lipschitz constant of an operation that acts entry by entry, or why not.

    Softplus of slope "1" leaves out the step of 2e-9 / beta that torch has at its threshold.

    Args:
        node: The operation.
        constants: Values of its parameters.
    """
    if node.op in BY_ARGUMENTS:
        return BY_ARGUMENTS[node.op](node, constants)
    return SLOPES[node.op]


def _leaky(node: Node, _constants: Constants) -> float:
    """Of max(a x, x)."""
    return max(1.0, abs(float(node.arguments["negative_slope"])))


def _gelu(node: Node, _constants: Constants) -> float:
    """Both forms."""
    return GELU if node.arguments.get("approximate", "none") == "none" else GELU_TANH


def _elu(node: Node, _constants: Constants) -> float | str:
    """Of scale * (x, or alpha (exp(input_scale x) - 1) below 0)."""
    alpha, scale, inner = (
        float(node.arguments.get(name, 1)) for name in ("alpha", "scale", "input_scale")
    )
    if inner < 0:
        return "its slope grows without bound: give input_scale of 0 or more"
    return abs(scale) * max(1.0, abs(alpha * inner))


def _celu(node: Node, _constants: Constants) -> float | str:
    """Of x, or alpha (exp(x / alpha) - 1) below 0."""
    alpha = float(node.arguments["alpha"])
    return 1.0 if alpha > 0 else "its slope grows without bound: give alpha above 0"


def _prelu(node: Node, constants: Constants) -> float:
    """Of max(0, x) + a min(0, x), a trained."""
    weight = constants.argument(node, "weight")
    assert weight is not None
    return max(1.0, float(weight.abs().max()))


def _rrelu(node: Node, _constants: Constants) -> float | str:
    """As evaluated: the mean of its random slopes."""
    if node.arguments.get("training"):
        return "it draws random slopes"
    mean = (float(node.arguments["lower"]) + float(node.arguments["upper"])) / 2
    return max(1.0, abs(mean) * (1 + 1e-15))


def _threshold(node: Node, _constants: Constants) -> float | str:
    """Of x above the threshold, else a value: continuous where they are the same."""
    same = float(node.arguments["threshold"]) == float(node.arguments["value"])
    return 1.0 if same else "it jumps at its threshold: give value the threshold's"


def _softplus(node: Node, _constants: Constants) -> float | str:
    """Of log(1 + exp(beta x)) / beta, x above the threshold."""
    beta = float(node.arguments.get("beta", 1))
    if float(node.arguments.get("threshold", 20)) < SOFTPLUS_THRESHOLD:
        return "it jumps at its threshold: leave threshold at 20 or more"
    return 1.0 if beta > 0 else "its slope grows without bound: give beta above 0"


def _softmax(node: Node, _constants: Constants) -> float | str:
    """The Jacobian diag(p) - p p^T has norm 1/2 at most, at two equal chances."""
    return 0.5 if _within_example(node) else "it mixes the examples of a batch"


def _log_softmax(node: Node, _constants: Constants) -> float | str:
    """The Jacobian I - 1 p^T projects: its norm is that of 1 p^T, sqrt(n) |p|, for n > 1."""
    if not _within_example(node):
        return "it mixes the examples of a batch"
    return root(node.shape[int(node.arguments["dim"])])


def root(count: int) -> float:
    """Return sqrt(count), rounded up."""
    found = math.isqrt(count)
    return float(found) if found**2 == count else math.nextafter(math.sqrt(count), math.inf)


def _within_example(node: Node) -> bool:
    """Tell whether the dimension of a softmax is one of an example."""
    dim, rank = node.arguments.get("dim"), len(node.shape)
    return dim is not None and int(dim) % rank != 0


BY_ARGUMENTS: dict[str, Callable[[Node, Constants], float | str]] = {
    "leaky_relu": _leaky,
    "gelu": _gelu,
    "elu": _elu,
    "celu": _celu,
    **dict.fromkeys(("prelu", "_prelu_kernel"), _prelu),
    "rrelu": _rrelu,
    "threshold": _threshold,
    "softplus": _softplus,
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
}
