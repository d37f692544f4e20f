"""Spectra on the sphere: closed forms, sums, decay, and what float64 cannot resolve."""

from __future__ import annotations

import math
from itertools import islice

import mpmath
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.kernels import (
    GELU,
    Conv2d,
    Erf,
    Exponential,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sine,
    gram,
)
from merkhet.kernels.pictures import plot_spectra
from merkhet.kernels.spectrum import spectrum
from merkhet.kernels.sphere import arc_cosine_eigenvalues, legendre, multiplicities, sphere_rule

SIZES = [(2, 200), (3, 300), (5, 150), (10, 100), (20, 60)]
ACTIVATIONS = (ReLU(), LeakyReLU(0.2), Erf(), GELU(), Sine(), Exponential())
F64 = torch.float64


def dense(hidden: int, activation: Layer | None = None, bias_std: float = 0.0) -> Sequential:
    """Return a network whose first layer is the papers' with weight_std = 1."""
    activation = activation or ReLU()
    inner = [Linear(bias_std=bias_std), activation] * (hidden - 1)
    return Sequential(Linear(weight_std=1.0, bias_std=bias_std), activation, *inner, Linear())


RESIDUAL = Sequential(
    Linear(weight_std=1.0), Residual(Sequential(ReLU(), Linear(weight_std=0.5))), ReLU(), Linear()
)


@pytest.mark.parametrize(("dim", "degrees"), SIZES)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_one_hidden_layer_is_the_closed_form_within_its_errors(
    dim: int, degrees: int, kind: str
) -> None:
    found = spectrum(dense(1), dim, kind, degrees=degrees, scale="paper")
    truth = arc_cosine_eigenvalues(dim, degrees, kind)
    assert ((found.eigenvalues - truth).abs() <= found.errors).all()
    # Errors are a few dozen roundings of E[|k P_k|], at most k(1) / sqrt(N(p, k)).
    room = 200 * torch.finfo(F64).eps * found.at_one / found.multiplicities.sqrt()
    assert (found.errors <= room).all()


def test_closed_form_in_three_dimensions() -> None:
    """mu_0..2 = 1/2, 1/3, 5/64 (Bietti & Mairal's formulas by hand)."""
    expected = torch.tensor([1 / 2, 1 / 3, 5 / 64], dtype=F64)
    torch.testing.assert_close(arc_cosine_eigenvalues(3, 2), expected, rtol=1e-14, atol=0)
    assert len(arc_cosine_eigenvalues(3, 0)) == len(arc_cosine_eigenvalues(2, 0, "nngp")) == 1


@pytest.mark.parametrize("dim", [2, 3, 7])
@pytest.mark.parametrize("kind", ["ntk", "nngp", "step"])
def test_closed_forms_are_the_integrals_that_define_them(dim: int, kind: str) -> None:
    """In 30 digits, with mpmath's own polynomials: E[k P_k] by quadrature in the angle."""
    kernels = {
        "step": lambda t: 1 - t / mpmath.pi,
        "nngp": lambda t: ((mpmath.pi - t) * mpmath.cos(t) + mpmath.sin(t)) / mpmath.pi,
        "ntk": lambda t: (2 * (mpmath.pi - t) * mpmath.cos(t) + mpmath.sin(t)) / mpmath.pi,
    }
    found = arc_cosine_eigenvalues(dim, 8, kind)
    with mpmath.workdps(30):
        mass = mpmath.quad(lambda t: mpmath.sin(t) ** (dim - 2), [0, mpmath.pi])
        for k in (0, 1, 2, 3, 8):

            def part(t: mpmath.mpf, k: int = k) -> mpmath.mpf:
                u, order = mpmath.cos(t), mpmath.mpf(dim - 2) / 2
                shape = mpmath.cos(k * t)
                if dim > 2:
                    shape = mpmath.gegenbauer(k, order, u) / mpmath.gegenbauer(k, order, 1)
                return kernels[kind](t) * shape * mpmath.sin(t) ** (dim - 2)

            wanted = float(mpmath.quad(part, mpmath.linspace(0, mpmath.pi, 5)) / mass)
            assert float(found[k]) == pytest.approx(wanted, rel=1e-13, abs=1e-17)


def test_asymptotic_constant_of_the_ntk() -> None:
    """mu_k k^p -> 2^(p-1) Gamma(p/2)^2 / pi^2 for even k."""
    for dim in (3, 5, 10):
        constant = 2 ** (dim - 1) * math.gamma(dim / 2) ** 2 / math.pi**2
        for k in (1000, 2000):
            middle = k + (dim - 2) / 2
            ratio = float(arc_cosine_eigenvalues(dim, k)[k]) * middle**dim / constant
            # 1 + O(dim^3 / k^2)
            assert ratio == pytest.approx(1, abs=2 * dim**3 / k**2)


@pytest.mark.parametrize("dim", [2, 3, 10, 50])
def test_polynomials_are_orthogonal_bounded_and_satisfy_their_equation(dim: int) -> None:
    u, weights = sphere_rule(dim, 12)
    found = torch.stack(list(islice(legendre(u, dim), 25)))
    assert found.abs().max() <= 1 + 1e-12
    normal = found * multiplicities(dim, 24).sqrt()[:, None]
    products = (normal * weights) @ normal.mT
    torch.testing.assert_close(products, torch.eye(25, dtype=F64), rtol=0, atol=1e-9)
    # The addition theorem's trace: all of a degree's harmonics at one point.
    ends = torch.tensor([1.0, -1.0], dtype=F64)
    for k, (high, low) in enumerate(islice(legendre(ends, dim), 25)):
        assert float(high) == pytest.approx(1, abs=1e-13)
        assert float(low) == pytest.approx((-1) ** k, abs=1e-13)


def test_two_and_three_dimensions_are_chebyshev_and_legendre() -> None:
    angles = torch.linspace(0, math.pi, 50, dtype=F64)
    for k, found in enumerate(islice(legendre(angles.cos(), 2), 30)):
        torch.testing.assert_close(found, (k * angles).cos(), rtol=0, atol=1e-12)
    for k, found in enumerate(islice(legendre(angles.cos(), 3), 30)):
        expected = torch.special.legendre_polynomial_p(angles.cos(), k)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert multiplicities(2, 3).tolist() == [1, 2, 2, 2]
    assert multiplicities(3, 4).tolist() == [1, 3, 5, 7, 9]
    assert multiplicities(4, 3).tolist() == [1, 4, 9, 16]  # (k + 1)^2


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_the_series_is_the_kernel_that_gram_gives(activation: Layer, kind: str) -> None:
    """k(u) = sum_k mu_k N P_k(u), biases and depth included; truncated, off by at most the tail."""
    network, dim = dense(2, activation, bias_std=0.3), 6
    found = spectrum(network, dim, kind, degrees=80)
    x = torch.randn(12, dim, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = x / x.norm(dim=1, keepdim=True)
    kernel = gram(network, x, kind=kind, dtype=F64)
    polynomials = torch.stack(list(islice(legendre((x @ x.mT).clamp(-1, 1), dim), 81)))
    series = torch.tensordot(found.eigenvalues * found.multiplicities, polynomials, 1)
    assert found.at_one == pytest.approx(float(kernel[0, 0]), rel=1e-14)
    assert -1e-12 < found.tail < 0.01 * found.at_one
    assert (series - kernel).abs().max() <= found.tail + 1e-9 * found.at_one
    assert (found.eigenvalues > -found.errors).all()  # the kernel is positive definite


def test_deep_and_residual_networks_agree_with_thirty_digits() -> None:
    """Two hidden layers of ReLU in dimension 3, by mpmath, at low and high degrees."""

    def ramp(t: mpmath.mpf) -> mpmath.mpf:
        return ((mpmath.pi - t) * mpmath.cos(t) + mpmath.sin(t)) / mpmath.pi

    def tangent(t: mpmath.mpf) -> mpmath.mpf:
        first = ramp(t)
        then = mpmath.acos(min(first, mpmath.mpf(1)))
        below = first + mpmath.cos(t) * (1 - t / mpmath.pi)
        return ramp(then) + below * (1 - then / mpmath.pi)

    found = spectrum(dense(2), 3, degrees=40, scale="paper")
    with mpmath.workdps(30):
        for k in (0, 1, 3, 8, 39, 40):

            def part(t: mpmath.mpf, k: int = k) -> mpmath.mpf:
                return tangent(t) * mpmath.legendre(k, mpmath.cos(t)) * mpmath.sin(t) / 2

            wanted = float(mpmath.quad(part, mpmath.linspace(0, mpmath.pi, 13), maxdegree=5))
            assert abs(float(found.eigenvalues[k]) - wanted) <= float(found.errors[k])


@pytest.mark.parametrize("hidden", [1, 2, 3])
@pytest.mark.parametrize("dim", [2, 3, 5])
def test_relu_networks_decay_as_theory_says(hidden: int, dim: int) -> None:
    for kind, exponent in (("ntk", -dim), ("nngp", -dim - 2)):
        decay = spectrum(dense(hidden), dim, kind, degrees=150).decay()
        assert decay.theory == exponent
        assert decay.even == pytest.approx(exponent, abs=0.02)
        if hidden == 1:
            assert decay.odd is None
        else:
            assert decay.odd == pytest.approx(exponent, abs=0.02)


def test_biases_give_odd_degrees_and_residual_networks_decay_alike() -> None:
    for network in (dense(1, bias_std=0.3), RESIDUAL, dense(2, LeakyReLU(0.2), bias_std=0.1)):
        decay = spectrum(network, 3, degrees=150).decay()
        assert decay.odd == pytest.approx(-3, abs=0.03)
        assert decay.even == pytest.approx(-3, abs=0.03)


@pytest.mark.parametrize("activation", [Erf(), GELU(), Sine(), Exponential()], ids=repr)
def test_smooth_activations_decay_faster_than_any_power(activation: Layer) -> None:
    found = spectrum(dense(2, activation, bias_std=0.2), 3, degrees=60, scale="paper")
    early, late = found.decay((2, 8)), found.decay((8, 16))
    assert found.theory is None
    for first, then in ((early.even, late.even), (early.odd, late.odd)):
        assert first is not None
        assert then is not None
        assert then < first - 1
    assert not found.resolved[-10:].any()


def test_a_linear_network_has_degree_one_alone() -> None:
    found = spectrum(Sequential(Linear(weight_std=1.0)), 5, degrees=10, scale="paper")
    assert found.resolved.nonzero().flatten().tolist() == [1]
    assert float(found.eigenvalues[1]) == pytest.approx(1 / 5, rel=1e-13)
    assert found.tail == pytest.approx(0, abs=1e-13)


def test_the_papers_scale_is_dim_times_that_of_gram() -> None:
    of_gram, of_paper = (spectrum(dense(2), 7, degrees=9, scale=s) for s in ("gram", "paper"))
    torch.testing.assert_close(
        of_paper.eigenvalues, 7 * of_gram.eigenvalues, rtol=1e-12, atol=1e-15
    )
    assert of_paper.at_one == pytest.approx(3)  # (n + 1) |x|^2


def test_what_cannot_be_resolved_is_not_printed() -> None:
    lines = str(spectrum(dense(1), 3, degrees=6, scale="paper")).splitlines()
    assert [("below error" in line) for line in lines[1:8]] == [False] * 3 + [True, False] * 2
    assert "7.812500e-02" in lines[3]
    assert lines[-1].startswith("k(1) = 2, of which higher degrees 0.0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": Sequential(Conv2d(3), ReLU(), Flatten(), Linear())}, "gram"),
        ({"network": Sequential(GlobalAvgPool2d(), Linear())}, "no function of the cosine"),
        ({"network": "relu"}, "layers of merkhet.kernels"),
        ({"network": Sequential(Linear(weight_std=1e150), ReLU(), Linear())}, "overflows"),
        ({"dim": 1}, "from 2 on"),
        ({"degrees": -1}, "from 0 on"),
        ({"dim": 2000, "degrees": 2000}, "fewer degrees"),
        ({"kind": "both"}, "choose one of nngp, ntk"),
        ({"scale": "papers"}, "Did you mean 'paper'"),
    ],
)
def test_what_has_no_spectrum_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        spectrum(**{"network": dense(1), "dim": 3, "degrees": 5, **options})  # type: ignore[arg-type]


def test_windows_without_eigenvalues_are_refused() -> None:
    found = spectrum(dense(2), 3, degrees=20)
    for window in ((0, 10), (30, 40)):
        with pytest.raises(InputError, match="window"):
            found.decay(window)
    assert found.decay((5, 8)).even is None  # two degrees do not make a slope


def test_the_picture_has_a_line_a_spectrum_and_the_theorys_slopes() -> None:
    spectra = {
        kind: spectrum(dense(2), 3, kind, degrees=40, scale="paper") for kind in ("ntk", "nngp")
    }
    (axis,) = plot_spectra(spectra).axes
    assert [line.get_text() for line in axis.get_legend().get_texts()] == ["ntk", "nngp", "theory"]
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    slopes = [
        math.log(line.get_ydata()[-1] / line.get_ydata()[0])
        / math.log((line.get_xdata()[-1] + 0.5) / (line.get_xdata()[0] + 0.5))
        for line in dashed
    ]
    assert slopes == pytest.approx([-3, -5])
    with pytest.raises(InputError, match="no spectra"):
        plot_spectra({})
