"""The loss of a mixture: what each step trains, its terms, and runs through the loop."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from merkhet.cnmm import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.estimators import Classes, Recipe, train_mixture
from merkhet.cnmm.gates import Gates
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.objective import Objective, Schedule, divergence
from merkhet.cnmm.starts import start_nodes
from merkhet.core.errors import InputError
from merkhet.training import Running, parameter_groups

QUIET = Running(progress=False)
X, Y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3


def small(seed: int = 0, **more: object) -> CNMM:
    return cnmm_classifier(1, 3, (3, 4), 4, seed=seed, **more)


@functools.cache
def counted() -> CostTable:
    """Return the costs of `small`, whatever its weights and norms."""
    return count_costs(small(), X[:1])


class Stopping(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of another data set, that stop the run once, at its thirteenth batch of 16."""

    def __init__(self, data: TensorDataset) -> None:
        self.data, self.seen = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.seen += 1
        if self.seen == 200:
            raise KeyboardInterrupt
        return self.data[index]


def objective(model: CNMM, steps: int = 100, **schedule: float) -> Objective:
    given = Schedule(**schedule)  # type: ignore[arg-type]
    return Objective(steps, F.cross_entropy, counted(), given)


def trained(found: Objective, model: CNMM, step: int) -> set[str]:
    """Return what a step trains."""
    found.at_step(step)
    _, logs = found(model, (X, Y))
    return {name.removesuffix("_loss") for name in logs if name.endswith("_loss")}


def test_the_schedule_says_what_a_step_trains() -> None:
    model = small().train()
    found = objective(model, mixture_every=4)
    each = [trained(found, model, step) for step in range(12)]
    assert all({"longest", "starts", "sampled"} <= step for step in each)
    assert [step for step in range(12) if "mixture" in each[step]] == [0, 4, 8]


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_is_the_sum_of_its_terms(step: int) -> None:
    model = small(norm="group").train()
    terms = {"frozen": 0.0, "cost": 0.3, "entropy": 0.2, "distillation": 0.7, "temperature": 0.5}
    found = objective(model, mixture_every=2, starts=3, draws=3, portion=0.5, **terms)
    found.at_step(step)  # every second one with the mixture
    torch.manual_seed(5)
    loss, logs = found(model, (X, Y))
    torch.manual_seed(5)
    halves = [slice(0, 12), slice(12, 24), slice(0, 12)]
    deepest = model.path(((0, 1, 2, 3), (0, 1, 2, 3)))
    teacher = (model(X, deepest) if step else model(X)).detach()

    def term(gates: Sequence[Gates], rows: slice) -> Tensor:
        output = model(X[rows], gates)
        apart = F.kl_div(output.log_softmax(1), teacher[rows].softmax(1), reduction="batchmean")
        return F.cross_entropy(output, Y[rows]) + 0.7 * apart

    expected = torch.zeros(()) if step else F.cross_entropy(model(X), Y)
    others = 1 + torch.multinomial(torch.tensor([1 / 2, 1 / 3, 1 / 4]), 2)
    for number in (0, *others.tolist(), 4):
        expected = expected + term(model.path(start_nodes((4, 4), number)), slice(0, 24))
    for rows in halves:
        expected = expected + term(model.sweep(0.5 ** (step / 100)), rows) / 2
    costs = found.costs
    share = costs.expected(model.logits()) / costs.of_path(((0, 1, 2, 3), (0, 1, 2, 3)))
    expected = expected + 0.3 * share - 0.2 * model.entropy() / (4 * math.log(2))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert float(logs["entropy"]) == pytest.approx(1, abs=1e-6)  # all gates at one half
    assert float(logs["gates_chosen"]) == 0


def test_starts_are_drawn_the_shorter_the_likelier() -> None:
    found = objective(small(), starts=3)
    drawn = [found._numbers(6) for _ in range(4000)]
    assert all(len(set(one)) == 3 and one[0] == 0 and max(one) < 6 for one in drawn)
    counts = torch.bincount(torch.tensor([number for one in drawn for number in one[1:]]))[1:]
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert counts[0] > 1.5 * counts[-1]
    assert [objective(small(), starts=1)._numbers(most) for most in (0, 1, 6)] == [[], [0], [0]]


def test_a_mixture_of_one_network_trains() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 2)
    found = Objective(10, F.cross_entropy, count_costs(model, X[:1]))
    loss, logs = found(model, (X, Y))
    loss.backward()
    assert "starts_loss" not in logs
    assert all(one.grad is not None for one in model.parameters() if one.dim() > 1)


def test_gates_are_held_at_first_and_move_then() -> None:
    model = small().train()
    found = objective(model, steps=100, frozen=0.5, mixture_every=1)
    for step, moves in ((0, False), (49, False), (50, True)):
        model.zero_grad()
        found.at_step(step)
        found(model, (X, Y))[0].backward()
        given = [stage.logits.grad is not None for stage in model.parts()]
        assert given == [moves, moves]


def test_the_mixture_alone_moves_the_statistics() -> None:
    model = small().train()
    found = objective(model, mixture_every=2)
    for step, moves in ((1, False), (2, True)):
        before = copy.deepcopy(model.state_dict())
        found.at_step(step)
        found(model, (X, Y))
        same = all(torch.equal(before[name], one) for name, one in model.state_dict().items())
        assert same is not moves


def test_divergence_is_zero_of_itself_and_torchs_own() -> None:
    one, other = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(divergence(one, one), torch.zeros(()).double(), rtol=0, atol=1e-14)
    parts = F.kl_div(one.log_softmax(1), other.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(one, other), parts.mean())


def test_gates_are_a_group_of_their_own_without_decay() -> None:
    model = small()
    gates = {id(logits) for logits in model.logits()}
    own = [
        group
        for group in parameter_groups(model, 0.1)
        if any(id(parameter) in gates for parameter in group["params"])
    ]
    assert len(own) == 1
    assert {id(parameter) for parameter in own[0]["params"]} == gates
    assert (own[0]["weight_decay"], own[0]["rate"]) == (0.0, 3.0)


def test_training_learns_and_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(96, 1, 8, 8)
    y = (x.mean((1, 2, 3)) > 0.5).long()
    data = TensorDataset(x + 0.3 * (2 * y[:, None, None, None] - 1), y)
    recipe = Recipe(epochs=5, batch_size=16, rate=1e-2)
    running = Running(save_every=10, progress=False)
    whole, parts = small(), small()
    result = train_mixture(whole, data, recipe, running=running)
    losses = [float(row["longest_loss"]) for row in result.history]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

    stopping = Stopping(data)
    for _ in range(2):
        try:
            train_mixture(parts, stopping, recipe, running=running, folder=tmp_path / "run")
        except KeyboardInterrupt:
            parts = small(seed=7)  # another process, other weights
    assert stopping.seen > 200
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name


def test_masks_are_learned_and_what_is_ignored_counts_for_nothing() -> None:
    model = cnmm_segmenter(3, 2, (3, 4), (1, 0), norm="group")
    x = torch.rand(8, 3, 8, 8)
    masks = (x[:, 0] > 0.5).long()
    masks[:, :2] = 9
    result = train_mixture(
        model, TensorDataset(x, masks), Recipe(epochs=30, batch_size=8), ignore=9, running=QUIET
    )
    assert result.losses[-1] < result.losses[0]


def test_a_collapse_is_told() -> None:
    lines: list[str] = []
    model = small()
    for logits in model.logits():
        nn.init.constant_(logits, -12.0)
    data = TensorDataset(X, Y)
    train_mixture(model, data, Recipe(epochs=1), running=QUIET, tell=lines.append)
    assert any("collapsed" in line for line in lines)


@pytest.mark.parametrize(
    ("output", "targets", "says"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "classes=4"),
        (torch.zeros(2, 3), torch.tensor([-1, 1]), "0 to 2"),
        (torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 11), "all 11"),
    ],
)
def test_labels_that_do_not_fit_are_refused(output: Tensor, targets: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Classes(ignore=11)(output, targets)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Schedule(mixture_every=0), "mixture_every"),
        (lambda: Schedule(starts=0), "starts"),
        (lambda: Schedule(frozen=1.5), "frozen"),
        (lambda: Schedule(portion=0), "portion"),
        (lambda: Schedule(portion=2), "portion"),
        (lambda: Schedule(draws=0), "draws"),
        (lambda: Schedule(temperature=0), "temperature"),
        (lambda: Schedule(cost=float("nan")), "cost"),
        (lambda: Schedule(entropy=-1), "entropy"),
        (lambda: train_mixture(small(), (X, Y)), "TensorDataset"),
        (lambda: Recipe(epochs=0), "epochs"),
        (lambda: Recipe(rate=0), "rate"),
        (lambda: Recipe(weight_decay=-1), "weight_decay"),
        (lambda: objective(small())(nn.Linear(1, 1), (X, Y)), "no mixture"),
    ],
)
def test_what_is_no_training_of_a_mixture_is_refused(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
