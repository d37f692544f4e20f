"""The spectral constraint: its projections are projections, and hold through training."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.rkhs.clipping import clipped
from merkhet.rkhs.constraint import TOLERANCE, SpectralConstraint
from merkhet.rkhs.decaying import decaying
from merkhet.rkhs.spectral import spectral_norms
from merkhet.training import TrainingConfig, fit


def norm(matrix: Tensor) -> float:
    """Return the largest singular value."""
    return float(torch.linalg.matrix_norm(matrix.detach().double(), ord=2))


def network(kind: type[nn.Module] = nn.Conv2d, **settings: object) -> nn.Sequential:
    """Return a small network of convolutions and one linear layer, norms about 1 and more."""
    torch.manual_seed(0)
    layers = [kind(2, 4, 3, **settings), nn.ReLU(), kind(4, 2, 3, **settings), nn.Flatten()]
    return nn.Sequential(*layers, nn.LazyLinear(3))


def ready(kind: type[nn.Module] = nn.Conv2d, **settings: object) -> tuple[nn.Sequential, Tensor]:
    """Return the network with its weights there, thrice as large, and an input."""
    model, x = network(kind, **settings).double(), torch.rand(2, 2, 6, 6).double()
    model(x)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model, x


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_clipping_takes_every_singular_value_to_the_bound_at_most(shape, dtype, generator) -> None:
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    bound = 0.7 * norm(matrix)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = left @ values.clamp(max=bound).diag() @ right
    # The Gram matrix's eigenvectors are right to eps times its condition in what is clipped.
    torch.testing.assert_close(clipped(matrix, bound), expected, rtol=0, atol=1e-12)


def test_clipping_gives_the_nearest_matrix(generator) -> None:
    matrix = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    bound = 0.6 * norm(matrix)
    nearest = clipped(matrix, bound)
    # Obtuse angle: <M - P, Q - P> <= 0 for every Q in the convex set says that P is nearest.
    for _ in range(200):
        other = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        other *= bound / norm(other)
        assert ((matrix - nearest) * (other - nearest)).sum() <= 1e-12


def test_clipping_is_idempotent_and_leaves_what_is_inside() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).to(dtype)
        stored = clipped(matrix, 2.0).to(dtype)
        again = clipped(stored, 2.0)
        slack = math.sqrt(20) * torch.finfo(dtype).eps + 2e-14
        assert norm(stored) <= 2 * (1 + slack)
        if again is not None:  # in float64, where the decision itself rounds
            torch.testing.assert_close(again, stored.double(), rtol=0, atol=1e-13)
        assert clipped(matrix, norm(matrix) * (1 + slack)) is None
        assert clipped(torch.zeros(3, 4, dtype=dtype), 1e-3) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (nn.Conv2d, {"padding": 1}),
        (nn.Conv2d, {"padding": 1, "stride": 2, "padding_mode": "circular"}),
        (nn.Conv2d, {"padding": 1, "padding_mode": "reflect", "groups": 2}),
        (nn.ConvTranspose2d, {"stride": 2}),
    ],
)
def test_operators_are_scaled_to_the_bound(kind, settings) -> None:
    model, x = ready(kind, **settings)
    constraint = SpectralConstraint(0.5, example=x)
    before = copy.deepcopy(model.state_dict())
    logs = constraint(model, 1)
    assert logs == {"spectral_bound": 0.5, "layers_projected": 3.0}
    for path, value in spectral_norms(model, x, method="certified").items():
        # At least the truth; the estimate is from below, by its tolerance and what is left.
        assert 0.49 < value < 0.51, path
        ratio = model.get_parameter(f"{path}.weight") / before[f"{path}.weight"]
        if path != "4":
            torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(value, before[name])
    for _ in range(20):
        constraint(model, 1)
    settled = copy.deepcopy(model.state_dict())
    constraint(model, 1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, settled[name], rtol=TOLERANCE, atol=1e-12)


def test_nothing_changes_below_the_bound() -> None:
    model, x = ready()
    before = copy.deepcopy(model.state_dict())
    for which in ("operator", "reshaped"):
        logs = SpectralConstraint(100.0, which, example=x)(model, 1)
        assert logs["layers_projected"] == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_reshaped_weights_are_projected_exactly(kind) -> None:
    model, x = ready(kind)
    before = [model[i].weight.detach().clone() for i in (0, 2, 4)]
    SpectralConstraint(0.5, "reshaped")(model, 1)
    assert max(spectral_norms(model, x, norm="reshaped").values()) <= 0.5 * (1 + 1e-12)
    for place, old in zip((0, 2, 4), before, strict=True):
        turned = old.transpose(0, 1) if kind is nn.ConvTranspose2d and place < 4 else old
        left, values, right = torch.linalg.svd(turned.flatten(1), full_matrices=False)
        expected = (left @ values.clamp(max=0.5).diag() @ right).view(turned.shape)
        new = model[place].weight.detach()
        new = new.transpose(0, 1) if turned is not old else new
        torch.testing.assert_close(new, expected)


def test_linear_layers_need_no_example_and_are_clipped() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).double()
    model[0].weight.data.mul_(10)
    values = torch.linalg.svdvals(model[0].weight.detach())
    SpectralConstraint(1.0)(model)
    torch.testing.assert_close(
        torch.linalg.svdvals(model[0].weight.detach()), values.clamp(max=1.0)
    )


def test_only_the_layers_named_are_held_and_frozen_ones_stay() -> None:
    model, x = ready()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    logs = SpectralConstraint(0.5, layers=["0", "4"], example=x)(model, 1)
    assert logs["layers_projected"] == 1
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[2].weight, before["2.weight"])
    assert norm(model[4].weight) <= 0.5 * (1 + 1e-12)


def test_a_shared_weight_is_scaled_once_for_the_larger_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)[..., ::2, ::2])

    model, x = Twice(), torch.rand(1, 2, 8, 8).double()
    model.conv.weight.data.mul_(5)
    constraint = SpectralConstraint(1.0, example=x)
    assert constraint(model, 1)["layers_projected"] == 1
    assert abs(spectral_norms(model, x)["conv"] - 1) < 0.01


def test_the_schedule_is_that_of_the_papers_code() -> None:
    schedule = decaying(0.8, 2.0, steps_per_epoch=3)
    for step, epoch in ((1, 0), (3, 0), (4, 1), (6, 1), (7, 2)):
        assert schedule(step) == pytest.approx(0.8 * (1 + 4 * math.exp(-epoch / 2)))
    assert schedule(1) == pytest.approx(4.0)
    assert schedule(10**6) == pytest.approx(0.8)
    model = nn.Linear(3, 3).double()
    model.weight.data.copy_(10 * torch.eye(3))
    constraint = pickle.loads(pickle.dumps(SpectralConstraint(schedule)))
    assert constraint(model, 4)["spectral_bound"] == schedule(4)
    torch.testing.assert_close(model.weight.detach(), schedule(4) * torch.eye(3).double())


def test_it_holds_through_training_and_leaves_the_optimiser_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x, y = torch.rand(32, 1, 6, 6), torch.arange(32) % 3
    constraint = SpectralConstraint(decaying(0.3, 1.0, 2), example=x)
    found: list[tuple[float, float]] = []

    def after(module: nn.Module, step: int) -> dict[str, float]:
        logs = constraint(module, step)
        largest = max(spectral_norms(module, x, method="certified").values())
        found.append((largest, logs["spectral_bound"]))
        return logs

    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    loss = lambda module, batch: F.cross_entropy(module(batch[0]), batch[1])  # noqa: E731
    config = TrainingConfig(steps=30, batch_size=16)
    result = fit(model, TensorDataset(x, y), loss, config, optimiser=optimiser, after_step=after)
    assert all(largest < 1.03 * bound for largest, bound in found)
    assert found[-1][0] > 0.29  # it is active
    assert result.history[-1]["layers_projected"] > 0
    assert len(optimiser.state) == 4


def test_copies_and_kept_vectors_go_on_alike() -> None:
    model, x = ready()
    constraint = SpectralConstraint(0.5, example=x)
    constraint(model, 1)
    model[0].weight.data.mul_(1.5)
    twin = copy.deepcopy(model)
    other = copy.deepcopy(constraint)
    other.load_state_dict(twin, constraint.state_dict(model))
    constraint(model, 2)
    other(twin, 2)
    assert all(
        torch.equal(value, twin.state_dict()[name]) for name, value in model.state_dict().items()
    )


def parametrised() -> nn.Module:
    """Return a layer whose weight is computed."""
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


def not_finite(layer: nn.Module) -> nn.Module:
    """Return a layer with one weight that is not a number."""
    layer.weight.data.view(-1)[0] = math.nan
    return layer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SpectralConstraint(0.0), "bound"),
        (lambda: SpectralConstraint(lambda step: -1.0)(nn.Linear(2, 2), 1), "bound"),
        (lambda: SpectralConstraint(1.0, "frobenius"), "norm"),
        (lambda: SpectralConstraint(1.0, layers="head"), "list"),
        (lambda: SpectralConstraint(1.0, layers=[]), "None for all"),
        (lambda: SpectralConstraint(1.0, example=torch.zeros(0, 2)), "one or more"),
        (lambda: SpectralConstraint(1.0, example=[0.0]), "example = list"),
        (lambda: SpectralConstraint(1.0, layers=["hed"])(nn.Linear(2, 2)), "no layer 'hed'"),
        (lambda: SpectralConstraint(1.0)(nn.Conv1d(1, 1, 3)), "observe"),
        (lambda: SpectralConstraint(1.0)(parametrised()), "parametris"),
        (lambda: SpectralConstraint(1.0).observe(parametrised(), torch.zeros(1, 2)), "parametris"),
        (lambda: SpectralConstraint(1.0)(not_finite(nn.Linear(2, 2))), "not finite"),
        (
            lambda: SpectralConstraint(1.0, example=torch.zeros(1, 1, 4))(
                not_finite(nn.Conv1d(1, 1, 3))
            ),
            "not finite",
        ),
        (lambda: decaying(0.8, 0.0, 3), "kappa"),
        (lambda: decaying(0.8, 2.0, 0), "steps_per_epoch"),
    ],
)
def test_what_cannot_be_held_is_refused(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_observing_says_the_sizes() -> None:
    model, x = ready()
    constraint = SpectralConstraint(0.5)
    constraint.observe(model, x)
    assert constraint(model, 1)["layers_projected"] == 3
