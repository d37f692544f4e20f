"""The convex solve of the linear head: against slow references, and what must not change it."""

from __future__ import annotations

import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from merkhet.ckn import hinge
from merkhet.ckn.head import PATIENCE, PENALTIES, fit_head
from merkhet.ckn.hinge import Task, squared_hinge
from merkhet.core.errors import InputError


def blobs(count: int = 120, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs of overlapping classes, of unequal scales, away from the origin."""
    g = torch.Generator().manual_seed(seed)
    centres = 0.7 * torch.randn(classes, d, generator=torch.Generator().manual_seed(9)).double()
    labels = torch.arange(count) % classes
    x = centres[labels] + torch.randn(count, d, generator=g).double()
    return x * torch.logspace(0, -1, d).double() + 2, labels


def standard(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return features centred and divided by their mean norm, the centre and that norm."""
    centre = x.mean(0)
    scale = (x - centre).norm(dim=1).mean()
    return (x - centre) / scale, centre, scale


def newton(x: Tensor, labels: Tensor, classes: int, penalty: float) -> Tensor:
    """Return the weights and biases (K, d + 1) of least objective, by Newton's method."""
    ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
    ridge = penalty * torch.eye(ones.shape[1], dtype=x.dtype)
    ridge[-1, -1] = 0
    found = []
    for k in range(classes):
        y = torch.where(labels == k, 1.0, -1.0).to(x)
        w = x.new_zeros(ones.shape[1])

        def loss(w: Tensor, y: Tensor = y) -> Tensor:
            return (1 - y * (ones @ w)).clamp_min(0).square().mean() + w @ ridge @ w / 2

        for _ in range(100):
            active = ones[y * (ones @ w) < 1]
            slack = (1 - y * (ones @ w)).clamp_min(0)
            slope = -2 * (y * slack) @ ones / len(x) + ridge @ w
            step = torch.linalg.solve(2 * active.mT @ active / len(x) + ridge, slope)
            size = 1.0
            while loss(w - size * step) > loss(w) and size > 1e-9:
                size /= 2
            w = w - size * step
        found.append(w)
    return torch.stack(found)


def raw(weights: Tensor, centre: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (K, d) and biases (K,) on features that are not centred."""
    matrix = weights[:, :-1] / scale
    return matrix, weights[:, -1] - matrix @ centre


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("dense", [4096, 0])
def test_the_optimum_is_that_of_newtons_method(penalty, dense, monkeypatch) -> None:
    monkeypatch.setattr(hinge, "DENSE", dense)
    x, labels = blobs()
    inner, centre, scale = standard(x)
    matrix, shift = raw(newton(inner, labels, 3, penalty), centre, scale)
    head = fit_head(x, labels, 3, penalty=penalty)
    torch.testing.assert_close(head.linear.weight.data, matrix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.linear.bias.data, shift, rtol=1e-4, atol=1e-5)
    assert (head.penalty, head.penalties, head.accuracies) == (penalty, (penalty,), ())


def test_the_optimum_is_that_of_liblinear() -> None:
    """Its intercept is penalised, by 1e-4 as much as the weights. C = 1 / (n penalty)."""
    x, labels = blobs()
    inner, centre, scale = standard(x)
    model = LinearSVC(C=1 / (0.1 * len(x)), intercept_scaling=1e2, tol=1e-10, max_iter=10**5)
    model.fit(inner.numpy(), labels.numpy())
    both = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    matrix, shift = raw(torch.cat([both[0], both[1][:, None]], 1), centre, scale)
    head = fit_head(x, labels, 3, penalty=0.1)
    torch.testing.assert_close(head.linear.weight.data, matrix, rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(head.linear.bias.data, shift, rtol=5e-3, atol=5e-3)


def test_the_gradient_is_that_of_autograd_over_any_blocks(monkeypatch) -> None:
    x, labels = blobs()
    inner, _, _ = standard(x)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).double()
    variable = weights.clone().requires_grad_()
    loss = squared_hinge(inner @ variable[:, :-1].mT + variable[:, -1], labels)
    loss = loss + 0.01 / 2 * variable[:, :-1].square().sum()
    loss.backward()
    for block in (1, 50, 10**6):
        monkeypatch.setattr(hinge, "BLOCK", block)
        value, slope = Task(x, labels, 3).value_and_gradient(weights, 0.01)
        assert value == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(slope, variable.grad, rtol=1e-10, atol=1e-10)


def test_inputs_that_are_not_learned_count_for_nothing() -> None:
    x, labels = blobs()
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).double()
    task, kept = Task(x, labels, 3), torch.arange(len(x)) % 3 > 0
    task.learned = kept
    value, slope = task.value_and_gradient(weights, 0.01)
    inner, _, _ = standard(x)
    scores = inner[kept] @ weights[:, :-1].mT + weights[:, -1]
    wanted = squared_hinge(scores, labels[kept]) + 0.005 * weights[:, :-1].square().sum()
    assert value == pytest.approx(float(wanted), rel=1e-12)
    other = labels.clone()
    other[~kept] = (other[~kept] + 1) % 3
    again = Task(x, other, 3)
    again.learned = kept
    assert torch.equal(again.value_and_gradient(weights, 0.01)[1], slope)


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1e-4), (30.0, 1.0), (-5.0, 1e3)])
def test_shifts_and_scales_of_the_features_change_no_prediction(shift, factor) -> None:
    x, labels = blobs()
    new, _ = blobs(seed=1)
    plain = fit_head(x, labels, 3)
    moved = fit_head(factor * (x + shift), labels, 3)
    assert moved.accuracies == plain.accuracies
    found = moved.linear(factor * (new + shift))
    torch.testing.assert_close(found, plain.linear(new), rtol=1e-5, atol=1e-5)


def test_products_in_float32_give_the_optimum_of_float64() -> None:
    """The objective is at most 1e-6 above the least, for a loss of order 1.

    Products are off by 1e-7 of the slack, and the solve ends where a step gains 1e-8.
    """
    x, labels = blobs(400, 30)
    inner, centre, scale = standard(x)
    best = squared_objective(newton(inner, labels, 3, 1e-4), inner, labels, 1e-4)
    head = fit_head(x.float(), labels, 3, penalty=1e-4)
    matrix = head.linear.weight.data.double() * scale
    shift = head.linear.bias.data.double() + head.linear.weight.data.double() @ centre
    found = squared_objective(torch.cat([matrix, shift[:, None]], 1), inner, labels, 1e-4)
    assert head.linear.weight.dtype == torch.float32
    assert best <= found + 1e-12
    assert found < best + 1e-6


def squared_objective(weights: Tensor, inner: Tensor, labels: Tensor, penalty: float) -> float:
    scores = inner @ weights[:, :-1].mT + weights[:, -1]
    squares = weights[:, :-1].square().sum()
    return float(squared_hinge(scores, labels) + penalty / 2 * squares)


def test_two_classes_get_opposite_scores() -> None:
    x, labels = blobs(classes=2)
    scores = fit_head(x, labels, 2, penalty=0.01).linear(x)
    torch.testing.assert_close(scores[:, 0], -scores[:, 1], rtol=1e-5, atol=1e-5)


def test_a_path_takes_the_penalty_that_is_best_on_the_held_out_inputs() -> None:
    x, labels = blobs(90, 40)
    new, truth = blobs(600, 40, seed=1)
    head = fit_head(x, labels, 3, held_out=(new, truth))
    apart = [fit_head(x, labels, 3, penalty=penalty) for penalty in head.penalties]
    shares = [float((one.linear(new).argmax(1) == truth).double().mean()) for one in apart]
    assert head.accuracies == pytest.approx(shares, abs=1e-9)
    losses = [float(squared_hinge(one.linear(new).detach(), truth)) for one in apart]
    keys = [(share, -loss) for share, loss in zip(shares, losses, strict=True)]
    best = keys.index(max(keys))
    assert head.penalty == head.penalties[best]
    assert 0 < best < len(PENALTIES) - 1
    assert len(head.penalties) == min(best + PATIENCE + 1, len(PENALTIES))
    torch.testing.assert_close(
        head.linear.weight.data, apart[best].linear.weight.data, rtol=1e-4, atol=1e-5
    )


def test_a_share_is_held_out_and_then_learned_too() -> None:
    x, labels = blobs(90, 10)
    head = fit_head(x, labels, 3, penalty=(1e-3, 0.1, 1e-2, 0.1), seed=3)
    assert head.penalties == (0.1, 1e-2, 1e-3)
    whole = fit_head(x, labels, 3, penalty=head.penalty)
    torch.testing.assert_close(
        head.linear.weight.data, whole.linear.weight.data, rtol=1e-4, atol=1e-5
    )
    assert all(float(share * 15).is_integer() for share in head.accuracies)  # a sixth of 90
    again = fit_head(x, labels, 3, penalty=(1e-3, 0.1, 1e-2, 0.1), seed=3)
    assert again.accuracies == head.accuracies
    assert torch.equal(again.linear.weight, head.linear.weight)


def test_of_equal_accuracies_that_of_less_loss_is_taken_and_then_the_larger_penalty() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(40, 3, generator=g) + 9, torch.randn(40, 3, generator=g) - 9])
    labels = torch.arange(80) // 40
    head = fit_head(x, labels, 2, penalty=(1e-2, 10.0, 0.1))
    assert head.accuracies == (1.0, 1.0, 1.0)
    assert head.penalty == 1e-2
    # Two inputs that lie past their margins at both penalties have loss 0 with either.
    far = torch.tensor([[90.0, 90, 90], [-90, -90, -90]]), torch.tensor([0, 1])
    assert fit_head(x, labels, 2, penalty=(1e-2, 0.1), held_out=far).penalty == 0.1


def test_a_class_without_inputs_is_never_predicted() -> None:
    x, labels = blobs()
    head = fit_head(x, labels, 5, penalty=0.01)
    assert float(head.linear(x).detach()[:, 3:].max()) < -1 + 1e-6
    torch.testing.assert_close(
        head.linear.weight[3:], torch.zeros(2, 6).double(), atol=1e-6, rtol=0
    )


def test_features_are_left_alone() -> None:
    x, labels = blobs()
    before = x.clone()
    fit_head(x, labels, 3)
    assert torch.equal(x, before)


def test_the_loss_of_the_harness_is_the_same_loss() -> None:
    scores = torch.tensor([[0.5, -2.0], [1.0, 3.0]])
    # Input 0 of class 0: (1 - 0.5)^2 + 0; input 1 of class 1: (1 + 1)^2 + 0.
    assert float(squared_hinge(scores, torch.tensor([0, 1]))) == pytest.approx((0.25 + 4) / 2)


X, Y = blobs(12, 2)
WRONG = [
    ((X, Y + 1, 3), {}, "labels go from 1 to 3: with classes = 3 they must be from 0 to 2"),
    ((X, torch.zeros_like(Y), 3), {}, "labels are all 0: give inputs of two classes or more"),
    ((X, Y[:5], 3), {}, r"give int64 \(12,\)"),
    ((X.where(torch.arange(12)[:, None] != 7, torch.nan), Y, 3), {}, "features of input 7 hold"),
    ((X.where(torch.arange(12)[:, None] != 3, torch.inf), Y, 3), {}, "features of input 3 hold"),
    ((torch.full_like(X, 0.1), Y, 3), {}, "features of all 12 inputs are equal"),
    ((X[:, None], Y, 3), {}, r"give \(n, d\) in float32 or float64"),
    ((X.half(), Y, 3), {}, "float16"),
    ((X[:0], Y[:0], 3), {}, "give one or more"),
    ((X, Y, 3), {"penalty": 0.0}, "penalty = 0.0: give a positive number"),
    ((X, Y, 3), {"penalty": ()}, "give a number, several, or None"),
    ((X, Y, 3), {"held_out": 1}, "held_out = 1"),
    ((X, Y, 3), {"held_out": 50}, "12 inputs are too few to hold one in 50 out"),
    ((X, Y, 3), {"held_out": (X[:, :1], Y)}, r"give torch.float64 \(m, 2\)"),
    ((X, Y, 3), {"held_out": (X * torch.nan, Y)}, "held-out features hold NaN"),
]


@pytest.mark.parametrize(("given", "options", "message"), WRONG)
def test_what_does_not_fit_is_refused(given, options, message) -> None:
    with pytest.raises(InputError, match=message):
        fit_head(*given, **options)


def test_one_hot_is_not_a_label() -> None:
    with pytest.raises(InputError, match=r"labels are torch\.float64"):
        fit_head(X, F.one_hot(Y, 3).double(), 3)
