"""The mixture by enumeration: every network run by itself. The reference form; slow."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import Nodes, every_path
from merkhet.core.errors import InputError

MOST = 4096


@torch.no_grad()
def probabilities(model: CNMM) -> dict[Nodes, float]:
    """Return the probability of every network.

    Raises:
        InputError: There are more than 4,096 of them.
    """
    count = 2 ** sum(count - 2 for count in model.counts)
    if count > MOST:
        raise InputError(
            f"{count:,} networks are too many to run one by one: use the mean field, model(x), or "
            "draw some, model(x, model.sample())"
        )
    return {path: float(model.log_probability(path).exp()) for path in every_path(model.counts)}


def expectation(model: CNMM, x: Tensor) -> Tensor:
    """Return the exact mean of the outputs of all networks, each run by itself.

    Args:
        model: At most 4,096 networks; in evaluation mode batch norm uses the statistics it has.
        x: Pictures, (batch, channels, height, width).

    Raises:
        InputError: There are more networks.
    """
    likely = probabilities(model).items()
    return cast("Tensor", sum(weight * model(x, model.path(path)) for path, weight in likely))
