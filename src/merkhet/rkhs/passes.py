"""One look at a batch, shared by the loss and all penalties."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled
from merkhet.core.outputs import main_tensor
from merkhet.rkhs.forward_mode import (
    NoForwardModeError,
    slopes_by_gradients,
    value_and_slopes,
)
from merkhet.rkhs.looks import (
    answer,
    as_logits,
    bare,
    check_inputs,
    depends_on_mode,
    differentiable_twice,
    full_precision,
    look,
    refuse_compiled,
    refuse_coupled,
    widened,
)

Criterion = Callable[[Tensor, Tensor], Tensor]


class Pass:
    """A network and a batch, whose forward pass is computed once, when it is asked for.

    Penalties see the network as evaluated: batch norm by its running statistics, no dropout, so
    that examples do not couple and no statistics move. The loss of a training step sees it in
    the mode it is in. Where no part depends on the mode the two share one pass.

    Attributes:
        model: The network itself, without the wrappers of torch.compile and of data parallelism.
        x: (n, *in) inputs, detached; requires a gradient where `through_inputs`.
        y: Targets, as the criterion takes them, or None.
        criterion: Gives the batch's mean loss of an output and targets.

    Args:
        model: The network, wrapped or not.
        x: (n, *in) inputs.
        y: Targets, or None where no penalty needs the loss.
        criterion: Of (output, targets).
        through_inputs: Whether gradients towards the inputs will be taken.
        trains: Whether this is a training step's own pass, which may move statistics; otherwise
            the network is left as found.

    Raises:
        InputError: The network is no module, the inputs are no tensor; or gradients towards
            inputs are wanted and these are empty, not floats or not finite, or the network has
            compiled parts or batch norm without running statistics.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        criterion: Criterion = F.cross_entropy,
        through_inputs: bool = False,
        trains: bool = False,
    ) -> None:
        _check_parts(model, x)
        self.model = bare(model)
        self.y = y
        self.criterion = criterion
        self._outer = model
        self._through_inputs = through_inputs
        self._trains = trains
        if through_inputs:
            refuse_compiled(model)
            refuse_coupled(self.model)
            check_inputs(x)
            self._outer = uncompiled(model)
        self.x = _leaf(x, through_inputs)

    @cached_property
    def logits(self) -> Tensor:
        """Logits (n, K) of the batch by the network as evaluated, with their graph.

        Raises:
            InputError: The network returns something else, or values that are not finite.
        """
        return as_logits(self.evaluated, len(self.x))

    @cached_property
    def evaluated(self) -> Tensor:
        """What the network as evaluated returns for the batch, as it is."""
        return self.output if self.shared else self.answer(self.x)

    @cached_property
    def output(self) -> Tensor:
        """What the network returns for the batch and the loss is taken of, as it is."""
        return self.run(self.x)

    @cached_property
    def loss(self) -> Tensor:
        """The criterion of the output and the targets, shape ().

        Raises:
            InputError: There are no targets, or they do not fit.
        """
        return self.loss_of(self.output)

    def look(self, x: Tensor) -> Tensor:
        """Return logits (m, K) at other inputs (m, *in), by the network as evaluated.

        Raises:
            InputError: The network returns something else, or values that are not finite.
        """
        return look(self.model, x)

    def answer(self, x: Tensor) -> Tensor:
        """Return what the network as evaluated returns for inputs (m, *in), as it is."""
        return answer(self.model, x)

    def along(self, directions: Tensor) -> Tensor:
        """Return <grad f_k(x_i), d_i>, (n, K); see `weighted_squares` to differentiate them.

        They come from the shared pass itself if nobody has asked for it before, in forward mode,
        with a graph. Where an operation has none, they come from two gradients, without a graph;
        a warning says so once.

        Args:
            directions: d, (n, *in).
        """
        name = "output" if self.shared else "evaluated"
        make = self.run if self.shared else self.answer
        try:
            value, slopes = value_and_slopes(make, self.x, directions)
        except NoForwardModeError as error:
            _warn(str(error).partition(".")[0])
            slopes = None
        else:
            self.__dict__.setdefault(name, value)
        if slopes is None:
            return slopes_by_gradients(self.logits, self.x, directions)
        return as_logits(slopes, len(self.x))

    def run(self, x: Tensor) -> Tensor:
        """Return the network's output at inputs (n, *in) as the loss sees it.

        In a training step that is in the network's own mode, and through the wrapper that
        averages gradients over processes; otherwise as evaluated.
        """
        if not self._trains:
            return self.answer(x)
        if not self._through_inputs:
            return main_tensor(self._outer(x))
        with differentiable_twice():
            return main_tensor(self._outer(x.clone()))

    def loss_of(self, output: Tensor) -> Tensor:
        """Return the criterion, shape (), of an output for all examples, in float32 or wider.

        Raises:
            InputError: There are no targets, labels are out of range, or it is not finite.
        """
        targets = self._targets(output)
        with full_precision(output.device):
            loss = self.criterion(widened(output), targets)
        if not loss.detach().isfinite():
            raise InputError(
                f"the loss of the batch is {loss.item()}: look at the inputs and weights, or give "
                "a lower learning rate"
            )
        return loss

    @cached_property
    def shared(self) -> bool:
        """Whether the loss's pass is the one that penalties want: no part depends on its mode."""
        return not (self._trains and depends_on_mode(self.model))

    def _targets(self, output: Tensor) -> Tensor:
        """Return the targets, or refuse them."""
        if self.y is None:
            raise InputError("this needs the labels: call it with (model, x, y)")
        if not isinstance(self.y, Tensor):
            raise InputError(f"targets of type {type(self.y).__name__}: give a tensor")
        if len(self.y) != len(output):
            raise InputError(f"{len(self.y)} targets for {len(output)} examples: give one each")
        if self.criterion is F.cross_entropy:
            _check_classes(self.y, output)
        return self.y


@functools.cache
def _warn(reason: str) -> None:
    """Say once that the slower way is taken."""
    warnings.warn(f"derivatives along tangents take two gradients each: {reason}", stacklevel=4)


def _check_parts(model: nn.Module, x: Tensor) -> None:
    """Refuse what is no network, or one that cannot be differentiated, and inputs of other types.

    Raises:
        InputError: They are such.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the network is a {type(model).__name__}: give an nn.Module")
    if not isinstance(x, Tensor):
        raise InputError(f"the inputs are {type(x).__name__}: give a tensor (n, ...)")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError(
            "the network's parameters were made under torch.inference_mode and cannot be "
            "differentiated: build the network, or load it, outside of it"
        )


def _leaf(x: Tensor, through_inputs: bool) -> Tensor:
    """Return inputs apart from what they were computed by.

    Those with a gradient lie each at a place of its own, as those that are expanded do not.
    """
    wanted = x.is_inference() or (through_inputs and not x.is_contiguous())
    leaf = x.detach().clone() if wanted else x.detach()
    return leaf.requires_grad_() if through_inputs else leaf


def _check_classes(y: Tensor, output: Tensor) -> None:
    """Refuse labels that cross-entropy does not take, in words instead of an index error."""
    if output.dim() < 2 or output.shape[1] < 2:
        raise InputError(
            "the cross-entropy of a single logit is always 0: give a network with one logit a "
            "class, or a criterion such as binary_cross_entropy_with_logits"
        )
    if y.is_floating_point():
        return
    if y.dtype != torch.int64:
        raise InputError(f"labels of {y.dtype}: give int64, as y.long() does")
    classes = output.shape[1]
    wrong = y[(y < 0) | (y >= classes)]
    if len(wrong):
        raise InputError(
            f"label {int(wrong[0])} where there are {classes} classes: give 0 to "
            f"{classes - 1}, or another criterion"
        )
