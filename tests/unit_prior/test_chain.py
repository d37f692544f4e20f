"""Networks read as chains: their scales and places, and why others are none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.errors import InputError
from merkhet.unit_prior.chain import as_unit_prior
from merkhet.unit_prior.weight_priors import Gaussian

X = torch.arange(1.0, 7.0)


def mlp(activation: nn.Module | None = None, *, bias: bool = True) -> nn.Sequential:
    phi = activation or nn.ReLU()
    first, second = nn.Linear(6, 5, bias=bias), nn.Linear(5, 4, bias=bias)
    return nn.Sequential(
        nn.Flatten(), first, phi, nn.Dropout(0.5), second, phi, nn.Linear(4, 3, bias=bias)
    )


def chain(module: nn.Module, x: Any = X, prior: Any = "gaussian") -> Any:
    found = as_unit_prior(module, x, prior)
    assert not isinstance(found, str), found
    return found


def test_scales_norm_and_places_of_a_chain() -> None:
    spec, places = chain(mlp())
    assert spec.widths == (5, 4)
    assert spec.weight_std == pytest.approx([math.sqrt(2 / n) for n in (6, 5, 4)])
    assert spec.input_norm == pytest.approx(float(X.norm()))
    assert (spec.bias_std, spec.exact, spec.activation.name) == (0.0, True, "relu")
    assert places == {
        **{"": (3, False), "1": (1, False), "2": (1, True), "3": (1, True)},
        **{"4": (2, False), "5": (2, True), "6": (3, False)},
    }


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3)])
def test_one_example_with_or_without_a_batch(shape: tuple[int, ...]) -> None:
    spec, _ = chain(mlp(), X.view(shape))
    assert spec.input_norm == pytest.approx(float(X.norm()))


def test_biases_and_scales_of_the_prior() -> None:
    assert chain(mlp(), X, Gaussian("xavier", 0.1))[0].bias_std == 0.1
    assert chain(mlp(bias=False), X, Gaussian(bias=0.1))[0].bias_std == 0.0
    assert chain(mlp(), X, Gaussian(0.3))[0].weight_std == (0.3, 0.3, 0.3)
    mixed = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    assert "some have none" in str(as_unit_prior(mixed, X, Gaussian(bias=0.1)))


@pytest.mark.parametrize(
    ("activation", "name", "growth", "slopes"),
    [
        (nn.LeakyReLU(0.2), "leaky_relu(0.2)", 1, (0.2, 1)),
        (nn.PReLU(init=0.1), "prelu(0.1)", 1, (0.1, 1)),
        (nn.GELU("tanh"), "gelu(approximate=tanh)", 1, None),
        (nn.ELU(2.0), "elu(alpha=2.0)", 1, None),
        (nn.Hardtanh(-2, 2), "hardtanh(min_val=-2, max_val=2)", 0, None),
    ],
)
def test_activations_with_their_arguments(
    activation: nn.Module, name: str, growth: float, slopes: tuple[float, float] | None
) -> None:
    spec, _ = chain(mlp(activation))
    found = spec.activation
    assert (found.name, found.growth) == (name, growth)
    assert found.slopes is None or found.slopes == pytest.approx(slopes)
    u = torch.linspace(-5, 5, 101, dtype=torch.float64)
    expected = activation.double()(u).detach()
    torch.testing.assert_close(found(u), expected, rtol=1e-6, atol=1e-12)  # slopes are float32


def test_linear_chains_and_single_layers() -> None:
    spec, places = chain(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)))
    assert (spec.activation.name, spec.widths, places["1"]) == ("linear", (5,), (2, False))
    assert chain(nn.Linear(6, 3))[0].widths == ()


def test_the_spec_draws_what_the_module_computes(generator: torch.Generator) -> None:
    """Second moments of module draws: E g^2 = |x|^2 std_1^2 prod H_l std_(l+1)^2 / 2."""
    spec, _ = chain(mlp())
    network, squares = mlp().double(), []
    for _ in range(400):
        for parameter in network.parameters():
            weight = parameter.dim() == 2
            std = math.sqrt(2 / parameter.shape[1]) if weight else 0.0
            parameter.data = std * torch.randn(parameter.shape, generator=generator).double()
        network.eval()
        squares.append(network(X.double()[None]).detach().square().mean())
    expected = spec.input_norm**2
    for std, width in zip(spec.weight_std, (1, 5 / 2, 4 / 2), strict=True):
        expected *= std**2 * width
    sample = torch.stack(squares)
    assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(len(sample))


class Branches(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.a(x))
        if self.kind == "residual":
            return self.c(h + F.relu(self.b(h)))
        if self.kind == "several":
            return self.b(h), self.c(h)
        return self.a(h)


WHY: list[tuple[nn.Module, str]] = [
    (nn.Sequential(nn.Linear(6, 2), nn.ReLU()), "ends in relu"),
    (
        nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)),
        "differ",
    ),
    (nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.GELU(), nn.Linear(2, 1)), "follow one another"),
    (nn.Sequential(nn.ReLU(), nn.Linear(6, 2)), "before any layer"),
    (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "layer_norm in 1"),
    (nn.Sequential(nn.Linear(6, 4), nn.PReLU(4), nn.Linear(4, 1)), "differ from unit"),
    (Branches("residual"), "add"),
    (Branches("several"), "several inputs or outputs"),
    (Branches("tied"), "used more than once"),
    (nn.Flatten(0), "no dense layer"),
]


@pytest.mark.parametrize(("module", "why"), WHY, ids=[why for _, why in WHY])
def test_what_is_no_chain_says_why(module: nn.Module, why: str) -> None:
    assert why in str(as_unit_prior(module, X))


def test_other_priors_inputs_and_places_say_why() -> None:
    assert "laplace" in str(as_unit_prior(mlp(), X, "laplace"))
    assert "one tensor" in str(as_unit_prior(mlp(), {"x": X}))
    assert "2 vectors" in str(as_unit_prior(mlp(), torch.ones(2, 6)))


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="input_norm 0"):
        as_unit_prior(mlp(), torch.zeros(6))
    with pytest.raises(InputError, match="does not run"):
        as_unit_prior(mlp(), torch.ones(5))
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match="finite"):
            as_unit_prior(mlp(), torch.full((6,), bad))
