"""Units over draws of weights: all ways agree with each other and with closed forms."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from merkhet.core.errors import InputError
from merkhet.models import SmallCNN, Transformer
from merkhet.unit_prior.sampling.conditional import Sizes, draw_outputs, drawable, recorded
from merkhet.unit_prior.sampling.conditional_root import correlation_root, output_root
from merkhet.unit_prior.sampling.fresh import redraw
from merkhet.unit_prior.sampling.fresh_roles import roles
from merkhet.unit_prior.sampling.sample_units import sample_units
from merkhet.unit_prior.sampling.ways import draw_by_cheapest
from merkhet.unit_prior.weight_priors import Gaussian, Laplace, WeightPrior, weight_prior

LEVEL = 1e-4  # of a test; seeds are fixed


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def within(values: Tensor, expected: float, errors: float = 4.5) -> None:
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < errors * error


def same_law(one: Tensor, other: Tensor) -> None:
    """Compare the laws of vectors (n, d): each entry, and sums that see how entries belong."""
    one, other = one.flatten(1), other.flatten(1)
    directions = torch.randn(one.shape[1], 3, generator=seed(9), dtype=torch.float64)
    directions = torch.cat([torch.eye(one.shape[1]).double()[:, :4], directions], 1)
    for a, b in zip((one @ directions).T, (other @ directions).T, strict=True):
        assert stats.ks_2samp(a.numpy(), b.numpy(), method="asymp").pvalue > LEVEL


@torch.no_grad()
def looped(
    module: nn.Module, x: Tensor, prior: str | WeightPrior, n: int, path: str = ""
) -> Tensor:
    """Draw all units of a module by fresh networks: what `sample_units` is compared with."""
    prior = weight_prior(prior)
    fresh, source, found = copy.deepcopy(module).eval(), seed(77), []
    layer = fresh.get_submodule(path)
    layer.register_forward_hook(lambda _layer, _given, output: found.append(output.clone()))
    for _ in range(n):
        redraw(fresh, prior, source)
        fresh(x)
    return torch.stack(found).flatten(2).double()


def mlp(width: int = 12, hidden: int = 2, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(6, width), act()]
    for _ in range(hidden - 1):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


class Mixed(nn.Module):
    """Convolutions with groups, a residual, batch norm, pooling, attention, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2)
        self.short = nn.Conv2d(8, 8, 1, stride=2)
        self.wide = nn.Conv2d(8, 40, 2, dilation=2)
        self.attention = nn.TransformerEncoderLayer(40, 2, 32, dropout=0.5, batch_first=True)
        self.head = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = F.avg_pool2d(F.relu(self.second(x) + self.short(x)), 1)
        x = self.wide(x).relu().flatten(2).mT
        return self.head(self.attention(x).mean(1))


class Twice(nn.Module):
    """A network that runs twice, so that its layers must draw weights; the last call is kept."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        self.network(x + 1)
        return self.network(x)


def x_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seed(3))


@pytest.mark.parametrize("prior", [Gaussian(), Gaussian(scale=0.4, bias=0.3)])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_one_input_of_a_chain(prior: Gaussian, act: type[nn.Module]) -> None:
    network, x = mlp(act=act), x_of(1, 6)
    found = sample_units(network, x, prior, 2000, {"": [0, 1, 2]}, seed())
    assert found.method.startswith("scale recursion")
    assert ("products" in found.method) == (act is nn.ReLU and not prior.bias)
    assert found.values[""].shape == (2000, 1, 3)
    same_law(found.values[""], looped(network, x, prior, 400))


@pytest.mark.parametrize("prior", [Gaussian(), Gaussian(bias=0.3)])
def test_several_inputs_are_drawn_given_each_other(prior: Gaussian) -> None:
    network, x = mlp(width=40), x_of(3, 6)
    found = sample_units(network, x, prior, 2000, {"": [0, 1, 2]}, seed())
    assert found.method.startswith("conditional: outputs of 3 layers")
    same_law(found.values[""], looped(network, x, prior, 400))


def test_weights_drawn_and_outputs_drawn_agree() -> None:
    network, x = mlp(width=40).double(), x_of(3, 6).double()
    asked = {"1": [0, 5], "4": [0]}
    given = sample_units(network, x, "gaussian", 2000, asked, seed())
    twice = Twice(network)
    drawn = sample_units(twice, x, "gaussian", 2000, {f"network.{p}": u for p, u in asked.items()})
    assert given.method.startswith("conditional: outputs of 3 layers")
    assert drawn.method.startswith("weights drawn")
    for path in asked:
        same_law(given.values[path], drawn.values[f"network.{path}"])


def test_moments_of_closed_form() -> None:
    """Kurtosis 3 prod(1 + 5 / H), and the arc-cosine kernel between inputs."""
    network = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2))
    x = x_of(3, 6)
    g = sample_units(network, x, "gaussian", 20_000, {"": [0, 1]}, seed()).values[""]
    std = math.sqrt(2 / 6)
    norms = x.double().norm(dim=1)
    within(g[:, 0, 0] ** 2, float(std * norms[0]) ** 2)
    within(g[:, 1, 0] ** 4, 3 * (1 + 5 / 20) * float(std * norms[1]) ** 4)
    within(g[:, 0, 0] ** 2 * g[:, 0, 1] ** 2, (1 + 5 / 20) * float(std * norms[0]) ** 4)
    cosine = float(x[0].double() @ x[1].double() / (norms[0] * norms[1]))
    angle = math.acos(cosine)
    kernel = (math.sin(angle) + (math.pi - angle) * cosine) / math.pi
    within(g[:, 0, 0] * g[:, 1, 0], kernel * float(std**2 * norms[0] * norms[1]))


def test_a_network_with_everything() -> None:
    network, x, prior = Mixed(), x_of(2, 2, 8, 8), Gaussian(bias=0.1)
    found = sample_units(network, x, prior, 400, {"": [0, 2], "wide": [0, 7]}, seed())
    assert "outputs of" in found.method
    assert "weights of" in found.method
    assert "vmap" in found.method
    same_law(found.values[""], looped(network, x, prior, 150)[..., [0, 2]])
    same_law(found.values["wide"], looped(network, x, prior, 150, "wide")[..., [0, 7]])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3, padding="same", padding_mode="circular", groups=2),
        nn.Conv1d(5, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv3d(2, 4, 2, dilation=(1, 2, 1)),
    ],
)
def test_outputs_of_convolutions_have_the_right_covariance(layer: nn.Module) -> None:
    """Exactly: outputs are linear in weights and in noise, and the two covariances agree."""
    layer, prior = layer.double(), Gaussian(bias=0.5)
    x = x_of(2, layer.in_channels, *(4,) * (layer.weight.dim() - 2)).double()
    shape = layer(x).shape
    sizes = Sizes(math.prod(shape) // 4, layer.weight[0].numel(), 4 // layer.groups, layer.groups)
    expected = 0.0
    for name, role in roles(layer).items():
        std = prior.bias if name == "bias" else prior.std(role.fan_in, role.fan_out)
        run = functools.partial(lambda n, v: functional_call(layer, {n: v}, (x,)), name)
        slope = jacrev(run)(getattr(layer, name).detach()).reshape(math.prod(shape), -1)
        expected = expected + std**2 * slope @ slope.mT
    noise = draw_outputs(layer, {"": sizes}, prior)

    def output(z: Tensor) -> Tensor:
        noise[""] = z
        return layer(x)

    slope = jacrev(output)(torch.zeros(sizes.noise).double()).reshape(math.prod(shape), -1)
    torch.testing.assert_close(slope @ slope.mT, expected, rtol=1e-10, atol=1e-12)


def test_which_layers_draw_outputs() -> None:
    shared = nn.Linear(50, 50)
    network = nn.Sequential(shared, nn.Linear(50, 50), shared, nn.Linear(50, 1))
    with recorded(network) as calls:
        network(x_of(4, 50))
    assert set(drawable(network, calls)) == {"1", "3"}
    with recorded(network) as calls:
        network(x_of(400, 50))
    assert not drawable(network, calls)


def test_weights_that_more_than_their_layer_sees_are_drawn() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(30, 30, bias=False), nn.Linear(30, 30, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) + F.linear(x, self.a.weight)

    found = sample_units(Peeking(), x_of(2, 30), "gaussian", 500, generator=seed())
    assert found.method.startswith("weights drawn")
    same_law(found.values[""], looped(Peeking(), x_of(2, 30), Gaussian(), 200)[..., :1])


def test_other_priors_draw_weights() -> None:
    network, x = mlp(), x_of(2, 6)
    found = sample_units(network, x, Laplace(bias=0.2), 3000, {"": [0, 1]}, seed())
    assert found.method.startswith("weights drawn, vmap")
    same_law(found.values[""], looped(network, x, Laplace(bias=0.2), 300)[..., :2])
    heavy = sample_units(network, x, "cauchy", 200, generator=seed()).values[""]
    assert bool(heavy.isfinite().all())


def test_networks_that_initialise_themselves() -> None:
    network, x = mlp(), x_of(2, 6)
    found = sample_units(network, x, "init", 100, {"": [0, 1]}, seed())
    assert found.method.startswith("a loop over fresh networks")
    same_law(found.values[""], looped(network, x, "init", 100)[..., :2])


def test_networks_that_vmap_refuses_run_one_by_one() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h if float(h.detach().sum()) > 0 else -h)

    found = sample_units(Choosing(), x_of(2, 6), "gaussian", 300, generator=seed())
    assert "a loop over draws, for vmap refuses: " in found.method
    same_law(found.values[""], looped(Choosing(), x_of(2, 6), Gaussian(), 200)[..., :1])


def test_layers_of_a_chain_come_from_the_same_networks() -> None:
    network = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 1))
    asked = {"0": [1, 0], "1": [0, 1], "2": 0}
    found = sample_units(network, x_of(1, 6), "gaussian", 20_000, asked, seed()).values
    assert torch.equal(found["1"], found["0"].flip(-1).relu())
    square = found["1"].square().sum((1, 2))
    assert bool((found["2"][square == 0] == 0).all())
    within((found["2"][square > 0, 0, 0] ** 2 / square[square > 0]), 1.0)


def test_a_transformer_and_tokens() -> None:
    network = Transformer(vocab_size=20, dim=16, layers=1, heads=2)
    tokens = torch.randint(20, (2, 3), generator=seed())
    asked = {"": [5], "layers.0": [0]}
    found = sample_units(network, tokens, "gaussian", 300, asked, seed())
    same_law(
        found.values["layers.0"], looped(network, tokens, Gaussian(), 150, "layers.0")[..., :1]
    )
    assert found.values[""].shape == (300, 2, 1)


def test_pictures_in_float32_and_shapes() -> None:
    network = SmallCNN()
    channels = next(network.parameters()).shape[1]
    x = torch.rand(2, channels, 28, 28, generator=seed())
    found = sample_units(network, x, "gaussian", 5, generator=seed())
    assert found.values[""].dtype == torch.float64
    assert found.values[""].shape == (5, 2, 1)
    assert found.n == 5


@pytest.mark.parametrize("prior", ["gaussian", "laplace", "init"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_generator_decides_and_nothing_else_changes(prior: str, inputs: int) -> None:
    network, x = mlp().train().append(nn.Dropout(0.9)), x_of(inputs, 6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, given = torch.get_rng_state(), x.clone()
    one, same, other = (
        sample_units(network, x, prior, 20, generator=seed(n)).values[""] for n in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(given, x)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(2)
    torch.testing.assert_close(sample_units(network, x, prior, 20, generator=1).values[""], one)


def test_batch_norm_of_a_trained_network_begins_anew() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    with torch.no_grad():
        network[1].running_var.fill_(1e6)
    found = sample_units(network, x_of(2, 6), Gaussian(scale=1.0), 2000, generator=seed())
    within(found.values[""][:, 0, 0] ** 2, float(x_of(2, 6)[0].double().norm()) ** 2 / (1 + 1e-5))


def test_equal_inputs_give_equal_outputs_and_zeros_zeros() -> None:
    x = x_of(4, 6)
    x[1], x[2] = x[0], 0.0
    g = sample_units(mlp(width=30), x, "gaussian", 200, {"": [0, 1, 2]}, seed()).values[""]
    assert torch.equal(g[:, 0], g[:, 1])
    assert not g[:, 2].any()
    assert bool((g[:, 3] != g[:, 0]).any())
    single = sample_units(mlp(), torch.zeros(1, 6), "gaussian", 5, generator=seed()).values[""]
    assert not single.any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_roots_at_any_scale(scale: float) -> None:
    """Within a few R eps of the product of standard deviations, entry by entry."""
    rows = x_of(7, 5, 3) * scale  # 7 draws; 5 rows of rank 3
    rows[1], rows[2, 3], rows[3, 1] = 0, 0, rows[3, 1] * 1e-6
    for bias in (0.0, 3.0):
        root = output_root(rows, 2.0, bias)
        expected = 4 * rows.double() @ rows.double().mT + bias**2
        std = expected.diagonal(dim1=-2, dim2=-1).sqrt()
        bound = 20 * 5 * 2.3e-16 * std[..., :, None] * std[..., None, :]
        assert bool(((root @ root.mT - expected).abs() <= bound).all())
    assert not output_root(rows, 2.0, 0.0)[1].any()


def test_roots_of_nearly_singular_matrices() -> None:
    rows = x_of(1, 40).double() + 1e-7 * x_of(30, 40).double()
    gram = F.normalize(rows) @ F.normalize(rows).mT
    root = correlation_root(gram)
    torch.testing.assert_close(root @ root.mT, gram, rtol=0.0, atol=20 * 30 * 2.3e-16)
    together = torch.vmap(correlation_root)(gram[None].expand(3, 30, 30))
    torch.testing.assert_close(together[2], root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.full((2, 6), torch.nan)}, "NaN or infinity"),
        ({"x": torch.zeros(2, 5)}, "does not run on inputs of shape"),
        ({"x": torch.zeros(0, 6)}, "at least one input"),
        ({"x": torch.tensor(1.0)}, "at least one input"),
        ({"x": "text"}, "without a tensor"),
        ({"units": {"": [3]}}, "it has 3 units, 0 to 2"),
        ({"units": {"0": [-1]}}, "it has 12 units"),
        ({"units": ["9"]}, "no layer '9'"),
        ({"units": {}}, "units is empty"),
        ({"units": 3}, "units = 3"),
        ({"units": {"": 1.0}}, "whole numbers"),
        ({"units": {"0": ["a"]}}, "whole numbers"),
        ({"n": 0}, "at least 1"),
        ({"weight_prior": "gauss"}, "gaussian"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    given = {"x": x_of(2, 6), "n": 5, **change}
    with pytest.raises(InputError, match=message):
        sample_units(mlp(), **given)


def test_errors_of_networks() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="'unused' is not called"):
        sample_units(Idle(), x_of(2, 6), units=["unused"])
    with pytest.raises(InputError, match="no weights that a prior draws"):
        sample_units(nn.ReLU(), x_of(2, 6))
    summed = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.Unflatten(0, (1, 2)))
    with pytest.raises(InputError, match="some for each input"):
        sample_units(summed, x_of(2, 6))


class Reading(nn.Module):
    """A network that reads the weights of its layer, or calls it as often as it likes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a = how, nn.Linear(30, 30, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.a(x), self.a.weight
        if self.how == "again":
            return self.a(-h.relu()) if float(h.detach().sum()) > 0 else h
        seen = {
            "positive": lambda: h * (w[:, 0] > 0),
            "sign": lambda: h + torch.sign(w).sum(1),
            "nan": lambda: h + torch.nan_to_num(w).sum(1),
            "shape": lambda: h.to(w.dtype) * w.shape[0],
        }
        return seen[self.how]()


@pytest.mark.parametrize("how", ["positive", "sign", "nan", "again", "shape"])
def test_layers_that_are_read_or_called_again_draw_weights(how: str) -> None:
    network, x = Reading(how), x_of(2, 30)
    found = sample_units(network, x, "gaussian", 300, generator=seed())
    assert found.method.startswith("conditional" if how == "shape" else "weights drawn")
    same_law(found.values[""], looped(network, x, Gaussian(), 300)[..., :1])


@pytest.mark.parametrize(
    ("network", "prior"),
    [
        (mlp(), "gaussian"),  # a chain
        (Twice(mlp()), "gaussian"),  # weights are drawn
        (Reading("shape"), "gaussian"),  # outputs are drawn
        (Reading("again"), "gaussian"),  # which is given up
        (Reading("nan"), "gaussian"),
        (mlp(), "init"),
    ],
)
def test_every_draw_is_told_once(network: nn.Module, prior: str) -> None:
    told: list[int] = []
    x = x_of(1, 30) if isinstance(network, Reading) else x_of(1, 6)
    draw_by_cheapest(network, x, weight_prior(prior), 50, None, seed(), tell=told.append)
    assert sum(told) == 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    network, x = mlp(width=40).to(dtype), x_of(2, 6).to(dtype)
    found = sample_units(network, x, "gaussian", 50, generator=seed())
    assert found.method.startswith("conditional: outputs of 3 layers")
    assert bool(found.values[""].isfinite().all())


def test_zero_is_told() -> None:
    found = sample_units(mlp(), torch.zeros(1, 6), "gaussian", 5, generator=seed())
    assert "x is 0" in found.method
