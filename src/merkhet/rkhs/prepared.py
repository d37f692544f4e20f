"""A network together with what its inputs go through before it, as one function of raw inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from merkhet.core.outputs import main_tensor

if TYPE_CHECKING:
    from merkhet.rkhs.bracket import Bracket

Preprocess = Callable[[Tensor], Tensor]


class Prepared(nn.Module):
    """The network's main output as a function of raw inputs.

    Radii and Lipschitz constants are in the units of a function's inputs: with normalisation
    inside of the function they are in pixels of [0, 1].

    A mean that a Python function has in itself is unknown to whoever reads the network as a graph.
    So the function is taken as a module with such tensors as buffers, where it can be and gives
    the same on the example; otherwise as it is.

    Shapes: (batch, ...) raw inputs -> (batch, ...), the network's main output.

    Args:
        network: The same module, not a copy; this begins in its mode.
        preprocess: Maps raw inputs (batch, ...) to what the network expects.
        example: (1, ...), a raw input.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self.preprocess = _with_buffers(preprocess, example)
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output (batch, ...) for raw inputs (batch, ...)."""
        return main_tensor(self.network(self.preprocess(inputs)))


def as_named(bracket: Bracket) -> Bracket:
    """Return the bracket of a `Prepared` with the paths that its network's parts have in it."""
    parts = (
        replace(part, path=part.path.removeprefix("network").removeprefix("."))
        for part in bracket.parts
    )
    reasons = tuple(reason.removeprefix("network.") for reason in bracket.reasons)
    return replace(bracket, parts=tuple(parts), reasons=reasons)


@torch.no_grad()
def _with_buffers(preprocess: Preprocess, example: Tensor) -> Preprocess:
    """Return a function as a module whose buffers are the tensors in it, or as it is."""
    if isinstance(preprocess, nn.Module):
        return preprocess
    try:
        module = fx.symbolic_trace(lambda inputs: preprocess(inputs))
        same = torch.equal(module(example.clone()), preprocess(example.clone()))
    except Exception:  # whatever their code raises for an input that is a stand-in
        return preprocess
    if same and not any(node.op.startswith("call") for node in module.graph.nodes):
        return nn.Identity()  # known as such also where hooks alone see it
    return module if same else preprocess  # one that draws noise differs
