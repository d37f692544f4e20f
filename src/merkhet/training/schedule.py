"""The learning rate over a run: warm-up, then a cosine or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from merkhet.training.config import Optimisation


def rate_factor(step: int, steps: int, optimisation: Optimisation) -> float:
    """Return the fraction of the highest rate for the update that follows `step` updates.

    In the warm-up it is `(step + 1) / warmup_steps`, so that the first update moves and the
    last one of the warm-up is at the full rate. After it, "cosine" falls along half a cosine
    from 1 at `step = warmup_steps` to `final_fraction` at `step = steps`, which is after the
    last update (Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5, one period).

    Args:
        step: Updates made so far, from 0 to `steps`.
        steps: Updates of the whole run.
        optimisation: Its `warmup_steps`, `schedule` and `final_fraction` count.
    """
    warmup, final = optimisation.warmup_steps, optimisation.final_fraction
    if step < warmup:
        return (step + 1) / warmup
    if optimisation.schedule == "constant" or step == warmup:
        return 1.0
    fallen = (step - warmup) / (steps - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * fallen)) / 2


def set_rates(optimiser: Optimizer, factor: float) -> None:
    """Set the learning rate of every group to `factor` times its highest.

    The highest is noted in the group as `initial_lr`, like torch's own schedulers do.
    """
    for group in optimiser.param_groups:
        rate = group.setdefault("initial_lr", highest_rate(group)) * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def highest_rate(group: Mapping[str, Any]) -> float:
    """Return a group's highest rate: the `lr` it came with, times its `rate` if it has one.

    See `parameter_groups` for the `rate`.
    """
    rate: float = group.get("initial_lr", float(group["lr"]) * group.get("rate", 1.0))
    return rate
