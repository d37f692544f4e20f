"""What the command line names, as one object: the network, its data, and how to prepare them.

A `Case` is also how a report tells its reader to begin: `Case(...).load()` gives the names that
the code of findings uses.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from merkhet.audit.sample import draw_sample
from merkhet.core.errors import InputError
from merkhet.core.modes import evaluating
from merkhet.core.outputs import main_tensor
from merkhet.data import Pictures, load_inputs

if TYPE_CHECKING:
    from merkhet.models import Target

Preprocess = Callable[[Any], Any]
WIDTH = 88  # of the setup's longest line
BATCH = 64


class Given(NamedTuple):
    """What the code of findings is about.

    Attributes:
        network: The network, in evaluation mode.
        inputs: (count, ...) the audit's sample, raw.
        labels: (count,) int64; of data without labels, the classes that the network predicts, and
            None where it predicts no classes.
        preprocess: From raw inputs to what the network takes.
    """

    network: nn.Module
    inputs: Tensor
    labels: Tensor | None
    preprocess: Preprocess


class Opened(NamedTuple):
    """A case with its network built and its data read."""

    target: Target
    inputs: Pictures | Tensor
    preprocess: Preprocess | None


@dataclass(frozen=True)
class Case:
    """A network and data by name, as the options of `merkhet audit` give them.

    Attributes:
        model: MODEL: package.module:callable, file.py:callable, or a folder.
        data: DATA: the name or path of a data set; None for what the folder was trained on.
        weights: A safetensors file for the callable.
        arguments: The callable's keyword arguments.
        mean: By channel, as in "0.5,0.5,0.5".
        std: Standard deviation by channel.
        size: HEIGHTxWIDTH that pictures are resized to.
        samples: Inputs to draw.
        seed: Of the draw.
    """

    model: str
    data: str | None = None
    weights: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    mean: str | None = None
    std: str | None = None
    size: str | None = None
    samples: int = 256
    seed: int = 0

    def target(self) -> Target:
        """Return the network with what its folder says of it.

        Raises:
            InputError: There is none, or it cannot be built.
        """
        from pathlib import Path

        from merkhet.models import find_target

        weights = None if self.weights is None else Path(self.weights)
        return find_target(self.model, weights=weights, arguments=self.arguments)

    def open(self) -> Opened:
        """Return the network, its inputs and their preparation.

        Raises:
            InputError: The network, the data or the preparation is not there or does not fit.
        """
        target = self.target()
        inputs = load_inputs(
            self.data or target.data,
            samples=self.samples,
            size=self.size,
            seed=self.seed,
            tokenizer=target.tokenizer,
        )
        return Opened(target, inputs, self._preparation(target, inputs))

    def load(self) -> Given:
        """Return network, inputs, labels and preparation, the inputs being the audit's sample."""
        from merkhet.audit.dtypes import fitted

        target, data, preprocess = self.open()
        sample = draw_sample(data, self.samples, self.seed)
        prepare = fitted(target.module, preprocess, sample.inputs[:2])
        return given(target.module, sample.inputs, sample.labels, prepare)

    def setup(self) -> str:
        """Return the lines that define what the code of findings uses."""
        head, tail = "network, inputs, labels, preprocess = Case(", ").load()"
        words = ", ".join(self._words())
        one = f"{head}{words}{tail}"
        if len(one) > WIDTH:
            one = f"{head}\n    {words}\n{tail}"
        return f"from merkhet.audit import Case\n\n{one}"

    def options(self) -> tuple[str, str]:
        """Return what stands for MODEL, and what for DATA, in a command."""
        given = json.dumps(self.arguments) if self.arguments else None
        model = _joined(self.model, weights=self.weights, arguments=given)
        data = _joined(self.data or "DATA", size=self.size, mean=self.mean, std=self.std)
        return model, data

    def of(self, model: str) -> Case:
        """Return the same data and preparation for another network."""
        return replace(self, model=model)

    def _words(self) -> list[str]:
        """Return the arguments of this case as code, without those that are as by default."""
        plain = Case(self.model)
        kept = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        named = [f"{name}={getattr(self, name)!r}" for name in kept if name != "data"]
        return [repr(self.model), *([repr(self.data)] if self.data is not None else []), *named]

    def _preparation(self, target: Target, inputs: Pictures | Tensor) -> Preprocess | None:
        """Return the normalisation that the options or the network's folder ask for."""
        if isinstance(inputs, Pictures):
            return target.preparation(self.mean, self.std, inputs.images.shape[1])
        if self.mean or self.std:
            raise InputError("--mean and --std normalise pictures, and the data is tokens")
        return None


def given(
    module: nn.Module, inputs: Tensor, labels: Tensor | None, preprocess: Preprocess
) -> Given:
    """Return the names that code uses, with predictions in the place of labels that are not there.

    Args:
        module: The network.
        inputs: (count, ...) raw inputs.
        labels: (count,) int64, or None.
        preprocess: Prepares inputs.
    """
    where = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    inputs = inputs.to(where)
    if labels is None:
        labels = _predicted(module, inputs, preprocess)
    return Given(module, inputs, labels, preprocess)


def _predicted(module: nn.Module, inputs: Tensor, preprocess: Preprocess) -> Tensor | None:
    """Return the classes (count,) that a network predicts, None where it gives no scores."""
    found = []
    with evaluating(module):
        for part in inputs.split(BATCH):
            scores = main_tensor(module(preprocess(part.clone())))
            if scores.dim() != 2 or not scores.is_floating_point() or len(scores) != len(part):
                return None
            found.append(scores.argmax(1))
    return torch.cat(found)


def _joined(first: str, **options: str | None) -> str:
    """Return words of a command line: a first one, and the options that are given."""
    words = [first]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", value]
    return shlex.join(words)
