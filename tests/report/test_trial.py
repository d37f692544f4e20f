from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.report import Experiment, Trial, experiment, read_record
from merkhet.report.trial import experiments, reproduce, select


def make(run) -> Experiment:
    run.__module__ = "merkhet.stability.experiments"
    return experiment(run)


def test_an_interrupted_trial_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls: list[str] = []
    interrupt = [True]

    def two_steps(trial: Trial) -> None:
        """Show two steps."""

        def first():
            calls.append("first")
            return {"x": torch.ones(2), "n": 3}

        kept = trial.step("first", first)
        if interrupt.pop():
            raise KeyboardInterrupt
        trial.figure("sum", kept["x"].sum().item() + kept["n"])
        trial.goal("a goal", "5", 5, True)

    chosen = make(two_steps)
    interrupt.append(True)
    with pytest.raises(KeyboardInterrupt):
        reproduce(chosen, "small", tmp_path)
    interrupt[:] = [False]
    record = read_record(reproduce(chosen, "small", tmp_path))
    assert calls == ["first"]
    assert record.figures["sum"].value == 5
    assert record.package == "stability"
    assert record.goals[0].met
    assert [found.name for found in (tmp_path / "stability").iterdir() if found.is_file()] == [
        "two_steps.json"
    ]
    assert not (tmp_path / "stability" / ".work").exists()


def test_steps_run_in_processes_of_one_thread_and_are_kept(tmp_path: Path) -> None:
    found: list[dict[str, object]] = []

    def many(trial: Trial) -> None:
        """Show many steps."""
        trial.step("2", partial(math.factorial, 5))  # kept under the key of another computation
        work = {str(n): partial(math.factorial, n) for n in (4, 3, 2)}
        found.append(trial.steps({**work, "threads": torch.get_num_threads}, workers=2))
        found.append(trial.steps({}))

    read_record(reproduce(make(many), "small", tmp_path))
    assert found == [{"4": 24, "3": 6, "2": 120, "threads": 1}, {}]
    assert list(found[0]) == ["4", "3", "2", "threads"]


def test_a_step_that_fails_in_a_process_raises_here(tmp_path: Path) -> None:
    def failing(trial: Trial) -> None:
        """Show a failure."""
        trial.steps({"bad": partial(math.factorial, -1)})

    with pytest.raises(ValueError, match="negative"):
        reproduce(make(failing), "small", tmp_path)


def test_sizes_folders_and_names_are_checked(tmp_path: Path) -> None:
    chosen = make(lambda trial: None)
    with pytest.raises(InputError, match="choose one of full, small"):
        reproduce(chosen, "tiny", tmp_path)
    with pytest.raises(InputError, match="--out"):
        reproduce(chosen, "small", tmp_path / "absent")
    with pytest.raises(InputError, match="no package with experiments 'stabillity'"):
        select("stabillity", None)
    with pytest.raises(InputError, match="representations"):
        select("stability", "representation")


def test_experiments_are_found_in_the_packages() -> None:
    found = experiments()["stability"]["representations"]
    assert found in select(None, None)
    assert select("stability", "representations") == [found]
    assert found.package == "stability"
    assert found.summary.endswith(".")
