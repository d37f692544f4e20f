"""The steps that rows of a table have missed, and what they do to a row when it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from merkhet.memory.paths import path
from merkhet.memory.rows import Adam, Missed, Moments

FIRST_RATES = 1024
NEGLIGIBLE = 2.0**-60  # of a row's first missed step: later ones are below its rounding


@dataclass(frozen=True)
class Late:
    """What brings the rows of one table up to date, also when its optimiser is gone.

    Attributes:
        state: The optimiser's state of the table: "step" and "flushed" (steps taken, and taken
            when all rows were up to date), "momentum", "second", "last", "rates" (of the steps
            since), "betas" and "eps".
        seed: Of the stochastic rounding.
    """

    state: dict[str, Any]
    seed: int

    @torch.no_grad()
    def catch_up(self, table: Tensor, indices: Tensor | None) -> None:
        """Do to some rows of the table, or to all, the steps that they have missed."""
        state = self.state
        if state["step"] == state["flushed"]:
            return
        beta1, beta2 = state["betas"]
        adam = Adam(0.0, beta1, beta2, state["eps"], state["step"], self.seed)
        rates = state["rates"][: state["step"] - state["flushed"]]
        missed = Missed(rates, state["flushed"], _horizon(beta1, beta2))
        path(table).catch_up_rows(table, moments(state), indices, adam, missed)
        if indices is None:
            state["flushed"], state["rates"] = state["step"], no_rates()


def moments(state: dict[str, Any]) -> Moments:
    """Return what a table's state holds for each row."""
    return Moments(state["momentum"], state["second"], state["last"])


def no_rates() -> Tensor:
    """Return room for the rates of the first steps after all rows were brought up to date."""
    return torch.zeros(FIRST_RATES, dtype=torch.float64, device="cpu")


def note_rate(state: dict[str, Any], rate: float) -> None:
    """Append the rate of a step; the room doubles where it is full."""
    place = state["step"] - state["flushed"] - 1
    if place == len(state["rates"]):
        state["rates"] = torch.cat([state["rates"], torch.zeros_like(state["rates"])])
    state["rates"][place] = rate


def _horizon(beta1: float, beta2: float) -> int:
    """Return after how many steps what a row missed is below the rounding of the first."""
    return math.ceil(math.log(NEGLIGIBLE) / math.log(beta1 / math.sqrt(beta2))) if beta1 else 1
