from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from merkhet.training import Optimisation, Running, TrainingConfig, final_weights, fit, read_run

# 21 examples in steps of 8: every epoch but the first begins in the middle of a step.
EXAMPLES = 21
HARD = TrainingConfig(
    steps=12,
    batch_size=4,
    accumulate=2,
    optimisation=Optimisation(
        learning_rate=0.01, weight_decay=0.1, warmup_steps=3, clip_norm=1.0, final_fraction=0.1
    ),
    running=Running(save_every=4),
)


class Killed(Exception):
    """Stands for a kill: nothing in the library catches it."""


class Network(nn.Sequential):
    """Convolution, batch norm, dropout and a linear layer; its weights depend on the seed."""

    def __init__(self, seed: int = 0, dropout: float = 0.4) -> None:
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout))
            self.extend([nn.Flatten(), nn.Linear(16, 3)])


class Augmented(Dataset[Any]):
    """Pictures with noise from the global generators of torch, NumPy and Python."""

    def __init__(self) -> None:
        self.pictures, self.labels = pictures().tensors

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = random.random() + float(np.random.rand())  # noqa: NPY002
        return self.pictures[index] + shift + torch.rand(1, 4, 4), self.labels[index]


def plain_network() -> nn.Sequential:
    """Return a network whose outputs do not depend on the rest of the batch."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def pictures() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(EXAMPLES) % 3
    noise = torch.randn(EXAMPLES, 1, 4, 4, generator=generator)
    return TensorDataset(noise + labels.view(-1, 1, 1, 1), labels)


def loss(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Assert that two states are equal bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def dying_at(last: int) -> Callable[[nn.Module, int], None]:
    def after_step(_module: nn.Module, step: int) -> None:
        if step == last:
            raise Killed

    return after_step


def signalling_at(last: int, number: signal.Signals) -> Callable[[nn.Module, int], None]:
    def after_step(_module: nn.Module, step: int) -> None:
        if step == last:
            signal.raise_signal(number)

    return after_step


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def with_adamw(_module: nn.Module) -> None:
    return None


@pytest.mark.parametrize("data", [pictures, Augmented])
@pytest.mark.parametrize("make_optimiser", [with_adamw, sgd])
@pytest.mark.parametrize("kills", [[3], [5], [9, 11], [4, 5, 6, 7, 12]])
def test_a_killed_run_ends_as_one_that_never_stopped(
    tmp_path: Path,
    data: Callable[[], Dataset[Any]],
    make_optimiser: Callable[[nn.Module], Any],
    kills: list[int],
) -> None:
    module = Network()
    whole = fit(module, data(), loss, HARD, optimiser=make_optimiser(module))
    for kill in kills:
        again = Network()
        torch.rand(kill)  # what the rest of the program draws must not matter
        with pytest.raises(Killed):
            fit(
                again,
                data(),
                loss,
                HARD,
                folder=tmp_path,
                optimiser=make_optimiser(again),
                after_step=dying_at(kill),
            )
    again = Network()
    resumed = fit(again, data(), loss, HARD, folder=tmp_path, optimiser=make_optimiser(again))
    assert resumed.losses == whole.losses
    assert resumed.history == whole.history
    assert_same(state(again), state(module))
    assert_same(load_file(final_weights(tmp_path)), state(module))


def test_the_seed_decides_and_global_generators_are_left_alone() -> None:
    config = TrainingConfig(steps=3, batch_size=4)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = fit(Network(), Augmented(), loss, config)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    torch.rand(3)
    assert fit(Network(), Augmented(), loss, config).losses == first.losses
    assert fit(Network(), Augmented(), loss, replace(config, seed=1)).losses != first.losses


def test_worker_processes_change_nothing() -> None:
    config = TrainingConfig(steps=4, batch_size=4)
    apart = replace(config, running=Running(workers=2))
    alone = fit(Network(), Augmented(), loss, config)
    assert fit(Network(), Augmented(), loss, apart).losses == alone.losses


def test_bf16_computes_low_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    seen = []

    def watched(module: nn.Module, batch: Any) -> Tensor:
        logits = module(batch[0])
        seen.append(logits.dtype)
        return F.cross_entropy(logits, batch[1])

    config = replace(HARD, precision="bf16")
    module = Network()
    result = fit(module, pictures(), watched, config)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    with pytest.raises(Killed):
        fit(Network(), pictures(), loss, config, folder=tmp_path, after_step=dying_at(6))
    assert fit(Network(), pictures(), loss, config, folder=tmp_path).losses == result.losses
    assert fit(Network(), pictures(), loss, HARD).losses != result.losses


def test_tied_weights_stay_tied_through_a_resumption(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)
            module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
        module[2].weight = module[1].weight
        return module

    whole = fit(tied(), pictures(), loss, HARD)
    with pytest.raises(Killed):
        fit(tied(), pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(6))
    again = tied()
    assert fit(again, pictures(), loss, HARD, folder=tmp_path).losses == whole.losses
    assert again[2].weight is again[1].weight
    assert len(load_file(final_weights(tmp_path))) == 3


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_stops_after_the_step_with_a_checkpoint(
    tmp_path: Path, number: signal.Signals, kind: type[BaseException]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stop = signalling_at(6, number)
    whole = fit(Network(), pictures(), loss, HARD)
    with pytest.raises(kind):
        fit(Network(), pictures(), loss, HARD, folder=tmp_path, after_step=stop)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert read_run(tmp_path)["status"] == "interrupted"
    assert (tmp_path / "checkpoints" / "step-00000006").is_dir()
    resumed = fit(Network(), pictures(), loss, HARD, folder=tmp_path)
    assert resumed.losses == whole.losses
    assert read_run(tmp_path)["status"] == "finished"


def test_an_interrupted_notebook_goes_on_with_the_same_objects(tmp_path: Path) -> None:
    module = Network()
    optimiser = sgd(module)
    stop = signalling_at(5, signal.SIGINT)
    whole = fit(fresh := Network(), pictures(), loss, HARD, optimiser=sgd(fresh))
    with pytest.raises(KeyboardInterrupt, match=r"after step 5; .* keeps it"):
        fit(
            module,
            pictures(),
            loss,
            HARD,
            folder=tmp_path,
            optimiser=optimiser,
            after_step=stop,
        )
    again = fit(module, pictures(), loss, HARD, folder=tmp_path, optimiser=optimiser)
    assert again.losses == whole.losses


def test_a_signal_without_a_folder_stops_too() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 2$"):
        fit(Network(), pictures(), loss, HARD, after_step=signalling_at(2, signal.SIGINT))


def test_modes_are_left_as_they_were() -> None:
    module = Network().eval()
    module[3].train()
    fit(module, pictures(), loss, TrainingConfig(steps=1, batch_size=2))
    assert [part.training for part in module] == [False, False, False, True, False, False]


def test_weights_may_be_projected_after_each_step() -> None:
    def project(module: nn.Module, _step: int) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.clamp_(-0.0625, 0.0625)

    module = Network()
    fit(module, pictures(), loss, HARD, after_step=project)
    assert max(parameter.abs().max().item() for parameter in module.parameters()) <= 0.0625


def test_lines_are_told_every_so_often_and_at_the_end() -> None:
    lines: list[str] = []
    config = replace(HARD, running=Running(log_every=5))
    fit(Network(), pictures(), loss, config, tell=lines.append)
    assert [line.split()[1] for line in lines] == ["5/12", "10/12", "12/12"]
    assert "loss " in lines[0]
    assert lines[0].endswith("steps/s")


def test_a_compiled_network_is_kept_as_a_plain_one(tmp_path: Path) -> None:
    whole = fit(Network(), pictures(), loss, HARD)
    compiled = torch.compile(Network(), backend="eager")
    with pytest.raises(Killed):
        fit(compiled, pictures(), loss, HARD, folder=tmp_path, after_step=dying_at(6))
    module = Network(seed=1)
    resumed = fit(module, pictures(), loss, HARD, folder=tmp_path)
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)
    assert load_file(final_weights(tmp_path)).keys() == module.state_dict().keys()
