"""Two and four processes on one machine against one: reads, gradients, steps, checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.memory.sharded import ShardedValueTable

WORK = Path(__file__).parent / "sharded_work.py"


def launch(processes: int, folder: Path, *arguments: str) -> dict[str, object]:
    """Run the work in some processes; return what the first of them wrote."""
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    call += [f"--nproc-per-node={processes}", str(WORK), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, object]:
    return launch(1, tmp_path_factory.mktemp("alone"), "train")


@pytest.mark.parametrize("processes", [2, 4])
def test_training_on_several_processes_is_training_on_one(
    processes: int, alone: dict[str, object], tmp_path: Path
) -> None:
    found = launch(processes, tmp_path, "train")
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert found["counts"] == alone["counts"]  # of the tokens of all processes
    for name, values in alone["tensors"].items():
        difference = torch.tensor(found["tensors"][name]) - torch.tensor(values)
        assert float(difference.abs().max()) < 1e-5, name


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 1), (1, 4)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(
    before: int, after: int, alone: dict[str, object], tmp_path: Path
) -> None:
    launch(before, tmp_path, "save")
    found = launch(after, tmp_path, "resume")
    assert found["losses"] == pytest.approx(alone["losses"][-len(found["losses"]) :], rel=1e-5)
    table = torch.tensor(found["tensors"]["values"]) - torch.tensor(alone["tensors"]["values"])
    assert float(table.abs().max()) < 1e-5


def test_without_processes_it_says_how_to_start_them() -> None:
    with pytest.raises(InputError, match="run under torchrun"):
        ShardedValueTable(8, 2)
