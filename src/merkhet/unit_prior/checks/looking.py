"""What the checks of units share: which layers, how many inputs, fresh copies to compare with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.outputs import captured
from merkhet.core.undisturbed import undisturbed
from merkhet.report import Subject
from merkhet.unit_prior.analysis.places import Place, has_weights, places
from merkhet.unit_prior.sampling.fresh import fresh_copy

FEWEST = 8  # inputs below which statistics over them say nothing
MOST_LAYERS = 16
COPIES = 5  # fresh ones that are compared with
PASSES = 2.0 + 2 * COPIES  # through the sample: the network and its copies, whose norms settle
Take = Callable[[str, Tensor], None]  # is given what a layer gave for a batch, by its path
Fresh = Callable[[], Iterator[nn.Module]]


def has_no_layers(subject: Subject) -> str | None:
    """Say why units cannot be looked at, or return None."""
    if not any(has_weights(part) for path, part in subject.module.named_modules() if path):
        return "the network has no layer with weights inside it"
    if len(subject.inputs) < FEWEST:
        return f"{len(subject.inputs)} inputs are too few: {FEWEST} at least"
    return None


def example_of(subject: Subject) -> Tensor:
    """Return the first input as the network takes it, with a batch dimension of 1."""
    return subject.preprocess(subject.inputs[:1].clone())


def layers_of(subject: Subject, most: int = MOST_LAYERS) -> list[Place]:
    """Return layers with weights, evenly from first to last where there are more than so many.

    Raises:
        InputError: The network runs none.
    """
    found = [
        place
        for place in places(subject.module, example_of(subject), None)
        if place.weighted and place.path
    ]
    if not found:
        raise InputError("the network runs no module with weights: none can be looked at")
    if len(found) <= most:
        return found
    return [found[round(k * (len(found) - 1) / (most - 1))] for k in range(most)]


def layers_by_input(subject: Subject) -> tuple[list[Place], str]:
    """Return the layers of `layers_of` that answer each input, and words on the others.

    A table of positions, for instance, gives the same for all inputs, and gives it once.

    Raises:
        InputError: The network runs none.
    """
    found = layers_of(subject)
    pair = subject.inputs[:2]
    paths = [place.path for place in found]
    with (
        captured(subject.module, paths) as kept,
        evaluating(subject.module),
        undisturbed(subject.module),
    ):
        subject.module(subject.preprocess(pair.clone()))
        own = {path for path, output in kept.items() if output.dim() and len(output) == len(pair)}
    if not own:
        raise InputError(f"no layer answers each input: {', '.join(paths)} give one answer for all")
    others = [path for path in paths if path not in own]
    told = f" Left out, with one answer for all inputs: {', '.join(others)}." if others else ""
    return [place for place in found if place.path in own], told


def affordable(subject: Subject, seconds: float, passes: float) -> int:
    """Return how many inputs fit the time when each goes through the network so many times.

    Raises:
        InputError: Fewer than say anything.
    """
    each = subject.seconds_each
    if FEWEST * passes * each < seconds:  # worth measuring in a batch
        batch = subject.inputs[: subject.batch_size]
        start = time.perf_counter()
        with evaluating(subject.module):
            subject.forward(batch)
        each = (time.perf_counter() - start) / len(batch)
    fitting = int(seconds / (passes * max(each, 1e-9)))
    if fitting < FEWEST:
        raise InputError(
            f"{FEWEST} inputs, the fewest that say anything, need about "
            f"{math.ceil(FEWEST * passes * each)} s and {seconds:.0f} s are left for it: allow "
            "more seconds, or give smaller inputs"
        )
    return min(len(subject.inputs), fitting)


COMPARE = (
    "from merkhet.unit_prior import compare_initialisations\n"
    "print(compare_initialisations(network, preprocess(inputs)))"
)


def penalty_code(path: str, size: float = 1.0) -> str:
    """Return lines that penalise the units of a layer as under a normal prior.

    Args:
        path: Of the layer.
        size: Standard deviation of that prior.
    """
    scaled = "u" if size == 1 else f"(u / {size:.3g})"
    return (
        "from merkhet.unit_prior import unit_penalty\n"
        f"with unit_penalty(network, {{{path!r}: lambda u: {scaled}.square() / 2}}) as penalty:\n"
        "    network(preprocess(inputs))\n"
        "    loss = 1e-4 * penalty()  # to be added to the loss of every step"
    )


def run(
    subject: Subject, module: nn.Module, inputs: Tensor, paths: Sequence[str], take: Take
) -> None:
    """Run a network on raw inputs, as evaluated, and hand on what its layers give by batch.

    Args:
        subject: Whose preparation and batch size it has.
        module: The subject's network or a copy of it.
        inputs: (n, ...) raw inputs.
        paths: Of the layers; of one called several times the last output is handed on.
        take: Is given path and output (batch, ...), floats, of each.

    Raises:
        InputError: A layer's output is not one entry an input.
    """
    with captured(module, paths) as kept, evaluating(module), undisturbed(module):
        for part in inputs.split(subject.batch_size):
            module(subject.preprocess(part.clone()))
            for path in paths:
                if not kept[path].dim() or len(kept[path]) != len(part):
                    raise InputError(
                        f"layer {path!r} gives {tuple(kept[path].shape)} for {len(part)} inputs: "
                        "its first axis is not the batch"
                    )
                take(path, kept[path])


def fresh_networks(subject: Subject, inputs: Tensor, copies: int = COPIES) -> tuple[Fresh, str]:
    """Return what makes fresh copies of a network one after the other, and how, in words.

    Each module initialises itself; where one cannot, all weights are Gaussian with He's scale.
    Norms over batches have their statistics from the inputs: those that a fresh network starts
    with, 0 and 1, are no sample's.

    Args:
        subject: The network.
        inputs: (n, ...) raw inputs.
        copies: How many.
    """
    prior, reason = "init", "initialised by its modules themselves"
    try:
        fresh_copy(subject.module, "init", subject.seed)
    except InputError as error:
        prior, reason = "gaussian", f"with Gaussian weights of He's scale ({error})"

    def made() -> Iterator[nn.Module]:
        for number in range(copies):
            seed = torch.Generator().manual_seed(subject.seed + number)
            fresh = fresh_copy(subject.module, prior, seed)
            settle(subject, fresh, inputs)
            yield fresh

    return made, f"{copies} fresh copies, {reason}"


@torch.no_grad()
def settle(subject: Subject, module: nn.Module, inputs: Tensor) -> None:
    """Give norms over batches the statistics of inputs, in one pass; all else as evaluated."""
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats
    ]
    module.eval()
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for part in inputs.split(subject.batch_size):
        if len(part) > 1:
            module(subject.preprocess(part.clone()))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    module.eval()
