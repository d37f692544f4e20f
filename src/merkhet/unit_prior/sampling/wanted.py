"""What `sample_units` is asked for: inputs, modules and their units, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from merkhet.core.calls import copied, described, first_line, named_tensors
from merkhet.core.errors import InputError
from merkhet.core.outputs import captured, find_layer

Units = Mapping[str, int | Sequence[int]] | Sequence[str] | str | None


@dataclass(frozen=True)
class Wanted:
    """What to run on, and what to keep.

    Attributes:
        args: Arguments of the network.
        kwargs: Its keyword arguments.
        inputs: How many inputs they hold.
        units: Which units to keep, by module path.
        alive: Numbers that the layers return in a run, which take memory.
    """

    args: Any
    kwargs: Any
    inputs: int
    units: dict[str, list[int]]
    alive: int

    def values(self, network: nn.Module, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the network and return the units (inputs, units) float64 by path."""
        with captured(network, list(self.units)) as kept:
            functional_call(network, parameters, copied(self.args), copied(self.kwargs))
        return {
            path: kept[path].reshape(self.inputs, -1)[:, places].double()
            for path, places in self.units.items()
        }


def count_inputs(args: Any, kwargs: Any) -> int:
    """Return how many inputs there are.

    Raises:
        InputError: There is no tensor, no input, or NaN or infinity among them.
    """
    tensors = list(named_tensors([*args, *kwargs.values()]))
    if not tensors or tensors[0][1].dim() == 0 or len(tensors[0][1]) == 0:
        raise InputError(
            f"x is {described([args, kwargs]) or 'without a tensor'}: give a batch (inputs, ...) "
            "of at least one input"
        )
    for _, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError("x holds NaN or infinity: clean the data first")
    return len(tensors[0][1])


def asked_units(network: nn.Module, units: Units) -> dict[str, list[int]]:
    """Return the numbers of the units asked for, by path.

    Raises:
        InputError: No such module, or numbers that are none.
    """
    if not (units is None or isinstance(units, str | Mapping | Sequence)):
        raise InputError(
            f"units = {units!r}: name modules and their units, as in {{'': [0, 1]}} of the output"
        )
    if units is None or isinstance(units, str):
        units = [units or ""]
    chosen = units if isinstance(units, Mapping) else dict.fromkeys(units, 0)
    found = {}
    for path, some in chosen.items():
        find_layer(network, path)
        found[path] = _places(path, some)
    if not found:
        raise InputError("units is empty: name a module, as in {'': [0]} for the output")
    return found


def _places(path: str, some: Any) -> list[int]:
    """Return the numbers of the units of a module.

    Raises:
        InputError: They are none.
    """
    places = list(some) if isinstance(some, Iterable) else [some]
    if not places or any(isinstance(p, bool) or not isinstance(p, Integral) for p in places):
        raise InputError(f"units of {path!r} are {some!r}: give whole numbers, as in [0, 1]")
    return [int(place) for place in places]


def count_units(
    network: nn.Module, args: Any, kwargs: Any, paths: list[str], inputs: int
) -> dict[str, int]:
    """Run the network once and return how many units each module has for one input.

    Raises:
        InputError: It does not run, does not call a module, or gives no numbers for each input.
    """
    try:
        with captured(network, paths) as kept:
            network(*copied(args), **copied(kwargs))
    except Exception as error:  # whatever the network raises
        raise InputError(
            f"the network does not run on inputs of shape {described([args, kwargs])}: "
            f"{first_line(error)}"
        ) from error
    for path in paths:
        where = repr(path) if path else "the network"
        if path not in kept:
            raise InputError(f"{where} is not called on these inputs: name one that is")
        if not kept[path].is_floating_point() or kept[path].shape[:1] != (inputs,):
            raise InputError(
                f"{where} gives {kept[path].dtype} of shape {tuple(kept[path].shape)} for "
                f"{inputs} inputs: units are floats, some for each input, along the first axis"
            )
    return {path: kept[path][0].numel() for path in paths}


def checked_units(asked: dict[str, list[int]], sizes: dict[str, int]) -> dict[str, list[int]]:
    """Return the units asked for.

    Raises:
        InputError: One is not there.
    """
    for path, places in asked.items():
        bad = [place for place in places if not 0 <= place < sizes[path]]
        if bad:
            where = repr(path) if path else "the output"
            raise InputError(
                f"unit {bad[0]} of {where}: it has {sizes[path]} units, 0 to {sizes[path] - 1}"
            )
    return asked
