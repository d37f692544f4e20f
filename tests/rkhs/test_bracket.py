"""The bracket lower <= true <= upper, against networks whose Lipschitz constant is known."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.errors import InputError
from merkhet.models import VGG11, ResNet18, SmallCNN
from merkhet.rkhs.bracket import Bracket, lipschitz
from merkhet.rkhs.jacobian import rows_of, top_directions


def _random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _seeded(build: object, seed: int = 0) -> nn.Module:
    assert callable(build)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found: nn.Module = build()
    return found.eval()


class Function(nn.Module):
    """A network that is one function, with parameters to be found by the graph."""

    def __init__(self, function: object, **tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        assert callable(self.function)
        found: Tensor = self.function(self, x)
        return found


def _jacobian_norm(model: nn.Module, x: Tensor) -> float:
    """The norm of the Jacobian at one example, from all its rows."""
    rows = rows_of(lambda z: model(z).flatten(1), x[:1])[0].flatten(1)
    return float(torch.linalg.matrix_norm(rows, 2))


def _check_linear(model: nn.Module, shape: tuple[int, ...]) -> Bracket:
    """Of a linear map both ends are its norm."""
    x = _random((3, *shape))
    found = lipschitz(model, x, steps=2)
    norm = _jacobian_norm(model.double(), x)
    assert found.lower == pytest.approx(norm, rel=1e-9)
    assert found.lower <= norm * (1 + 1e-12) <= found.upper * (1 + 2e-12)
    return found


def test_linear_networks_of_any_depth_are_bracketed_exactly() -> None:
    for depth in (1, 2, 4):
        model = _seeded(lambda d=depth: nn.Sequential(*(nn.Linear(5, 5) for _ in range(d))))
        found = _check_linear(model, (5,))
        assert found.ratio == pytest.approx(1, rel=1e-8)
        assert len(found.parts) == 1


def test_one_output_has_the_norm_of_its_row() -> None:
    model = _seeded(lambda: nn.Linear(7, 1))
    found = lipschitz(model, _random((2, 7)))
    assert found.lower == pytest.approx(float(model.weight.detach().norm()), rel=1e-6)
    assert found.upper == pytest.approx(float(model.weight.detach().norm()), rel=1e-6)


def test_scaling_convolution_and_batch_norm_are_one_operator() -> None:
    model = _seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(3),
            nn.AvgPool2d(2),
        )
    )
    with torch.no_grad():
        model[1].running_var.copy_(torch.tensor([0.1, 1.0, 4.0]))
    found = _check_linear(model, (2, 6, 6))
    (part,) = found.parts
    assert part.path == "0"
    assert part.operation == "pad + conv2d + batch_norm + avg_pool2d"
    assert found.ratio < 1 + 1e-6


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda m, x: (x - m.mean.view(1, 3, 1, 1)) / 0.25, (3, 4, 4)),
        (lambda m, x: x * m.mean.view(3, 1, 1), (3, 4, 4)),
        (lambda m, x: x[:, :1] * m.mean.view(3, 1, 1), (3, 4, 4)),
        (lambda m, x: 1 - 2 * x, (3,)),
        (lambda m, x: torch.sub(m.mean, x, alpha=3), (3,)),
        (lambda m, x: torch.sub(m.mean, x, alpha=-1), (3,)),
        (lambda m, x: x.flatten(1) @ m.matrix, (3, 4)),
        (lambda m, x: m.matrix @ x, (12, 4)),
        (lambda m, x: x.mean((1, 2)), (3, 4, 4)),
        (lambda m, x: x.sum(-1), (3, 4)),
        (lambda m, x: x.expand(-1, 5, 4), (1, 4)),
        (lambda m, x: x.repeat(1, 2, 3), (2, 4)),
        (lambda m, x: x[:, ::2].roll(1, 2).flip(1), (5, 4)),
        (lambda m, x: F.pixel_shuffle(x, 2), (4, 3, 3)),
        (lambda m, x: F.interpolate(x, scale_factor=2), (2, 3, 3)),
        (lambda m, x: F.pad(x, (1, 2), mode="circular"), (2, 5)),
        (lambda m, x: F.pad(x, (1, 1), value=3.0), (2, 5)),
        (lambda m, x: x.transpose(1, 2).reshape(len(x), -1), (2, 5)),
        (lambda m, x: F.avg_pool1d(x, 3, 2, 1), (2, 7)),
        (lambda m, x: F.conv_transpose1d(x, m.matrix.view(2, 6, 4), stride=3), (2, 5)),
        (lambda m, x: x + 1 - m.mean, (3,)),
        (lambda m, x: torch.where(m.mean > 0, x, 0.0), (3,)),
        (lambda m, x: x.index_select(1, torch.arange(2).repeat(2)), (3, 2)),
        (lambda m, x: F.linear(x, m.matrix.mT / m.matrix.norm()), (12,)),
    ],
)
def test_linear_operations_are_read_exactly(function: object, shape: tuple[int, ...]) -> None:
    model = Function(function, mean=_random((3,), 1), matrix=_random((12, 4), 2)).double()
    if shape == (12, 4):
        model.matrix = _random((5, 12), 3)
    found = _check_linear(model, shape)
    assert found.ratio < 1 + 1e-6, found


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda m, x: torch.cat([x, x[:, :1].relu()], 1), (3, 4)),
        (lambda m, x: x + x.mean(1, keepdim=True), (3, 4)),
        (lambda m, x: torch.stack([x, -x.abs()], 1), (3, 4)),
        (lambda m, x: torch.maximum(x, 1 - x), (3,)),
        (lambda m, x: x.chunk(2, 1)[0] - x.chunk(2, 1)[1], (4,)),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), (2, 3, 3)),
        (lambda m, x: x + torch.sub(m.mean, x, alpha=-1).relu(), (3,)),
        (lambda m, x: x.softmax(1), (3,)),
        (lambda m, x: x.log_softmax(1), (3,)),
        (lambda m, x: F.layer_norm(x, (3,), eps=0.1), (3,)),
        (lambda m, x: F.rms_norm(x, (3,), eps=0.1), (3,)),
        (lambda m, x: F.group_norm(x, 2, eps=0.5), (4, 3)),
        (lambda m, x: F.instance_norm(x, eps=0.5), (2, 4)),
        (lambda m, x: F.max_pool2d(x, 3, 2, 1), (2, 5, 5)),
        (lambda m, x: F.max_pool2d(x, 2, 1, dilation=2), (1, 6, 6)),
        (lambda m, x: F.adaptive_max_pool2d(x, 3), (1, 5, 5)),
        (lambda m, x: x.amax((1, 2)), (3, 4)),
        (lambda m, x: x.max(dim=1)[0], (3, 4)),
        (lambda m, x: x.sort(dim=1)[0], (5,)),
        (lambda m, x: x.norm(dim=1), (3, 4)),
        (lambda m, x: x.logsumexp(1), (5,)),
        (lambda m, x: x.clamp(0, 1).tanh() * 3, (5,)),
    ],
)
def test_other_operations_are_bounded_above_what_occurs(
    function: object, shape: tuple[int, ...]
) -> None:
    model = Function(function, mean=_random((3,), 1)).double()
    found = lipschitz(model, torch.cat([_random((6, *shape)), 0.01 * _random((6, *shape), 5)]))
    assert math.isfinite(found.upper), found.reasons
    assert 0.2 * found.upper <= found.lower <= found.upper


def test_max_pooling_reaches_its_bound_where_one_entry_wins_every_window() -> None:
    # Dilation 2 and stride 2 share a factor: gcd matters.
    for kernel, stride, dilation in ((2, 1, 1), (3, 2, 1), (2, 2, 2), (3, 2, 2), (3, 1, 2)):
        pool = nn.MaxPool1d(kernel, stride, dilation=dilation)
        x = torch.eye(15, dtype=torch.float64)[:, None]
        reached = float(pool(x).flatten(1).norm(dim=1).max())
        assert lipschitz(pool, x).upper == pytest.approx(reached, rel=1e-9)


def test_two_input_relu_network_with_all_regions_enumerated() -> None:
    model = _seeded(lambda: nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2))).double()
    first, last = model[0], model[2]
    truth = 0.0
    corners = [
        torch.linalg.solve(first.weight[[i, j]], -first.bias[[i, j]])
        for i, j in itertools.combinations(range(6), 2)
    ]
    # Every region of the lines' arrangement has a corner, and is met by a small circle around it.
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    circle = 1e-4 * torch.stack([angles.cos(), angles.sin()], 1)
    points = torch.cat([corner + circle for corner in corners])
    patterns, region = torch.unique(first(points) > 0, dim=0, return_inverse=True)
    inside = torch.stack(
        [points[region == one][len(points[region == one]) // 2] for one in range(len(patterns))]
    )
    for pattern in patterns.double():
        product = last.weight @ (pattern[:, None] * first.weight)
        truth = max(truth, float(torch.linalg.matrix_norm(product.detach(), 2)))
    assert len(patterns) >= 1 + 6 + 15  # as many regions as six lines in general position make
    found = lipschitz(model, inside)
    assert found.lower <= truth * (1 + 1e-12)
    assert truth <= found.upper
    assert found.lower == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: SmallCNN(1, 10, (4, 8)), (1, 8, 8)),
        (lambda: SmallCNN(2, 3, (4, 4), activation="gelu", pool="average", norm="none"), (2, 8, 8)),
        (lambda: SmallCNN(1, 4, (4,), norm="group"), (1, 8, 8)),
        (lambda: ResNet18(width=0.06, stem="imagenet"), (3, 16, 16)),
        (lambda: VGG11(width=0.06), (3, 32, 32)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_lower_is_below_upper_on_networks(build: object, shape: tuple[int, ...], seed: int) -> None:
    model = _seeded(build, seed)
    found = lipschitz(model, _random((3, *shape), seed).float(), ascents=1, steps=5, seed=seed)
    assert 0 < found.lower <= found.upper < math.inf, found
    assert found.reasons == ()


def test_power_iteration_is_called_an_estimate_and_lies_near_the_certificate() -> None:
    model = _seeded(lambda: SmallCNN(1, 10, (4, 8)))
    x = torch.rand(2, 1, 8, 8)
    estimate, bound = lipschitz(model, x, method="power"), lipschitz(model, x)
    assert estimate.estimate
    assert "estimate of an upper bound" in str(estimate)
    assert not bound.estimate
    assert "\nupper bound" in str(bound)
    assert estimate.upper == pytest.approx(bound.upper, rel=1e-2)
    assert "features.0" in str(bound)
    assert "conv2d + batch_norm" in str(bound)


def test_residual_sums_add_and_concatenations_take_the_root_of_squares() -> None:
    weight = torch.diag(torch.tensor([3.0, 1.0]))
    summed = Function(lambda m, x: x + F.linear(x, m.weight).relu(), weight=weight)
    joined = Function(lambda m, x: torch.cat([x, F.linear(x, m.weight).relu()], 1), weight=weight)
    x = torch.rand(4, 2)
    assert lipschitz(summed, x).upper == pytest.approx(4, rel=1e-9)
    assert lipschitz(summed, x).lower == pytest.approx(4, rel=1e-9)
    assert lipschitz(joined, x).upper == pytest.approx(math.sqrt(10), rel=1e-9)


def test_shared_weights_and_modules_called_twice_count_each_time() -> None:
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(3))
    activation = nn.ReLU()
    model = nn.Sequential(layer, activation, layer, activation, layer)
    found = lipschitz(model, torch.rand(3, 3))
    assert found.upper == pytest.approx(8, rel=1e-9)
    assert found.lower == pytest.approx(8, rel=1e-9)
    assert len(found.parts) == 3


class Declared(nn.Module):
    """exp on a ball, with a constant that no rule can find."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).clamp(-1, 1).exp()

    def lipschitz_constant(self, input_shape: tuple[int, ...]) -> float:
        assert input_shape == (3,)
        return 5.0


def test_declared_constants_are_taken_once_and_not_where_calls_are_not_told_apart() -> None:
    first = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        first.weight.copy_(2 * torch.eye(3))
    declared = Declared()
    found = lipschitz(nn.Sequential(first, declared), torch.rand(3, 3))
    assert found.upper == pytest.approx(10, rel=1e-9)
    assert [(part.path, part.how) for part in found.parts] == [("0", "dense"), ("1", "declared")]
    assert lipschitz(declared, torch.rand(3, 3)).upper == pytest.approx(5, rel=1e-9)
    shared = lipschitz(nn.Sequential(declared, declared), torch.rand(3, 3))
    assert shared.upper == pytest.approx(25, rel=1e-9)
    model = Function(lambda m, x: m.part(m.part(x)))
    model.part = declared
    twice = lipschitz(model, torch.rand(3, 3))
    assert twice.upper == math.inf
    assert "called more than once" in twice.reasons[0]


def _attention(_: nn.Module, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("function", "shape", "word"),
    [
        (_attention, (4, 8), "attention"),
        (lambda m, x: x * x.sigmoid(), (4,), "product of two results"),
        (lambda m, x: x @ x.mT, (4, 3), "product"),
        (lambda m, x: x / x.norm(dim=1, keepdim=True), (4,), "result"),
        (lambda m, x: x - x.mean(0), (4,), "examples of a batch"),
        (lambda m, x: x.softmax(0), (4,), "examples of a batch"),
        (lambda m, x: x.flip(0), (4,), "examples of a batch"),
        (lambda m, x: x + x[:1], (4,), "examples of a batch"),
        (lambda m, x: F.batch_norm(x, None, None, training=True), (4,), "examples of a batch"),
        (lambda m, x: F.dropout(x, 0.5), (4,), "random"),
        (lambda m, x: x * torch.rand(4), (4,), "random"),
        (lambda m, x: x.exp(), (4,), "slope grows"),
        (lambda m, x: x.sqrt(), (4,), "slope is infinite"),
        (lambda m, x: torch.where(x > 0, x, 1.0), (4,), "jump"),
        (lambda m, x: x.round(), (4,), "jumps"),
        (lambda m, x: torch.erfinv(x), (4,), "lipschitz_constant"),
    ],
)
def test_what_has_no_finite_bound_says_why(
    function: object, shape: tuple[int, ...], word: str
) -> None:
    found = lipschitz(Function(function), torch.rand(4, *shape), ascents=0)
    assert found.upper == math.inf
    assert any(word in reason for reason in found.reasons), found.reasons
    assert word in str(found)


def test_a_transformer_layer_has_a_lower_end_and_names_attention_and_its_norms() -> None:
    model = _seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    found = lipschitz(model, _random((2, 5, 8)).float(), steps=2)
    assert found.lower > 0
    assert found.upper == math.inf
    assert any("attention" in reason for reason in found.reasons)
    assert {"norm1", "linear1", "linear2"} <= {part.path for part in found.parts}
    assert lipschitz(Function(lambda m, x: x - x.mean(0)), torch.rand(3, 2)).lower == 0


def test_norms_are_shown_also_where_the_bound_is_infinite() -> None:
    model = _seeded(
        lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda m, x: x.exp()), nn.Linear(4, 2))
    )
    found = lipschitz(model, torch.rand(2, 4))
    assert [part.path for part in found.parts] == ["0", "1", "2"]
    assert [math.isfinite(part.factor) for part in found.parts] == [True, False, True]


class Branching(nn.Module):
    """Goes one way for some inputs and another for others, and jumps between."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
        self.other = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if float(x.sum()) > 0 else self.other(x)


class Outside(nn.Module):
    """Computes where torch.export cannot follow; |tanh'| <= 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().numpy()))


class Vouched(Outside):
    """Says how steep it is."""

    def lipschitz_constant(self, input_shape: tuple[int, ...]) -> float:
        return 1.0


def test_a_network_that_goes_different_ways_has_no_bound() -> None:
    found = lipschitz(_seeded(Branching), torch.rand(3, 3))
    assert found.upper == math.inf
    assert any("other inputs may go another way" in reason for reason in found.reasons)
    assert [part.path for part in found.parts] == ["one.0", "one.2"], "factors are shown"


def test_what_export_cannot_follow_is_bounded_where_all_inputs_go_one_way() -> None:
    layers = _seeded(lambda: nn.Sequential(nn.Linear(3, 3), Vouched(), nn.Linear(3, 2)))
    found = lipschitz(layers, torch.rand(3, 3))
    assert found.lower <= found.upper < math.inf
    layers[1] = Outside()
    assert lipschitz(layers, torch.rand(3, 3)).upper == math.inf


def test_the_networks_mode_statistics_and_gradients_are_left_as_found() -> None:
    model = SmallCNN(1, 3, (4,), norm="batch").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluated = lipschitz(model, torch.rand(2, 1, 8, 8), ascents=1, steps=2)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    assert evaluated.upper < math.inf


def test_a_constant_network_has_the_constant_zero() -> None:
    model = Function(lambda m, x: torch.zeros_like(x) + m.mean, mean=torch.ones(3))
    found = lipschitz(model, torch.rand(2, 3))
    assert found.lower == found.upper == 0
    assert found.ratio == 1


def test_power_iteration_finds_the_directions_of_many_outputs() -> None:
    model = _seeded(lambda: nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 120))).double()
    x = _random((4, 6))
    directions = top_directions(model, x)
    rows = rows_of(model, x)
    reached = (rows @ directions[:, :, None])[:, :, 0].norm(dim=1)
    norms = torch.linalg.matrix_norm(rows, 2)
    assert torch.allclose(reached, norms, rtol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        (torch.tensor([[1.0, float("nan")]]), "NaN"),
        (torch.zeros(2, 2, dtype=torch.long), "floats"),
        (torch.zeros(2), "shape"),
        (torch.zeros(2, 5), "does not run"),
    ],
)
def test_bad_inputs_are_refused(inputs: Tensor, word: str) -> None:
    with pytest.raises(InputError, match=word):
        lipschitz(nn.Linear(2, 2), inputs)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="weight holds NaN"):
        lipschitz(model, torch.rand(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_network_that_rounds_to_a_narrower_type_keeps_its_ends_in_order(
    dtype: torch.dtype,
) -> None:
    # Along 1e-5 the rounding of float32 itself is a ratio above 1, that of float16 one of 40.
    found = lipschitz(Function(lambda _, x: x.to(dtype).double()), _random((8, 3)) * 2)
    assert found.lower <= found.upper == pytest.approx(1)
    assert dtype is torch.float16 or found.lower > 0.99


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: (x - 2).relu().sqrt(),  # a slope of infinity times 0
        lambda _, x: (x - 2).sqrt(),
        lambda _, x: 1 / (0 * x),
        lambda _, x: x * 1e200 * x.relu() * 1e200,
    ],
)
def test_values_and_slopes_that_are_not_finite_leave_the_lower_end_finite(function: object) -> None:
    found = lipschitz(Function(function), torch.rand(4, 3))
    assert math.isfinite(found.lower)
    assert math.isinf(found.upper)


class Plain(nn.Module):
    """Its tensors are attributes, not buffers, and literals of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.deviation, self.matrix = torch.rand(4), torch.tensor(0.25), torch.eye(4)

    def forward(self, x: Tensor) -> Tensor:
        centred = (x - self.mean) / self.deviation
        return F.linear(centred, self.matrix)[:, [0, 0, 1, 2]] * torch.tensor([1.0, 1.0, 1.0, 0.5])


def test_plain_tensors_and_literals_are_read() -> None:
    found = lipschitz(Plain(), torch.rand(3, 4))
    assert found.upper == pytest.approx(4 * math.sqrt(2), rel=1e-9)
    assert found.lower == pytest.approx(found.upper, rel=1e-9)


def test_a_vector_is_a_linear_map() -> None:
    vector = _random((4,))
    for function in (lambda _, x: (x @ vector)[:, None], lambda _, x: torch.mv(x, vector)):
        found = lipschitz(Function(function), _random((5, 4)))
        assert found.upper == pytest.approx(float(vector.norm()), rel=1e-9)
        assert found.lower == pytest.approx(found.upper, rel=1e-8)


def test_a_column_written_over_is_read() -> None:
    def function(_: nn.Module, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 2 * x[:, 1]
        return y

    found = lipschitz(Function(function), _random((5, 4)))
    assert found.lower <= found.upper == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("weights", [False, True])
def test_attention_layers_give_one_reason_and_a_lower_end(weights: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (
                nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)
            )

        def forward(self, x: Tensor) -> Tensor:
            for layer in (self.first, self.second):
                x = layer(x, x, x, need_weights=weights)[0]
            return x.sqrt().mean(1)

    found = lipschitz(_seeded(Two), torch.rand(3, 5, 8))
    assert found.reasons[0].startswith("first and 1 more: attention has no finite bound")
    assert len(found.reasons) == 2
    assert found.lower >= 0


def test_inference_mode_changes_nothing() -> None:
    model = _seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    x = torch.rand(3, 4)
    with torch.inference_mode():
        inside, made = lipschitz(model, x), lipschitz(model, torch.rand(3, 4).double())
    assert inside == lipschitz(model, x)
    assert made.upper == inside.upper


def test_factors_do_not_vanish_by_underflow() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.eye(3, dtype=torch.float64) * 1e-200)
    assert lipschitz(model, torch.rand(2, 3)).upper > 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (F.relu, "nn.Module"),
        (nn.Linear, "nn.Module"),
        (nn.LazyLinear(3), "run it once"),
        (torch.nn.utils.skip_init(nn.Linear, 4, 0), "some outputs"),
    ],
)
def test_what_is_no_network_that_can_be_read_is_refused(model: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        lipschitz(model, torch.rand(2, 4))  # type: ignore[arg-type]


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = Function(lambda _, x: x)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(InputError, match="cannot be copied"):
        lipschitz(model, torch.rand(2, 4))


@pytest.mark.parametrize("numbers", [{"ascents": -1}, {"ascents": 2.5}, {"steps": -1}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(InputError, match="whole number of at least 0"):
        lipschitz(nn.Linear(4, 2), torch.rand(2, 4), **numbers)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed"):
        lipschitz(nn.Linear(4, 2), torch.rand(2, 4), seed="a")  # type: ignore[arg-type]
