"""The tails of parameters themselves: which are under the prior, and which are constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from merkhet.core.graph import Network, Node, Unknown
from merkhet.core.modes import uncompiled
from merkhet.unit_prior.rules.entries import NOWHERE, at
from merkhet.unit_prior.rules.state import Own, State, constant
from merkhet.unit_prior.sampling.fresh_roles import BIAS, WEIGHT, Role, roles
from merkhet.unit_prior.weight_priors import WeightPrior

# Modules whose own initialisation is uniform, biases too, or 0.
UNIFORM = (
    *(nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd),
    *(nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention),
)
NORMAL = (nn.Embedding, nn.EmbeddingBag)
METHODS = ("reset_parameters", "_reset_parameters", "_init_weights")


@dataclass(frozen=True)
class Parameters:
    """Answers, for every parameter and buffer, what its entries' tails are.

    Args:
        module: The network that was traced.
        network: Its graph.
        prior: On its weights.

    Raises:
        InputError: A weight is made of other parameters.
    """

    module: nn.Module
    network: Network
    prior: WeightPrior
    roles: dict[str, Role] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", roles(uncompiled(self.module)))

    def state(self, node: Node, name: str) -> State | Unknown:
        """Return the state of a parameter or buffer by name.

        Args:
            node: What uses it.
            name: Its name in the network.
        """
        kind = self.roles[name].kind if name in self.roles else ""
        if self.network.tensors[name].is_complex():
            return Unknown(node.name, node.op, node.path, f"{name} is complex: no rule reads it")
        if kind not in (WEIGHT, BIAS):
            return self._kept(name)
        if self.prior.family == "init":
            return self._initialised(node, name)
        if kind == BIAS and self.prior.bias == 0:
            return replace(constant(name, "biases are 0 under this prior"), **NOWHERE)
        why = f"weights are {self.prior}: theta {self.prior.tail:g}"
        return drawn(name, self.prior.tail, self.prior.index, why)

    def _kept(self, name: str) -> State:
        """Return the state of a constant."""
        return valued(constant(name, "it is not under the prior"), self.network.tensors[name])

    def value(self, name: str) -> Tensor | None:
        """Return the value of a parameter or buffer that is a constant, None of what is drawn."""
        kind = self.roles[name].kind if name in self.roles else ""
        value = self.network.tensors[name].detach().cpu()
        if value.is_complex():
            return None
        if kind == BIAS and self.prior.family != "init" and self.prior.bias == 0:
            return torch.zeros_like(value)
        return None if kind in (WEIGHT, BIAS) else value

    def _initialised(self, node: Node, name: str) -> State | Unknown:
        """Return the state of a parameter that its module initialises itself."""
        owner, code = self._owner(name)
        if code:
            why = f"{code} initialises {name} by its own code, which no rule reads; name a prior"
            return Unknown(node.name, node.op, node.path, why)
        if isinstance(owner, NORMAL):
            return drawn(name, 0.5, None, "torch.nn draws embeddings from N(0, 1)")
        if isinstance(owner, nn.MultiheadAttention) and "bias" in name.rpartition(".")[2]:
            return replace(constant(name, "torch.nn sets these biases to 0"), **NOWHERE)
        return drawn(name, 0.0, None, "torch.nn draws bounded, uniform weights")

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """Return the module that holds a parameter, and whose own code initialises it, if any."""
        path = name.rpartition(".")[0]
        around = list(_around(uncompiled(self.module), path))
        for part in around:
            if _own_code(part):
                return around[-1], type(part).__name__
        known = isinstance(around[-1], UNIFORM + NORMAL)
        return around[-1], "" if known else type(around[-1]).__name__


def valued(state: State, value: Tensor) -> State:
    """Return the state of a constant whose value is known."""
    found = value.detach().cpu()
    return replace(state, **at(found.ne(0), attained=False), nonneg=bool((found >= 0).all()))


def drawn(name: str, theta: float, index: float | None, why: str) -> State:
    """Return the state of a parameter's entries themselves: independent and symmetric."""
    base = constant(name)
    return State(
        theta,
        index,
        random=True,
        low=theta == 0,
        high=theta == 0,
        own=Own((name,), None, base, "weights"),
        weights={name: None},
        name=name,
        rising=name,
        reason=why,
    )


def _own_code(part: nn.Module) -> bool:
    """Tell whether a module initialises weights by code that is not torch.nn's."""
    kinds = (kind for kind in type(part).__mro__ if not kind.__module__.startswith("torch.nn."))
    return any(method in vars(kind) for kind in kinds for method in METHODS)


def _around(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yield the modules on the way to a path, the network first."""
    yield module
    for part in path.split(".") if path else ():
        module = module.get_submodule(part)
        yield module
