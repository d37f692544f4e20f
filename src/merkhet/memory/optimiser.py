"""An optimiser for tables of values: it works on the rows that were read, and on no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.core.sparse import coalesced
from merkhet.memory.late import Late, moments, no_rates, note_rate
from merkhet.memory.paths import path
from merkhet.memory.rows import Adam
from merkhet.memory.upkeep import bring_up_to_date, keep

MODES = ("lazy", "caught_up")
SAVED = ("momentum", "second", "last")


class RowwiseAdam(torch.optim.Optimizer):
    """Adam with one second moment for each row, for parameters with sparse gradients.

    The second moment of a row is that of the mean of its gradient's squares: a table of a
    billion values takes one further table of momentum, and nothing else of its size. A step
    touches the rows that have a gradient.

    - "lazy" has the semantics of `torch.optim.SparseAdam`: a row that has no gradient keeps its
      moments, and does not move.
    - "caught_up" equals the dense optimiser to rounding: moments decay in every step and rows
      move on by their momentum. A row is brought up to date when it is read, and all rows when
      a network is evaluated (`network.eval()`), copied or saved (`state_dict()`), when its betas
      change or another optimiser takes the table, or by `flush()`: call that before `weight` is
      read by other means.

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
        self.seed = seed
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "mode": mode})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in further tables.

        Raises:
            InputError: Options out of range, or what is no table; nothing is taken in then.
        """
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise
        for table in self.param_groups[-1]["params"]:
            keep(table, None)

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
        gradient = _rows_of(table.grad)
        rows, by_row = gradient.indices()[0], gradient.values()
        state = self._state(table, group)
        chosen = {name: group[name] for name in ("mode", "betas", "eps")}
        if chosen != {name: state[name] for name in chosen}:  # what was missed, was as it was
            bring_up_to_date(table)
            self._restart(table, state, chosen)
        elif group["mode"] == "caught_up":
            bring_up_to_date(table, rows)
        state["step"] += 1
        adam = _settings(group, state["step"], self.seed)
        if group["mode"] == "caught_up":
            note_rate(state, adam.rate)
        path(table).update_rows(table, moments(state), rows, by_row, adam)
        torch.autograd.graph.increment_version(table)

    def _restart(self, table: Tensor, state: dict[str, Any], chosen: dict[str, Any]) -> None:
        """Go on with other options, all rows being up to date."""
        _check(chosen | {"lr": 0.0, "params": [table]})
        state.update(chosen, flushed=state["step"], rates=no_rates())
        state["last"].fill_(state["step"])
        self._keep(table)

    @torch.no_grad()
    def catch_up(self, table: Tensor, indices: Tensor | None = None) -> None:
        """Bring rows of a table up to date; in "lazy" mode none is ever behind.

        Args:
            table: One of the parameters.
            indices: Rows in any shape, repeated or not; None means all.
        """
        if self.state.get(table, {}).get("mode") == "caught_up":
            bring_up_to_date(table, indices)

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
            InputError: It is that of other tables, or of another optimiser.
        """
        self.flush()
        tables = [table for group in self.param_groups for table in group["params"]]
        for place, saved in state_dict["state"].items():
            if not {"step", "mode", *SAVED} <= saved.keys():
                raise InputError(f"the state has {sorted(saved)}: it is that of another optimiser")
            if place < len(tables) and saved["momentum"].shape != tables[place].shape:
                raise InputError(
                    f"the state is that of a table of shape {tuple(saved['momentum'].shape)}, not "
                    f"{tuple(tables[place].shape)}"
                )
        super().load_state_dict({**state_dict, "state": {}})
        for place, saved in state_dict["state"].items():
            table = tables[place]
            self.state[table] = {
                name: value.to(table.device, copy=True) if isinstance(value, Tensor) else value
                for name, value in saved.items()
            }
            self._keep(table)

    def state_of(self, table: Tensor) -> dict[str, Any]:
        """Return a table's state, up to date.

        Args:
            table: One of the parameters, (rows, width).

        Returns:
            "step", "momentum" (rows, width), "second" (rows,) and "last" (rows,), among others.
        """
        self.catch_up(table)
        return self._state(table, self._group(table))

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
        state = self._state(table, self._group(table))
        state.update(step=step, flushed=step, rates=no_rates())
        for name, value in (("momentum", momentum), ("second", second), ("last", last)):
            state[name].copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {**super().__getstate__(), "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for table in self.state:
            self._keep(table)

    def _keep(self, table: Tensor) -> None:
        """Note how the rows of a table are brought up to date, if they can be behind."""
        state = self.state[table]
        keep(table, Late(state, self.seed) if state["mode"] == "caught_up" else None)

    def _group(self, table: Tensor) -> dict[str, Any]:
        """Return the group that a table is in."""
        return next(
            group for group in self.param_groups if any(table is one for one in group["params"])
        )

    def _state(self, table: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return a table's state; memory that no row uses is never touched."""
        state: dict[str, Any] = self.state[table]
        if not state:
            wide = torch.promote_types(table.dtype, torch.float32)
            state["step"] = state["flushed"] = 0
            state["momentum"] = torch.zeros_like(table)
            state["second"] = torch.zeros(len(table), dtype=wide, device=table.device)
            state["last"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
            state["rates"] = no_rates()
            state |= {name: group[name] for name in ("mode", "betas", "eps")}
            self._keep(table)
        return state


def _rows_of(gradient: Tensor | None) -> Tensor:
    """Return a table's gradient, coalesced.

    Raises:
        InputError: It is not sparse by rows.
    """
    assert gradient is not None
    if gradient.layout != torch.sparse_coo or gradient.sparse_dim() != 1:
        raise InputError(
            "RowwiseAdam takes gradients that are sparse by rows, as those of a memory's values "
            "are outside torch.compile: give other parameters to another optimiser (see "
            "parameter_groups), and compile a network with torch.compiler.disable(memory)"
        )
    return coalesced(gradient)


def _check(group: dict[str, Any]) -> None:
    """Refuse a group's options where they are out of range, and what is no table."""
    lr, betas, eps = group["lr"], tuple(group["betas"]), group["eps"]
    choose("mode", group["mode"], MODES)
    in_range = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
    if not (0 <= lr < math.inf and 0 < eps < math.inf and in_range):
        raise InputError(
            f"lr {lr}, betas {betas}, eps {eps}: give lr >= 0, two betas in [0, 1), eps > 0"
        )
    if group["mode"] == "caught_up" and betas[0] ** 2 >= betas[1]:
        raise InputError(f'betas {betas}: "caught_up" needs betas[0]**2 < betas[1]')
    for table in group["params"]:
        if table.dim() != 2:
            raise InputError(
                f"a table has rows and columns, not shape {tuple(table.shape)}: give "
                'parameter_groups(model)["values"]'
            )


def _settings(group: dict[str, Any], step: int, seed: int) -> Adam:
    """Return the numbers of a step, the bias corrections in its rate as in SparseAdam."""
    beta1, beta2 = group["betas"]
    correction = math.sqrt(1 - beta2**step) / (1 - beta1**step)
    return Adam(group["lr"] * correction, beta1, beta2, group["eps"], step, seed)
