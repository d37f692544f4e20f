"""Runs that need a process of their own: two that train together, one that is interrupted.

The tests start this file as a program, with the name of a function and its arguments.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.training import Optimisation, Running, TrainingConfig, fit

CONFIG = TrainingConfig(
    steps=12,
    batch_size=2,
    accumulate=2,
    optimisation=Optimisation(learning_rate=0.01, clip_norm=0.5),
    running=Running(save_every=4, cpu=True),
)
DATA = TensorDataset(
    torch.randn(21, 4, generator=torch.Generator().manual_seed(0)), torch.arange(21) % 3
)


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def together(folder: str, rank: str) -> None:
    """Train in two processes: without a stop, killed, stopped by a signal to one of them."""

    def die(_module: nn.Module, step: int) -> None:
        if step == 6:
            raise RuntimeError

    def ask_one(_module: nn.Module, step: int) -> None:
        if step == 9 and rank == "1":
            signal.raise_signal(signal.SIGINT)

    fit(network(), DATA, loss, CONFIG, folder=Path(folder) / "plain")
    whole = fit(network(0.5), DATA, loss, CONFIG)
    kept = Path(folder) / "stopped"
    with pytest.raises(RuntimeError):
        fit(network(0.5), DATA, loss, CONFIG, folder=kept, after_step=die)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 9"):
        fit(network(0.5), DATA, loss, CONFIG, folder=kept, after_step=ask_one)
    resumed = fit(network(0.5), DATA, loss, CONFIG, folder=kept)
    assert resumed.losses == whole.losses
    assert fit(network(0.5), DATA, loss, CONFIG, folder=kept).losses == whole.losses
    torch.distributed.destroy_process_group()


def interrupted(folder: str) -> None:
    """Train slowly, saying every step."""

    def say(_module: nn.Module, step: int) -> None:
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()
        time.sleep(0.2)

    before = signal.getsignal(signal.SIGINT)
    config = replace(CONFIG, running=Running(workers=1, cpu=True))
    try:
        fit(network(), DATA, loss, config, folder=folder, after_step=say)
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is before
        raise


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    ranks = [
        start("together", tmp_path, rank, **meeting, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    module = network()
    fit(module, DATA, loss, replace(CONFIG, batch_size=4))
    weights = load_file(tmp_path / "plain" / "model.safetensors")
    assert weights.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_ctrl_c_ends_a_program_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    process = start("interrupted", tmp_path / "run")
    assert process.stdout is not None
    for line in process.stdout:
        if line == "2\n":
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the worker gets it too
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, errors
    last = int(("2\n" + rest).split()[-1])  # a slow reader's signal may come a step later
    assert last < CONFIG.steps
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept == [f"step-{last:08d}"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "interrupted": interrupted}[sys.argv[1]](*sys.argv[2:])
