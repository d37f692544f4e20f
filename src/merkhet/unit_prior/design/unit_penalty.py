"""Penalties on what layers of a network give, collected as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.outputs import find_layer, main_tensor

PenaltyFunction = Callable[[Tensor], Tensor]


class UnitPenalty:
    """The penalty of a network's last forward pass; made by `unit_penalty`.

    Calling it gives the sum over layers and units, as the mean over inputs, of shape () and with
    its graph.
    """

    def __init__(self, penalties: Mapping[str, PenaltyFunction]) -> None:
        self._penalties = dict(penalties)
        self._found: dict[str, Tensor] = {}

    def __call__(self) -> Tensor:
        """Return the penalty of the last forward pass.

        Raises:
            InputError: There was none, or a layer was not run in it.
        """
        return torch.stack([part.float() for part in self.by_layer().values()]).sum()

    def by_layer(self) -> dict[str, Tensor]:
        """Return the penalty of each layer by its path, each of shape ().

        Raises:
            InputError: There was no forward pass, or a layer was not run in it.
        """
        missing = [path for path in self._penalties if path not in self._found]
        if missing:
            raise InputError(
                f"no penalty of layer {missing[0]!r}: run the network, module(inputs), inside the "
                "`with` first, with layers that its forward pass calls"
            )
        return {path: self._found[path] for path in self._penalties}

    def start(self, *_: Any) -> None:
        """Forget the last forward pass."""
        self._found.clear()

    def add(self, path: str, output: Any) -> None:
        """Take in what a layer gave; of a layer called several times, each call."""
        units = main_tensor(output).clone()  # what follows may write into it in place
        if not units.dim() or not len(units):
            raise InputError(f"layer {path!r} gave {tuple(units.shape)}: give (inputs, ...)")
        penalty = self._penalties[path](units).sum() / len(units)
        self._found[path] = self._found[path] + penalty if path in self._found else penalty


@contextmanager
def unit_penalty(
    module: nn.Module, penalties: Mapping[str, PenaltyFunction]
) -> Iterator[UnitPenalty]:
    """Collect penalties on what layers of a network give, while it runs.

    Args:
        module: The network; its layers' outputs have the inputs as first axis.
        penalties: By path of the layer ("" is the network itself), what gives the penalty of its
            units, such as a `regulariser(prior, layer)`.

    Yields:
        What gives the penalty of the last forward pass when called: to be added to its loss,
        times 1 / (number of training examples) where the loss is a mean over examples and the
        prior should count once.

    Raises:
        InputError: No penalties, or no layer at a path.

    Example:
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with unit_penalty(module, {"0": lambda units: units.square() / 2}) as penalty:
        ...     _ = module(torch.zeros(2, 4))
        ...     penalty().shape
        torch.Size([])
    """
    if not penalties:
        raise InputError("no penalties: give one by path, as {'0': regulariser(prior, 1)}")
    layers = {path: find_layer(module, path) for path in penalties}
    collected = UnitPenalty(penalties)
    handles = [module.register_forward_pre_hook(collected.start)]
    for path, layer in layers.items():
        handles.append(layer.register_forward_hook(_adding(collected, path)))
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _adding(collected: UnitPenalty, path: str) -> Callable[..., None]:
    """Return the hook of one layer."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        collected.add(path, output)

    return hook
