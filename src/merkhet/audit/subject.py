"""From what the user gives to what the checks get: a network, its graph, a sample of inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.audit.dtypes import fitted
from merkhet.audit.sample import Inputs, draw_sample, refuse_not_finite
from merkhet.core.calls import first_line
from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import Network, trace
from merkhet.core.modes import evaluating
from merkhet.core.outputs import main_tensor
from merkhet.core.undisturbed import undisturbed
from merkhet.report import Subject

TRACED_BATCH = 2
MOST_BYTES = 2**29  # of activations alive at once in one forward pass
LARGEST_BATCH = 64
CALLS, QUICK = 8, 0.05  # to see noise by; seconds of one input up to which there are as many
UNSTEADY = 1e-3  # relative distance of two answers to one input, from which they are not the same


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
        InputError: No inputs, inputs with NaN, or a network that does not run on two inputs and
            on one, or returns NaN for them.
    """
    if samples < 2:
        raise InputError(f"an audit needs at least 2 samples, not {samples}")
    where = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    if where.type == "meta":
        raise InputError("the network's weights are on the meta device: load them first")
    inputs, labels, classes, title = draw_sample(data, samples, seed)
    inputs = inputs.to(where)
    prepare = fitted(module, preprocess, inputs[:TRACED_BATCH])
    batch = prepare(inputs[:TRACED_BATCH].clone())
    network = trace(module, batch)
    with undisturbed(module):
        start = time.perf_counter()
        output = _output(module, batch)
        each = (time.perf_counter() - start) / TRACED_BATCH
        noise = _noise(module, lambda: prepare(inputs[:TRACED_BATCH].clone()), output, each)
        _refuse_alone(module, prepare(inputs[:1].clone()), output)
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
        noise=noise,
    )


def refuse_classes(subject: Subject) -> None:
    """Refuse labels that go beyond the network's scores.

    Raises:
        InputError: The network gives scores by class, and fewer than there are classes.
    """
    labels, output = subject.labels, subject.output
    if labels is None or output.dim() != 2 or not output.is_floating_point():
        return
    if 1 < output.shape[1] <= int(labels.max()):
        raise InputError(
            f"labels go to {int(labels.max())} and the network gives {output.shape[1]} scores: "
            "give data of its own classes, or inputs without labels"
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


def _refuse_alone(module: nn.Module, alone: Any, output: Tensor) -> None:
    """Refuse a network that answers two inputs but not one alone, or otherwise.

    Args:
        module: The network.
        alone: One prepared input, with a batch dimension of 1.
        output: What it answers to two.
    """
    if not output.dim() or len(output) != TRACED_BATCH:
        return
    with evaluating(module):
        try:
            one = main_tensor(module(alone))
        except Exception as error:  # the user's code raises what it will
            raise InputError(
                f"the network runs on {TRACED_BATCH} inputs and not on one: {first_line(error)}"
            ) from error
    if one.dim() != output.dim() or len(one) != 1:
        raise InputError(
            f"the network answers {TRACED_BATCH} inputs by shape {tuple(output.shape)} and one by "
            f"{tuple(one.shape)}: keep the batch dimension, as in x.squeeze(-1) for x.squeeze()"
        )


def _noise(module: nn.Module, prepared: Callable[[], Any], output: Tensor, each: float) -> float:
    """Return how far apart answers to the same inputs are, of a few calls.

    Args:
        module: The network.
        prepared: Gives the same prepared inputs each time.
        output: What it answered to them.
        each: Seconds that one input takes: a slow network is called only once more.
    """
    calls = CALLS if each < QUICK else 1
    return max(_apart(output, _output(module, prepared())) for _ in range(calls))


def _apart(first: Tensor, second: Tensor) -> float:
    """Return the relative distance between two answers to the same inputs; 1 where it has none."""
    if first.shape != second.shape:
        return 1.0
    one, other = (answer.to(torch.complex128) for answer in (first, second))
    apart, length = float((one - other).abs().norm()), float(one.abs().norm())
    relative = apart / length if length else apart
    return relative if math.isfinite(relative) else 1.0


def _batch_size(network: Network, each: float) -> int:
    """Return how many inputs may go through at once without filling the memory or a second."""
    fitting = MOST_BYTES / max(costs(network).peak_bytes, 1)
    return max(1, int(min(LARGEST_BATCH, fitting, 1 / max(each, 1e-9))))
