"""Scales and widths that meet a target, against closed forms, and what is out of reach."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.unit_prior.design.scale_target import Target, parse_target
from merkhet.unit_prior.design.solve_scale import WIDEST, smallest_width, solve_scale
from merkhet.unit_prior.prior import UnitPrior


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("std=1", Target("std", 1.0)),
        (" quantile( 0.01 ) = 3", Target("quantile", 3.0, 0.01)),
        ("median=.5", Target("median", 0.5)),
        ("kurtosis=4", Target("kurtosis", 4.0)),
        ("effective_tail(1e-5)=0.6", Target("effective_tail", 0.6, 1e-5)),
    ],
)
def test_targets_are_read_from_text(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target
    assert parse_target(target) is target


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("std", "write MEASURE=VALUE"),
        ("std=", "write MEASURE=VALUE"),
        ("std=one", "'one' is no number"),
        ("std=0", "std = 0.0: give a positive number"),
        ("std=nan", "give a positive number"),
        ("sdt=1", "Did you mean 'std'"),
        ("std(0.1)=1", "std takes no p"),
        ("quantile=3", "give a probability above 0 and below 1"),
        ("quantile(1.5)=3", "give a probability above 0 and below 1"),
        ("quantile(p)=3", "'p' is no number"),
    ],
)
def test_other_text_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_target(text)


def test_he_weights_of_relu_have_the_gain_of_the_layer_s_root() -> None:
    # Under "he" every layer has the input's norm as standard deviation.
    found = solve_scale("std=3", (50, 20, 10), input_norm=2.0, layer=3)
    assert found.gain == pytest.approx(1.5 ** (1 / 3), rel=1e-9)
    assert float(found.attained) == pytest.approx(3.0, rel=1e-9)
    he = UnitPrior((50, 20, 10)).spec.weight_std
    assert found.weight_std == pytest.approx([found.gain * std for std in he])
    assert found.varied == "weight_std"
    assert "gain" in str(found)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.3)", "linear"])
@pytest.mark.parametrize("target", ["quantile(0.01)=3", "median=0.2", "quantile(1e-30)=100"])
def test_quantiles_of_homogeneous_units_are_met(activation: str, target: str) -> None:
    found = solve_scale(target, (20, 20), activation)
    wanted = parse_target(target)
    prior = UnitPrior((20, 20), activation, found.weight_std)
    p = 0.5 if wanted.p is None else wanted.p
    assert found.layer == 3
    assert math.log(float(prior.survival(wanted.value, 3))) == pytest.approx(math.log(p), rel=1e-6)


def test_after_the_activation_it_is_the_law_after_it() -> None:
    found = solve_scale("quantile(0.1)=2", (20, 20), post=True)
    assert found.layer == 2
    prior = UnitPrior((20, 20), "relu", found.weight_std)
    assert float(prior.survival(2.0, 2, post=True)) == pytest.approx(0.1, rel=1e-6)
    assert float(prior.survival(2.0, 2)) == pytest.approx(0.2, rel=1e-6)


def test_a_bias_is_kept_and_the_gain_found_by_root() -> None:
    """E q_(l+1) = s_b^2 + s^2 H E q_l / 2 for ReLU, so that the standard deviation is known."""
    found = solve_scale("std=2", (30, 30), bias_std=0.5)
    square = 1.0
    for std, width in zip(found.weight_std, (2 / found.weight_std[0] ** 0, 30, 30), strict=True):
        fan = 1.0 if width == 2.0 else width / 2
        square = 0.25 + std**2 * fan * square
    assert math.sqrt(square) == pytest.approx(2.0, rel=1e-5)
    assert float(found.attained) == pytest.approx(2.0, rel=1e-5)


def test_what_a_bias_alone_exceeds_is_out_of_reach() -> None:
    with pytest.raises(InputError, match=r"std=0.1 is out of reach: std is at least about 0\.5"):
        solve_scale("std=0.1", (10,), bias_std=0.5)


def test_a_bounded_unit_has_its_bound() -> None:
    with pytest.raises(InputError, match=r"out of reach: quantile is at most about 1,? "):
        solve_scale("quantile(0.1)=2", (10,), "tanh", post=True)


def test_a_quantile_that_is_zero_is_told() -> None:
    # Both layers have width 1: the output is off 0 with probability 1/4.
    with pytest.raises(InputError, match=r"off 0 with less probability than 0\.5"):
        solve_scale("median=1", (1, 1))


@pytest.mark.parametrize(("activation", "more"), [("relu", 5.0), ("linear", 2.0)])
def test_the_width_of_a_kurtosis_is_the_closed_form_s(activation: str, more: float) -> None:
    # 3 (1 + more / H)^3 <= 4 first holds at this width.
    width = math.ceil(more / ((4 / 3) ** (1 / 3) - 1))
    found = solve_scale("kurtosis=4", (7, 7, 7), activation)
    assert found.spec.widths == (width,) * 3
    assert found.varied == "width"
    assert float(found.attained) <= 4
    assert 3 * (1 + more / (width - 1)) ** 3 > 4
    assert f"hidden layers of width {width}" in str(found)


def test_the_width_of_an_effective_tail() -> None:
    found = solve_scale("effective_tail(1e-5)=0.6", (7, 7))
    width = found.spec.widths[0]
    assert width > 1
    tails = [float(UnitPrior((one, one)).effective_tail(1e-5, 3)) for one in (width, width - 1)]
    assert tails[0] <= 0.6 < tails[1]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("kurtosis=2.9", r"from width 1 to 10,000 kurtosis goes from 108 to 3\.00"),
        ("kurtosis=200", "out of reach"),
    ],
)
def test_kurtosis_beyond_all_widths_is_refused(target: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        solve_scale(target, (7, 7))


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="layer 1 is normal at every width"):
        solve_scale("kurtosis=4", (7, 7), layer=1)
    with pytest.raises(InputError, match="layer 4"):
        solve_scale("std=1", (7, 7), layer=4)
    with pytest.raises(InputError, match="input_norm 0 without a bias"):
        solve_scale("std=1", (7, 7), input_norm=0.0)


@pytest.mark.parametrize("value", [1, 2, 3, 17, 4096, WIDEST])
def test_the_smallest_width_is_found(value: int) -> None:
    assert smallest_width(lambda width: 1 / width, 1 / value) == value
    assert smallest_width(lambda width: 1 / width, 0.5 / WIDEST) is None


def test_the_code_draws_the_weights_so() -> None:
    found = solve_scale("std=2", (400, 300), bias_std=0.1, input_norm=3.0)
    module = nn.Sequential(nn.Linear(500, 400), nn.ReLU(), nn.Linear(400, 300), nn.Linear(300, 9))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(found.init_code(), {"module": module})
    for layer, std in zip((module[0], module[2], module[3]), found.weight_std, strict=True):
        count = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(
            std, rel=5 / math.sqrt(2 * count)
        )
    assert float(module[0].bias.detach().std()) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("widths", [(400, 200), (400,), (300, 400)])
def test_the_code_stops_at_other_widths(widths: tuple[int, ...]) -> None:
    code = solve_scale("std=2", (400, 300)).init_code()
    sizes = (5, *widths, 9)
    module = nn.Sequential(*(nn.Linear(*pair) for pair in itertools.pairwise(sizes)))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"hidden layers are to be \[400, 300\] wide, not"):
        exec(code, {"module": module})
    assert all(torch.equal(before[name], one) for name, one in module.state_dict().items())


def test_the_code_of_a_width_names_it() -> None:
    code = solve_scale("kurtosis=4", (7,)).init_code()
    assert code.splitlines()[0] == "# hidden layers of width 15"
    assert "layer.bias.zero_()" in code


def test_widths_too_narrow_to_have_the_measure_are_passed_over() -> None:
    # At width 1 the unit is off 0 with probability 0.125, under 0.3.
    width = solve_scale("effective_tail(0.3)=1.5", (1, 1, 1)).spec.widths[0]
    tails = [float(UnitPrior((one,) * 3).effective_tail(0.3, 4)) for one in (width, width - 1)]
    assert tails[0] <= 1.5 < tails[1]
    with pytest.raises(InputError, match=r"out of reach: from width 2 to 10,000 .* 5\.837 to 0\.7"):
        solve_scale("effective_tail(0.3)=0.6", (1, 1, 1))
    with pytest.raises(InputError, match="out of reach: from width 2"):
        solve_scale("effective_tail(0.3)=6", (1, 1, 1))
    with pytest.raises(InputError, match=r"under P\(u not 0\) = 0\.5"):
        solve_scale("effective_tail(0.7)=0.6", (1, 1), post=True)
