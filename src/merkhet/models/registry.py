"""Networks by name, and the note of how one is rebuilt."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from merkhet.core import discovery
from merkhet.core.errors import InputError, choose
from merkhet.models.resnet import ResNet18
from merkhet.models.small_cnn import SmallCNN
from merkhet.models.transformer import Transformer
from merkhet.models.vgg import VGG11

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "small_cnn": SmallCNN,
    "transformer": Transformer,
    "vgg11": VGG11,
}


def names() -> list[str]:
    """Return the names that `build` knows, sorted."""
    return sorted(_known())


def _known() -> dict[str, Callable[..., nn.Module]]:
    """Return the networks of this package and those that others offer in their `networks`."""
    found = dict(_NETWORKS)
    for module in discovery.parts("networks").values():
        found |= module.NETWORKS
    return found


def build(name: str, /, **arguments: Any) -> nn.Module:
    """Return a fresh network.

    Args:
        name: One of `names()`.
        arguments: The constructor's arguments, such as `classes=10`.

    Raises:
        InputError: There is no such network, or it does not take these arguments; the
            message names what is allowed.
    """
    known = _known()
    network = known[choose("network", name, known)]
    _check_arguments(name, network, arguments)
    return network(**arguments)


def _check_arguments(name: str, network: Callable[..., nn.Module], given: dict[str, Any]) -> None:
    """Check that `network` takes the arguments given and misses none."""
    parameters = inspect.signature(network).parameters
    for argument in given:
        choose(f"argument of {name}", argument, parameters)
    missing = [
        argument
        for argument, parameter in parameters.items()
        if parameter.default is parameter.empty and argument not in given
    ]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}: give {missing[0]}=...")


@dataclass(frozen=True)
class Spec:
    """How a network is rebuilt: what `build` is called with, in a form that JSON can hold.

    A run's folder keeps it beside the weights. Arguments are taken as JSON returns them
    (a tuple becomes a list), so that a spec equals what is read back from its JSON.

    Args:
        name: One of `names()`.
        arguments: The constructor's arguments; a seed, not a generator.

    Raises:
        InputError: The name is unknown, or JSON cannot hold an argument.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose("network", self.name, _known())
        try:
            arguments = json.loads(json.dumps(self.arguments, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"arguments of {self.name} do not fit into JSON: {error}") from error
        object.__setattr__(self, "arguments", arguments)

    def build(self) -> nn.Module:
        """Return a fresh network, as `build(name, **arguments)` does."""
        return build(self.name, **self.arguments)

    def to_json(self) -> str:
        """Return the spec as one JSON object with "name" and "arguments"."""
        return json.dumps({"name": self.name, "arguments": self.arguments}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Return the spec that `to_json` wrote.

        Raises:
            InputError: `text` is not such a JSON object.
        """
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"a network's spec is a JSON object, and this is not: {error}"
            ) from error
        match found:
            case {"name": str(name), "arguments": dict(arguments), **others} if not others:
                return cls(name, arguments)
        raise InputError(
            'a network\'s spec reads {"name": "...", "arguments": {...}}, nothing else'
        )
