"""Which parameters decay, and which learn at a rate of their own."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from merkhet.core.errors import InputError, choose

Hints = Mapping[str, Mapping[str, float | bool]]

HINTS = "training_hints"
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    *,
    overrides: Hints | None = None,
    decay_embeddings: bool = False,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups for an optimiser.

    Matrices and convolution kernels decay; biases, norms, vectors and, unless asked for,
    embeddings do not. A parameter that is tied to one that must not decay does not either.

    A module says otherwise for parameters inside it by an attribute `training_hints`, a
    mapping from the parameter's path inside the module to what is special about it:
    `{"values": {"rate": 10.0, "decay": False}}`, where `rate` is a factor on the learning
    rate. Outer modules win over inner ones, and `overrides` over all.

    Args:
        module: The network.
        weight_decay: Decay of the groups that decay.
        overrides: What is special about parameters whose full name fits a pattern such as
            "head.*"; of several patterns that fit, the last one counts.
        decay_embeddings: Let embeddings decay like other matrices.

    Returns:
        Dicts of `params`, `weight_decay` and `rate`, every trainable parameter in exactly
        one, in the order in which the module names them.

    Raises:
        InputError: Nothing is trainable, or a hint names no parameter or no known property.
    """
    traits = _defaults(module, decay_embeddings)
    _apply_hints(module, traits)
    for pattern, hint in (overrides or {}).items():
        _apply_override(pattern, hint, traits)
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for trait in traits.values():
        decay = weight_decay if trait.decay else 0.0
        empty = {"params": [], "weight_decay": decay, "rate": trait.rate}
        groups.setdefault((trait.decay, trait.rate), empty)["params"].append(trait.parameter)
    if not groups:
        raise InputError(f"no parameter of {type(module).__name__} requires a gradient")
    return list(groups.values())


@dataclass
class _Trait:
    """One parameter, under all its names, with what its group must be like."""

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    decay: bool = True
    rate: float = 1.0

    def update(self, where: str, hint: Mapping[str, float | bool]) -> None:
        """Take over what `hint` says."""
        for key in hint:
            choose(f"property in {where}", key, ("decay", "rate"))
        self.decay = bool(hint.get("decay", self.decay))
        self.rate = float(hint.get("rate", self.rate))
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise InputError(f"rate = {self.rate} in {where}: give a factor of at least 0")


def _defaults(module: nn.Module, decay_embeddings: bool) -> dict[int, _Trait]:
    """Return the traits of every trainable parameter, by its id, before any hint."""
    traits: dict[int, _Trait] = {}
    exempt = NORMS if decay_embeddings else NORMS + EMBEDDINGS
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.requires_grad:
                continue
            trait = traits.setdefault(id(parameter), _Trait(parameter))
            trait.names.append(f"{path}.{name}" if path else name)
            trait.decay &= (
                parameter.dim() >= 2 and not name.endswith("bias") and not isinstance(owner, exempt)
            )
    return traits


def _apply_hints(module: nn.Module, traits: dict[int, _Trait]) -> None:
    """Apply what the modules say of themselves, the innermost first."""
    for path, owner in reversed(list(module.named_modules())):
        hints: Hints | None = getattr(owner, HINTS, None)
        parameters = dict(owner.named_parameters(remove_duplicate=False)) if hints else {}
        where = f"{HINTS} of {path or type(owner).__name__}"
        for name, hint in (hints or {}).items():
            parameter = parameters[choose(f"parameter for {where}", name, parameters)]
            if parameter.requires_grad:
                traits[id(parameter)].update(where, hint)


def _apply_override(
    pattern: str, hint: Mapping[str, float | bool], traits: dict[int, _Trait]
) -> None:
    """Apply an override to every parameter with a name that fits."""
    fitting = [trait for trait in traits.values() if fnmatch.filter(trait.names, pattern)]
    if not fitting:
        names = ", ".join(trait.names[0] for trait in list(traits.values())[:5])
        raise InputError(f"the override {pattern!r} fits no parameter: the names are {names}, ...")
    for trait in fitting:
        trait.update(f"the override {pattern!r}", hint)
