"""Specifications as users write them: numbers of any kind, and what is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import activation, two_sided
from merkhet.unit_prior.spec import WIDEST, make_spec


@pytest.mark.parametrize(
    "widths",
    [(3, 4), [3, 4], np.array([3, 4]), torch.tensor([3, 4]), (np.int64(3), 4.0)],
)
def test_widths_are_any_whole_numbers(widths) -> None:
    found = make_spec(widths).widths
    assert found == (3, 4)
    assert all(type(width) is int for width in found)


@pytest.mark.parametrize("widths", [5, None, "55", torch.tensor(5), np.array(5), 1j])
def test_what_is_no_list_of_widths_is_refused(widths) -> None:
    with pytest.raises(InputError, match="give one for each hidden layer"):
        make_spec(widths)


@pytest.mark.parametrize(
    "width",
    ["a", "5", math.nan, math.inf, None, 0, -1, 1.5, True, [3], 1j, WIDEST + 1, 10**30, 10**400],
)
def test_other_widths_are_refused(width) -> None:
    with pytest.raises(InputError, match="give whole numbers from 1 to 10,000,000"):
        make_spec((width,))


@pytest.mark.parametrize(
    "stds",
    [(0.5, 1.0), [0.5, 1], np.array([0.5, 1.0]), torch.tensor([0.5, 1.0]).bfloat16()],
)
def test_scales_are_any_numbers_one_for_each_matrix(stds) -> None:
    assert make_spec((3,), weight_std=stds).weight_std == (0.5, 1.0)
    with pytest.raises(InputError, match="weight_std has 2 numbers"):
        make_spec((3, 3), weight_std=stds)


@pytest.mark.parametrize("std", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_one_scale_is_that_of_all_matrices(std) -> None:
    assert make_spec((3,), weight_std=std).weight_std == (0.5, 0.5)


@pytest.mark.parametrize(
    "stds", [None, ["a", "b"], 1j, 0.0, math.nan, math.inf, 10**400, [[1.0], [2.0]], [1.0, None]]
)
def test_other_scales_are_refused(stds) -> None:
    with pytest.raises(InputError, match="give finite numbers above 0"):
        make_spec((3,), weight_std=stds)


@pytest.mark.parametrize("name", ["bias_std", "input_norm"])
@pytest.mark.parametrize("given", ["a", None, -1.0, math.nan, math.inf, torch.ones(2), 10**400])
def test_other_norms_and_biases_are_refused(name: str, given) -> None:
    with pytest.raises(InputError, match=f"{name} .*: give a finite number from 0 on"):
        make_spec((3,), **{name: given})


@pytest.mark.parametrize("slope", ["--1", ".", "1e", "1-2", "", "1e400", "-1e400", "nan", "inf"])
def test_slopes_that_are_no_finite_numbers_are_refused(slope: str) -> None:
    with pytest.raises(InputError, match="is no slope; give a finite number"):
        activation(f"leaky_relu({slope})")


def test_slopes_are_read_as_numbers() -> None:
    assert activation("leaky_relu(-2e-1)").slopes == (-0.2, 1.0)
    assert activation(" Leaky_ReLU ").slopes == (0.01, 1.0)
    with pytest.raises(InputError, match="relu takes no number"):
        activation("relu(1)")
    with pytest.raises(InputError, match="write a name"):
        activation("leaky_relu(1")
    with pytest.raises(InputError, match="give finite numbers"):
        two_sided("mine", math.inf, 1.0)


def test_the_first_layer_alone_is_a_linear_model() -> None:
    assert make_spec((3,), "gelu", 3.0, 2.5, 2.0).first_layer().weight_std == (6.5,)
    for bias in (0.0, 1.0):
        first = make_spec((3,), "gelu", 1e200, bias, 1e200).first_layer()
        assert first.exact
        assert (first.layers, first.weight_std, first.input_norm) == (1, (1e200,), 1e200)
    assert make_spec((3,), "gelu", 1e-200, 0.5, 1e-200).first_layer().weight_std == (0.5,)
