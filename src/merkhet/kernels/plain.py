"""The plain form: a network's rules, one after another, on covariances."""

from __future__ import annotations

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.layers import Layer
from merkhet.kernels.state import State, start_all, start_same


def all_pairs(network: Layer, x: Tensor, y: Tensor, *, tangent: bool) -> State:
    """Return the covariances of all inputs x (n, ...) with all y (m, ...): cross is (n, m)."""
    return after_network(network, start_all(x, y, positions=positions(network), tangent=tangent))


def same_pairs(network: Layer, x: Tensor, y: Tensor, *, tangent: bool) -> State:
    """Return the covariances of each input x (n, ...) with its own y (n, ...): cross is (n,)."""
    return after_network(network, start_same(x, y, positions=positions(network), tangent=tangent))


def check_fit(network: Layer, x: Tensor) -> None:
    """Refuse a network that does not take inputs like x (n, ...): its rules on shapes alone.

    Raises:
        InputError: A layer cannot follow what comes before it; says why.
    """
    shape = torch.empty(1, *x.shape[1:], dtype=torch.float64, device="meta")
    same_pairs(network, shape, shape, tangent=True)


def positions(network: Layer) -> str:
    """Return which pairs of positions of pictures a network needs: "equal" or "all"."""
    return "all" if network.mixes else "equal"


def after_network(network: Layer, state: State) -> State:
    """Return the state after a network, having made sure that it ends in vectors.

    Raises:
        InputError: It ends in a feature map.
    """
    after = network(state)
    if after.axes:
        raise InputError(
            f"the network ends in a feature map of {after.size[0]}x{after.size[1]}: "
            "end it with Flatten() or GlobalAvgPool2d()"
        )
    return after


def kinds_of(state: State, kind: str) -> Tensor:
    """Return (kinds, *batch): the kernels of a state that "nngp", "ntk" or "both" names."""
    kinds = {"nngp": (state.cross,), "ntk": (state.tangent,)}
    found = kinds.get(kind, (state.cross, state.tangent))
    return torch.stack([one for one in found if one is not None])
