"""Checkpoints of sharded tables that load on another number of processes."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from merkhet.core.calls import first_line
from merkhet.core.errors import InputError
from merkhet.core.files import atomic_file
from merkhet.memory.optimiser import RowwiseAdam
from merkhet.memory.sharded import ShardedValueTable
from merkhet.memory.together import Together
from merkhet.memory.upkeep import bring_up_to_date

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ROWS = ("momentum", "second", "last")
REPLICATED = "optimisers.pt"
DAMAGE = (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError)


def save(path: Path | str, model: nn.Module, optimisers: Mapping[str, Optimizer]) -> None:
    """Write a network and its optimisers; every process calls it, and writes its own rows.

    Args:
        path: The checkpoint's folder, which all processes see; a new one for each checkpoint, for
            what is there is overwritten file by file.
        model: A network, its tables sharded by `shard` or not, not wrapped.
        optimisers: By name: `RowwiseAdam` for tables, and any others, whose states are the same
            in all processes.
    """
    from torch.distributed.checkpoint import state_dict_saver

    parts = _apart(optimisers)
    if not dist.is_initialized() or dist.get_rank() == 0:
        with atomic_file(Path(path) / REPLICATED) as aside:
            torch.save({name: _replicated(part) for name, part in parts.items()}, aside)
    state_dict_saver.save(_rows(model, parts), checkpoint_id=str(path))


def load(path: Path | str, model: nn.Module, optimisers: Mapping[str, Optimizer]) -> None:
    """Bring a network and its optimisers to where they were, on any number of processes.

    Args:
        path: The checkpoint's folder.
        model: The network, built and sharded as when it was saved.
        optimisers: By the same names.

    Raises:
        InputError: There is no whole checkpoint, or it is that of another network.
    """
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException

    files = [Path(path) / ".metadata", Path(path) / REPLICATED]
    if not all(file.is_file() for file in files):
        raise InputError(f"{path} holds no whole checkpoint: give a folder that save wrote")
    parts = _apart(optimisers)
    try:
        replicated = torch.load(files[1], weights_only=True)
        if set(replicated) != set(parts):
            raise InputError(f"{path} has optimisers {sorted(replicated)}, not {sorted(parts)}")
        rows = _rows(model, parts)
        state_dict_loader.load(rows, checkpoint_id=str(path))
        for name, part in parts.items():
            _restore(part, replicated[name], rows["optimisers"].get(name, {}))
    except InputError:
        raise
    except (CheckpointException, *DAMAGE) as error:
        raise InputError(f"{path} is damaged or not of this network: {_cause(error)}") from error
    model.load_state_dict({name: _local(value) for name, value in rows["model"].items()})


def _apart(optimisers: Mapping[str, Optimizer]) -> dict[str, Optimizer]:
    """Return the optimisers by name, those that are `Together` one by one."""
    found: dict[str, Optimizer] = {}
    for name, optimiser in optimisers.items():
        if isinstance(optimiser, Together):
            inside = {f"{name}.{place}": one for place, one in enumerate(optimiser.optimisers)}
            found |= _apart(inside)
        else:
            found[name] = optimiser
    return found


def _rows(model: nn.Module, optimisers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Return the weights and the moments of tables, rows as parts of a table of all processes."""
    tables = {
        id(part.weight): part for part in model.modules() if isinstance(part, ShardedValueTable)
    }
    for part in tables.values():
        bring_up_to_date(part.weight)
    owners = {
        name: tables[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in tables
    }
    weights = {
        name: _global(value, owners[name]) if name in owners else value
        for name, value in model.state_dict().items()
    }
    moments = {
        name: _moments(optimiser, tables)
        for name, optimiser in optimisers.items()
        if isinstance(optimiser, RowwiseAdam)
    }
    return {"model": weights, "optimisers": moments}


def _moments(
    optimiser: RowwiseAdam, tables: Mapping[int, ShardedValueTable]
) -> dict[str, dict[str, Any]]:
    """Return the moments of tables by their place, made where there are none yet."""
    found = {}
    for place, table in enumerate(_parameters(optimiser)):
        state = optimiser.state_of(table)
        owner = tables.get(id(table))
        rows = {key: _global(state[key], owner) if owner else state[key] for key in ROWS}
        found[str(place)] = {**rows, "step": torch.tensor(state["step"])}
    return found


def _replicated(optimiser: Optimizer) -> dict[str, Any]:
    """Return what is the same in all processes: groups, and an ordinary optimiser's state."""
    if not isinstance(optimiser, RowwiseAdam):
        return optimiser.state_dict()
    return {"param_groups": [_options(group) for group in optimiser.param_groups]}


def _restore(
    optimiser: Optimizer, replicated: dict[str, Any], moments: Mapping[str, dict[str, Any]]
) -> None:
    """Bring an optimiser to where it was."""
    if not isinstance(optimiser, RowwiseAdam):
        optimiser.load_state_dict(replicated)
        return
    for group, saved in zip(optimiser.param_groups, replicated["param_groups"], strict=True):
        group.update(saved)
    for place, table in enumerate(_parameters(optimiser)):
        found = {name: _local(value) for name, value in moments[str(place)].items()}
        optimiser.restore(table, int(found["step"]), *(found[key] for key in ROWS))


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group without its parameters."""
    return {name: value for name, value in group.items() if name != "params"}


def _cause(error: BaseException) -> str:
    """Return the first line of what a process met; torch gathers the errors of all."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return first_line(error)


def _parameters(optimiser: Optimizer) -> list[Tensor]:
    """Return an optimiser's parameters in order."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _global(rows: Tensor, table: ShardedValueTable) -> Tensor:
    """Return this process's rows as a part of the table of all processes."""
    from torch.distributed.tensor import DTensor, Shard

    ranks = dist.get_process_group_ranks(table.group or dist.group.WORLD)
    mesh = _mesh(rows.device.type, tuple(ranks))
    shape = torch.Size((table.all_slots, *rows.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    placed: Tensor = DTensor.from_local(
        rows.detach(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
    )
    return placed


@functools.cache
def _mesh(device: str, ranks: tuple[int, ...]) -> DeviceMesh:
    """Return the processes as torch wants them, the same for all tensors."""
    from torch.distributed.device_mesh import DeviceMesh

    return DeviceMesh(device, list(ranks))


def _local(value: Any) -> Any:
    """Return the rows of this process."""
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value
