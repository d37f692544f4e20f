"""Networks that tests of the kernels share."""

from __future__ import annotations

from typing import Any

from merkhet import kernels
from merkhet.kernels import Layer, Residual, Sequential


def built(layers: list[list[Any]]) -> Layer:
    """Return the network that the table of neural-tangents' values lists."""
    steps = [
        Residual(built(options)) if name == "Residual" else getattr(kernels, name)(**options)
        for name, options in layers
    ]
    return Sequential(*steps)
