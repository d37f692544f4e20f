"""The contract of the audit: what a check is given, and what it gives back.

A package offers its checks as `CHECKS`, a tuple of `Check`, in its `checks.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from merkhet.core.graph import Network
from merkhet.core.outputs import main_tensor


@dataclass(frozen=True)
class Subject:
    """The network under audit, with the data it is audited on.

    Attributes:
        module: The network, in evaluation mode; checks leave it as they find it.
        network: Its graph, by torch.export or, where that fails, by hooks.
        name: What the report calls the network.
        inputs: A sample of inputs, (count, channels, height, width) pictures in [0, 1],
            (count, channels, length) signals, or (count, length) int64 tokens.
        output: The network's main output for the first inputs, to see its shape and type by.
        labels: (count,) int64, or None.
        classes: Names of the labels, empty where there are none.
        data: What the report calls the data.
        preprocess: Maps raw inputs to what `module` expects (normalisation).
        seed: Seed of everything random in the audit.
        batch_size: Inputs in one forward pass.
        seconds_each: Seconds that one input takes in a small batch, measured once.
        noise: Relative distance between two outputs of the same inputs: 0 where the network is
            deterministic, up to rounding.
    """

    module: nn.Module
    network: Network
    name: str
    inputs: Tensor
    output: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    data: str = ""
    preprocess: Callable[[Tensor], Tensor] = lambda inputs: inputs
    seed: int = 0
    batch_size: int = 64
    seconds_each: float = 0.0
    noise: float = 0.0

    @property
    def kind(self) -> str:
        """What the inputs are: "pictures", "signals" or "tokens"."""
        if not self.inputs.is_floating_point():
            return "tokens"
        return {4: "pictures", 3: "signals"}.get(self.inputs.dim(), "vectors")

    def batches(self, seconds: float) -> Iterator[Tensor]:
        """Yield the raw inputs in batches while there is time, one batch at least.

        Args:
            seconds: How long whoever takes them may be at it. Batches are small enough for two to
                fit, and one that would not fit is not begun.
        """
        stop = time.perf_counter() + seconds
        fitting = int(seconds / 2 / max(self.seconds_each, 1e-9))
        for part in self.inputs.split(max(1, min(self.batch_size, fitting))):
            start = time.perf_counter()
            yield part
            now = time.perf_counter()
            if now + (now - start) / 2 > stop:
                return

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's main output for raw inputs."""
        return main_tensor(self.module(self.preprocess(inputs.clone())))  # it may write in place


@dataclass(frozen=True)
class Finding:
    """One thing the audit found.

    Attributes:
        name: Machine-readable, as in `--fail-on`: "stability(rotation,10)".
        value: Its number.
        sentence: What it means, in plain words, with the number.
        yardstick: What the number is to be held against, in words.
        remedy: What to do about it, in words.
        code: The lines of code, or the command, that apply the remedy, to be run as they stand.
            Code imports what it needs and uses the names `network`, `inputs`, `labels` and
            `preprocess` alone, as the report's setup defines them; a command begins with
            "merkhet" and may name MODEL and DATA, which the report fills in.
        weight: Severity from 0 (fine) to 1 (act on it); findings are ranked by it.
    """

    name: str
    value: float
    sentence: str
    yardstick: str
    remedy: str
    code: str
    weight: float


@dataclass(frozen=True)
class Table:
    """A table of the report: a caption, column heads, rows of cells."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure of the report, as SVG text, with its caption."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """What a check gives back: one section of the report.

    Attributes:
        title: Its heading.
        summary: Two or three sentences in plain words.
        findings: What was found, in any order.
        tables: Tables to show.
        pictures: Figures to show.
        figures: Every number by its machine-readable name, for the JSON and `--fail-on`.
        notes: Sample sizes, what was left out, how it was measured.
    """

    title: str
    summary: str
    findings: tuple[Finding, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One check of the audit.

    Attributes:
        name: Short name ("cost", "stability").
        seconds: Seconds that its least useful run needs on a small network; cheap checks
            run first.
        refuse: Why the check cannot run on a subject, or None where it can.
        run: Runs it within about the seconds given.
        quiet: For parts that few networks have: where it is refused it is not mentioned, unless
            it was asked for by name.
        gives: What the names of its figures and findings begin with, before the bracket; empty
            where that is the check's own name.
        steady: Compares outputs of changed inputs or weights: left out where the network answers
            the same input differently each time.
    """

    name: str
    seconds: float
    refuse: Callable[[Subject], str | None]
    run: Callable[[Subject, float], Section]
    quiet: bool = False
    gives: tuple[str, ...] = ()
    steady: bool = False

    @property
    def heads(self) -> tuple[str, ...]:
        """What the names of its figures and findings begin with."""
        return self.gives or (self.name,)
