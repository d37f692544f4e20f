"""A watch over layers that draw their outputs: nothing else may look at their weights.

Such a layer has no weights. A network that reads them all the same, as for their signs or a
norm, or that calls the layer twice in one run, needs weights that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

PROPERTIES = "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cuda"
METHODS = "size", "dim", "ndimension", "numel", "nelement", "element_size", "is_floating_point"
# What tells of a tensor and not of its values.
OUTSIDE = {getattr(Tensor, name).__get__ for name in PROPERTIES} | {
    getattr(Tensor, name) for name in (*METHODS, "__len__")
}


class SeenError(Exception):
    """A network sees more of a layer than one output: its weights must be drawn."""


class Guard(TorchFunctionMode):
    """While it is entered, torch's functions refuse some tensors, by identity.

    Attributes:
        seen: Whether one was refused, should the network catch the error.
    """

    def __init__(self, hidden: Iterable[Tensor]) -> None:
        super().__init__()
        self.hidden = {id(value) for value in hidden}
        self.seen = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, unless it is given a hidden tensor's values.

        Raises:
            SeenError: It is.
        """
        kwargs = kwargs or {}
        if self.hidden and func not in OUTSIDE and self._among([*args, *kwargs.values()]):
            self.seen = True
            raise SeenError("a layer's weights are read by more than the layer")
        return func(*args, **kwargs)

    def _among(self, given: Iterable[Any]) -> bool:
        """Tell whether a hidden tensor is among arguments, or in a list of them."""
        return any(
            id(one) in self.hidden or (isinstance(one, list | tuple) and self._among(one))
            for one in given
        )


def taken(noise: dict[str, Tensor], path: str, rows: int) -> Tensor:
    """Take the normal numbers (G, R, units) of a layer, which serve one call.

    Raises:
        SeenError: They are taken, or for another number of rows.
    """
    found = noise.pop(path, None)
    if found is None or found.shape[-2] != rows:
        raise SeenError(f"calls of the layer {path!r} depend on what it returns")
    return found
