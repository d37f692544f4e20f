from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.memory import ProductKeyMemory, RowwiseAdam, Together, parameter_groups
from merkhet.training import Optimisation, Running, TrainingConfig, fit

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
DATA = torch.utils.data.TensorDataset(X, X.flip(1))


def made() -> tuple[nn.Module, Together]:
    memory = ProductKeyMemory(6, 8, 2, 4, 4, query_norm="layer")
    groups = parameter_groups(memory)
    values = RowwiseAdam(groups["values"], 1e-2, mode="caught_up")
    return memory, Together(torch.optim.AdamW(groups["others"], 1e-3), values)


def loss(module: nn.Module, batch) -> torch.Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


CONFIG = TrainingConfig(12, 16, optimisation=Optimisation(warmup_steps=3, clip_norm=1.0))


def test_a_schedule_reaches_both_and_both_step() -> None:
    memory, optimiser = made()
    before = [parameter.detach().clone() for parameter in memory.parameters()]
    fit(memory, DATA, loss, CONFIG, optimiser=optimiser)
    rates = [group["lr"] for inner in optimiser.optimisers for group in inner.param_groups]
    assert rates[1] == pytest.approx(10 * rates[0])
    assert rates[0] < 1e-3
    moved = [
        not torch.equal(one, other) for one, other in zip(before, memory.parameters(), strict=True)
    ]
    assert all(moved)


def test_a_run_that_is_interrupted_goes_on(tmp_path) -> None:
    whole, optimiser = made()
    result = fit(whole, DATA, loss, CONFIG, optimiser=optimiser)

    class Stop(Exception):
        pass

    def stop(_module: nn.Module, step: int) -> None:
        if step == 9:
            raise Stop

    config = TrainingConfig(12, 16, optimisation=CONFIG.optimisation, running=Running(save_every=4))
    part, optimiser = made()
    with pytest.raises(Stop):
        fit(part, DATA, loss, config, optimiser=optimiser, folder=tmp_path, after_step=stop)
    again, optimiser = made()
    resumed = fit(again, DATA, loss, config, optimiser=optimiser, folder=tmp_path)
    # Saving brings rows up to date a step earlier: the same to rounding.
    assert resumed.losses == pytest.approx(result.losses, rel=1e-5)


def test_what_does_not_go_together_is_refused() -> None:
    memory, optimiser = made()
    with pytest.raises(InputError, match="different parameters"):
        Together()
    with pytest.raises(InputError, match="different parameters"):
        Together(optimiser, *optimiser.optimisers)
    with pytest.raises(InputError, match="not the state of 2 optimisers"):
        optimiser.load_state_dict(torch.optim.SGD(memory.parameters(), 1e-3).state_dict())
