"""Chains of dense layers among traced networks, of which most are none at a glance."""

from __future__ import annotations

from typing import Any

from torch import nn

from merkhet.core.graph import Network
from merkhet.unit_prior.chain import NOT_ONE, Where, as_unit_prior
from merkhet.unit_prior.spec import Spec
from merkhet.unit_prior.weight_priors import WeightPrior

HELD = ("linear", "prelu")  # what holds parameters in a chain
Chain = tuple[Spec, Where]


def chain_of(module: nn.Module, network: Network, example: Any, prior: WeightPrior) -> Chain | str:
    """Return a network as a chain of dense layers, or why it is none; see `as_unit_prior`.

    Args:
        module: The network.
        network: Its graph, at any batch size.
        example: One input, with a batch dimension of 1.
        prior: On the weights.

    Raises:
        InputError: As `as_unit_prior`.
    """
    if prior.family == "gaussian":
        refused = _refused(network)
        if refused:
            return refused
    return as_unit_prior(module, example, prior)


def _refused(network: Network) -> str:
    """Return why a graph is that of no chain, by where its parameters are; "" if it may be one."""
    if network.source != "export":
        return f"torch.export cannot follow this network: {network.reason}"
    for node in network.nodes:
        if node.parameters and node.op not in HELD:
            where = f"{node.op} in {node.path}" if node.path else node.op
            return f"{where}: {NOT_ONE}"
    return ""
