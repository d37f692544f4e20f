"""From what the user gives to what the checks get: a network, its graph, a sample of inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.audit.sample import Inputs, draw_sample, refuse_not_finite
from merkhet.core.calls import first_line
from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import Network, trace
from merkhet.core.modes import evaluating
from merkhet.core.outputs import main_tensor
from merkhet.report import Subject

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
    inputs, labels, classes, title = draw_sample(data, samples, seed)
    inputs = inputs.to(where)
    prepare = preprocess or _unchanged
    batch = prepare(inputs[:TRACED_BATCH].clone())
    network = trace(module, batch)
    start = time.perf_counter()
    output = _output(module, batch)
    each = (time.perf_counter() - start) / len(inputs[:TRACED_BATCH])
    refuse_not_finite(output, "the network returns NaN or infinity for ordinary inputs")
    return Subject(
        module=module,
        network=network,
        name=(name or type(module).__name__).encode("utf-8", "backslashreplace").decode(),
        inputs=inputs,
        output=output,
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
            raise InputError(
                f"the network does not run on the data: {first_line(error)}"
            ) from error


def _batch_size(network: Network, each: float) -> int:
    """Return how many inputs may go through at once without filling the memory or a second."""
    fitting = MOST_BYTES / max(costs(network).peak_bytes, 1)
    return max(1, int(min(LARGEST_BATCH, fitting, 1 / max(each, 1e-9))))


def _unchanged(inputs: Any) -> Any:
    """Return inputs as they are."""
    return inputs
