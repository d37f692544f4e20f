"""The mixture: stages one after the other, before them a stem, after them a head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from merkhet.cnmm import gates as gating
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.nodes import Nodes, as_nodes
from merkhet.cnmm.sides import check_sides
from merkhet.cnmm.stage import MixtureStage, check_stages
from merkhet.cnmm.starts import Starts, as_starts, run_starts
from merkhet.core.building import check_counts
from merkhet.core.errors import InputError
from merkhet.core.modes import uncompiled


class CNMM(nn.Module):
    """A convolutional neural mixture model: prod 2^(T - 1) networks that share their blocks.

    Called with pictures alone it is the mean field of all of them; with gates from one of its
    methods it is one of its parts:

        model(x)                                  # the mixture
        model(x, model.sample())                  # a network drawn with its probability
        model(x, model.path(((0, 2, 4), (0, 4)))) # the network through these nodes
        model(x, model.subset(((0, 2, 4), (0, 4))))  # the mixture of all networks among them

    Shapes: what stem, stages and head say; from pictures (batch, channels, height, width).

    Args:
        stages: One or more.
        head: From the last stage's states to the output.
        stem: From pictures to the first stage's input; the identity by default.
        multiple: What heights and widths must be multiples of.

    Raises:
        InputError: No stage, a head or stem that is no module, or a multiple below 1.

    Reference:
        Ruiz and Verbeek, "Adaptative inference cost with convolutional neural mixture models",
        ICCV 2019 (arXiv 1908.06694).
    """

    def __init__(
        self,
        stages: Sequence[MixtureStage],
        head: nn.Module,
        stem: nn.Module | None = None,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        check_stages(stages)
        stem = nn.Identity() if stem is None else stem
        for name, part in (("head", head), ("stem", stem)):
            if not isinstance(part, nn.Module):
                raise InputError(f"{name} is a {type(part).__name__}: give an nn.Module")
        check_counts(multiple=multiple)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.multiple = multiple

    @property
    def counts(self) -> tuple[int, ...]:
        """How many nodes each stage has."""
        return tuple(stage.num_nodes for stage in self.parts())

    def parts(self) -> list[MixtureStage]:
        """Return the stages."""
        return cast("list[MixtureStage]", list(self.stages))

    def logits(self) -> list[Tensor]:
        """Return the gates' logits, (T - 1,) for each stage."""
        return [stage.logits for stage in self.parts()]

    def forward(self, x: Tensor, gates: Sequence[Gates] | Starts | None = None) -> Tensor:
        """Return the output of the mixture, or of the part that the gates leave of it.

        Args:
            x: Pictures, (batch, channels, height, width).
            gates: Of each stage, from `mixture`, `relaxed`, `sample`, `path` or `subset`; by
                default the mixture's. Or what `starts` gave: outputs then come stacked,
                (starts, batch, ...).

        Raises:
            InputError: Sides that are no multiples of `multiple`, or gates of other stages.
        """
        check_sides(x, self.multiple)
        if isinstance(gates, Starts):
            return run_starts(self, self.stem(x), gates)
        parts = self.parts()
        each = [None] * len(parts) if gates is None else gates
        if len(each) != len(parts):
            raise InputError(f"gates of {len(each)} stages: this mixture has {len(parts)}")
        x = self.stem(x)
        for stage, own in zip(parts, each, strict=True):
            x = stage(x, own)
        return cast("Tensor", self.head(x))

    def mixture(self) -> tuple[Gates, ...]:
        """Return the gates' probabilities: all networks at once, by the mean field."""
        return tuple(gating.mixed(logits) for logits in self.logits())

    def relaxed(
        self, temperature: float, generator: torch.Generator | None = None
    ) -> tuple[Gates, ...]:
        """Return relaxed samples of the gates.

        Args:
            temperature: Above 0; near 0 they are close to 0 or 1.
            generator: Draws them; torch's global one by default.
        """
        return tuple(gating.relaxed(logits, temperature, generator) for logits in self.logits())

    def sample(self, generator: torch.Generator | None = None) -> tuple[Gates, ...]:
        """Return the gates of one network, drawn with its probability.

        Args:
            generator: Draws it; torch's global one by default.
        """
        return tuple(gating.sampled(logits, generator) for logits in self.logits())

    def sweep(
        self, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> tuple[Gates, ...]:
        """Return the gates of one network, drawn for training: every depth is as likely.

        Args:
            temperature: Of the noise on the gates' logits; near 0 the likeliest of its depth.
            generator: Draws it; torch's global one by default.
        """
        return gating.swept(self.logits(), temperature, generator)

    def starts(self, numbers: Iterable[int]) -> Starts:
        """Return some starts of the deepest network, to be run together (`cnmm.starts`).

        Args:
            numbers: How many inner nodes each goes along: from 0, the network of fewest blocks,
                to all of them, the deepest.

        Raises:
            InputError: No number, or one that is not there.
        """
        return as_starts(numbers, self.counts)

    def path(self, nodes: Iterable[Iterable[int]]) -> tuple[Gates, ...]:
        """Return the gates of one network: the chain through given nodes.

        Args:
            nodes: For each stage, such as ((0, 2, 4), (0, 4)).

        Raises:
            InputError: The nodes do not fit the stages, or the route is cut.
        """
        pairs = zip(self.logits(), self.nodes(nodes), strict=True)
        return tuple(gating.chosen(logits, own) for logits, own in pairs)

    def subset(self, nodes: Iterable[Iterable[int]]) -> tuple[Gates, ...]:
        """Return the gates of the mixture of all networks that use given nodes alone.

        Args:
            nodes: For each stage, as in `path`.

        Raises:
            InputError: The nodes do not fit the stages, or the route is cut.
        """
        pairs = zip(self.logits(), self.nodes(nodes), strict=True)
        return tuple(gating.restricted(logits, own) for logits, own in pairs)

    def log_probability(self, nodes: Iterable[Iterable[int]]) -> Tensor:
        """Return log p of the network through given nodes, a scalar."""
        pairs = zip(self.logits(), self.nodes(nodes), strict=True)
        return torch.stack([gating.log_probability(logits, own) for logits, own in pairs]).sum()

    def entropy(self) -> Tensor:
        """Return the entropy of the gates in nats, a scalar: the log of how many networks count."""
        return torch.stack([gating.entropy(logits) for logits in self.logits()]).sum()

    def nodes(self, given: Iterable[Iterable[int]]) -> Nodes:
        """Return a choice of nodes, checked against the stages."""
        return as_nodes(given, self.counts)


def mixture_of(module: nn.Module) -> CNMM:
    """Return the mixture in a module that a compiler or several processes may have wrapped.

    Raises:
        InputError: It is another network.
    """
    bare = uncompiled(getattr(module, "module", module))
    if not isinstance(bare, CNMM):
        raise InputError(
            f"a {type(bare).__name__} is no mixture: give a CNMM, as cnmm_classifier(...) builds"
        )
    return bare
