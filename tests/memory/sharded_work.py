"""What each process of the tests of sharding does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from merkhet.memory import ProductKeyMemory, RowwiseAdam, Together, parameter_groups, shard, usage
from merkhet.memory.distributed_checkpoint import load, save

TOKENS, STEPS, STOP = 24, 8, 5
X = torch.randn(STEPS, TOKENS, 6, generator=torch.Generator().manual_seed(0))


def main(folder: Path, task: str) -> None:
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    memory = ProductKeyMemory(6, 7, 2, 4, 4, query_norm="layer")  # 49 slots: parts are unequal
    network = nn.Sequential(memory, nn.Linear(6, 6))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(6) + 0.1)
        network[1].bias.zero_()
    shard(network)
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))  # never has a gradient
    groups = parameter_groups(network)
    values = RowwiseAdam(groups["values"], 0.05, mode="caught_up")
    others = torch.optim.Adam(groups["others"], 0.01)
    both = {"both": Together(values, others)}
    first = 0
    if task == "resume":
        load(folder / "checkpoint", network, both)
        first = STOP
    elif task == "save":
        save(folder / "untrained", network, both)  # which changes nothing
    model = DistributedDataParallel(network, find_unused_parameters=True)
    losses = []
    for step in range(first, STOP if task == "save" else STEPS):
        mine = X[step].chunk(processes)[rank]
        loss = (model(mine) - mine.flip(1)).square().mean()
        loss.backward()
        others.param_groups[0]["lr"] *= 0.9  # as a schedule would
        for optimiser in (values, others):
            optimiser.step()
            optimiser.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(float(total) / processes)
    if task == "save":
        save(folder / "checkpoint", network, both)
    values.flush()
    mine = [x.chunk(processes)[rank] for x in X]
    counts = usage(network, mine)["0.values"].counts.tolist()
    parts = [None] * processes
    dist.all_gather_object(parts, memory.values.weight.detach())
    if rank == 0:
        tensors = {"values": torch.cat(parts).tolist(), "keys": memory.subkeys.tolist()}
        (folder / "found.json").write_text(
            json.dumps({"losses": losses, "tensors": tensors, "counts": counts})
        )
    dist.barrier()  # none leaves while another still talks to it
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter is taken down


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
