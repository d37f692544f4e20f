"""Networks read from torch: against networks written by hand, torch's own layers, wide samples."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet import kernels as k
from merkhet.core.errors import InputError
from merkhet.kernels.between import Pad2d
from merkhet.kernels.from_module import from_module
from merkhet.kernels.numeric import Numeric
from merkhet.models import ResNet18, SmallCNN

DOUBLE = {"dtype": torch.float64}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def same(found: k.Layer, wanted: k.Layer, x: Tensor) -> None:
    """Compare both kernels of two networks to 1e-12 of the largest entry."""
    for one, other in zip(
        *(k.gram(net, x, kind="both", **DOUBLE) for net in (found, wanted)), strict=True
    ):
        assert (one - other).abs().max() < 1e-12 * other.abs().max()


class Residual(nn.Module):
    """Residual blocks with a plain shortcut, with a projection, and with factors, in torch."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.a = nn.Conv2d(width, width, 3, padding=1, padding_mode="circular")
        self.b = nn.Conv2d(width, width, 3, padding="same", bias=False)
        self.short = nn.Conv2d(width, width, 1, stride=2, bias=False)
        self.long = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(F.relu_(self.a(F.gelu(x))))
        y = torch.relu(x)
        x = self.short(y) - self.long(y) / 2
        return self.head(self.drop(torch.erf(x)).mean((-2, -1)))


def residual_by_hand(std: float, bias: float) -> k.Layer:
    both = {"weight_std": std, "bias_std": bias}
    half = {"weight_std": std / 2, "bias_std": bias / 2}
    # The tangent kernel of half a layer is a quarter of the layer's: so is that of half the stds.
    body = k.Sequential(
        k.GELU(), k.Conv2d(3, padding="circular", **both), k.ReLU(), k.Conv2d(3, weight_std=std)
    )
    two = k.Sum(k.Conv2d(1, 2, "valid", weight_std=std), k.Conv2d(3, 2, (1, 1), **half))
    tail = (k.ReLU(), two, k.Erf(), k.GlobalAvgPool2d(), k.Linear(**both))
    return k.Sequential(k.Conv2d(3, **both), k.Residual(body), *tail)


def test_plain_networks_are_those_written_by_hand() -> None:
    dense = nn.Sequential(
        nn.Linear(5, 7), nn.LeakyReLU(0.2), nn.Identity(), nn.Linear(7, 3, bias=False), nn.Dropout()
    )
    by_hand = k.Sequential(
        k.Linear(weight_std=1.2, bias_std=0.3), k.LeakyReLU(0.2), k.Linear(weight_std=1.2)
    )
    same(from_module(dense, drawn(2, 5).float(), 1.2, 0.3), by_hand, drawn(4, 5))
    small = SmallCNN(norm="none", pool="average", activation="gelu")
    block = [k.Conv2d(3), k.GELU(), k.AvgPool2d(2)]
    by_hand = k.Sequential(*block, *block, k.AvgPool2d(1), k.Flatten(), k.Linear())
    same(from_module(small, torch.rand(2, 1, 8, 8), initialiser="he"), by_hand, drawn(3, 1, 8, 8))


def test_residual_networks_are_those_written_by_hand() -> None:
    found = from_module(Residual(), torch.rand(2, 2, 6, 6), math.sqrt(2), 0.1)
    same(found, residual_by_hand(math.sqrt(2), 0.1), drawn(3, 2, 6, 6))


def test_pooling_in_every_spelling_is_global_pooling() -> None:
    class Pools(nn.Module):
        def __init__(self, pool) -> None:
            super().__init__()
            self.conv, self.pool, self.head = nn.Conv2d(1, 3, 3), pool, nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(torch.sin(self.conv(x))))

    wanted = k.Sequential(k.Conv2d(3, padding="valid"), k.Sine(), k.GlobalAvgPool2d(), k.Linear())
    for pool in (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda x: F.adaptive_avg_pool2d(x, 1)[:, :].squeeze(-1).squeeze(-1),
        lambda x: F.avg_pool2d(x, 4).view(len(x), -1),
        lambda x: x.mean([2, 3]),
        lambda x: x.mean((-1, -2), keepdim=True).reshape(x.shape[0], -1),
        lambda x: x.flatten(2).mean(-1),
    ):
        module = Pools(pool) if isinstance(pool, nn.Module) else Pools(Called(pool))
        found = from_module(module, torch.rand(2, 1, 6, 6), initialiser="ntk")
        assert any(isinstance(layer, k.GlobalAvgPool2d) for layer in found.layers())
        same(found, wanted, drawn(2, 1, 6, 6))


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Tensor:
        return self.function(*given)


BORDERS = [
    nn.Conv2d(2, 1, 3, padding=(0, 2)),
    nn.Conv2d(2, 1, (2, 4), padding="same"),
    nn.Conv2d(2, 1, 3, stride=2, padding=1),
    nn.Conv2d(2, 1, (4, 3), padding="same", padding_mode="circular"),
    nn.Conv2d(2, 1, 3, stride=(2, 1), padding=1, padding_mode="circular"),
    nn.Conv2d(2, 1, 3, padding=2, padding_mode="reflect"),
    nn.Conv2d(2, 1, 3, padding=(2, 1), padding_mode="replicate"),
    nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 1, 3, padding=1)),
    nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.Conv2d(2, 1, 3)),
]
POOLS = [
    nn.AvgPool2d(2, stride=1, padding=1),
    nn.AvgPool2d((3, 2), ceil_mode=False),
    nn.AdaptiveAvgPool2d((2, 3)),
]


@pytest.mark.parametrize("layer", [*BORDERS, *(nn.Sequential(BORDERS[1], pool) for pool in POOLS)])
def test_borders_and_windows_are_torchs(layer: nn.Module) -> None:
    """A linear network's kernel is that of its own Jacobian: no width is needed."""
    x, layer = drawn(3, 2, 5, 7), layer.double()
    network = from_module(
        nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(1)).double(), x, 1.3, 0.4
    )
    found = k.gram(network, x, kind="nngp", **DOUBLE)
    names = [name for name, _ in layer.named_parameters() if name.endswith("weight")]
    weights = dict(layer.named_parameters())
    (weight,) = (weights[name].detach() for name in names)
    still = {name: torch.zeros_like(one) for name, one in weights.items()}

    def positions(weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {**still, names[0]: weight}, x).flatten(1)

    jacobian = torch.func.jacrev(positions)(weight).flatten(2)
    inner = 1.3**2 / jacobian.shape[2] * torch.einsum("npw,mpw->nm", jacobian, jacobian)
    ones = torch.func.functional_call(
        layer, {**still, bias_of(names[0]): torch.ones(1, **DOUBLE)}, x
    )
    biases = 0.4**2 * ones[0].square().mean()
    wanted = 1.3**2 * (inner / jacobian.shape[1] + biases) + 0.4**2
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def sampled(
    module: nn.Module, x: Tensor, std: float, bias: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return f f' and the tangent kernel of a freshly drawn network with one output."""
    generator = torch.Generator().manual_seed(seed)
    scales = {
        name: bias if one.dim() == 1 else std / math.sqrt(one[0].numel())
        for name, one in module.named_parameters()
    }
    drawn_ = {
        name: torch.randn(one.shape, generator=generator, **DOUBLE)
        for name, one in module.named_parameters()
    }

    def output(given: dict[str, Tensor]) -> Tensor:
        scaled = {name: scales[name] * one for name, one in given.items()}
        return torch.func.functional_call(module, scaled, x).flatten()

    value, pull = torch.func.vjp(output, drawn_)
    gradients = torch.func.vmap(pull)(torch.eye(len(x), **DOUBLE))[0]
    flat = torch.cat([one.flatten(1) for one in gradients.values()], 1)
    return value[:, None] * value, flat @ flat.T


WIDE = [
    [nn.Linear(3, 300), nn.Tanh(), nn.Linear(300, 300), nn.SiLU(), nn.Linear(300, 1)],
    [
        *(nn.Conv2d(2, 100, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(100, 100, 2)),
        *(nn.Sigmoid(), nn.Flatten(), nn.Linear(100, 1)),
    ],
    [Residual(100)],
]


SHAPES = [(2, 3), (2, 2, 4, 4), (2, 2, 4, 4)]


@pytest.mark.parametrize(("steps", "x"), list(zip(WIDE, SHAPES, strict=True)))
def test_wide_networks_agree(steps: list[nn.Module], x: tuple[int, ...]) -> None:
    """Means over seeds within 4 standard errors; a width of 100 adds 1 / 100 to the tangent's."""
    inputs, module = drawn(*x, seed=3), nn.Sequential(*steps).double().eval()
    wanted = k.gram(from_module(module, inputs, 1.4, 0.2), inputs, kind="both", **DOUBLE)
    draws = [sampled(module, inputs, 1.4, 0.2, seed) for seed in range(40)]
    for place, exact in enumerate(wanted):
        found = torch.stack([draw[place] for draw in draws])
        error = found.std(0) / math.sqrt(len(found))
        assert ((found.mean(0) - exact).abs() < 4 * error).all()
        if place:
            assert (error < 0.05 * exact.diag().max()).all()


def test_standard_deviations_are_the_callers_or_a_named_initialisers() -> None:
    module = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8, bias=False))
    x = torch.rand(2, 6)

    def of(*given, **named) -> list[tuple[float, float]]:
        layers = from_module(module, x, *given, **named).layers()
        return [(one.weight_std, one.bias_std) for one in layers if isinstance(one, k.Linear)]

    assert of(1.5, 0.1) == [(1.5, 0.1), (1.5, 0.0)]
    assert of({"0": 1.0, "2": 2.0}, {"0": 0.5}) == [(1.0, 0.5), (2.0, 0.0)]
    assert of(lambda path: 1.0 + int(path), 0.0) == [(1.0, 0.0), (3.0, 0.0)]
    assert of(initialiser="lecun", bias_std=0.3) == [(1.0, 0.3), (1.0, 0.0)]
    assert of(initialiser="xavier_normal")[0][0] == pytest.approx(math.sqrt(2 * 6 / 30))
    assert len(set(of(initialiser="he") + of(initialiser="ntk"))) == 1
    with pytest.raises(InputError, match="does not guess"):
        from_module(module, x)
    with pytest.raises(InputError, match="Did you mean 'torch'"):
        from_module(module, x, initialiser="torhc")
    with pytest.raises(InputError, match="layers with weights are '0', '2'"):
        from_module(module, x, {"0": 1.0, "2": 1.0, "1": 1.0})
    with pytest.raises(InputError, match="nothing for the layer '2'"):
        from_module(module, x, {"0": 1.0})


@pytest.mark.parametrize(
    ("initialiser", "draw"),
    [
        ("torch", None),
        ("kaiming_normal", lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
        ("kaiming_uniform", lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
        ("xavier_normal", nn.init.xavier_normal_),
        ("xavier_uniform", nn.init.xavier_uniform_),
    ],
)
def test_named_initialisers_have_the_scale_of_torchs(initialiser: str, draw) -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(300, 500), nn.Conv2d(50, 90, 3)):
        fan_in = layer.weight[0].numel()
        if draw:
            draw(layer.weight)
        example = torch.rand(1, 300) if isinstance(layer, nn.Linear) else torch.rand(1, 50, 3, 3)
        (found,) = from_module(layer, example, initialiser=initialiser).steps
        assert float(layer.weight.detach().std()) * math.sqrt(fan_in) == pytest.approx(
            found.weight_std, rel=0.03
        )
        if not draw:
            assert float(layer.bias.detach().std()) == pytest.approx(found.bias_std, rel=0.2)


def test_gradients_reach_standard_deviations() -> None:
    std = torch.tensor(1.4, **DOUBLE, requires_grad=True)
    network = from_module(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.rand(1, 3), std
    )
    value = k.gram(network, drawn(2, 3), **DOUBLE).sum()
    (slope,) = torch.autograd.grad(value, std)
    assert float(slope) == pytest.approx(4 * float(value) / 1.4)  # two layers: std to the fourth


class Linears(nn.Module):
    """Sums of three layers' results, by a function of them and the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.f, self.g, self.h = (nn.Linear(4, 4) for _ in range(3))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def test_sums_of_many_parts_are_read_where_each_has_weights_of_its_own() -> None:
    def dense(net: Linears, x: Tensor) -> Tensor:
        y = net.f(x)
        return 0.5 * x + (y + net.g(F.relu(y)))

    found = from_module(Linears(dense), torch.rand(2, 4), 1.0)
    one = k.Linear(weight_std=1.0)
    body = k.Sequential(one, k.Residual(k.Sequential(k.ReLU(), k.Linear(weight_std=1.0))))
    wanted = k.Sum(body, Halved())
    same(found, wanted, drawn(3, 4))


class Halved(k.Layer):
    """Half of the input."""

    def __call__(self, state):
        return state.map(lambda one: one / 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: (net.f(x) + x) + net.f(x),
        lambda net, x: (y := net.f(x)) + x + y,
        lambda net, x: (y := net.f(x)) + 0.5 * y,
        lambda net, x: (y := net.f(x)) + F.relu(y),
        lambda net, x: net.g(net.f(x)) + net.h(net.g(x)),
        lambda net, x: x + F.relu(net.f(x)),
        lambda net, x: (y := net.f(x) + net.g(x)) - net.h(x) + y,
    ],
)
def test_sums_of_parts_that_depend_on_each_other_are_refused(function) -> None:
    with pytest.raises(InputError, match="not independent"):
        from_module(Linears(function), torch.rand(2, 4), 1.0)


def test_a_sum_with_an_earlier_result_is_right_though_both_hold_its_weights() -> None:
    """The sum v = h(relu(z)) + f(x) with z = f(x) + x: fresh h keeps them independent."""

    def function(net: Linears, x: Tensor) -> Tensor:
        y = net.f(x)
        return net.h(net.g(y) + y) + y

    linear = lambda: k.Linear(weight_std=0.9)  # noqa: E731
    inner = k.Sequential(k.Residual(linear()), linear())
    wanted = k.Sequential(linear(), k.Residual(inner))
    same(from_module(Linears(function), torch.rand(2, 4), 0.9), wanted, drawn(3, 4))


REFUSED = [
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)), (1, 6, 6), "MaxPool2d '1'.*monte_carlo"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), (1, 6, 6), "batch_norm='identity'"),
    (nn.BatchNorm1d(4, track_running_stats=False), (4,), "batch"),
    (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), (4,), "LayerNorm '1'.*statistics"),
    (nn.Conv2d(2, 4, 3, groups=2), (2, 6, 6), "grouped"),
    (nn.Conv2d(2, 4, 3, dilation=2), (2, 6, 6), "dilated"),
    (nn.Sequential(nn.Linear(4, 4), nn.Hardtanh()), (4,), "tolerance="),
    (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), (4,), "slope is trained"),
    (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), (4,), "softmax"),
    (nn.Sequential(nn.Linear(4, 4), nn.Softsign()), (4,), "abs in Softsign '1'.*no rule"),
    (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU()), (4,), "not Gaussian"),
    (nn.ReLU(), (4,), "not Gaussian"),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(3)), (1, 6, 7), "differ in size"),
    (Called(lambda x: torch.cat([x, x], 1)), (4,), "joining"),
    (Called(lambda x: x + 1), (4,), "constants"),
    (Called(lambda x: x * x), (4,), "2 results"),
    (Called(lambda x: x.mean(0, keepdim=True)), (4,), "mixes the examples"),
    (Called(lambda x: x.view(1, -1)), (4,), "mixes the examples"),
    (Called(lambda x: x.detach()), (4,), "gradient stops"),
    (Called(lambda x: x if float(x.sum()) > 0 else -x), (4,), "torch.export cannot follow"),
    (Called(lambda x: (x, 2 * x)), (4,), "returns 0, 1"),
    (Called(lambda x: torch.ones(2, 2)), (4,), "does not depend"),
    (ResNet18(width=0.1, norm="none"), (3, 8, 8), "'layer1.0.act2'.*not Gaussian"),
]


@pytest.mark.parametrize(("module", "shape", "message"), REFUSED)
def test_what_is_not_read_is_refused_with_its_place_and_reason(module, shape, message) -> None:
    with pytest.raises(InputError, match=message) as info:
        from_module(module, torch.rand(2, *shape), initialiser="he")
    assert "\n" not in str(info.value)


def test_the_same_weights_twice_are_refused() -> None:
    layer = nn.Linear(4, 4)
    for module in (nn.Sequential(layer, nn.ReLU(), layer), Linears(lambda net, x: net.f(net.f(x)))):
        with pytest.raises(InputError, match=r"weight serves .*not independent"):
            from_module(module, torch.rand(2, 4), 1.0)


def test_batch_norm_is_the_identity_where_it_is_asked_for() -> None:
    net = SmallCNN(norm="batch", pool="average")
    plain = SmallCNN(norm="none", pool="average")
    x = torch.rand(2, 1, 8, 8)
    found = from_module(net, x, initialiser="he", batch_norm="identity")
    assert repr(found) == repr(from_module(plain, x, initialiser="he"))
    with pytest.raises(InputError, match="identity"):
        from_module(net, x, initialiser="he", batch_norm="batch")


def test_a_hugging_face_resnet_gets_an_answer() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    module = transformers.ResNetForImageClassification(config)
    example = {"pixel_values": torch.rand(1, 3, 16, 16)}
    with pytest.raises(InputError, match=r"max_pool2d in MaxPool2d 'resnet.embedder.pooler'"):
        from_module(module, example, initialiser="he", batch_norm="identity")
    module.resnet.embedder.pooler = nn.AvgPool2d(2)
    with pytest.raises(InputError, match=r"'resnet.encoder.stages.0.layers.0.activation'"):
        from_module(module, example, initialiser="he", batch_norm="identity")
    for stage in module.resnet.encoder.stages:
        stage.layers[0].activation = nn.Identity()
    module.resnet.embedder.embedder.activation = nn.Identity()
    found = from_module(module, example, initialiser="he", batch_norm="identity")
    assert k.gram(found, torch.rand(2, 3, 16, 16), kind="nngp").isfinite().all()


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.Softplus(2.0), nn.ELU(0.7), nn.SELU(), nn.CELU()),
        *(nn.Mish(), nn.Hardtanh(-0.5, 2.0), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid()),
        *(nn.LogSigmoid(), nn.GELU("tanh"), Called(torch.cos), Called(lambda z: z.clamp(max=0.3))),
        Called(lambda z: z.clamp_min(-0.3)),
    ],
)
def test_activations_without_a_closed_form_are_torchs(activation: nn.Module) -> None:
    """Against a fine grid of the Gaussian pair, whose error at a kink is its step squared."""
    module = nn.Sequential(nn.Linear(1, 2), activation, nn.Linear(2, 1))
    x = torch.tensor([[1.1], [-0.6]], **DOUBLE)
    found = from_module(module, x.float(), 1.0, 0.5, tolerance=1.0)
    assert any(isinstance(layer, Numeric) for layer in found.layers())
    a, b, c = 1.21 + 0.25, 0.36 + 0.25, -0.66 + 0.25
    grid = torch.linspace(-7, 7, 600, **DOUBLE)
    density = torch.exp(-(grid[:, None] ** 2 + grid**2) / 2)
    z = (math.sqrt(a) * grid)[:, None].expand(600, 600)
    w = (c / math.sqrt(a) * grid)[:, None] + math.sqrt(b - c**2 / a) * grid
    value = (activation(z) * activation(w) * density).sum() / density.sum()
    cross = k.gram(found, x[:1], x[1:], kind="nngp", **DOUBLE)
    assert float(cross) == pytest.approx(float(value) + 0.25, rel=1e-4)


def test_relu_as_a_clamp_is_the_closed_form() -> None:
    for function in (lambda z: z.clamp(min=0), lambda z: z.clamp_min(0)):
        found = from_module(nn.Sequential(nn.Linear(2, 2), Called(function)), torch.rand(1, 2), 1.0)
        assert isinstance(found.steps[1], k.ReLU)


def test_borders_of_a_feature_map_keep_its_kernel_whatever_positions_are_carried() -> None:
    """Flattening needs equal positions alone, pooling all: the trace is the same."""
    x = drawn(2, 1, 3, 4)
    for fill in ("constant", "circular", "reflect", "replicate"):
        pad = Pad2d(((1, 2), (0, 2)), fill)
        few = k.Sequential(pad, k.Flatten(), k.Linear())
        many = k.Sequential(pad, k.AvgPool2d(1), k.Flatten(), k.Linear())
        same(few, many, x)


def test_what_is_read_depends_on_no_weights_and_leaves_them() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).train()
    before = repr(from_module(module, torch.rand(2, 3), 1.0))
    for one in module.parameters():
        nn.init.constant_(one, 7.0)
    assert repr(from_module(module, torch.rand(2, 3), 1.0)) == before
    assert module.training
    assert all((one == 7).all() for one in module.parameters())


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, merkhet.kernels.from_module; assert 'scipy' not in sys.modules, 'scipy'"
    subprocess.run([sys.executable, "-c", code], check=True)
