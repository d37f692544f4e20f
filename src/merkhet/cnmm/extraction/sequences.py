"""Sequences of modules, and which of them are no more than the steps in them."""

from __future__ import annotations

from torch import nn


def steps(module: nn.Module) -> list[nn.Module]:
    """Return the steps of a sequence, those of sequences inside it among them, in order.

    A step that comes twice is there twice. Any other module is its own only step.
    """
    if not is_sequence(module):
        return [module]
    return [step for part in module for step in steps(part)]  # type: ignore[attr-defined]


def is_sequence(module: nn.Module) -> bool:
    """Tell whether a module does no more than run its steps one after the other."""
    return type(module) is nn.Sequential and not hooked(module)


def is_nothing(module: nn.Module) -> bool:
    """Tell whether a module gives back what it is given."""
    return type(module) is nn.Identity and not hooked(module)


def hooked(module: nn.Module) -> bool:
    """Tell whether hooks run when the module is called: they may change what it computes."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
