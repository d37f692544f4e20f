"""The networks that come with merkhet, by name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from merkhet.core.errors import choose
from merkhet.models.shipped.card import RUN, WEIGHTS, Card, read_card
from merkhet.models.weights import load_weights

HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the networks that come with merkhet, sorted."""
    return sorted(path.parent.name for path in HERE.glob(f"*/{RUN}"))


def folder(name: str) -> Path:
    """Return the folder of a network that comes with merkhet, a finished run.

    Raises:
        InputError: There is none of that name; names those that there are.
    """
    return HERE / choose("network that comes with merkhet", name, names())


def card(name: str) -> Card:
    """Return what a network that comes with merkhet says of itself.

    Raises:
        InputError: There is none of that name, or its files are damaged.
    """
    return read_card(folder(name))


def load(name: str) -> nn.Module:
    """Return a network that comes with merkhet, in evaluation mode.

    Raises:
        InputError: There is none of that name, or its files are damaged.
    """
    network = card(name).spec.build()
    load_weights(network, folder(name) / WEIGHTS)
    return network.eval()
