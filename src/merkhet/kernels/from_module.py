"""The infinitely wide form of a torch network, read from its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.calls import as_call, named_tensors
from merkhet.core.errors import InputError, choose
from merkhet.core.graph import Network, Unknown, read, trace
from merkhet.kernels.activations import Activation
from merkhet.kernels.chains import Chain
from merkhet.kernels.initialisers import Deviations, Stds
from merkhet.kernels.inputs import as_inputs
from merkhet.kernels.layers import Layer
from merkhet.kernels.module_rules import SAMPLED, Rules, holders
from merkhet.kernels.numeric import Numeric
from merkhet.kernels.plain import positions
from merkhet.kernels.state import start_same, variances

TOLERANCE = 1e-3
JUDGED = 4  # examples that an activation without a closed form is judged on


def from_module(
    module: nn.Module,
    example: Any,
    weight_std: Stds | None = None,
    bias_std: Stds | None = None,
    *,
    initialiser: str | None = None,
    batch_norm: str | None = None,
    tolerance: float = TOLERANCE,
) -> Layer:
    """Return the layers of merkhet.kernels that a torch network becomes as its widths grow.

    Read are Linear, Conv2d with any of torch's paddings, average pooling, flattening, activations,
    residual sums of independent parts, constant factors, dropout (as evaluated), in any module's
    forward that torch.export can follow. The kernel is that of the "ntk" parameterisation: weights
    and biases are standard normal times weight_std / sqrt(fan_in) and bias_std, and all of them are
    trained. At initialisation that is the same network; trained as torch holds it, each layer's
    gradients carry other factors, which depend on the widths, so `empirical_ntk` of the module is
    another tangent kernel. With bias_std = 0 biases are zero and stay so.

    What is not read is refused by its place: max pooling, attention, layer norm, shared weights,
    groups, and an activation on units that are not Gaussian, as in a residual block whose sum with
    an activated input is activated.

    Args:
        module: The network; its weights are not looked at.
        example: What it is called with: a tensor (n, d) or (n, channels, height, width), or one in
            a tuple or a dict of arguments. The sizes of pictures that are read are this one's.
        weight_std: Standard deviation of a weight times sqrt(fan_in): a number or 0-d tensor, a
            dict by module path, or a function of the path.
        bias_std: Standard deviation of the biases, likewise; 0 by default.
        initialiser: A scheme for what is not given: "torch" (what nn.Linear and nn.Conv2d start
            with: 1 / sqrt(3), and biases of 1 / sqrt(3 fan_in)), "he", "kaiming_normal",
            "kaiming_uniform" and "ntk" (sqrt(2)), "lecun" (1), "xavier_normal" and
            "xavier_uniform" (by the widths that the module has); biases of 0 but for "torch".
        batch_norm: "identity" takes batch norm as it evaluates at initialisation, running mean 0
            and variance 1, and leaves out its trained gain and shift; by default it is refused.
        tolerance: Relative error allowed to an activation without a closed form, which is
            integrated (`Numeric`), at the variances of the first examples and any cosine.

    Returns:
        The layers.

    Raises:
        InputError: Something is not read; says where, why, and what to do instead.

    Reference:
        Jacot, Gabriel & Hongler, NeurIPS 2018; Lee et al., NeurIPS 2019, for the parameterisation.
    """
    if batch_norm is not None:
        choose("reading of batch norm", batch_norm, ("identity",))
    deviations = Deviations(weight_std, bias_std, initialiser)
    x = _input(example)
    network = trace(module, example)
    _check(network)
    deviations.check(holders(network))
    rules = Rules(network, deviations, batch_norm is not None, _Judge(x, tolerance)).table()
    start = Chain((), tuple(x.shape), picture=x.dim() == 4)
    found = read(network, rules, start).output
    if isinstance(found, Unknown):
        why = found.reason if found.op in rules else f"no rule is known for it; {SAMPLED}"
        raise InputError(_told(network, found, why))
    if not isinstance(found, Chain):
        raise InputError("the network's output does not depend on its input")
    return found.layer()


@dataclass(frozen=True)
class _Judge:
    """Tells why an activation is too inexact after a chain, or nothing.

    Args:
        x: Examples.
        tolerance: Relative error that is allowed.
    """

    x: Tensor
    tolerance: float

    @torch.no_grad()
    def __call__(self, chain: Chain, activation: Activation) -> str:
        """Return why, or an empty string."""
        if not isinstance(activation, Numeric):
            return ""
        before = chain.layer()
        x = self.x[:JUDGED].double()
        state = before(start_same(x, x, positions=positions(before), tangent=False))
        a = variances(state.x, state.axes)
        off, of = activation.error(a, a, a), (activation.dual(a, a, a), activation.slope(a, a, a))
        worst = max(
            float((one / whole.clamp(min=torch.finfo(x.dtype).tiny)).max())
            for one, whole in zip(off, of, strict=True)
        )
        if worst <= self.tolerance:
            return ""
        return (
            f"{activation!r} may be off by {worst:.1g} of its value where inputs are nearly "
            f"alike: give tolerance={2 * worst:.1g} to accept it"
        )


def _input(example: Any) -> Tensor:
    """Return the one tensor of example inputs.

    Raises:
        InputError: There are several, or it has another shape.
    """
    found = list(named_tensors(as_call(example)))
    if len(found) != 1:
        raise InputError(f"the example holds {len(found)} tensors: kernels are of one input")
    return as_inputs("example", found[0][1])


def _check(network: Network) -> None:
    """Refuse what was not seen whole, and several outputs.

    Raises:
        InputError: Says which.
    """
    if network.source != "export":
        raise InputError(
            f"torch.export cannot follow this network, so its kernel is not known: {network.reason}"
        )
    if len(network.outputs) != 1:
        raise InputError(
            f"the network returns {', '.join(network.outputs)}: "
            "wrap it in a module that returns one of them"
        )


def _told(network: Network, unknown: Unknown, why: str) -> str:
    """Return in words what is not read, where and why."""
    node = network.node(unknown.node)
    place = f"{node.module} {node.path!r}" if node.path else f"the forward of {node.module}"
    return f"from_module does not read {unknown.op} in {place}: {why}"
