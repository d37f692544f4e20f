"""The spectral penalty: against dense singular values, finite differences and closed forms."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.core.errors import InputError
from merkhet.rkhs.operations import as_called, operations
from merkhet.rkhs.penalty import regularised_loss
from merkhet.rkhs.spectral import SpectralPenalty, spectral_norms
from merkhet.rkhs.warm import WarmVectors
from merkhet.training import TrainingConfig, fit

torch.manual_seed(0)
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (6,)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 9)),
    "conv2d": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "same": (nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2), (2, 6, 5)),
    "circular": (nn.Conv2d(2, 2, 3, stride=2, padding=1, padding_mode="circular"), (2, 6, 6)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
    "replicate": (nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), (2, 5, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "conv3d": (nn.Conv3d(1, 2, 2, padding=1), (1, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 4)),
    "transposed1d": (nn.ConvTranspose1d(4, 2, 3, groups=2, dilation=2), (4, 6)),
}


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the matrix of a layer without its bias, from its answers to unit vectors."""
    layer = copy.deepcopy(layer).double()
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return (layer(units) - layer(torch.zeros_like(units))).flatten(1).mT


def settled(
    layer: nn.Module, shape: tuple[int, ...], calls: int, **settings: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a penalty's value and logs once its vectors have converged."""
    penalty, x = SpectralPenalty(**settings), torch.zeros(1, *shape, dtype=torch.float64)
    for _ in range(calls):
        value, logs = penalty(layer, x)
    return value, logs


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("vectors", [1, 2])
def test_it_is_the_square_of_the_operators_largest_singular_value(name: str, vectors: int) -> None:
    layer, shape = CASES[name]
    layer = copy.deepcopy(layer).double()
    exact = torch.linalg.matrix_norm(dense(layer, shape), ord=2)
    value, logs = settled(layer, shape, calls=200, vectors=vectors)
    # Kuczynski & Wozniakowski 1992: 0.871 log n / (steps - 1) in the mean over the start, whatever
    # the gaps; two vectors converge by sigma_3 / sigma_1.
    error = 0.871 * math.log(math.prod(shape)) / 199 if vectors == 1 else 2e-3
    assert exact**2 * (1 - error) <= value <= exact**2 * (1 + 1e-12)
    torch.testing.assert_close(logs["largest_spectral_norm"] ** 2, value.detach())


def test_two_vectors_reach_two_equal_singular_values_at_once_where_one_takes_long() -> None:
    # sigma_2 / sigma_1 = 0.999, sigma_3 / sigma_1 = 0.1
    layer = nn.Linear(20, 20).double()
    values = torch.tensor([1.0, 0.999, *[0.1] * 18], dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(20, 20).double())[0] for _ in range(2))
    layer.weight.data.copy_(left @ values.diag() @ right)
    value, _ = settled(layer, (20,), calls=5, vectors=2)
    assert abs(value.item() - 1) < 1e-12


@pytest.mark.parametrize(
    ("name", "vectors"), [*((name, 2) for name in CASES), ("linear", 1), ("conv2d", 1)]
)
@pytest.mark.parametrize("norm", ["operator", "reshaped"])
def test_its_gradient_is_that_of_finite_differences(name: str, norm: str, vectors: int) -> None:
    layer, shape = CASES[name]
    layer = copy.deepcopy(layer).double()
    value, _ = settled(layer, shape, calls=200, norm=norm, vectors=vectors)
    (gradient,) = torch.autograd.grad(value, layer.weight)

    def exact(weight: Tensor) -> float:
        moved = copy.deepcopy(layer)
        moved.weight.data.copy_(weight)
        matrix = dense(moved, shape) if norm == "operator" else as_matrix(moved)
        return float(torch.linalg.matrix_norm(matrix, ord=2) ** 2)

    step = torch.randn(layer.weight.shape, dtype=torch.float64)
    step *= 1e-5 / step.norm()
    ahead, behind = exact(layer.weight.data + step), exact(layer.weight.data - step)
    # Central differences err by O(step^2); the singular vectors by what is left of convergence.
    assert (
        abs((ahead - behind) / 2 - float((gradient * step).sum())) < 2e-2 * 1e-5 * gradient.norm()
    )


def as_matrix(layer: nn.Module) -> Tensor:
    """Return a weight as the matrix out x (in k k), column by column."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return torch.stack([weight[:, i].reshape(-1) for i in range(weight.shape[1])])
    return torch.stack([row.reshape(-1) for row in weight])


def test_the_reshaped_norm_is_another_number() -> None:
    layer, shape = copy.deepcopy(CASES["conv2d"][0]).double(), CASES["conv2d"][1]
    value, _ = settled(layer, shape, calls=100, norm="reshaped")
    exact = torch.linalg.matrix_norm(as_matrix(layer), ord=2)
    torch.testing.assert_close(value.detach().sqrt(), exact, rtol=1e-6, atol=0)
    assert torch.linalg.matrix_norm(dense(layer, shape), ord=2) > 1.1 * exact


def test_only_the_excess_over_the_target_counts() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    model[0].weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
    model[1].weight.data.copy_(torch.diag(torch.tensor([0.5, 0.2])))
    value, _ = settled(model, (2,), calls=30, target=0.8)
    torch.testing.assert_close(value.detach(), torch.tensor(2.2**2).double())
    value.backward()
    expected = torch.diag(torch.tensor([2 * 2.2, 0.0])).double()
    torch.testing.assert_close(model[0].weight.grad, expected, atol=1e-6, rtol=0)
    assert not model[1].weight.grad.any()


def test_vectors_follow_weights_that_move_as_in_training(generator: torch.Generator) -> None:
    layer, shape = copy.deepcopy(CASES["conv2d"][0]).double(), CASES["conv2d"][1]
    penalty, x = SpectralPenalty(), torch.zeros(1, *shape).double()
    size = layer.weight.shape
    way = torch.randn(size, generator=generator).double() * 0.002
    errors = []
    for _ in range(120):
        step = torch.randn(size, generator=generator).double() * 0.002
        layer.weight.data.add_(way + step)
        sigma = penalty(layer, x)[0].detach().sqrt()
        errors.append(float(1 - sigma / torch.linalg.matrix_norm(dense(layer, shape), ord=2)))
    assert min(errors) > -1e-12  # from below
    assert max(errors[60:]) < 0.02


def test_a_layer_called_at_two_sizes_counts_with_each() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(self.conv(x))[..., ::2, ::2]).flatten(1)

    model = Twice()
    value, _ = settled(model, (2, 6, 6), calls=150, vectors=2)
    norms = [
        torch.linalg.matrix_norm(dense(model.conv, shape), ord=2)
        for shape in ((2, 6, 6), (2, 3, 3))
    ]
    torch.testing.assert_close(value.detach(), norms[0] ** 2 + norms[1] ** 2, rtol=1e-3, atol=0)
    assert spectral_norms(model, torch.zeros(1, 2, 6, 6).double()).keys() == {"conv"}


def test_a_shared_weight_counts_once_for_each_thing_done_with_it() -> None:
    def network(stride: int) -> nn.Sequential:
        first, second = (nn.Conv1d(2, 2, 3, padding=1, stride=s) for s in (1, stride))
        second.weight = first.weight
        return nn.Sequential(first, second, nn.Flatten())

    x = torch.zeros(1, 2, 8)
    assert len(operations(network(1), x, "operator")) == 1
    assert len(operations(network(2), x, "operator")) == 2
    tied = nn.Sequential(layer := nn.Linear(3, 3), nn.ReLU(), layer)
    assert len(operations(tied, torch.zeros(1, 3), "operator")) == 1


def test_frozen_weights_count_as_constants() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    x = torch.zeros(1, 4)
    model[0].requires_grad_(False)
    value, _ = SpectralPenalty(seed=3)(model, x)
    value.backward()
    assert model[0].weight.grad is None
    assert model[1].weight.grad.any()
    norms = spectral_norms(model, x)
    assert abs(float(value) / sum(norm**2 for norm in norms.values()) - 1) < 0.2
    assert not model[0].weight.requires_grad


def test_layers_that_are_not_called_do_not_count_and_zero_weights_have_no_gradient() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Idle()
    nn.init.zeros_(model.used.weight)
    for vectors in (1, 2):
        penalty = SpectralPenalty(vectors=vectors)
        value, _ = penalty(model, torch.zeros(1, 3))
        value.backward()
        assert value == 0
        assert model.idle.weight.grad is None
        assert model.used.weight.grad.isfinite().all()
    model.used.weight.data.copy_(torch.eye(2, 3))  # from zero it is found again
    assert abs(float(penalty(model, torch.zeros(1, 3))[0]) - 1) < 1e-3


def test_the_network_is_left_as_found_and_hooks_are_gone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten())
    model.train()
    before = copy.deepcopy(model.state_dict())
    x, state = torch.rand(4, 1, 5, 5), torch.get_rng_state()
    SpectralPenalty()(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())


def test_an_exception_in_the_forward_pass_leaves_no_hooks() -> None:
    class Broken(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    model = Broken(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="broken"):
        SpectralPenalty()(model, torch.zeros(1, 2))
    assert not any(part._forward_hooks for part in model.modules())
    assert model.training


def test_a_seed_gives_the_same_values_and_another_seed_another_start() -> None:
    model, x = nn.Linear(30, 30), torch.zeros(1, 30)
    values = [[SpectralPenalty(seed=seed)(model, x)[0].item() for _ in "ab"] for seed in (0, 0, 1)]
    assert values[0] == values[1]
    assert values[0] != values[2]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_begin_anew(again) -> None:
    model, x = nn.Linear(30, 30), torch.zeros(1, 30)
    penalty = SpectralPenalty(0.1, vectors=2)
    first = penalty(model, x)[0]
    penalty(model, x)
    copied = again(penalty)
    assert torch.equal(copied(model, x)[0], first)
    assert repr(copied) == repr(penalty)


def test_kept_vectors_go_on_and_are_dropped_with_the_network() -> None:
    model, x = nn.Linear(30, 30), torch.zeros(1, 30)
    penalty, resumed = SpectralPenalty(), SpectralPenalty(seed=5)
    for _ in range(3):
        penalty(model, x)
    resumed.load_state_dict(model, x, penalty.state_dict(model))
    assert torch.equal(penalty(model, x)[0], resumed(model, x)[0])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_vectors_begin_anew_with_another_type_and_another_layer() -> None:
    model, x = nn.Sequential(nn.Linear(30, 30)), torch.zeros(1, 30)
    penalty = SpectralPenalty()
    for _ in range(3):
        penalty(model, x)
    model.double()
    torch.testing.assert_close(
        penalty(model, x.double())[0], SpectralPenalty()(model, x.double())[0], rtol=0, atol=0
    )
    model[0] = nn.Linear(30, 30)
    assert torch.equal(penalty(model, x)[0], SpectralPenalty()(model, x)[0])


def test_loaded_weights_need_few_calls() -> None:
    layer, shape = copy.deepcopy(CASES["conv2d"][0]).double(), CASES["conv2d"][1]
    penalty, x = SpectralPenalty(vectors=2), torch.zeros(1, *shape).double()
    for _ in range(100):
        penalty(layer, x)
    layer.load_state_dict(nn.Conv2d(2, 3, 3, padding=1).state_dict())
    for _ in range(20):
        value, _ = penalty(layer, x)
    exact = torch.linalg.matrix_norm(dense(layer, shape), ord=2)
    assert abs(float(value.sqrt() / exact) - 1) < 0.02


def test_autocast_and_half_weights_are_measured_in_float32() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten()), torch.rand(2, 2, 5, 5)
    plain = SpectralPenalty()(model, x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = SpectralPenalty()(model, x)
    assert torch.equal(value, plain)
    half = copy.deepcopy(model).bfloat16()
    value, _ = SpectralPenalty()(half, x.bfloat16())
    assert value.dtype == torch.float32
    value.backward()
    assert half[0].weight.grad.dtype == torch.bfloat16
    # Weights rounded by 2^-9 of each move the norm by that fraction of the Frobenius norm.
    assert abs(float(value.sqrt() - plain.sqrt())) < 2**-9 * float(model[0].weight.norm()) * 5


def test_parametrised_layers_count_with_what_they_compute() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)).double()
    value, _ = settled(layer, (5,), calls=50)
    exact = torch.linalg.matrix_norm(layer.weight.detach(), ord=2)
    torch.testing.assert_close(value.detach().sqrt(), exact, rtol=1e-4, atol=0)
    value.backward()
    assert all(parameter.grad is not None for parameter in layer.parametrizations.parameters())
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))
    before = copy.deepcopy(normed.state_dict())
    SpectralPenalty()(normed, torch.zeros(1, 5))
    assert all(torch.equal(before[name], value) for name, value in normed.state_dict().items())


def test_compiled_networks_are_seen_through() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4)
    wrapped = torch.compile(model)
    assert torch.equal(SpectralPenalty()(wrapped, x)[0], SpectralPenalty()(model, x)[0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SpectralPenalty(-1), "target"),
        (lambda: SpectralPenalty(float("nan")), "target"),
        (lambda: SpectralPenalty("0.8"), "target"),
        (lambda: spectral_norms(torch.relu, torch.zeros(1, 2)), "give an nn.Module"),
        (lambda: SpectralPenalty(norm="operators"), "Did you mean 'operator'"),
        (lambda: SpectralPenalty(vectors=0), "vectors"),
        (lambda: SpectralPenalty(seed=-1), "seed"),
        (lambda: SpectralPenalty()(nn.Sequential(nn.ReLU()), torch.zeros(1, 2)), "no layer"),
        (
            lambda: SpectralPenalty()(old_style(), torch.zeros(1, 2)),
            "torch.nn.utils.parametrizations",
        ),
        (lambda: spectral_norms(nn.Linear(2, 2), torch.zeros(1, 2), method="exact"), "method"),
        (
            lambda: as_called("up", nn.ConvTranspose1d(1, 1, 3, stride=2), (1, 4), (1, 10)),
            "output_padding",
        ),
        (lambda: WarmVectors(1, 0).load_state_dict({"a": 3}), "state_dict"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def old_style() -> nn.Module:
    """Return a layer whose weight hooks fill in."""
    layer = nn.Linear(2, 2)
    weight = layer.weight
    del layer._parameters["weight"]
    layer.weight_g, layer.weight = nn.Parameter(weight.detach().clone()), weight.detach()
    return layer


@pytest.mark.parametrize("method", ["power", "certified"])
def test_norms_for_reports_are_those_of_dense_matrices(method: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ).double()
    x = torch.zeros(2, 2, 4, 4).double()
    norms = spectral_norms(model, x, method=method)
    exact = {
        "0": torch.linalg.matrix_norm(dense(model[0], (2, 4, 4)), ord=2),
        "4": torch.linalg.matrix_norm(model[4].weight, ord=2),
    }
    assert norms == pytest.approx({path: float(norm) for path, norm in exact.items()}, rel=1e-4)
    reshaped = spectral_norms(model, x, norm="reshaped")
    assert reshaped["4"] == pytest.approx(norms["4"], rel=1e-4)
    assert reshaped["0"] == pytest.approx(float(torch.linalg.matrix_norm(as_matrix(model[0]), 2)))


def test_it_shrinks_the_norms_in_training() -> None:
    x, y = torch.rand(32, 1, 6, 6), torch.arange(32) % 3
    data = TensorDataset(x, y)
    found = []
    for factor in (0.0, 0.3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        rate = torch.optim.SGD(model.parameters(), lr=0.05)
        loss = regularised_loss(factor * SpectralPenalty(), F.cross_entropy)
        result = fit(model, data, loss, TrainingConfig(steps=40, batch_size=16), optimiser=rate)
        found.append(max(spectral_norms(model, x).values()))
        assert "largest_spectral_norm" in result.history[-1]
    assert found[1] < 0.7 * found[0]
