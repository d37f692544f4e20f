from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.training import Running, TrainingConfig, fit, progress

DATA = TensorDataset(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))


def loss(module: nn.Module, batch: Any) -> Tensor:
    value: Tensor = module(batch[0]).square().mean()
    return value


def config(**running: Any) -> TrainingConfig:
    return TrainingConfig(steps=7, batch_size=2, running=Running(log_every=3, **running))


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Offer accelerate a tracker called "notebook", and return what it writes down."""
    tracking = pytest.importorskip("accelerate.tracking")
    notes: dict[str, Any] = {"values": []}

    class Notebook(tracking.GeneralTracker):  # type: ignore[misc,name-defined]
        name = "notebook"
        requires_logging_directory = False
        tracker: ClassVar[None] = None

        def __init__(self, run_name: str, **_options: Any) -> None:
            super().__init__()
            notes["run"] = run_name

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            notes["config"] = values

        def log(self, values: dict[str, Any], step: int | None, **_options: Any) -> None:
            notes["values"].append((step, values))

        def finish(self) -> None:
            notes["finished"] = True

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    return notes


def test_a_tracker_gets_the_configuration_and_the_steps(
    tmp_path: Path, tracked: dict[str, Any]
) -> None:
    result = fit(nn.Linear(2, 1), DATA, loss, config(tracker="notebook"), folder=tmp_path)
    assert tracked["config"]["optimisation.learning_rate"] == 0.001
    assert tracked["config"]["optimisation.clip_norm"] == "None"
    assert [step for step, _ in tracked["values"]] == [3, 6, 7]
    assert tracked["values"][2][1] == {"loss": result.losses[6], "rate": result.history[6]["rate"]}
    assert tracked["finished"]


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tracker 'tensorbord'.*Did you mean 'tensorboard'"):
        fit(nn.Linear(2, 1), DATA, loss, config(tracker="tensorbord"), folder=tmp_path)


def test_a_tracker_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(InputError, match="tensorboard is not installed: pip install tensorboard"):
        fit(nn.Linear(2, 1), DATA, loss, config(tracker="tensorboard"), folder=tmp_path)


def test_a_tracker_needs_a_folder(tracked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="notebook needs a place: give fit"):
        fit(nn.Linear(2, 1), DATA, loss, config(tracker="notebook"))


def test_nothing_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    fit(nn.Linear(2, 1), DATA, loss, config())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_is_drawn_on_a_terminal_if_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    fit(nn.Linear(2, 1), DATA, loss, config(progress=shown))
    assert ("7/7" in capsys.readouterr().err) is shown


def test_the_bar_ends_when_the_run_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        task_ids = (0,)
        stopped = False

        def update(self, *_arguments: object, **_fields: object) -> None:
            raise OSError

        def stop(self) -> None:
            self.stopped = True

    bar = Bar()
    monkeypatch.setattr(progress, "_bar", lambda done, steps: bar)
    with pytest.raises(OSError):  # noqa: PT011
        fit(nn.Linear(2, 1), DATA, loss, config())
    assert bar.stopped
