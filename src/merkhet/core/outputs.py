"""What a network returns, and the modules inside it: one tensor out, layers by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from merkhet.core.errors import InputError, choose

PREFERRED = ("logits", "last_hidden_state", "prediction_logits", "out")


def main_tensor(output: Any) -> Tensor:
    """Return the tensor that matters in a network's or a layer's output.

    A tensor is itself; of a mapping or a Hugging Face output the logits or the last hidden
    state, otherwise its first floating-point tensor; of a tuple or list its first tensor. A
    scalar, as a loss is, counts only where there is nothing else.

    Raises:
        InputError: There is no tensor in the output.
    """
    if isinstance(output, Tensor):
        return output
    for part in _ordered(output):
        try:
            return main_tensor(part)
        except InputError:
            continue
    raise InputError(f"a module returned {type(output).__name__} without a tensor in it")


def find_layer(module: nn.Module, path: str) -> nn.Module:
    """Return the submodule at `path`, as named by `named_modules()`; "" is the module itself.

    Raises:
        InputError: There is none; names the nearest path.
    """
    layers: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if path in layers:
        return layers[path]
    choose("layer", path, (name for name in layers if name))
    raise AssertionError("choose refuses what is not among the layers")


@contextmanager
def captured(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that each forward pass fills with the layers' main output tensors.

    Of a layer called several times in one pass the last output is kept. Outputs are kept as
    copies (gradients flow through them), because what follows may write into them in place.

    Args:
        module: The network.
        paths: Module paths; "" is the network's own output.

    Raises:
        InputError: A path does not exist.
    """
    kept: dict[str, Tensor] = {}
    layers = {path: find_layer(module, path) for path in paths}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[path] = main_tensor(output).clone()

        return hook

    handles = [layer.register_forward_hook(keep(path)) for path, layer in layers.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _ordered(output: Any) -> Iterator[Any]:
    """Yield the parts of an output, the preferred ones first."""
    if isinstance(output, Mapping):
        preferred = [output[name] for name in PREFERRED if name in output]
        others = [
            part
            for part in output.values()
            if not isinstance(part, Tensor) or part.is_floating_point()
        ]
    else:
        preferred, others = [], list(output) if isinstance(output, list | tuple) else []
    yield from preferred
    yield from sorted(others, key=lambda part: isinstance(part, Tensor) and part.dim() == 0)
