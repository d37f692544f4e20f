"""Spectral norms of a network's layers: as a penalty in training, and as figures.

Source: Bietti, Mialon, Chen and Mairal, "A kernel perspective for regularizing deep neural
networks", ICML 2019, section 3.2: the norm of f is at most a function of these, which grows with
each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from merkhet.core.errors import InputError, choose
from merkhet.rkhs.followed import Follower
from merkhet.rkhs.looks import bare, full_precision
from merkhet.rkhs.operations import operations
from merkhet.rkhs.operator_norm import operator_norm
from merkhet.rkhs.passes import Pass
from merkhet.rkhs.penalty import Logs, Penalty, is_from_zero
from merkhet.rkhs.warm import Estimate

METHODS = ("power", "certified")


class SpectralPenalty(Penalty):
    """The sum of squared spectral norms of a network's layers, or of their excess over a target.

    The value is sum over layers of max(0, sigma - target)^2, sigma an estimate of the layer's
    spectral norm: from below, by power iteration that goes on with one step at each call from the
    vectors of the call before. Its gradient is that of <u, A v> at fixed singular vectors u, v.

    The layers are nn.Linear, nn.Conv1d to nn.Conv3d and nn.ConvTranspose1d to nn.ConvTranspose3d.
    One that is called with inputs of several sizes counts with each, layers with one weight that
    do the same with it count once, and frozen weights count as constants. The sizes are seen once
    for each shape of input, as the network is evaluated: a network whose layers see other sizes
    from one call to the next, with inputs of one shape, is measured at those of the first.

    The vectors are the penalty's, one set for each network. They begin anew when a layer is
    replaced or their shape, dtype or device changes, and in copies; weights that are loaded go on
    from vectors that fitted others, which a few calls mend. A run that is to be resumed bit for
    bit keeps `state_dict`; without it the vectors begin anew, a warm restart: the values agree up
    to the error of the estimates. In bf16 and under autocast all is computed in float32.

    Args:
        target: The norm from which on a layer counts; 0 counts all.
        norm: "operator" is the layer's own, at the size of its input, with its stride and padding;
            "reshaped" that of its weight as the matrix out x (in k k), as in the paper's code,
            which is not the operator's (often less than half of it).
        vectors: How many each layer's iteration has. One is cheapest; two follow a norm that
            two directions compete for.
        seed: Of the first vectors.

    Raises:
        InputError: An argument is not of these.

    Reference:
        Bietti et al., ICML 2019, section 3.2; Yoshida & Miyato, "Spectral norm regularization for
        improving the generalizability of deep learning", 2017 (arXiv 1705.10941), section 3.2.

    Example:
        >>> import torch
        >>> from merkhet.rkhs.spectral import SpectralPenalty
        >>> model = torch.nn.Linear(2, 2)
        >>> _ = model.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> value, logs = SpectralPenalty()(model, torch.zeros(1, 2))
        >>> round(value.item(), 3)
        9.0
    """

    def __init__(
        self, target: float = 0.0, norm: str = "operator", vectors: int = 1, seed: int = 0
    ) -> None:
        if not is_from_zero(target):
            raise InputError(f"target {target!r}: give a finite norm from 0 on, such as 0.8")
        self.target, self.norm, self.vectors, self.seed = target, norm, vectors, seed
        self._follower = Follower(norm, vectors, seed)

    def measure(self, seen: Pass) -> tuple[Tensor, Logs]:
        """Return the penalty, shape (), and the layers' largest norm (an estimate from below).

        Args:
            seen: The network and the batch, of which only the shape matters.
        """
        followed = self._follower(seen.model)
        found = followed.operations(seen.model, seen.x)
        with full_precision(seen.x.device):
            weights = [operation.weight() for operation in found]
            steps = followed.vectors.estimates(found, weights)
            norms: Tensor = _Norms.apply(steps, *weights)  # type: ignore[no-untyped-call]
            value = (norms - self.target).relu().square().sum()
        return value, {"spectral": value.detach(), "largest_spectral_norm": norms.detach().max()}

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the vectors of a network, to go on from in another process."""
        return self._follower(bare(model)).vectors.state_dict()

    def load_state_dict(self, model: nn.Module, x: Tensor, state: Mapping[str, Tensor]) -> None:
        """Go on from vectors that `state_dict` returned.

        Args:
            model: The network, its layers those of the network that the state is of.
            x: (n, *in) inputs of the shape that it is trained on.
            state: What `state_dict` returned.

        Raises:
            InputError: The state does not hold tensors.
        """
        network = bare(model)
        followed = self._follower(network)
        followed.operations(network, x)
        followed.vectors.load_state_dict(state)

    def __repr__(self) -> str:
        return f"SpectralPenalty(target={self.target:g}, norm={self.norm!r})"


def spectral_norms(
    model: nn.Module, example: Tensor, norm: str = "operator", method: str = "power"
) -> dict[str, float]:
    """Return the spectral norm of each layer with weights, by path, in float64.

    Of a layer that is called with inputs of several sizes it is the largest. The network is looked
    at as evaluated, and left as found.

    Args:
        model: The network.
        example: (n, *in), one input or more; its shape matters.
        norm: "operator", of the layer at the size of its input; or "reshaped", of its weight as
            the matrix out x (in k k), which is another number.
        method: For the operators: "power" estimates from below, "certified" is never under the
            truth. The reshaped norm is exact up to rounding.

    Raises:
        InputError: An argument is not of these, or a layer cannot be read.
    """
    choose("method", method, METHODS)
    network = bare(model)
    norms: dict[str, float] = {}
    for operation in operations(network, example, norm):
        if norm == "operator":
            value = operator_norm(operation.layer, operation.shape, method)
        else:
            value = float(torch.linalg.matrix_norm(operation.weight().detach().double(), ord=2))
        norms[operation.path] = max(value, norms.get(operation.path, 0.0))
    return norms


class _Norms(torch.autograd.Function):
    """Estimates of norms, (layers,), as a function of the weights: sums <direction, weight>.

    Their values are known, as |A v|, and backward multiplies only.
    """

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Estimate], *weights: Tensor) -> Tensor:
        ctx.directions = [step.direction for step in steps]
        return torch.stack([step.norm.to(steps[0].norm) for step in steps])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> Any:
        (by_norm,) = given
        gradients = [
            None if direction is None else part.to(direction) * direction
            for part, direction in zip(by_norm.unbind(), ctx.directions, strict=True)
        ]
        return None, *gradients
