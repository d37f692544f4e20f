"""A table of latencies with what it was measured on; saved, loaded, and checked before its use."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.latency.device import batch_of, check_dtype, cores, processor, using_threads
from merkhet.cnmm.latency.parts import find_parts
from merkhet.cnmm.network import mixture_of
from merkhet.core.errors import InputError
from merkhet.core.files import write_text


@dataclass(frozen=True)
class Situation:
    """What latencies depend on.

    Attributes:
        model: Hash of the structure and shapes of every part of the mixture; not of weights.
        device: "cpu", "cuda", ...
        processor: Name of what computes.
        cores: How many processors the program may run on.
        threads: That torch uses.
        batch: Pictures at a time.
        dtype: "float32", ...
        pictures: Channels, height, width.
        torch: Its version.
    """

    model: str
    device: str
    processor: str
    cores: int
    threads: int
    batch: int
    dtype: str
    pictures: tuple[int, int, int]
    torch: str

    def __str__(self) -> str:
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"batch {self.batch}, {threads}, {self.dtype}, {self.device}: {self.processor}"

    def differences(self, other: Situation) -> list[str]:
        """Say what differs; a version of torch and a number of idle cores may."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("torch", "cores")]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} {own!r} (here {its!r})" for name, own, its in pairs if own != its]


@dataclass(frozen=True)
class Provenance:
    """How a table came about.

    Attributes:
        situation: What it was measured on.
        when: ISO 8601, in UTC.
        repeats: Passes through every network that was measured.
        parts: How many parts the mixture has: stem, edges and head.
        measured: How many kinds of part were measured; parts of the same structure whose states
            have the same shape share one number.
        spread: Median over the kinds of the quartiles' distance over the median; on a quiet
            machine a few per cent.
    """

    situation: Situation
    when: str
    repeats: int
    parts: int
    measured: int
    spread: float


@dataclass(frozen=True)
class LatencyTable:
    """Measured latency of every edge of a mixture, of folded blocks, in seconds.

    Attributes:
        costs: The latencies, of a whole batch.
        provenance: How they were measured, and on what.
    """

    costs: CostTable
    provenance: Provenance

    def costs_of(self, model: nn.Module, example: Tensor) -> CostTable:
        """Return the latencies, if they are those of this mixture on this device.

        Args:
            model: The mixture.
            example: Pictures, (batch, channels, height, width), of the size that matters.

        Raises:
            InputError: The table is about something else.
        """
        own = self.provenance.situation
        dtype = getattr(torch, own.dtype)
        self.check(model, example, batch=own.batch, threads=own.threads, dtype=dtype)
        return self.costs

    def check(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        batch: int = 1,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Refuse the table where it is not about this mixture, here.

        Args:
            model: The mixture.
            example: Pictures, (batch, channels, height, width), of the size that matters.
            batch: Pictures at a time.
            threads: By default those that torch uses now.
            dtype: In which networks run.

        Raises:
            InputError: Model, device, processor, threads, batch, dtype or size of the pictures
                are others; the message names them.
        """
        here = situation(model, example, batch=batch, threads=threads, dtype=dtype)
        found = self.provenance.situation.differences(here)
        if found:
            raise InputError(
                f"this table of latencies was measured with {', '.join(found)}: measure anew, "
                "measure_latency(model, example, batch=..., threads=..., dtype=...)"
            )

    def to_json(self) -> str:
        """Return the table as one JSON object."""
        stages = [
            {f"{i}-{j}": seconds for (i, j), seconds in stage.items()} for stage in self.costs.edges
        ]
        return json.dumps(
            {
                "fixed_seconds": self.costs.fixed,
                "edges_seconds": stages,
                "provenance": dataclasses.asdict(self.provenance),
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """Return the table that `to_json` wrote.

        Raises:
            InputError: The text is not that of a table.
        """
        try:
            found = json.loads(text)
            edges = tuple(_edges(stage) for stage in found["edges_seconds"])
            costs = CostTable("latency", found["fixed_seconds"], edges)
            return cls(costs, _provenance(found["provenance"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                "this is no table of latencies as LatencyTable.save writes it "
                f"({type(error).__name__}: {error}); measure one, measure_latency(model, example)"
            ) from error

    def save(self, path: Path | str) -> None:
        """Write the table to a JSON file, whole or not at all."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Return the table that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It holds no table.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # not text, or not a table
            raise InputError(f"{path}: {error}") from error


def situation(
    model: nn.Module,
    example: Tensor,
    *,
    batch: int = 1,
    threads: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Situation:
    """Return what latencies would depend on here, with the arguments of `measure_latency`.

    Raises:
        InputError: No mixture, no pictures, numbers below 1, or a dtype that is not floating.
    """
    check_dtype(dtype)
    mixture = mixture_of(model)
    x = batch_of(example, batch)
    device = next(mixture.parameters()).device
    channels, height, width = x.shape[1:]
    fingerprint = find_parts(mixture, x).fingerprint
    with using_threads(threads) as used:
        return Situation(
            model=fingerprint,
            device=device.type,
            processor=processor(device),
            cores=cores(),
            threads=used,
            batch=len(x),
            dtype=str(dtype).removeprefix("torch."),
            pictures=(channels, height, width),
            torch=torch.__version__,
        )


def _edges(stage: Mapping[str, float]) -> dict[tuple[int, int], float]:
    """Return the edges of a stage from their JSON form."""
    found = {}
    for key, seconds in stage.items():
        i, j = (int(node) for node in key.split("-"))
        found[i, j] = seconds
    return found


def _provenance(found: Mapping[str, Any]) -> Provenance:
    """Return a provenance from its JSON form."""
    own = dict(found["situation"])
    check_dtype(getattr(torch, own["dtype"]))
    return Provenance(
        **{**found, "situation": Situation(**{**own, "pictures": tuple(own["pictures"])})}
    )
