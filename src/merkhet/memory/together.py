"""Several optimisers as one, for loops that take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from merkhet.core.errors import InputError


class Together(Optimizer):
    """Steps several optimisers, each on its own parameters.

    Their groups are this one's groups: a schedule that sets a rate here sets it there.

    Args:
        optimisers: Such as AdamW for a network and `RowwiseAdam` for its values.

    Raises:
        InputError: None is given, or two hold one parameter.
    """

    def __init__(self, *optimisers: Optimizer) -> None:
        self.optimisers = optimisers
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        if not groups or len(set(held)) < len(held):
            raise InputError("give optimisers of different parameters, one at least")
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.param_groups = groups
        self.made = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group belongs to one of the optimisers, before they are put together.

        Raises:
            InputError: Always, once this is made.
        """
        if getattr(self, "made", False):
            raise InputError("add the group to one of the optimisers, then put them together anew")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each; return what the closure gave, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimiser in self.optimisers:
            optimiser.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimisers": self.optimisers, "made": True}

    def state_dict(self) -> dict[str, Any]:
        """Return the states in order."""
        return {"optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the states in order.

        Raises:
            InputError: It is the state of other optimisers.
        """
        states = state_dict.get("optimisers")
        if not isinstance(states, list) or len(states) != len(self.optimisers):
            raise InputError(f"not the state of {len(self.optimisers)} optimisers together")
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)
        self.param_groups = [g for optimiser in self.optimisers for g in optimiser.param_groups]
