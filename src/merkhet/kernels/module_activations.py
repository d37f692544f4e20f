"""Rules that read a torch network's activations: closed forms, and the others by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from merkhet.core.graph import Node
from merkhet.kernels.activations import GELU, Activation, Erf, LeakyReLU, ReLU, Sine
from merkhet.kernels.chains import Chain
from merkhet.kernels.module_shapes import ChainRule
from merkhet.kernels.numeric import Numeric

Judge = Callable[[Chain, Activation], str]
# Operations without a closed form, and where they bend away from 0, by their arguments.
NUMERIC: dict[str, Callable[[Any], tuple[float, ...]]] = {
    **dict.fromkeys(
        ("tanh", "sigmoid", "silu", "mish", "softplus", "elu", "selu", "celu", "gelu", "cos"),
        lambda given: (),
    ),
    "log_sigmoid": lambda given: (),
    "hardtanh": lambda given: (given["min_val"], given["max_val"]),
    "clamp": lambda given: tuple(given[end] for end in ("min", "max") if given[end] is not None),
    "relu6": lambda given: (6.0,),
    "hardswish": lambda given: (-3.0, 3.0),
    "hardsigmoid": lambda given: (-3.0, 3.0),
}


def activation_rules(judge: Judge) -> dict[str, ChainRule]:
    """Return a rule for each activation.

    Args:
        judge: Tells of a chain and an activation after it why it is too inexact, or nothing.
    """

    def read(node: Node, chain: Chain) -> Chain | str:
        if not chain.gaussian:
            return (
                "its units are not Gaussian: between the activation before, or the input, and it "
                "stands no layer with weights that all of it passes; a residual block whose "
                "activations come before its layers has a kernel, others monte_carlo_kernel samples"
            )
        layer = _activation(node)
        why = judge(chain, layer)
        return why or chain.then(node.name, layer, node.shape)

    return dict.fromkeys(("relu", "leaky_relu", "erf", "sin", "clamp_min", *NUMERIC), read)


def _activation(node: Node) -> Activation:
    """Return an operation's activation, in closed form where there is one."""
    given = {name: value for name, value in node.arguments.items() if name != "input"}
    is_relu = node.op == "relu" or (given.get("min") == 0 and given.get("max") is None)
    if is_relu:
        return ReLU()
    if node.op == "leaky_relu":
        return LeakyReLU(given["negative_slope"])
    if node.op == "gelu" and given["approximate"] == "none":
        return GELU()
    if node.op in ("erf", "sin"):
        return Erf() if node.op == "erf" else Sine()
    return _numeric(node.op, given)


def _numeric(op: str, given: dict[str, Any]) -> Numeric:
    """Return an operation of torch as an activation by quadrature."""
    call = getattr(torch.ops.aten, op)

    def function(z: Tensor) -> Tensor:
        found: Tensor = call(z, **given)
        return found

    told = ", ".join(f"{name}={value}" for name, value in given.items())
    kinks = NUMERIC.get(op, NUMERIC["clamp"])(given if op in NUMERIC else {"max": None, **given})
    return Numeric(function, name=f"{op}({told})", kinks=tuple(kink for kink in kinks if kink))
