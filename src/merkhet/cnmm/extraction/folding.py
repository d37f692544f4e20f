"""Batch norm folded into the convolutions before it: what a network computes, in fewer steps."""

from __future__ import annotations

import copy
from typing import TypeGuard

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized


def folded(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, with batch norms folded and identities left out.

    In every `nn.Sequential` a convolution and the batch norm after it become one convolution with
    bias, by the norm's running statistics; it is trainable where one of the two was. A norm
    without running statistics, or after a convolution whose weight is computed, stays. The copy
    shares nothing with the module.

    Args:
        module: Left as it is.
    """
    made = copy.deepcopy(module).eval()
    for parameter in made.parameters():
        parameter.grad = None
    return _folded(made)


def _folded(module: nn.Module) -> nn.Module:
    """Fold inside a module that may be changed; return it, or what takes its place."""
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return nn.Sequential(*_joined(list(module))) if type(module) is nn.Sequential else module


def _joined(parts: list[nn.Module]) -> list[nn.Module]:
    """Return the parts of a sequence with their batch norms folded, without identities."""
    found: list[nn.Module] = []
    for part in parts:
        before = found[-1] if found else None
        if isinstance(before, nn.Conv2d) and _foldable(part, before):
            found[-1] = _fused(before, part)
        elif not isinstance(part, nn.Identity):
            found.append(part)
    return found


def _foldable(norm: nn.Module, convolution: nn.Conv2d) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether there are statistics to fold, and a plain weight to fold them into."""
    known = isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    return known and not is_parametrized(convolution)


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution for both; its new bias is trained as the rest is."""
    trained = any(one.requires_grad for part in (convolution, norm) for one in part.parameters())
    return fuse_conv_bn_eval(convolution, norm).requires_grad_(trained)
