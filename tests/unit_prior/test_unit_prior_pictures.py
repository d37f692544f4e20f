"""Figures of units: what is drawn is what was given, on the axes that make it readable."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from merkhet.core.errors import InputError
from merkhet.unit_prior.pictures import plot_by_depth, plot_joint, plot_penalty, plot_survival
from merkhet.unit_prior.pictures.weibull_paper import empirical, on_paper
from merkhet.unit_prior.prior import UnitPrior

T = torch.logspace(-3, 2, 60, dtype=torch.float64)


def weibull(theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    return T, -(T ** (1 / theta))


def texts(made: Figure) -> list[str]:
    return [text.get_text() for axis in made.axes for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0])
def test_a_weibull_tail_is_a_line_of_slope_one_over_theta(theta: float) -> None:
    axis = plot_survival({"units": weibull(theta)}).axes[0]
    x, y = (np.log(part) for part in axis.lines[0].get_data())
    assert np.polyfit(x, y, 1)[0] == pytest.approx(1 / theta, rel=1e-10)
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")


def test_the_axis_of_weibull_paper_tells_probabilities() -> None:
    axis = plot_survival({"units": weibull(1.0)}).axes[0]
    told = [one.get_text() for one in axis.get_yticklabels()]
    assert axis.get_yticks()[told.index("0.5")] == pytest.approx(math.log(2))
    assert axis.get_yticks()[told.index("$10^{-10}$")] == pytest.approx(10 * math.log(10))


def test_the_slope_of_the_limit_goes_through_the_curves_end() -> None:
    curve = weibull(1.0)
    axis = plot_survival({"units": curve}, slopes={"units": 2.0}).axes[0]
    x, y = axis.lines[1].get_data()
    assert (x[-1], y[-1]) == pytest.approx((float(T[-1]), -float(curve[1][-1])))
    assert math.log(y[1] / y[0]) / math.log(x[1] / x[0]) == pytest.approx(1 / 2)


def test_samples_stand_on_the_curve_they_are_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(20_000, generator=generator, dtype=torch.float64)
    sample = -uniform.log()
    t, depth = on_paper(*empirical(sample))
    assert len(t) <= 50
    middle = (depth > 0.1) & (depth < 5)  # P above 7e-3: 135 of 20,000 or more
    assert np.abs(depth[middle] / t[middle] - 1).max() < 0.1
    made = plot_survival({"units": weibull(1.0)}, {"units": sample, "more": 2 * sample})
    assert texts(made) == ["units", "more", "samples"]


def test_every_extreme_of_a_sample_is_shown_and_zeros_are_mass() -> None:
    sample = torch.cat([torch.zeros(900), torch.arange(1.0, 101.0)])
    t, logs = empirical(sample)
    assert t[:10].tolist() == list(range(100, 90, -1))
    assert logs.exp()[0] == pytest.approx(0.5 / 1000)
    assert logs.exp().max() <= 0.1


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (torch.zeros(5), "zeros"),
        (torch.tensor([1.0, math.nan]), "finite"),
        (torch.ones(2, 2), r"\(2, 2\)"),
        (torch.ones(0), "zeros"),
        (torch.tensor(1.0), r"\(\)"),
    ],
)
def test_a_sample_that_cannot_be_drawn_is_refused(sample: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plot_survival({}, {"units": sample})


def test_curves_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(InputError, match="no survival function"):
        plot_survival({})
    with pytest.raises(InputError, match="as \\(k,\\)"):
        plot_survival({"units": (T, T[1:])})
    with pytest.raises(InputError, match="nothing to draw"):
        plot_survival({"units": (T, torch.zeros_like(T))})


def test_depth_is_logarithmic_where_values_are_wide_and_leaves_gaps() -> None:
    narrow = plot_by_depth({"exact": [3, 3.1, math.inf]}, "kurtosis").axes[0]
    assert narrow.get_yscale() == "linear"
    assert np.isnan(narrow.lines[0].get_ydata()[2])
    wide = plot_by_depth(
        {"exact": [3, 300]},
        "kurtosis",
        intervals={"exact": [(2, 4), (200, 500)]},
        reference=("Gaussian", 3.0),
    )
    assert wide.axes[0].get_yscale() == "log"
    assert texts(wide) == ["exact", "Gaussian"]
    assert len(wide.axes[0].collections) == 1
    with pytest.raises(InputError, match="no finite value"):
        plot_by_depth({"exact": [math.nan]}, "kurtosis")


def ticks(axis) -> list[str]:
    axis.figure.draw_without_rendering()
    return [one.get_text() for one in axis.get_xticklabels()]


def test_places_are_named_where_names_fit() -> None:
    def drawn(names: list[str]) -> list[str]:
        line = {"exact": [3.0] * len(names)}
        return ticks(plot_by_depth(line, "kurtosis", places=names).axes[0])

    few = ["features.0", "features.4", "output"]
    assert drawn(few) == few
    many = [f"blocks.{number}.conv" for number in range(20)]  # on end
    assert drawn(many) == many
    for names in ([f"{number}" for number in range(50)], ["a" * 40] * 3):
        assert not set(names) & set(drawn(names)) - {str(number) for number in range(60)}


def test_a_flat_line_is_flat_and_its_numbers_are_whole() -> None:
    axis = plot_by_depth({"exact": [1.2345, 1.2345 + 1e-12, 1.2345 - 1e-12]}, "std").axes[0]
    axis.figure.draw_without_rendering()
    assert axis.yaxis.get_offset_text().get_text() == ""
    low, high = axis.get_ylim()
    assert 0.1 < high - low < 0.2
    told = [float(one.get_text()) for one in axis.get_yticklabels()]
    assert told == pytest.approx(axis.get_yticks())


@pytest.mark.parametrize("reach", [1.2, 3.0, 30.0, 50.0])
def test_a_short_axis_of_t_has_few_plain_numbers(reach: float) -> None:
    t = torch.linspace(1, reach, 50, dtype=torch.float64)
    axis = plot_survival({"units": (t, -t)}).axes[0]
    low, high = axis.get_xlim()
    axis.figure.draw_without_rendering()
    shown = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    told = {place: one.get_text() for place, one in shown if low <= place <= high}
    assert 2 <= len(told) <= 8
    assert all(float(text) == pytest.approx(place) for place, text in told.items())
    assert not any(one.get_text() for one in axis.get_xticklabels(minor=True))


@pytest.mark.parametrize(("layer", "power"), [(1, "2"), (2, "1"), (3, "(2/3)"), (4, "(1/2)")])
def test_powers_are_told_in_lowest_terms(layer: int, power: str) -> None:
    title = plot_joint(UnitPrior((5, 5, 5)), layer).axes[1].get_title()
    assert title.endswith(f"in the limit l_{power} balls")


def test_the_penalty_of_a_gaussian_unit_is_its_square() -> None:
    axis = plot_penalty(UnitPrior((5,), input_norm=2), 1).axes[0]
    exact, reading = (line.get_ydata() for line in axis.lines)
    u = axis.lines[0].get_xdata()
    median = 2 * 0.6744897501960817
    shown = np.isfinite(exact)
    assert exact[shown] == pytest.approx((u[shown] ** 2 - median**2) / 8, abs=1e-9)
    assert reading[shown] == pytest.approx(exact[shown], abs=1e-6)
    assert "0.125 |u|^2 +" in texts(axis.figure)[1]


def test_the_penalty_is_minus_the_log_density_and_symmetric() -> None:
    prior = UnitPrior((20, 20), "relu")
    axis = plot_penalty(prior, 3).axes[0]
    u, exact = axis.lines[0].get_data()
    right = u > 0
    truth = -prior.log_density(u[right], 3).value.numpy()
    assert np.ptp(exact[right] - truth) < 1e-9
    assert np.array_equal(exact[right], exact[u < 0][::-1])
    assert "|u|^(2/3)" in texts(axis.figure)[1]


def levels(axis) -> list[float]:
    return list(axis.collections[0].levels)


def test_two_units_are_circles_and_their_product_is_not() -> None:
    left, right = plot_joint(UnitPrior((5,), "linear"), 2).axes
    assert levels(left) == pytest.approx(levels(right))
    spreads = []
    for axis in (left, right):
        for path in axis.collections[0].get_paths()[:3]:
            radii = np.hypot(*path.vertices.T)
            spreads.append(np.ptp(radii) / radii.mean())
    assert max(spreads[:3]) < 0.01
    assert min(spreads[3:]) > 0.05


def test_two_units_of_the_first_layer_are_independent() -> None:
    left, right = plot_joint(UnitPrior((5,)), 1).axes
    for one, other in zip(
        left.collections[0].get_paths(), right.collections[0].get_paths(), strict=True
    ):
        assert np.hypot(*one.vertices.T).mean() == pytest.approx(
            np.hypot(*other.vertices.T).mean(), rel=0.01
        )


def test_contours_pass_where_a_unit_is_exceeded_with_their_probability() -> None:
    prior = UnitPrior((10,), "relu")
    axis = plot_joint(prior, 2).axes[0]
    radii = [np.hypot(*path.vertices.T).mean() for path in axis.collections[0].get_paths()]
    truth = prior.quantile([1e-3, 0.01, 0.05, 0.2, 0.5], 2).value.tolist()
    assert radii == pytest.approx(truth, rel=0.02)
