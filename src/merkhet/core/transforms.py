"""Whether a transform of torch.func is at work."""

from __future__ import annotations

import torch


def transforming() -> bool:
    """Tell whether the code runs inside `vmap`, `grad`, `jvp` or another of torch.func.

    Tensors are wrapped then, and only what torch itself knows can be done with them.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None
