"""Which result of a network's graph is the output of which module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from merkhet.core.graph import Network, Unknown

Found = TypeVar("Found")


def by_module(
    module: nn.Module, network: Network, tails: Mapping[str, Found | Unknown]
) -> dict[str, Found | Unknown]:
    """Return what was found of each module's output, by path.

    Args:
        module: The network that was traced.
        network: Its graph.
        tails: What was found of each node, by name.
    """
    users: dict[str, set[str]] = {name: set() for name in tails}
    for node in network.nodes:
        for name in node.inputs:
            users[name].add(node.name)
    for name in network.outputs.values():
        users[name].add("")
    found: dict[str, Found | Unknown] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        last = _leaving(network, path, users)
        why = f"{type(part).__name__} computes nothing of its own here"
        found[path] = tails[last] if last else Unknown("", "", path, why)
    return {**found, "": tails[next(iter(network.outputs.values()))]}


def _leaving(network: Network, path: str, users: Mapping[str, set[str]]) -> str:
    """Return the first result of a module's last call that is used outside it, "" for none."""
    nodes = [node for node in network.within(path) if node.op != "input"]
    calls = [node.call for node in nodes if node.path == path]
    inside = {node.name for node in nodes}
    leaving = [
        node.name
        for node in nodes
        if users[node.name] - inside and (node.dtype is None or node.dtype.is_floating_point)
        if node.path != path or node.call == max(calls)
    ]
    return leaving[0] if leaving else nodes[-1].name if nodes else ""
