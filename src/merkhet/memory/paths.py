"""Where the form of a computation is picked: compiled loops on processors, or plain torch."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from merkhet.core.transforms import transforming
from merkhet.memory import plain

TABLES = (torch.float32, torch.bfloat16)


def path(table: Tensor) -> ModuleType:
    """Return the module that has `select`, `read` and their gradients for a table.

    The compiled loops of `cpu` take values in float32 and bfloat16 that lie in the memory of the
    processor; everything else is for `plain`. A path for GPUs would be picked here.
    """
    if table.device.type == "cpu" and table.dtype in TABLES and not table.is_meta:
        from merkhet.memory import cpu

        return cpu
    return plain


def traced() -> bool:
    """Tell whether a compiler or a transform is looking, which follow plain torch alone."""
    compiling = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return compiling or transforming()
