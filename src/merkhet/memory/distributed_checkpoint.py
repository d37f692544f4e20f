"""Checkpoints of sharded tables that load on another number of processes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from merkhet.core.errors import InputError
from merkhet.memory.optimiser import RowwiseAdam
from merkhet.memory.sharded import ShardedValueTable
from merkhet.memory.upkeep import bring_up_to_date

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ROWS = ("momentum", "second", "last")


def save(path: Path | str, model: nn.Module, optimisers: Mapping[str, Optimizer]) -> None:
    """Write a network and its optimisers; every process calls it, and writes its own rows.

    Args:
        path: The checkpoint's folder, which all processes see.
        model: A network, its tables sharded by `shard` or not, not wrapped.
        optimisers: By name: `RowwiseAdam` for tables, and any others.
    """
    from torch.distributed.checkpoint import state_dict_saver

    state_dict_saver.save(_state(model, optimisers), checkpoint_id=str(path))


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

    if not (Path(path) / ".metadata").is_file():
        raise InputError(f"{path} holds no whole checkpoint: give a folder that save wrote")
    state = _state(model, optimisers)
    try:
        state_dict_loader.load(state, checkpoint_id=str(path))
    except (CheckpointException, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{path} is not of this network: {first}") from error
    model.load_state_dict({name: _local(value) for name, value in state["model"].items()})
    for name, optimiser in optimisers.items():
        _take(optimiser, state["optimisers"][name])


def _state(model: nn.Module, optimisers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Return the whole state, tables and their moments as rows of one table of all processes."""
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
    found = {}
    for name, optimiser in optimisers.items():
        rows = isinstance(optimiser, RowwiseAdam)
        found[name] = _of_rows(optimiser, tables) if rows else _of_others(optimiser)
    return {"model": weights, "optimisers": found}


def _of_rows(
    optimiser: Optimizer, tables: Mapping[int, ShardedValueTable]
) -> dict[str, dict[str, Any]]:
    """Return the state of tables by their place, made where there is none yet."""
    assert isinstance(optimiser, RowwiseAdam)
    optimiser.flush()
    found = {}
    for place, table in enumerate(_parameters(optimiser)):
        state = optimiser.state_of(table)
        owner = tables.get(id(table))
        rows = {key: _global(state[key], owner) if owner else state[key] for key in ROWS}
        found[str(place)] = {**rows, "step": torch.tensor(state["step"])}
    return found


def _of_others(optimiser: Optimizer) -> dict[str, dict[str, Any]]:
    """Return the state of an ordinary optimiser by place, made by a step of nothing if need be."""
    if not optimiser.state:
        _step_of_nothing(optimiser)
    return {
        str(place): dict(optimiser.state[parameter])
        for place, parameter in enumerate(_parameters(optimiser))
    }


def _step_of_nothing(optimiser: Optimizer) -> None:
    """Let an optimiser make its state without moving anything."""
    kept = [(parameter, parameter.grad) for parameter in _parameters(optimiser)]
    rates = [group["lr"] for group in optimiser.param_groups]
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    for parameter, _ in kept:
        parameter.grad = torch.zeros_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of schedules that have not begun
        optimiser.step()
    for parameter, gradient in kept:
        parameter.grad = gradient
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate


def _take(optimiser: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Give an optimiser a state that was loaded."""
    for place, parameter in enumerate(_parameters(optimiser)):
        found = {name: _local(value) for name, value in state[str(place)].items()}
        if isinstance(optimiser, RowwiseAdam):
            optimiser.restore(parameter, int(found["step"]), *(found[key] for key in ROWS))
        else:
            optimiser.state[parameter].update(found)


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
