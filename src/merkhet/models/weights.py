"""A network's weights in a safetensors file, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.core.files import atomic_file
from merkhet.models.streams import StoredTensors, write_tensors

SUFFIX = ".safetensors"
SHOWN = 3
CONVERSION = (
    "; a state dict of torch.save is converted by: import torch; from safetensors.torch import "
    'save_file; save_file(torch.load("{name}", weights_only=True), "{stem}.safetensors")'
)


def save_weights(module: nn.Module, path: Path | str) -> None:
    """Write the parameters and buffers of `module` to `path`, whole or not at all.

    A tensor that has several names in the network (a tied embedding) is written once,
    under the first of them; `load_weights` gives it back under all.

    Args:
        module: Any network whose state is made of tensors, with memory behind them.
        path: A file that ends in ".safetensors".

    Raises:
        InputError: The path ends otherwise, or the state is not made of such tensors.
    """
    _check_suffix(path)
    first_names = _first_names(_state(module))
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in _state(module).items()
        if first_names[name] == name
    }
    with atomic_file(path) as aside:
        write_tensors(aside, tensors)


def load_weights(module: nn.Module, path: Path | str) -> None:
    """Copy the weights in `path` into `module`, in the dtype and on the device it has.

    Every tensor of the module must be there in its shape, and nothing else; of a tied
    tensor, one of its names is enough.

    Args:
        module: The network, as it was when the file was written.
        path: A file that ends in ".safetensors".

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged, or its tensors are not the module's; the message
            names the first few that are missing, unexpected or of another shape.
    """
    wanted = _state(module)
    _check_suffix(path, CONVERSION.format(stem=Path(path).stem, name=Path(path).name))
    stored = StoredTensors(path)
    first_names = _first_names(wanted)
    by_first = {first_names[name]: name for name in stored.shapes if name in wanted}
    source = {name: by_first[first] for name, first in first_names.items() if first in by_first}
    faults = [
        *_listed("missing", [name for name in wanted if name not in source]),
        *_listed("unexpected", [name for name in stored.shapes if name not in wanted]),
        *_listed("of another shape", _misshapen(wanted, source, stored)),
        *_listed("tied in the network but not in the file", _untied(source, stored)),
    ]
    if faults:
        raise InputError(f"{path} does not fit {type(module).__name__}: {'; '.join(faults)}")
    for first, name in by_first.items():
        stored.read_into(name, wanted[first])


def _check_suffix(path: Path | str, otherwise: str = "") -> None:
    """Check that `path` is named as a safetensors file; say what to do otherwise."""
    if Path(path).suffix != SUFFIX:
        raise InputError(
            f"{path}: weights are kept as safetensors, so name a file *{SUFFIX}{otherwise}"
        )


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's parameters and buffers by name."""
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise InputError(
                f"{name} of {type(module).__name__} holds no tensor with memory:"
                " only such a state goes to and from a safetensors file"
            )
    return dict(state)


def _first_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Return for each name the first name of the same tensor."""
    first: dict[object, str] = {}
    names = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        # An empty tensor has no place of its own that would tell it from another.
        names[name] = first.setdefault(place, name) if tensor.numel() else name
    return names


def _misshapen(
    wanted: dict[str, Tensor], source: dict[str, str], stored: StoredTensors
) -> list[str]:
    """Describe the tensors whose shape in the file is not the network's."""
    return [
        f"{name} is {stored.shapes[place]} in the file and {tuple(wanted[name].shape)} here"
        for name, place in source.items()
        if stored.shapes[place] != tuple(wanted[name].shape)
    ]


def _untied(source: dict[str, str], stored: StoredTensors) -> list[str]:
    """Return the names whose value in the file differs from that of a tensor they are tied to."""
    return [
        name
        for name, place in source.items()
        if name in stored.shapes
        and name != place
        and (
            stored.shapes[name] != stored.shapes[place]
            or not torch.equal(stored.tensor(name), stored.tensor(place))
        )
    ]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    """Return one phrase on the first few of `names`, or nothing."""
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what}: {', '.join(names[:SHOWN])}{more}"]
