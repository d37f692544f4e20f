"""The tail rule: its claims against exact moments, its traps, and what it refuses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.special import gammaln, logsumexp
from torch import Tensor, nn
from torch.nn import functional as F

from merkhet.core.errors import InputError
from merkhet.core.graph import Unknown
from merkhet.unit_prior.rules.tail_rule import Tail, tail_rule
from merkhet.unit_prior.weight_priors import Gaussian, StudentT

ROW = torch.ones(1, 4)
ORDER = 2**14  # of the moments that slopes are taken at: |X|_k is k^theta up to O(log k / k)


class Net(nn.Module):
    """A network that is one function of itself and its input."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.a = nn.Linear(4, 4)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def read(function: Callable[..., Any], prior: Any = "gaussian", **parts: Any) -> Tail | Unknown:
    return tail_rule(Net(function, **parts), ROW, prior).output


def read_all(
    functions: dict[str, Callable[..., Any]], prior: Any = "gaussian"
) -> dict[str, Tail | Unknown]:
    """Read many functions as the outputs of one network, which is traced once."""

    def forward(net: Any, x: Tensor) -> dict[str, Tensor]:
        return {name: function(net, x) for name, function in functions.items()}

    layers: dict[str, nn.Module] = {name: nn.Linear(4, 4) for name in "cd"}
    row, square = (nn.Parameter(torch.ones(n, 4)) for n in (1, 4))
    layers["n"] = nn.LayerNorm(4)
    reading = tail_rule(Net(forward, b=two(), **layers, w=row, v=square), ROW, prior)
    return {name: reading.tails[node] for name, node in reading.network.outputs.items()}


def known(function: Callable[..., Any], prior: Any = "gaussian", **parts: Any) -> Tail:
    found = read(function, prior, **parts)
    assert isinstance(found, Tail), found
    return found


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


# Exact moments: log E|X|^k of a few units, and the slope of log |X|_k in log k.


def normal(k: Any) -> Any:
    """Log E|z|^k, z ~ N(0, 1)."""
    return k / 2 * math.log(2) + gammaln((k + 1) / 2) - gammaln(0.5)


def relu_norm(k: float, width: int) -> float:
    """Log E|relu(z)|^k, z ~ N(0, I)."""
    alive = torch.arange(1, width + 1, dtype=torch.float64).numpy()
    ways = gammaln(width + 1) - gammaln(alive + 1) - gammaln(width - alive + 1)
    sizes = k / 2 * math.log(2) + gammaln((alive + k) / 2) - gammaln(alive / 2)
    return float(logsumexp(ways + sizes) - width * math.log(2))


def by_quadrature(log_size: Callable[[Tensor], Tensor]) -> Callable[[float], float]:
    """Log E|f(z)|^k from log |f|, on a fine grid."""
    u = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    return lambda k: float(torch.logsumexp(k * log_size(u) - u.square() / 2, 0))


def residual(k: int) -> float:
    """Log E y^k of y = u + w relu(v u), u, v, w ~ N(0, 1), k even: a binomial sum."""
    j = torch.arange(0, k // 2 + 1, dtype=torch.float64).numpy()
    ways = gammaln(k + 1) - gammaln(2 * j + 1) - gammaln(k - 2 * j + 1)
    halves = torch.where(torch.from_numpy(j) > 0, -math.log(2), 0.0).numpy()  # v of the right sign
    return float(normal(k) + logsumexp(ways + 2 * normal(2 * j) + halves))


def slope(log_moment: Callable[[Any], float]) -> float:
    """The tail parameter that moments show."""
    at = [log_moment(k) / k for k in (ORDER, 2 * ORDER)]
    return (at[1] - at[0]) / math.log(2)


MOMENTS = {
    "two layers": (lambda k: normal(k) + relu_norm(k, 4), lambda m, x: m.b(x), True),
    "product of two units": (
        lambda k: 2 * normal(k) + relu_norm(2 * k, 4),
        lambda m, x: m.c(h := F.relu(m.a(x))) * m.d(h),
        True,
    ),
    "square": (lambda k: normal(2 * k), lambda m, x: m.a(x) ** 2, True),
    "cube": (lambda k: normal(3 * k), lambda m, x: m.a(x) ** 3, True),
    "residual": (residual, lambda m, x: (y := m.a(x)) + m.d(F.relu(m.c(y))), True),
    "SiLU by hand": (
        by_quadrature(lambda u: u.abs().log() + F.logsigmoid(u)),
        lambda m, x: (u := m.a(x)) * torch.sigmoid(u),
        True,
    ),
    "GELU by hand": (
        by_quadrature(lambda u: u.abs().log() + torch.special.log_ndtr(u)),
        lambda m, x: (u := m.a(x)) * (1 + torch.erf(u / 2**0.5)) / 2,
        True,
    ),
    "a fresh gate": (
        lambda k: normal(k) + by_quadrature(F.logsigmoid)(k),
        lambda m, x: m.a(x) * torch.sigmoid(m.c(x)),
        True,
    ),
    "tied scalar weights": (lambda k: normal(2 * k), lambda m, x: m.a(m.a(x)), False),
}


def test_the_rule_agrees_with_exact_moments() -> None:
    found = read_all({name: function for name, (_, function, _) in MOMENTS.items()})
    for name, (log_moment, _, exact) in MOMENTS.items():
        tail = found[name]
        assert isinstance(tail, Tail), name
        assert tail.theta == pytest.approx(slope(log_moment), abs=2e-3), name
        assert tail.exact is exact, name


def test_exp_of_a_gaussian_outgrows_every_power() -> None:
    grows = [slope_at(lambda k: k**2 / 2, order) for order in (2**6, 2**10)]
    assert grows[1] > 10 * grows[0]
    found = known(lambda m, x: torch.exp(m.a(x)))
    assert (found.theta, found.index, found.exact) == (math.inf, None, True)


def slope_at(log_moment: Callable[[float], float], k: float) -> float:
    """The slope of log |X|_k in log k."""
    return (log_moment(2 * k) / (2 * k) - log_moment(k) / k) / math.log(2)


# What looks exact and is not.

CANCELLING = {
    "x - x": (lambda m, x: (h := m.b(x)) - h, 1.0),
    "a layer minus itself": (lambda m, x: m.b(x) - m.b(x), 1.0),
    "one layer in two branches": (lambda m, x: m.c(F.relu(m.d(x))) - m.c(F.relu(m.a(x))), 1.0),
    "halves that never meet": (lambda m, x: F.relu(u := m.a(x)) * F.relu(-u), 1.0),
    "ReLU of minus ReLU": (lambda m, x: F.relu(-F.relu(m.a(x))), 0.5),
    "a slice of joined parts": (lambda m, x: torch.cat([m.a(x), m.b(x)], -1)[:, :4], 1.0),
    "entries at places that are results": (
        lambda m, x: (h := m.a(x))[:, h.argmax(-1)],
        0.5,
    ),
    "mean of what a norm centres": (lambda m, x: m.c(m.n(m.a(x)).mean(-1, keepdim=True) * x), 0.5),
    "cut off above and below": (lambda m, x: m.c(F.relu6(-F.relu(m.a(x)))), 0.5),
    "least of what is positive": (lambda m, x: F.relu(m.a(x)).amin(-1), 0.5),
    "mean of an odd function": (lambda m, x: F.hardshrink(m.b(x)).mean(-1), 1.0),
    "spread": (lambda m, x: m.a(x).std(-1), 0.5),
    "mask that depends on weights": (lambda m, x: torch.where((h := m.a(x)) > 0, x, h), 0.5),
    "products that sum": (lambda m, x: (q := m.a(x)).mT @ q, 1.0),
    "weights of one row for all": (lambda m, x: m.a(x) @ m.w.expand(4, 4), 1.0),
}


def test_an_upper_bound_is_called_one() -> None:
    found = read_all({name: function for name, (function, _) in CANCELLING.items()})
    for name, (_, theta) in CANCELLING.items():
        tail = found[name]
        assert isinstance(tail, Tail), name
        assert (tail.theta, tail.exact) == (theta, False), name
        assert any(word in tail.reason for word in ("bound", "lighter", "depend")), name


def test_what_vanishes_is_not_taken_for_a_unit() -> None:
    zero = known(lambda m, x: m.c((h := m.a(x)) - h), c=nn.Linear(4, 4))
    assert (zero.theta, zero.exact) == (1.0, False)
    alone = known(lambda m, x: m.c(m.norm(m.b(x))), b=nn.Linear(4, 1), norm=nn.LayerNorm(1),
                  c=nn.Linear(1, 2))  # fmt: skip
    assert (alone.theta, alone.exact) == (0.5, False)


def test_gates_must_see_the_same_entries() -> None:
    def forward(net: Any, x: Tensor) -> dict[str, Tensor]:
        h = F.relu(net.first(x))
        one = F.conv1d(F.pad(h, (2, 0)), net.v)
        return {
            "same": F.conv1d(h, net.v, padding=1) * F.conv1d(h, net.w, padding=1),
            "other": one * F.conv1d(F.pad(h, (0, 2)), net.w),  # one looks back, one ahead
            "grouped": F.glu(net.group(h), 1),
        }

    parts = {name: nn.Parameter(torch.ones(4, 4, 3)) for name in "vw"}
    layers = {"first": nn.Conv1d(3, 4, 1), "group": nn.Conv1d(4, 4, 1, groups=2)}
    reading = tail_rule(Net(forward, **layers, **parts), torch.ones(1, 3, 8))
    found = {name: reading.tails[node] for name, node in reading.network.outputs.items()}
    told = {name: (t.theta, t.exact) for name, t in found.items() if isinstance(t, Tail)}
    # A gate that is fresh given the other half is open half of the time, whatever it sees.
    assert told == {"same": (2.0, True), "other": (2.0, False), "grouped": (1.0, True)}


def test_means_after_instance_norm_are_zero() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )
    found = tail_rule(net, torch.ones(1, 3, 8, 8)).output
    assert isinstance(found, Tail)
    assert not found.exact


# Other claims that need their proofs.

EXACT = {
    "sum of equal tails, one fresh": (lambda m, x: m.b(x) + m.d(F.relu(m.c(x))), 1.0),
    "sum of ReLUs": (lambda m, x: F.relu(h := m.b(x)) + F.relu(-h), 1.0),
    "the heavier of two": (lambda m, x: m.a(x) - m.b(x), 1.0),
    "largest entry": (lambda m, x: m.a(x).amax(-1), 0.5),
    "mean of units": (lambda m, x: m.a(x).mean(-1), 0.5),
    "mean of leaky units": (lambda m, x: F.leaky_relu(m.b(x)).mean(-1), 1.0),
    "norm": (lambda m, x: m.a(x).norm(dim=-1), 0.5),
    "root of a square": (lambda m, x: m.a(x).square().sqrt(), 0.5),
    "exp of minus ReLU": (lambda m, x: torch.exp(-F.relu(m.a(x))), 0.0),
    "tanh of softplus": (lambda m, x: (u := m.a(x)) * torch.tanh(F.softplus(u)), 0.5),
    "parts of one layer": (lambda m, x: (u := m.b(x))[:, :2] * u[:, 2:], 2.0),
    "custom weights": (lambda m, x: m.a(x) @ m.v, 1.0),
    "custom weights, turned": (lambda m, x: F.linear(x, m.v.t()), 0.5),
    "einsum with weights": (lambda m, x: torch.einsum("bi,ij->bj", m.a(x), m.v), 1.0),
    "two branches of one layer": (lambda m, x: m.c(F.relu(x)) - m.c(F.relu(m.a(x))), 1.0),
    "a constant added": (lambda m, x: F.relu(m.a(x) + 3).square(), 1.0),
    "one minus a unit": (lambda m, x: F.relu(1 - m.a(x)), 0.5),
}


def test_an_exact_tail_is_called_exact() -> None:
    found = read_all({name: function for name, (function, _) in EXACT.items()})
    for name, (_, theta) in EXACT.items():
        tail = found[name]
        assert isinstance(tail, Tail), name
        assert (tail.theta, tail.exact) == (theta, True), (name, tail)


def test_power_tails_of_products_by_their_moments() -> None:
    functions = {
        "independent": lambda m, x: m.a(x) * m.c(x),  # E|ab|^p = E|a|^p E|b|^p
        "one input": lambda m, x: m.c(h := m.a(x)) * m.d(h),  # E|h|^(2p) is finite for 2p < 3
        "tied": lambda m, x: m.a(m.a(x)),
        "square": lambda m, x: m.a(x) ** 2,
        "exp": lambda m, x: torch.exp(m.a(x)),
    }
    found = read_all(functions, StudentT(3))
    tails = {name: tail for name, tail in found.items() if isinstance(tail, Tail)}
    indices = {"independent": 3.0, "one input": 1.5, "tied": 1.5, "square": 1.5, "exp": 0.0}
    assert {name: tail.index for name, tail in tails.items()} == indices
    assert [name for name, tail in tails.items() if not tail.exact] == ["tied"]


def test_thirds_add_up_to_one() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    found = tail_rule(net, ROW, "generalised_normal(3)").output
    assert isinstance(found, Tail)
    assert found.theta == pytest.approx(1)
    equal = known(lambda m, x: m.b(x) - m.a(m.a(m.a(x))), "generalised_normal(3)", b=net)
    assert not equal.exact or "symmetric" in equal.reason


def test_biases_under_the_prior_count_and_others_do_not() -> None:
    assert known(lambda m, x: m.a(0 * x), Gaussian(bias=0.1)).theta == 0.5
    assert not known(lambda m, x: torch.zeros_like(x) * m.a.bias, "gaussian").random


# What is not known is said.

UNKNOWN = {
    "logarithm": (lambda m, x: torch.log(m.a(x).abs()), "logarithm"),
    "quotient": (lambda m, x: x / m.a(x), "close to 0"),
    "inverse matrix": (lambda m, x: torch.linalg.inv(m.a(x).T @ m.a(x)), "no rule covers"),
    "noise": (lambda m, x: m.a(x) + torch.randn_like(x), "draws"),
    "broken power": (lambda m, x: m.a(x) ** 0.3, "negative"),
    "power of a result": (lambda m, x: F.relu(m.a(x)) ** m.a(x), "number for exponent"),
}


def test_what_no_rule_proves_is_unknown() -> None:
    found = read_all({name: function for name, (function, _) in UNKNOWN.items()})
    for name, (_, why) in UNKNOWN.items():
        tail = found[name]
        assert isinstance(tail, Unknown), name
        assert why in tail.reason, name


def test_what_is_bounded_anyway_is_known_after_what_is_not() -> None:
    found = known(lambda m, x: m.c(m.norm(torch.log(m.a(x).abs()))), norm=nn.LayerNorm(4),
                  c=nn.Linear(4, 2))  # fmt: skip
    assert found.theta == 0.5
    assert not found.exact


def test_initialisation_by_code_of_its_own_is_unknown() -> None:
    class Own(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight)

    found = tail_rule(nn.Sequential(Own(4, 4)), ROW, "init").output
    assert isinstance(found, Unknown)
    assert "Own" in found.reason
    plain = tail_rule(nn.Sequential(nn.Linear(4, 4)), ROW, "init").output
    assert isinstance(plain, Tail)
    assert plain.theta == 0
    assert "bounded weights" in plain.reason
    table = tail_rule(nn.Sequential(nn.Embedding(5, 4)), torch.tensor([1]), "init").output
    assert isinstance(table, Tail)
    assert table.theta == 0.5


def test_a_network_that_only_hooks_see() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.c(h + 1) if float(h.sum()) > 0 else net.c(h - 1)

    reading = tail_rule(Net(forward, c=nn.Linear(4, 2)), ROW)
    assert isinstance(reading.output, Unknown)
    assert "torch.export" in reading.output.reason
    first = reading.modules["a"]
    assert isinstance(first, Tail)
    assert first.theta == 0.5
    assert "hooks" in str(reading)


def test_modules_have_the_tail_of_what_they_return() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Identity(), two())
    reading = tail_rule(net, ROW)
    thetas = {path: tail.theta for path, tail in reading.modules.items() if isinstance(tail, Tail)}
    assert thetas == {"": 1.5, "0": 0.5, "1": 0.5, "3": 1.5, "3.0": 1.0, "3.1": 1.0, "3.2": 1.5}
    assert isinstance(reading.modules["2"], Unknown)  # an identity computes nothing
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    both = tail_rule(Net(lambda m, x: m.h(x, x, x)[0], h=attention), torch.ones(1, 3, 4))
    assert both.modules["h"] == both.output


def test_of_several_calls_the_last_counts() -> None:
    reading = tail_rule(Net(lambda m, x: m.a(F.relu(m.a(x)))), ROW)
    last = reading.modules["a"]
    assert isinstance(last, Tail)
    assert last.theta == 1.0


def test_the_table_says_path_operation_theta_and_why() -> None:
    lines = str(tail_rule(two(), ROW)).splitlines()
    assert lines[0].split() == ["path", "operation", "theta", "why"]
    assert lines[1].split()[:3] == ["0", "linear", "0.5"]
    assert "<= 1" in str(tail_rule(Net(lambda m, x: m.a(m.a(x))), ROW))


def test_the_network_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    before, seed = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    tail_rule(net, torch.ones(3, 4))
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_a_user_does_wrong_is_said() -> None:
    with pytest.raises(InputError, match="choose one of"):
        tail_rule(two(), ROW, "gausian")
    with pytest.raises(InputError, match="does not run"):
        tail_rule(two(), torch.ones(1, 3))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(InputError, match="made of other parameters"):
        tail_rule(normed, ROW)
