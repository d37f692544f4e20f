"""Training under penalties: the paper's descent step by step, resumption, constraints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.data import load
from merkhet.models import SmallCNN, find_target
from merkhet.rkhs.constraint import SpectralConstraint
from merkhet.rkhs.estimators import MOMENTUM, PAPER, Recipe, train_classifier
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.training import Running

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 4
QUIET = Running(progress=False, cpu=True)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def by_hand(recipe: Recipe, penalty: float) -> tuple[nn.Module, list[float]]:
    """Descend on the whole of the data as the paper does; return the network and the rates."""
    module, rates = network(), []
    velocity = [torch.zeros_like(value) for value in module.parameters()]
    for step in range(recipe.epochs):
        rate = recipe.rate * 0.5 ** (step * (recipe.halvings + 1) // recipe.epochs)
        rates.append(rate)
        x = X.clone().requires_grad_()
        logits = module(x)
        loss = F.cross_entropy(logits, Y)
        for own in logits.sum(0):
            (slope,) = torch.autograd.grad(own, x, create_graph=True)
            loss = loss + penalty * slope.square().sum(1).max()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for value, move, gradient in zip(module.parameters(), velocity, gradients, strict=True):
                decay = recipe.weight_decay if value.dim() > 1 else 0.0
                move.mul_(MOMENTUM).add_(gradient + decay * value)
                value.sub_(rate * move)
    return module, rates


def test_the_descent_is_the_papers() -> None:
    recipe = Recipe(12, None, 0.1, 0.01, batch_size=128, optimiser="sgd", halvings=3)
    module = network()
    result = train_classifier(
        module, (X, Y), 0.05 * GradientPenalty(), recipe=recipe, running=QUIET
    )
    wanted, rates = by_hand(recipe, 0.05)
    assert [row["rate"] for row in result.history] == pytest.approx(rates)
    assert rates[0] == 8 * rates[-1]
    torch.testing.assert_close(weights(module), weights(wanted), rtol=1e-4, atol=1e-6)


def test_the_penalty_holds_gradients_down() -> None:
    sizes = []
    for factor in (0.0, 0.1):
        module = network()
        penalty = factor * GradientPenalty() if factor else None
        train_classifier(
            module, (X, Y), penalty, recipe=Recipe(60, rate=0.1, optimiser="sgd"), running=QUIET
        )
        sizes.append(GradientPenalty()(module, X)[0].item())
    assert sizes[1] < sizes[0] / 2


def test_the_paper_halves_its_rate_about_every_forty_epochs() -> None:
    steps = PAPER.steps_for(50_000)
    assert steps == 500 * 391
    assert steps / (PAPER.halvings + 1) / 391 == pytest.approx(40, abs=2)
    assert (PAPER.rate, PAPER.batch_size, PAPER.optimiser) == (0.05, 128, "sgd")


class Stop:
    """A constraint that stops a run, and otherwise does nothing."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, module: nn.Module, step: int) -> Mapping[str, float] | None:
        if step == self.at:
            raise RuntimeError("stopped")
        return None


def test_a_run_that_was_stopped_goes_on_as_it_was(tmp_path: Path) -> None:
    def run(module: nn.Module, folder: Path, at: int, factor: float = 0.01) -> list[float]:
        penalty = factor * GradientPenalty("mean")
        recipe = Recipe(10, rate=0.1, batch_size=8, optimiser="sgd", halvings=4)
        running = Running(progress=False, cpu=True, save_every=4)
        return train_classifier(
            module, (X, Y), penalty, Stop(at), recipe=recipe, folder=folder, running=running
        ).losses

    whole, broken = network(), network()
    losses = run(whole, tmp_path / "whole", at=-1)
    with pytest.raises(RuntimeError, match="stopped"):
        run(broken, tmp_path / "broken", at=22)
    again = network()
    assert run(again, tmp_path / "broken", at=-1) == losses
    assert torch.equal(weights(again), weights(whole))
    with pytest.raises(InputError, match=r"holds a run with spec\.penalty"):
        run(network(), tmp_path / "broken", at=-1, factor=0.02)


def test_pictures_are_floats_and_transformed_in_training() -> None:
    pictures = load("digits", "train", limit=40)
    seen: list[Tensor] = []

    def keep(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return inputs + 0.1 * torch.randn_like(inputs)

    def run() -> list[float]:
        seen.clear()
        return train_classifier(
            SmallCNN(widths=(4,), norm="none"),
            pictures,
            recipe=Recipe(steps=3, batch_size=16),
            transform=keep,
            running=QUIET,
        ).losses

    first = run()
    assert [len(one) for one in seen] == [16, 16, 16]
    assert all(one.dtype == torch.float32 and 0.5 < float(one.max()) <= 1 for one in seen)
    assert run() == first, "noise is drawn from the step's seed"


def test_a_constraint_holds_every_step() -> None:
    module = network()
    constraint = SpectralConstraint(0.5, example=X[:1])
    result = train_classifier(
        module,
        (X, Y),
        constraint=constraint,
        recipe=Recipe(5, rate=0.5, optimiser="sgd"),
        running=QUIET,
    )
    assert [row["spectral_bound"] for row in result.history] == [0.5] * 5
    for layer in (module[0], module[2]):
        assert torch.linalg.matrix_norm(layer.weight.detach(), ord=2) <= 0.5 * (1 + 1e-5)


def test_adamw_and_its_schedule() -> None:
    recipe = Recipe(steps=20, rate=0.01, optimiser="adamw")
    rates = [
        row["rate"]
        for row in train_classifier(network(), (X, Y), recipe=recipe, running=QUIET).history
    ]
    assert rates[1] == pytest.approx(0.01)
    assert rates[0] == pytest.approx(0.005)
    assert rates[-1] < 1e-3


def test_a_run_of_a_known_network_is_a_target(tmp_path: Path) -> None:
    pictures = load("digits", "train", limit=20)
    arguments = {"widths": [4], "norm": "none"}
    module = SmallCNN(**arguments)
    spec = {"model": {"name": "small_cnn", "arguments": arguments}, "data": "digits"}
    train_classifier(
        module, pictures, recipe=Recipe(steps=2), folder=tmp_path, spec=spec, running=QUIET
    )
    assert torch.equal(weights(find_target(str(tmp_path)).module), weights(module))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"rate": -1.0}, "rate = -1.0"),
        ({"halvings": -1}, "halvings = -1"),
        ({"halvings": 2.5}, "halvings = 2.5"),
        ({"seed": "a"}, "seed = 'a'"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1"),
        ({"optimiser": "sdg"}, "Did you mean 'sgd'"),
    ],
)
def test_numbers_out_of_range_are_told(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_data_without_labels_is_refused() -> None:
    from dataclasses import replace

    pictures = replace(load("digits", "train", limit=20), labels=None, classes=())
    with pytest.raises(InputError, match="digits has no labels"):
        train_classifier(SmallCNN(), pictures)
    with pytest.raises(InputError, match=r"labels of shape \(24, 1\)"):
        train_classifier(network(), (X, Y[:, None]))
    with pytest.raises(InputError, match=r"label [6-9] where there are 4 classes"):
        train_classifier(network(), (X, Y + 6), recipe=Recipe(1), running=QUIET)


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        ((X.numpy(), Y.numpy()), {}, "two tensors"),
        ((X, Y, Y), {}, "two tensors"),
        (X, {}, "two tensors"),
        ((X[:0], Y[:0]), {}, "no examples"),
        ((X, Y), {"penalty": "gradient"}, "parse_penalty"),
        ((X, Y), {"constraint": 0.8}, "constraint = 0.8"),
        ((X, Y), {"recipe": "fast"}, "give a Recipe"),
    ],
)
def test_what_no_run_is_made_of_is_told(data: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        train_classifier(network(), data, **more)
