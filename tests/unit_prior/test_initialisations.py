"""Initialisations compared: scales and tails in closed form, and by draws."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.unit_prior.design import initialisations
from merkhet.unit_prior.design.initialisations import (
    Initialisation,
    LayerLaw,
    compare_initialisations,
)
from merkhet.unit_prior.sampling.initialised import moments, scheme

X = torch.ones(1, 10) / math.sqrt(10)


def dense(width: int = 12, depth: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(10, width), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(width, width))


def test_he_keeps_the_scale_of_a_chain_and_lecun_halves_its_square() -> None:
    found = compare_initialisations(dense(), X, ("he", "lecun"))
    he, lecun = found.initialisations
    # |x| = 1 and weights of variance 2 / 10 at first, then the variance is kept.
    for number, layer in enumerate(he.layers):
        assert layer.std == pytest.approx(math.sqrt(2 / 10), rel=1e-7)  # |x| in float32
        assert layer.kurtosis == pytest.approx(3 * (1 + 5 / 12) ** number, rel=1e-9)
        assert layer.dead == pytest.approx(1 - (1 - 2**-12) ** number, abs=1e-12)
        assert layer.theta == f"{(number + 1) / 2:g}"
        assert layer.method == "exact"
    assert he.ratio == pytest.approx(1)
    assert he.sound
    assert lecun.ratio == pytest.approx(2**-1.5)
    assert lecun.verdict().startswith("scale shrinks, 0.354 times")
    assert found.recommended == "he"
    assert found.recommendation().startswith("take he: its scale is kept")


def test_draws_agree_with_what_is_known() -> None:
    found = compare_initialisations(
        dense(), X, ("he_uniform", "orthogonal", "init", "laplace"), n=800, generator=1
    )
    uniform, orthogonal, init, laplace = found.initialisations
    for one, error in ((uniform, 0.2), (laplace, 0.25), (orthogonal, 0.3)):
        assert one.ratio == pytest.approx(1, abs=error)
    # torch's own weights have the variance 1 / (3 fan_in), and its biases too.
    square = 1 / 30 + 1 / 30
    for _ in range(3):
        square = square / 6 + 1 / 36
    assert init.layers[-1].std == pytest.approx(math.sqrt(square), rel=0.15)
    assert [layer.theta for layer in init.layers] == ["0"] * 4
    assert [layer.theta for layer in laplace.layers] == ["1", "2", "3", "4"]
    assert "200 copies" in orthogonal.layers[0].method
    assert "800 draws" in uniform.layers[0].method


def test_power_tails_have_no_standard_deviation_to_compare() -> None:
    (one,) = compare_initialisations(dense(), X, ["student(1.5)"], n=50).initialisations
    assert one.layers[0].std == math.inf
    assert one.layers[0].theta == "power 1.5"
    assert one.verdict() == "units have no standard deviation to compare"
    assert not one.sound


def test_other_architectures_are_compared_too() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = compare_initialisations(module, x, ("he", "orthogonal"), n=300)
    assert [layer.path for layer in found.initialisations[0].layers] == ["0", "2", "4"]
    text = str(found)
    assert text.splitlines()[0].startswith("initialisation  layer  std")
    assert "orthogonal" in text
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["initialisations"][1]["name"] == "orthogonal"
    assert told["recommended"] == found.recommended


def test_it_is_the_same_for_a_seed_and_leaves_everything_as_it_is() -> None:
    module, state = dense(), torch.get_rng_state()
    before = [parameter.clone() for parameter in module.parameters()]
    names = ("init", "uniform", "orthogonal")
    one, other = (
        compare_initialisations(module, X, names, n=20, generator=given)
        for given in (3, torch.Generator().manual_seed(3))
    )
    assert one.to_dict() == other.to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, module.parameters()))


def test_none_that_keeps_the_scale_is_told() -> None:
    found = compare_initialisations(dense(depth=8), X, ["lecun"])
    assert found.recommendation().startswith("none keeps the scale within a factor of 2; nearest")
    assert "solve_scale" in found.recommendation()


def law(std: float, dead: float = 0.0, kurtosis: float = 3.0) -> LayerLaw:
    return LayerLaw("p", std, kurtosis, dead, "0.5", "exact")


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ((law(1), law(1.5)), "scale is kept, within a factor of 1.5"),
        ((law(1), law(5)), "scale grows, 5 times"),
        ((law(1), law(50)), "scale explodes, 50 times"),
        ((law(1), law(0.2)), "scale shrinks, 0.2 times"),
        ((law(1), law(0.01)), "scale vanishes, 0.01 times"),
        ((law(1), law(9), law(1)), "scale differs between layers, by a factor of 9"),
        ((law(1), law(0.0, 1.0, math.nan)), "vanishes, 0 times"),
        ((law(1), law(1, 0.5)), "a whole layer is off with probability 50.0%"),
        ((law(1), law(1, 0.0, 20.0)), "a kurtosis of up to 20"),
    ],
)
def test_verdicts(layers: tuple[LayerLaw, ...], told: str) -> None:
    assert told in Initialisation("x", layers).verdict()


def test_moments_of_samples() -> None:
    sample = torch.tensor([0.0, 0.0, 1e200, -1e200], dtype=torch.float64)
    assert moments(sample) == pytest.approx((1e200 / math.sqrt(2), 2.0, 0.5))
    assert moments(sample, index=1.0) == (math.inf, math.inf, 0.5)
    assert moments(sample, index=3.0)[1] == math.inf
    constant = moments(torch.zeros(3))
    assert (constant[0], constant[2]) == (0.0, 1.0)
    assert math.isnan(constant[1])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match=r"names = 'he': give several"):
        compare_initialisations(dense(), X, "he")
    with pytest.raises(InputError, match="Initialisations are also he, xavier"):
        scheme("kaiming")
    with pytest.raises(InputError, match="no layer with weights"):
        compare_initialisations(nn.Flatten(), X)
    with pytest.raises(InputError, match="n = 0"):
        compare_initialisations(dense(), X, n=0)


def test_draws_of_all_names_are_told(monkeypatch) -> None:
    totals, done = [], []

    @contextmanager
    def bar(what, total, *, unit, shown):
        totals.append((total, shown))
        yield done.append

    monkeypatch.setattr(initialisations, "progress_bar", bar)
    names = ("he", "orthogonal", "init", "laplace")  # exact, copies, a loop, drawn at once
    compare_initialisations(dense(depth=2), X, names, n=300, progress=False)
    assert totals == [(1200, False)]
    assert sum(done) == 1200


def test_each_method_is_told_in_one_line_below_the_table() -> None:
    text = str(compare_initialisations(dense(), X, ("he", "orthogonal", "lecun"), n=20))
    lines = text.splitlines()
    assert lines[0].split()[-2:] == ["dead", "theta"]
    assert "numbers of he, lecun: exact" in lines
    assert "numbers of orthogonal: 20 copies with orthogonal weights" in lines
    assert text.count("exact") == text.count("copies") == 1
