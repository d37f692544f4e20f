"""Reading representations: any callable, a network, or several of its layers in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.outputs import captured, main_tensor

Preprocess = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """What a layer inside a network says about the network's inputs.

    Attributes:
        module: The network, which is run whole.
        path: The layer's path as `named_modules()` has it; "" is the network's own output.
    """

    module: nn.Module
    path: str = ""


Representation = nn.Module | Layer | Callable[[Tensor], Any]


@dataclass(frozen=True)
class Reader:
    """A function from a batch of inputs to its representations, by layer.

    Attributes:
        paths: The layers it reads.
        forward: What runs them.
    """

    paths: tuple[str, ...]
    forward: Callable[[Tensor], dict[str, Tensor]]

    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the representations of inputs (batch, ...), each (batch, ...)."""
        found = self.forward(inputs)
        for path in self.paths:
            _check(found, path, len(inputs))
        return {path: found[path] for path in self.paths}


@contextmanager
def reading(
    representation: Representation,
    layers: Sequence[str] = ("",),
    preprocess: Preprocess | None = None,
) -> Iterator[Reader]:
    """Yield the reader of a representation.

    Of a network the layers are all read in one forward pass, in evaluation mode, on the
    network's own device. A callable that is no module runs as it is, without gradients, and
    its only path is "".

    Args:
        representation: A network, a layer of one, or a callable that returns a tensor (or a
            mapping or Hugging Face output with one).
        layers: Paths inside a network; a `Layer` has its own.
        preprocess: Maps raw inputs, shaped like the batch, to what the representation expects.

    Raises:
        InputError: A path does not exist; or, from the reader, a layer was not run or does not
            give one representation an input.
    """
    prepare = preprocess or (lambda inputs: inputs)
    if isinstance(representation, Layer):
        layers = (representation.path,)
        representation = representation.module
    if not isinstance(representation, nn.Module):
        call = representation
        with torch.no_grad():
            yield Reader(("",), lambda inputs: {"": main_tensor(call(prepare(inputs)))})
        return
    module = representation
    device = device_of(module)
    with captured(module, layers) as kept, evaluating(module):

        def forward(inputs: Tensor) -> dict[str, Tensor]:
            kept.clear()
            module(prepare(inputs.clone()).to(device))  # either may write in place
            return dict(kept)

        yield Reader(tuple(layers), forward)


def device_of(module: nn.Module) -> torch.device | None:
    """Return where a network's parameters or buffers are, None where it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), None)


def say(path: str) -> str:
    """Return what messages call a path."""
    return f"layer {path!r}" if path else "the output"


def refuse_not_finite(values: Tensor, path: str, indices: Sequence[int]) -> None:
    """Refuse representations with NaN or infinity.

    Args:
        values: (batch, ...) representations.
        path: Of the layer, for the message.
        indices: Of the inputs, for the message.

    Raises:
        InputError: Names the layer and the input.
    """
    finite = torch.isfinite(values).reshape(len(values), -1).all(1)
    if not bool(finite.all()):
        index = indices[int((~finite).nonzero()[0])]
        raise InputError(
            f"{say(path)} has NaN or infinite values on input {index}: check the network and "
            "that preprocess suits its inputs"
        )


def _check(found: dict[str, Tensor], path: str, count: int) -> None:
    """Refuse a layer that was not run, or whose output is not one entry an input."""
    if path not in found:
        raise InputError(
            f"{say(path)} was not run by the network's forward pass: choose a layer that is"
        )
    shape = tuple(found[path].shape)
    if not shape or shape[0] != count:
        raise InputError(
            f"{say(path)} has shape {shape} for {count} inputs: choose one whose first axis is "
            "the batch"
        )
