"""Batch norm folded into the convolutions before it: what a network computes, in fewer steps."""

from __future__ import annotations

from typing import TypeGuard

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from merkhet.cnmm.copies import independent_copy
from merkhet.cnmm.extraction.sequences import hooked, is_nothing, is_sequence, steps
from merkhet.core.undisturbed import undisturbed

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def folded(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, with batch norms folded and identities left out.

    In every `nn.Sequential` that is called as a whole a convolution and the batch norm after it
    become one convolution with bias, by the norm's running statistics; it is trainable where one
    of the two was. What might compute something else then stays as it is: a norm without running
    statistics, classes derived from these, what has hooks, a convolution whose weight is computed,
    a sequence whose steps a module uses one by one. The copy shares nothing with the module.

    Args:
        module: Left as it is.

    Raises:
        InputError: It cannot be copied.
    """
    return _folded(independent_copy(module).eval())


def _folded(module: nn.Module) -> nn.Module:
    """Fold inside a module that may be changed; return it, or what takes its place."""
    if is_sequence(module):
        return nn.Sequential(*_joined([_folded(step) for step in steps(module)]))
    if any(type(part) is nn.Sequential for part in module.modules()):
        used = _used(module)
        if used is not None:
            _fold_inside(module, used)
    return module


def _fold_inside(module: nn.Module, used: set[str], path: str = "") -> None:
    """Fold the modules inside one, but for those that its forward pass looks into.

    Args:
        module: Changed.
        used: Names of what the forward pass calls and reads.
        path: Of the module, in these names.
    """
    for name, child in list(module.named_children()):
        own = f"{path}{name}."
        if type(child) in (nn.ModuleList, nn.ModuleDict):
            _fold_inside(child, used, own)
        elif not any(one.startswith(own) for one in used):
            setattr(module, name, _folded(child))


def _used(module: nn.Module) -> set[str] | None:
    """Return the names of the modules and tensors that a module's own forward pass uses.

    None where torch.fx cannot follow it.
    """
    try:
        with undisturbed(module):
            graph = _Shallow().trace(module)
    except Exception:  # whatever a user's forward pass does with a stand-in for a tensor
        return None
    return {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}


class _Shallow(fx.Tracer):
    """Follows one forward pass, and not those of the modules that it calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take every module as one step."""
        return True


def _joined(parts: list[nn.Module]) -> list[nn.Module]:
    """Return the parts of a sequence with their batch norms folded, without identities."""
    found: list[nn.Module] = []
    for part in parts:
        before = found[-1] if found else None
        if before is not None and _takes_norms(before) and _foldable(part):
            found[-1] = _fused(before, part)
        elif not is_nothing(part):
            found.append(part)
    return found


def _takes_norms(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a module is a convolution and nothing else, of a plain weight."""
    return type(module) is nn.Conv2d and not hooked(module)


def _foldable(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether a module is a batch norm and nothing else, with statistics to fold."""
    known = type(module) in NORMS and module.running_mean is not None
    return known and not module.training and not hooked(module)


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution for both, rounded once; its new bias is trained as the rest is."""
    trained = any(one.requires_grad for part in (convolution, norm) for one in part.parameters())
    dtype = convolution.weight.dtype
    exact = independent_copy(convolution).double(), independent_copy(norm).double()
    return fuse_conv_bn_eval(*exact).to(dtype).requires_grad_(trained)
