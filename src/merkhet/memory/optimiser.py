"""An optimiser for tables of values: it works on the rows that were read, and on no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.core.sparse import coalesced
from merkhet.memory.paths import path
from merkhet.memory.rows import Adam, Missed, Moments
from merkhet.memory.upkeep import keep

MODES = ("lazy", "caught_up")
FIRST_RATES = 1024
NEGLIGIBLE = 2.0**-60  # of a row's first missed step: later ones are below its rounding


class RowwiseAdam(torch.optim.Optimizer):
    """Adam with one second moment for each row, for parameters with sparse gradients.

    The second moment of a row is that of the mean of its gradient's squares: a table of a
    billion values takes one further table of momentum, and nothing else of its size. A step
    touches the rows that have a gradient.

    - "lazy" has the semantics of `torch.optim.SparseAdam`: a row that has no gradient keeps its
      moments, and does not move.
    - "caught_up" equals the dense optimiser to rounding: moments decay in every step and rows
      move on by their momentum. A row is brought up to date when it is read, and all rows when
      a network is evaluated (`network.eval()`) or saved (`state_dict()`), or by `flush()`.

    In bfloat16 tables and their momentum are rounded stochastically, so that steps below the
    rounding of a value are not lost.

    Args:
        params: Tables, or groups of them: 2-dimensional, with sparse gradients.
        lr: Learning rate.
        betas: Decay of momentum and of second moments.
        eps: Added to the root of the second moment.
        mode: "lazy" or "caught_up".
        seed: Of the stochastic rounding.

    Raises:
        InputError: Options out of range, or a gradient that is not sparse.

    References:
        Kingma and Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1, with the mean of each row's
        squares as its second moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        mode: str = "lazy",
        *,
        seed: int = 0,
    ) -> None:
        choose("mode", mode, MODES)
        if not lr >= 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"lr {lr}, betas {betas}, eps {eps}: give lr >= 0, betas in [0, 1)")
        if mode == "caught_up" and betas[0] ** 2 >= betas[1]:
            raise InputError(f'betas {betas}: "caught_up" needs betas[0]**2 < betas[1]')
        self.seed = seed
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "mode": mode})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in further tables."""
        super().add_param_group(param_group)
        for table in self.param_groups[-1]["params"]:
            if table.dim() != 2:
                raise InputError(f"a table has rows and columns, not shape {tuple(table.shape)}")
            keep(table, self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the rows that have a gradient; return what the closure gave, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, group)
        return loss

    def _step(self, table: Tensor, group: dict[str, Any]) -> None:
        """Update one table."""
        assert table.grad is not None
        if table.grad.layout != torch.sparse_coo:
            raise InputError(
                "RowwiseAdam takes sparse gradients, as those of merkhet.memory's values are: "
                "give other parameters to another optimiser (see parameter_groups)"
            )
        gradient = coalesced(table.grad)
        rows, by_row = gradient.indices()[0], gradient.values()
        state = self._state(table)
        if group["mode"] == "caught_up":
            self._catch_up(table, group, rows)
        state["step"] += 1
        adam = _settings(group, state["step"], self.seed)
        if group["mode"] == "caught_up":
            _note_rate(state, adam.rate)
        path(table).update_rows(table, _moments(state), rows, by_row, adam)
        torch.autograd.graph.increment_version(table)

    @torch.no_grad()
    def catch_up(self, table: Tensor, indices: Tensor | None = None) -> None:
        """Bring rows of a table up to date; in "lazy" mode none is ever behind.

        Args:
            table: One of the parameters.
            indices: Rows in any shape, repeated or not; None means all.
        """
        for group in self.param_groups:
            known = any(table is one for one in group["params"])
            if known and group["mode"] == "caught_up" and self.state[table]:
                self._catch_up(table, group, indices)

    def flush(self) -> None:
        """Bring all rows of all tables up to date: a sweep, for before tables leave the process."""
        for group in self.param_groups:
            for table in group["params"]:
                self.catch_up(table)

    def state_dict(self) -> dict[str, Any]:
        """Return the state with all rows up to date."""
        self.flush()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state as it was saved, in its own data types.

        Raises:
            InputError: It is that of other tables.
        """
        super().load_state_dict({**state_dict, "state": {}})
        tables = [table for group in self.param_groups for table in group["params"]]
        for place, saved in state_dict["state"].items():
            table = tables[place]
            if saved["momentum"].shape != table.shape:
                raise InputError(
                    f"the state is that of a table of shape {tuple(saved['momentum'].shape)}, not "
                    f"{tuple(table.shape)}"
                )
            self.state[table] = {
                name: value.to(table.device, copy=True) if isinstance(value, Tensor) else value
                for name, value in saved.items()
            }

    def state_of(self, table: Tensor) -> dict[str, Any]:
        """Return a table's state, up to date.

        Args:
            table: One of the parameters, (rows, width).

        Returns:
            "step", "momentum" (rows, width), "second" (rows,) and "last" (rows,).
        """
        self.catch_up(table)
        return self._state(table)

    def restore(
        self, table: Tensor, step: int, momentum: Tensor, second: Tensor, last: Tensor
    ) -> None:
        """Give a table a state that was up to date after a step.

        Args:
            table: One of the parameters, (rows, width).
            step: The step.
            momentum: (rows, width).
            second: (rows,).
            last: (rows,) int32.
        """
        state = self._state(table)
        state.update(step=step, flushed=step, rates=_no_rates())
        for name, value in (("momentum", momentum), ("second", second), ("last", last)):
            state[name].copy_(value)

    def _catch_up(self, table: Tensor, group: dict[str, Any], indices: Tensor | None) -> None:
        """Bring rows of a table up to date."""
        state = self._state(table)
        if state["step"] == state["flushed"]:
            return
        adam = _settings(group, state["step"], self.seed)
        rates = state["rates"][: state["step"] - state["flushed"]]
        missed = Missed(rates, state["flushed"], _horizon(adam.beta1, adam.beta2))
        path(table).catch_up_rows(table, _moments(state), indices, adam, missed)
        if indices is None:
            state["flushed"], state["rates"] = state["step"], _no_rates()

    def _state(self, table: Tensor) -> dict[str, Any]:
        """Return a table's state; memory that no row uses is never touched."""
        state: dict[str, Any] = self.state[table]
        if not state:
            wide = torch.promote_types(table.dtype, torch.float32)
            state["step"] = state["flushed"] = 0
            state["momentum"] = torch.zeros_like(table)
            state["second"] = torch.zeros(len(table), dtype=wide, device=table.device)
            state["last"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
            state["rates"] = _no_rates()
        return state


def _settings(group: dict[str, Any], step: int, seed: int) -> Adam:
    """Return the numbers of a step, the bias corrections in its rate as in SparseAdam."""
    beta1, beta2 = group["betas"]
    correction = math.sqrt(1 - beta2**step) / (1 - beta1**step) if step else 0.0
    return Adam(group["lr"] * correction, beta1, beta2, group["eps"], step, seed)


def _moments(state: dict[str, Any]) -> Moments:
    """Return what a table's state holds for each row."""
    return Moments(state["momentum"], state["second"], state["last"])


def _no_rates() -> Tensor:
    """Return room for the rates of the first steps after all rows were brought up to date."""
    return torch.zeros(FIRST_RATES, dtype=torch.float64)


def _note_rate(state: dict[str, Any], rate: float) -> None:
    """Append the rate of a step; the room doubles where it is full."""
    place = state["step"] - state["flushed"] - 1
    if place == len(state["rates"]):
        state["rates"] = torch.cat([state["rates"], torch.zeros_like(state["rates"])])
    state["rates"][place] = rate


def _horizon(beta1: float, beta2: float) -> int:
    """Return after how many steps what a row missed is below the rounding of the first."""
    return math.ceil(math.log(NEGLIGIBLE) / math.log(beta1 / math.sqrt(beta2))) if beta1 else 1
