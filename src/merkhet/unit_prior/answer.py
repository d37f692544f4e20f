"""An answer: numbers with the method they come by and how far they can be off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """Numbers, how they were computed, and their error.

    Attributes:
        value: float64, of the shape that was asked for.
        error: Absolute error of each, float64 of the same shape: a bound where `method` is
            exact, an estimate where it is a grid's or a sample's.
        method: In words: "closed form", "Mellin inversion", "grid recursion".
    """

    value: Tensor
    error: Tensor
    method: str

    def __float__(self) -> float:
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.value.numpy(), dtype=dtype)

    def __repr__(self) -> str:
        if self.value.dim() == 0:
            return f"{float(self.value):.10g} (+- {float(self.error):.1g}, {self.method})"
        return f"Answer(value={self.value}, error={self.error}, method={self.method!r})"
