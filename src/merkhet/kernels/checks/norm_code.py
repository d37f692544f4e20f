"""The code that puts a normalisation behind a network's first layer with weights."""

from __future__ import annotations

from torch import nn

from merkhet.report import Subject

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def normalised(subject: Subject) -> str:
    """Return lines that put a norm behind the first layer, or behind a network that is one."""
    path, norm = _first(subject)
    layer = f"network.get_submodule({path!r})"
    if not path:
        return f"import torch\nnetwork = torch.nn.Sequential(network, torch.nn.{norm})"
    return (
        f"import torch\nnetwork.set_submodule({path!r}, torch.nn.Sequential({layer}, "
        f"torch.nn.{norm}))\nnetwork(preprocess(inputs))  # makes the norm, of this width"
    )


def _first(subject: Subject) -> tuple[str, str]:
    """Return the path of the first layer with weights, and the norm that suits its output."""
    parts = dict(subject.module.named_modules())
    for node in subject.network.nodes:
        part = parts.get(node.path)
        if isinstance(part, CONVOLUTIONS):
            return node.path, f"LazyBatchNorm{len(part.kernel_size)}d()"
        if isinstance(part, nn.Linear):
            norm = f"LayerNorm({part.out_features})"
            return node.path, "LazyBatchNorm1d()" if len(node.shape) == 2 else norm
    return "", "LazyBatchNorm1d()"
