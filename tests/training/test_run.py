from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from merkhet.core.errors import InputError
from merkhet.report.record import read_record
from merkhet.training import (
    Optimisation,
    Running,
    TrainingConfig,
    final_weights,
    fit,
    read_run,
)

HARD = TrainingConfig(
    steps=12,
    batch_size=4,
    optimisation=Optimisation(learning_rate=0.01),
    running=Running(save_every=4),
)


class Killed(Exception):
    """Stands for a kill: nothing in the library catches it."""


class Network(nn.Sequential):
    """Dropout and two linear layers; its weights depend on the seed."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))


def pictures() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(21, 4, generator=generator), torch.arange(21) % 3)


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05)


def dying_at(last: int) -> Any:
    def after_step(_module: nn.Module, step: int) -> None:
        if step == last:
            raise Killed

    return after_step


def test_a_finished_run_returns_at_once_with_its_weights(tmp_path: Path) -> None:
    def never(_module: nn.Module, _batch: Any) -> Tensor:
        raise AssertionError("a finished run was trained")

    module = Network()
    first = fit(module, pictures(), loss, HARD, folder=tmp_path, spec={"widths": (4,)})
    again = Network(seed=7)
    second = fit(again, pictures(), never, HARD, folder=tmp_path, spec={"widths": (4,)})
    assert second == first
    assert second.steps == 12
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_folder_tells_what_it_is(tmp_path: Path) -> None:
    spec = {"model": {"name": "network", "arguments": {"seed": 0}}}
    result = fit(Network(), pictures(), loss, HARD, folder=tmp_path, spec=spec)
    run = read_run(tmp_path)
    assert run["about"]["spec"] == spec
    found = TrainingConfig.from_dict({**run["about"]["config"], "running": run["running"]})
    assert found == HARD
    record = read_record(tmp_path / "record.json")
    assert (record.package, record.seeds) == ("training", [0])
    assert record.figures["final_loss"].value == result.losses[-1]
    assert record.figures["steps_per_second"].value == pytest.approx(12 / result.seconds)
    names = {path.name for path in tmp_path.iterdir()} - {".lock"}
    assert names == {
        "run.json",
        "losses.jsonl",
        "checkpoints",
        "model.safetensors",
        "record.json",
    }
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000012"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 13}, "steps = 12, not 13: use another folder"),
        ({"batch_size": 2}, "batch_size = 4, not 2"),
        ({"optimisation": Optimisation()}, "optimisation.learning_rate = 0.01, not 0.001"),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(5))
    with pytest.raises(InputError, match=message):
        fit(Network(), pictures(), loss, replace(HARD, **change), folder=tmp_path)


def test_other_data_another_spec_or_optimiser_are_refused(tmp_path: Path) -> None:
    def again(data: Dataset[Any] | None = None, **options: Any) -> None:
        fit(module, data or pictures(), loss, HARD, folder=tmp_path, **options)

    module = Network()
    with pytest.raises(Killed):
        again(spec={"a": {"b": 1}}, after_step=dying_at(5))
    with pytest.raises(InputError, match=r"spec\.a\.b = 1, not 2"):
        again(spec={"a": {"b": 2}})
    with pytest.raises(InputError, match="examples = 21, not 3"):
        again(TensorDataset(*pictures()[:3]), spec={"a": {"b": 1}})
    with pytest.raises(InputError, match=r"optimiser\.type = 'AdamW', not 'SGD'"):
        again(optimiser=sgd(module), spec={"a": {"b": 1}})


def test_the_rate_of_an_optimiser_brought_along_is_part_of_the_run(tmp_path: Path) -> None:
    module = Network()
    for rate in (0.1, 0.2):
        optimiser = torch.optim.SGD(module.parameters(), lr=rate)
        expected, message = (Killed, None) if rate == 0.1 else (InputError, r"lr = 0\.1, not 0\.2")
        with pytest.raises(expected, match=message):
            fit(
                module,
                pictures(),
                loss,
                HARD,
                folder=tmp_path,
                optimiser=optimiser,
                after_step=dying_at(5),
            )


def test_a_spec_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="spec is not JSON-able"):
        fit(Network(), pictures(), loss, HARD, spec={"model": Network})


def test_how_a_run_is_looked_after_may_change(tmp_path: Path) -> None:
    whole = fit(Network(), pictures(), loss, HARD)
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(9))
    other = replace(HARD, running=Running(save_every=1, keep=3, log_every=2))
    assert fit(Network(), pictures(), loss, other, folder=tmp_path).losses == whole.losses
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, seed in ((one, 0), (other, 1)):
        with pytest.raises(Killed):
            fit(
                Network(),
                pictures(),
                loss,
                replace(HARD, seed=seed),
                folder=folder,
                after_step=dying_at(5),
            )
    (other / "checkpoints" / "step-00000004").rename(one / "checkpoints" / "step-00000005")
    with pytest.raises(InputError, match="is a checkpoint of another run"):
        fit(Network(), pictures(), loss, HARD, folder=one)


def test_a_damaged_newest_checkpoint_costs_time_only(tmp_path: Path) -> None:
    whole = fit(Network(), pictures(), loss, HARD)
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(10))
    damaged = tmp_path / "checkpoints" / "step-00000008"
    (damaged / "optimiser.pt").write_bytes(b"torn")
    (tmp_path / "checkpoints" / ".step-00000012.x").mkdir()
    (tmp_path / ".model.safetensors.x").touch()
    with pytest.warns(UserWarning, match="step-00000008 is passed over"):
        resumed = fit(Network(), pictures(), loss, HARD, folder=tmp_path)
    assert resumed.losses == whole.losses
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"damaged-step-00000008", "step-00000008", "step-00000012"}
    assert not list(tmp_path.glob(".model*"))


def test_a_disk_that_fills_up_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def fill(_module: nn.Module, step: int) -> None:
        if step == 8:
            monkeypatch.setattr(torch, "save", full)

    whole = fit(Network(), pictures(), loss, HARD)
    with pytest.raises(OSError, match="No space left on device"):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=fill)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = fit(Network(), pictures(), loss, HARD, folder=tmp_path)
    assert resumed.losses == whole.losses


def test_a_history_shorter_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(5))
    (tmp_path / "losses.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"losses.jsonl is damaged"):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path)


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w');"
        " fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process trains into"):
            fit(Network(), pictures(), loss, HARD, folder=tmp_path)
        other.kill()
    assert fit(Network(), pictures(), loss, HARD, folder=tmp_path).steps == 12


def test_final_weights_are_those_of_finished_runs_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run: give a folder that fit wrote to"):
        final_weights(tmp_path)
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(5))
    with pytest.raises(InputError, match="is running: finish it by the same call of fit"):
        final_weights(tmp_path)
    fit(Network(), pictures(), loss, HARD, folder=tmp_path)
    assert final_weights(tmp_path) == tmp_path / "model.safetensors"
