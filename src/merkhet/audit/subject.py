"""From what the user gives to what the checks get: a network, its graph, a sample of inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import Network, trace
from merkhet.core.modes import evaluating
from merkhet.core.outputs import main_tensor
from merkhet.data import Pictures, load_inputs
from merkhet.report import Subject

Inputs = str | Path | Pictures | Tensor | tuple[Tensor, Tensor]
TRACED_BATCH = 2
MOST_BYTES = 2**29  # of activations alive at once in one forward pass
LARGEST_BATCH = 64


def make_subject(
    module: nn.Module,
    data: Inputs,
    *,
    name: str | None = None,
    preprocess: Callable[[Any], Any] | None = None,
    samples: int = 256,
    seed: int = 0,
) -> Subject:
    """Return the subject of an audit, having made sure that the network runs on its inputs.

    Args:
        module: The network.
        data: As in `merkhet.audit.audit`.
        name: What the report calls the network.
        preprocess: Maps inputs to what the network expects.
        samples: Inputs to draw.
        seed: Seed of the draw.

    Raises:
        InputError: No inputs, inputs with NaN, a network that does not run on them or
            returns NaN for them.
    """
    if samples < 2:
        raise InputError(f"an audit needs at least 2 samples, not {samples}")
    where = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    if where.type == "meta":
        raise InputError("the network's weights are on the meta device: load them first")
    inputs, labels, classes, title = _sample(data, samples, seed)
    inputs = inputs.to(where)
    prepare = preprocess or _unchanged
    batch = prepare(inputs[:TRACED_BATCH].clone())
    network = trace(module, batch)
    start = time.perf_counter()
    output = _output(module, batch)
    each = (time.perf_counter() - start) / len(inputs[:TRACED_BATCH])
    _refuse_nan(output, "the network returns NaN or infinity for ordinary inputs")
    return Subject(
        module=module,
        network=network,
        name=name or type(module).__name__,
        inputs=inputs,
        labels=labels,
        classes=classes,
        data=title,
        preprocess=prepare,
        seed=seed,
        batch_size=_batch_size(network, each),
        seconds_each=each,
    )


def _output(module: nn.Module, batch: Any) -> Tensor:
    """Return the network's main output for a batch, having made sure that it runs."""
    with evaluating(module):
        try:
            return main_tensor(module(batch))
        except (IndexError, RuntimeError, TypeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise InputError(f"the network does not run on the data: {first}") from error


def _batch_size(network: Network, each: float) -> int:
    """Return how many inputs may go through at once without filling the memory or a second."""
    fitting = MOST_BYTES / max(costs(network).peak_bytes, 1)
    return max(1, int(min(LARGEST_BATCH, fitting, 1 / max(each, 1e-9))))


def _sample(
    data: Inputs, samples: int, seed: int
) -> tuple[Tensor, Tensor | None, tuple[str, ...], str]:
    """Return inputs, labels, class names and a title, drawn from whatever was given."""
    if isinstance(data, str | Path):
        data = load_inputs(data, samples=samples, seed=seed)
    if isinstance(data, Pictures):
        drawn = data.sample(min(samples, len(data)), seed)
        title = f"{data.name}, {data.split}" if data.split else data.name
        return drawn.floats(), drawn.labels, drawn.classes, title
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    _check(inputs, labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:samples]
    kept = None if labels is None else labels[order.to(labels.device)].long()
    return inputs.detach()[order.to(inputs.device)], kept, (), "tensor"


def _check(inputs: object, labels: object) -> None:
    """Refuse tensors that are not inputs, or labels that do not go with them."""
    if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor | None):
        raise InputError(
            "data is the name or path of a data set, Pictures, a tensor of inputs, or a tuple "
            f"(inputs, labels) of tensors, not {type(inputs).__name__}: "
            "write torch.as_tensor(inputs)"
        )
    if inputs.dim() == 0 or len(inputs) < 2:
        raise InputError(f"an audit needs at least 2 inputs, not {tuple(inputs.shape)}")
    _refuse_nan(inputs, "the inputs hold NaN or infinity")
    if labels is None:
        return
    if len(labels) != len(inputs):
        raise InputError(f"{len(inputs)} inputs but {len(labels)} labels: give one for each")
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype}: give integers of shape "
            f"({len(inputs)},), of one-hot vectors labels.argmax(1)"
        )
    if int(labels.min()) < 0:
        raise InputError(f"labels go down to {int(labels.min())}: number the classes from 0")


def _refuse_nan(values: Tensor, message: str) -> None:
    """Raise an error that names the first example with a value that is not finite."""
    if not values.is_floating_point() or not values.numel() or not values.dim():
        return
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    if len(bad):
        raise InputError(f"{message} (first in example {int(bad[0])})")


def _unchanged(inputs: Any) -> Any:
    """Return inputs as they are."""
    return inputs
