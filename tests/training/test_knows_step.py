"""A loss that is told the step it is at, from the first one and where a run goes on."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.training import Running, TrainingConfig, fit


class Told:
    """A loss that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def at_step(self, step: int) -> None:
        self.steps.append(step)

    def __call__(self, module: nn.Module, batch: list[Tensor]) -> Tensor:
        if self.steps[-1] == 3 and 0 in self.steps:
            raise KeyboardInterrupt
        return module(batch[0]).square().mean()


def test_a_loss_is_told_its_step_also_where_a_run_goes_on(tmp_path: Path) -> None:
    model, data = nn.Linear(2, 1), TensorDataset(torch.rand(8, 2))
    config = TrainingConfig(6, 4, running=Running(save_every=2, progress=False))
    first, second = Told(), Told()
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, data, first, config, folder=tmp_path / "run")
    fit(model, data, second, config, folder=tmp_path / "run")
    assert first.steps == [0, 1, 2, 3]
    assert second.steps == [2, 3, 4, 5]
