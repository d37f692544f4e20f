from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.training import Optimisation, Running, TrainingConfig, fit
from merkhet.training.order import Order

EXAMPLES = 21
HARD = TrainingConfig(
    steps=12,
    batch_size=4,
    accumulate=2,
    optimisation=Optimisation(learning_rate=0.01, warmup_steps=3, clip_norm=1.0),
    running=Running(save_every=4),
)


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


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_steps_are_those_of_a_loop_written_by_hand(precision: str) -> None:
    config = TrainingConfig(
        steps=6,
        batch_size=5,
        precision=precision,
        optimisation=Optimisation(learning_rate=0.02, weight_decay=0.5, schedule="constant"),
    )
    module, by_hand = plain_network(), plain_network()
    result = fit(module, pictures(), loss, config)
    groups = [
        {"params": [by_hand[1].weight, by_hand[3].weight], "weight_decay": 0.5},
        {"params": [by_hand[1].bias, by_hand[3].bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.02, foreach=False)
    order, losses = Order(EXAMPLES, config), []
    for step in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(by_hand, pictures()[order.batch(step)])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert result.losses == pytest.approx(losses, rel=1e-4)
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_accumulation_equals_the_large_batch_to_rounding() -> None:
    ends = []
    for batch_size, accumulate in ((12, 1), (4, 3), (3, 4)):
        module = plain_network()
        config = TrainingConfig(steps=10, batch_size=batch_size, accumulate=accumulate)
        ends.append((fit(module, pictures(), loss, config).losses, module.state_dict()))
    for losses, weights in ends[1:]:
        assert losses == pytest.approx(ends[0][0], rel=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, ends[0][1][name], rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    def breaking(module: nn.Module, batch: Any) -> Tensor:
        factor = float("nan") if len(calls) == 2 * 5 else 1.0
        calls.append(1)
        return loss(module, batch) * factor

    calls: list[int] = []
    before: dict[str, Tensor] = {}

    def watch(module: nn.Module, _step: int) -> None:
        before.update({name: tensor.clone() for name, tensor in module.named_parameters()})

    module = plain_network()
    with pytest.raises(InputError, match="the loss is nan at step 6: give a lower"):
        fit(module, pictures(), breaking, HARD, folder=tmp_path, after_step=watch)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    def root(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch[0]) * 0).sum().sqrt()  # 0, with an infinite slope

    with pytest.raises(InputError, match="the gradient's norm is nan at step 1"):
        fit(plain_network(), pictures(), root, HARD)


def test_what_is_measured_goes_into_the_history() -> None:
    def logged(module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        logits = module(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        return F.cross_entropy(logits, batch[1]), {"right": right, "size": len(batch[1])}

    def evaluate(module: nn.Module, step: int) -> dict[str, float]:
        modes.append(module.training)
        module.eval()
        return {"squared": step**2}

    modes: list[bool] = []
    result = fit(plain_network(), pictures(), logged, HARD, after_step=evaluate)
    names = {"step", "loss", "rate", "right", "size", "gradient_norm", "squared"}
    assert all(row.keys() == names for row in result.history)
    assert [row["step"] for row in result.history] == list(range(1, 13))
    assert [row["squared"] for row in result.history] == [step**2 for step in range(1, 13)]
    assert {row["size"] for row in result.history} == {4.0}
    assert result.history[2]["rate"] == 0.01
    assert modes == [True] * 12


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda module, batch: 1.0, "returned float"),
        (lambda module, batch: module(batch[0]), r"returned a tensor of shape \(4, 3\):"),
        (lambda module, batch: torch.tensor(1.0), r"shape \(\) that depends on no parameter"),
    ],
)
def test_a_loss_that_is_no_loss_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(plain_network(), pictures(), answer, HARD)


def test_clipping_measures_the_norm_of_the_mean_gradient() -> None:
    config = replace(HARD, steps=3)
    module = plain_network()
    measured = fit(module, pictures(), loss, config).history[0]["gradient_norm"]
    by_hand = plain_network()
    order = Order(EXAMPLES, config)
    loss(by_hand, pictures()[torch.cat([order.batch(0), order.batch(1)])]).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in by_hand.parameters()])
    assert measured == pytest.approx(norm.item(), rel=1e-5)


def test_names_that_the_loop_gives_are_refused() -> None:
    def rated(module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        return loss(module, batch), {"rate": 1.0}

    with pytest.raises(InputError, match="'rate' is logged by the loop itself"):
        fit(plain_network(), pictures(), rated, HARD)
    with pytest.raises(InputError, match="'loss' is logged by the loop itself"):
        fit(plain_network(), pictures(), loss, HARD, after_step=lambda module, step: {"loss": 1.0})
