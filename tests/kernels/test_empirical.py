"""Tangent kernels of finite networks: two ways, closed forms, and the limit of infinite width."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.kernels import Linear, ReLU, Sequential, gram
from merkhet.kernels.empirical import empirical_ntk, ntk_vector_product
from merkhet.models import SmallCNN, Transformer

CLOSE = {"rtol": 1e-11, "atol": 1e-12}  # float64, sums of at most some thousand terms


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense() -> nn.Module:
    """Return a network with all that evaluation mode decides, in float64 and in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)]
        return nn.Sequential(*parts).double()


def by_differences(module: nn.Module, x: Tensor, step: float = 1e-5) -> Tensor:
    """Return the Jacobian (n, o, parameters) by central differences, the slow reference."""
    columns = []
    with torch.no_grad():
        for value in module.parameters():
            for place in range(value.numel()):
                flat, ends = value.view(-1), []
                for move in (step, -2 * step):
                    flat[place] += move
                    ends.append(module(x))
                flat[place] += step
                columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, -1)


def test_a_linear_map_has_the_linear_kernel() -> None:
    """K[i, j, a, b] = (x_i . y_j + 1) where a = b, else 0."""
    x, y, module = drawn(4, 3), drawn(2, 3, seed=1), nn.Linear(3, 5).double()
    wanted = (x @ y.T + 1)[:, :, None, None] * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(empirical_ntk(module, x, y, outputs="full"), wanted, **CLOSE)
    torch.testing.assert_close(empirical_ntk(module, x, y), x @ y.T + 1, **CLOSE)


def test_it_is_the_product_of_jacobians_by_finite_differences() -> None:
    module, x, y = dense().eval(), drawn(4, 3), drawn(3, 3, seed=1)
    one, other = by_differences(module, x), by_differences(module, y)
    wanted = torch.einsum("iap,jbp->ijab", one, other)
    found = empirical_ntk(module, x, y, outputs="full")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8 * wanted.abs().max().item())


WAYS = [
    {"method": "products"},
    {"vectorize": False},
    {"method": "products", "vectorize": False},
    {"chunks": (2, 1)},
    {"chunks": (3, 1), "method": "products"},
    {"chunks": (100, 100)},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_gives_the_same_kernel(way) -> None:
    module, x, y = dense(), drawn(7, 3), drawn(4, 3, seed=1)
    full = empirical_ntk(module, x, y, outputs="full")
    assert full.shape == (7, 4, 2, 2)
    trace = full.diagonal(dim1=2, dim2=3).mean(-1)
    torch.testing.assert_close(empirical_ntk(module, x, y, outputs="full", **way), full, **CLOSE)
    torch.testing.assert_close(empirical_ntk(module, x, y, **way), trace, **CLOSE)
    own = empirical_ntk(module, x, outputs="full", **way)
    assert torch.equal(own, own.permute(1, 0, 3, 2))
    torch.testing.assert_close(own, empirical_ntk(module, x, x, outputs="full"), **CLOSE)
    mean = empirical_ntk(module, x, **way)
    assert torch.equal(mean, mean.T)
    assert torch.linalg.eigvalsh(mean).min() > -1e-12 * mean.trace()


def test_directions_are_quadratic_forms_of_the_full_kernel() -> None:
    module, x, rows = dense(), drawn(5, 3), drawn(3, 2, seed=2)
    full = empirical_ntk(module, x, outputs="full")
    wanted = torch.einsum("ra,ijab,rb->ij", rows, full, rows) / 3
    for method in ("jacobian", "products"):
        found = empirical_ntk(module, x, outputs=rows, method=method)
        torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_product_with_a_vector_is_that_of_the_full_kernel(chunk: int) -> None:
    module, x, y, v = dense(), drawn(7, 3), drawn(4, 3, seed=1), drawn(4, 2, seed=2)
    wanted = torch.einsum("ijab,jb->ia", empirical_ntk(module, x, y, outputs="full"), v)
    torch.testing.assert_close(ntk_vector_product(module, x, v, y, chunk=chunk), wanted, **CLOSE)
    own = torch.einsum("ijab,jb->ia", empirical_ntk(module, y, outputs="full"), v)
    torch.testing.assert_close(ntk_vector_product(module, y, v, chunk=chunk), own, **CLOSE)


def test_kernels_of_parts_of_the_parameters_add_up() -> None:
    module, x = dense(), drawn(5, 3)
    parts = [empirical_ntk(module, x, parameters=[name]) for name in ("0", "1", "4.weight")]
    parts.append(empirical_ntk(module, x, parameters=["4.bias"]))
    torch.testing.assert_close(sum(parts), empirical_ntk(module, x), **CLOSE)
    torch.testing.assert_close(parts[-1], torch.ones(5, 5, dtype=torch.float64), **CLOSE)
    module[0].requires_grad_(False)
    torch.testing.assert_close(empirical_ntk(module, x), sum(parts[1:]), **CLOSE)
    v = drawn(5, 2, seed=3)
    full = empirical_ntk(module, x, outputs="full", parameters="4")
    wanted = torch.einsum("ijab,jb->ia", full, v)
    torch.testing.assert_close(ntk_vector_product(module, x, v, parameters="4"), wanted, **CLOSE)


@pytest.mark.parametrize("way", [{}, *WAYS[:3]], ids=str)
def test_the_network_is_left_as_found(way) -> None:
    module = dense()
    module[4].eval()
    module[0].bias.requires_grad_(False)
    module[0].weight.grad = torch.ones(5, 3, dtype=torch.float64)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    asked = {name: value.requires_grad for name, value in module.named_parameters()}
    parameters, state = dict(module.named_parameters()), torch.get_rng_state()
    x = drawn(5, 3)
    empirical_ntk(module, x, **way)
    ntk_vector_product(module, x, drawn(5, 2))
    assert [part.training for part in module] == [True, True, True, True, False]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert {name: value.requires_grad for name, value in module.named_parameters()} == asked
    assert all(value is parameters[name] for name, value in module.named_parameters())
    assert torch.equal(module[0].weight.grad, torch.ones(5, 3, dtype=torch.float64))
    assert module[4].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, drawn(5, 3))


def test_convolutions_and_attention_agree_with_the_plain_loop() -> None:
    pictures = drawn(5, 1, 8, 8).float()
    tokens = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    cases = ((SmallCNN(widths=(4, 8)), pictures), (Transformer(11, dim=16, layers=1), tokens))
    for module, x in cases:
        plain = empirical_ntk(module, x, vectorize=False, dtype=torch.float64)
        for method in ("jacobian", "products"):
            found = empirical_ntk(module, x, method=method, dtype=torch.float64)
            assert found.dtype == torch.float64
            # Rounding of float32 gradients, sums of some hundred terms.
            torch.testing.assert_close(found, plain, rtol=0, atol=2e-5 * plain.abs().max().item())


def test_half_precision_is_summed_in_float32() -> None:
    module, x = dense().float(), drawn(4, 3).float()
    exact = empirical_ntk(module, x)
    found = empirical_ntk(module.bfloat16(), x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05 * exact.abs().max().item())


def test_sums_over_many_parameters_keep_float32() -> None:
    """Pieces of 8,192 terms lose about 1e-6; two million terms in one sum lose 1e-4."""
    x = torch.rand(2, 2**21, generator=torch.Generator().manual_seed(0))
    found = empirical_ntk(nn.Linear(2**21, 1, bias=False), x)
    exact = x.double() @ x.double().T
    torch.testing.assert_close(found.double(), exact, rtol=5e-6, atol=0)


class Wide(nn.Module):
    """ReLU layers in the "ntk" parameterisation: standard normal weights, scaled in the pass."""

    def __init__(self, sizes: list[int], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draws = [
            torch.randn(after, before, generator=generator) for before, after in pairwise(sizes)
        ]
        self.weights = nn.ParameterList(draws)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.weights
        x = x @ first.T / math.sqrt(first.shape[1])
        for weight in others:
            x = math.sqrt(2 / weight.shape[1]) * x.relu() @ weight.T
        return x


def test_it_converges_to_the_analytic_kernel_as_the_root_of_the_width() -> None:
    """The slope of the error is -1/2 within 0.16, some 2.7 of its deviations over other seeds."""
    x = drawn(5, 4).float()
    network = Sequential(Linear(weight_std=1.0), ReLU(), Linear(), ReLU(), Linear())
    exact, widths, errors = gram(network, x), (16, 64, 256, 512), []
    for width in widths:
        kernels = [empirical_ntk(Wide([4, width, width, 1], seed), x) for seed in range(16)]
        off = torch.stack(kernels) - exact
        errors.append(float((off / exact.diag().mean()).square().mean().sqrt()))
    logs = torch.tensor(widths).log().double()
    slope = float(torch.corrcoef(torch.stack([logs, torch.tensor(errors).log()]))[0, 1])
    slope *= float(torch.tensor(errors).log().std() / logs.std())
    assert -0.66 < slope < -0.34
    assert errors[-1] < 0.12


class Branching(nn.Module):
    """Chooses by the value of its input, which vmap cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if float(x.sum()) > 0 else -x * self.weight


class Mixing(nn.Module):
    """Takes off the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.weight


def test_what_vmap_cannot_take_is_refused_with_the_way_out() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(InputError, match="vectorize=False"):
        empirical_ntk(Branching(), x)
    found = empirical_ntk(Branching(), x, vectorize=False)
    torch.testing.assert_close(found, torch.full((3, 3), 1.0))  # mean over outputs of x_a y_a


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.full((3, 3), torch.nan)}, r"x\[0\] holds NaN"),
        ({"x": torch.ones(3, 4)}, "does not run on x"),
        ({"x": torch.ones(0, 3)}, "at least one input"),
        ({"x": [1.0]}, "x is list"),
        ({"module": Mixing()}, "depends on the others of its batch"),
        ({"parameters": ["0.weihgt"]}, r"Did you mean '0.weight'"),
        ({"parameters": []}, "parameters is empty"),
        ({"outputs": "traces"}, "Did you mean 'trace'"),
        ({"outputs": torch.ones(2, 5)}, r"give \(k, 2\)"),
        ({"method": "product"}, "Did you mean 'products'"),
        ({"chunks": (0, 1)}, "two whole numbers from 1 on"),
        ({"module": nn.Linear(3, 2).requires_grad_(False)}, "requires a gradient"),
        ({"module": nn.Identity()}, "requires a gradient"),
    ],
)
def test_bad_arguments_are_one_clear_line(change, words: str) -> None:
    given = {"module": dense().float(), "x": drawn(3, 3).float()} | change
    with pytest.raises(InputError, match=words) as error:
        empirical_ntk(given.pop("module"), given.pop("x"), **given)
    assert "\n" not in str(error.value)


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"v has shape \(3, 3\): give \(3, 2\)"):
        ntk_vector_product(dense(), drawn(3, 3), drawn(3, 3))
