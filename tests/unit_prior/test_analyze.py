"""The analysis of units: exact where the network is a chain, from draws elsewhere, and told so."""

from __future__ import annotations

import copy
import importlib
import json
import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.core.graph import trace
from merkhet.models import SmallCNN
from merkhet.unit_prior import chain as chain_module
from merkhet.unit_prior.analysis.analyze import PROBABILITIES, analyze
from merkhet.unit_prior.analysis.places import first_example, places
from merkhet.unit_prior.analysis.result import Analysis
from merkhet.unit_prior.analysis.sampled import effective_of, spread_of, zeros_of
from merkhet.unit_prior.design import initialisations
from merkhet.unit_prior.design.initialisations import compare_initialisations
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.weight_priors import StudentT

analyzing = importlib.import_module("merkhet.unit_prior.analysis.analyze")
MLP = nn.Sequential(
    nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 3, bias=False)
)
X = torch.tensor([[3.0, 0, 0, 0, 4, 0], [9.0, 9, 9, 9, 9, 9]])


class Residual(nn.Module):
    """x -> W_2 relu(W_1 x) + W_1 x: not a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs)
        return hidden + self.second(hidden.relu())


class Doubled(nn.Module):
    """A chain inside of what is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs) * 2


@pytest.fixture(scope="module")
def chain() -> Analysis:
    return analyze(MLP, X, n=100)


@pytest.fixture(scope="module")
def drawn() -> Analysis:
    return analyze(Residual(), X, n=1000, generator=1)


def test_a_chain_has_the_exact_law_of_its_first_input(chain: Analysis) -> None:
    found = chain
    prior = UnitPrior((5, 20), "relu", [math.sqrt(2 / 6), math.sqrt(2 / 5), math.sqrt(2 / 20)])
    assert [row.path for row in found.rows] == ["0", "1", "2", "3", "4"]
    assert [row.weighted for row in found.rows] == [True, False] * 2 + [True]
    assert [row.units for row in found.rows] == [5, 5, 20, 20, 3]
    for layer, path in enumerate(("0", "2", "4"), 1):
        row = found.row(path)
        assert row.std.value == pytest.approx(5 * float(prior.std(layer)))
        assert row.kurtosis.value == pytest.approx(float(prior.kurtosis(layer)))
        assert row.std.interval is None
        assert row.theta == layer / 2
        assert row.reason
        for p in PROBABILITIES:
            assert row.effective[p].value == pytest.approx(float(prior.effective_tail(p, layer)))
    assert found.row("4").zero.value == pytest.approx(1 - (1 - 2**-5) * (1 - 2**-20))
    assert found.row("1").zero.value == pytest.approx(0.5)


def test_draws_agree_with_the_exact_law(chain: Analysis) -> None:
    paths = ["0", "1", "2", "3", "4"]
    drawn = analyze(Doubled(), X, n=4000, paths=[f"inner.{path}" for path in paths], generator=1)
    assert any("no exact law" in note for note in drawn.notes)
    for path in paths:
        row, truth = drawn.row(f"inner.{path}"), chain.row(path)
        assert row.method == "sampled"
        for name in ("std", "zero", "kurtosis"):
            value, (low, high) = getattr(truth, name).value, getattr(row, name).interval
            middle = getattr(row, name).value
            widened = 2.2 * max(high - middle, middle - low) + 1e-12  # over 4 standard errors
            assert abs(value - middle) <= widened, (path, name)
    assert drawn.row("inner.4").effective[1e-2].interval is not None
    assert drawn.row("inner.4").effective[1e-5].value is None


def test_a_network_that_is_no_chain_is_sampled_and_told_by_rule(drawn: Analysis) -> None:
    found = drawn
    assert [row.path for row in found.rows] == ["first", "second", ""]
    assert found.row("").theta == 1.0
    assert found.law is None
    assert not found.curves
    assert found.samples[""].shape == (1000,)
    text = str(found)
    assert "no exact law" in text
    assert "give n = 20,000 or more" in text


def test_the_network_and_the_global_generator_are_left_alone() -> None:
    module = SmallCNN(1, widths=(4,)).train()
    before, images = copy.deepcopy(module.state_dict()), torch.rand(2, 1, 8, 8)
    state = torch.random.get_rng_state()
    first = analyze(module, images, n=200, generator=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module.training
    assert all(torch.equal(before[name], one) for name, one in module.state_dict().items())
    assert first.rows


@pytest.mark.parametrize("of", [MLP, SmallCNN(1, widths=(4,), norm="none")])
def test_a_network_is_traced_once_or_twice_where_it_may_be_a_chain(of, monkeypatch) -> None:
    """Once for tails; a chain once more by `as_unit_prior`."""
    traced = []

    def counted(module, example):
        traced.append(module)
        return trace(module, example)

    for name in (analyzing, initialisations, chain_module):
        monkeypatch.setattr(name, "trace", counted)
    x = torch.rand(1, 1, 8, 8) if isinstance(of, SmallCNN) else X
    analyze(of, x, n=20)
    most = 1 if isinstance(of, SmallCNN) else 2
    assert len(traced) == most
    traced.clear()
    compare_initialisations(of, x, n=20)
    assert len(traced) == 1 + 3 * (most - 1)  # he, xavier and lecun may be chains, init is none


def test_it_shows_how_far_it_is(monkeypatch) -> None:
    asked, done = [], []

    @contextmanager
    def bar(what, total, *, unit, shown):
        asked.append((what, total, unit, shown))
        yield done.append

    monkeypatch.setattr(analyzing, "progress_bar", bar)
    analyze(Residual(), X, n=30)
    analyze(MLP, X, n=30, progress=False)
    assert asked == [("units", 30, "draws", True), ("law", 5 + 3, "rows and curves", False)]
    assert sum(done) == 38


def test_the_same_seed_gives_the_same_rows(drawn: Analysis) -> None:
    again, other = (analyze(Residual(), X, n=1000, generator=seed) for seed in (1, 2))
    assert again.rows == drawn.rows
    assert other.rows != drawn.rows


def test_power_laws_have_no_moments_and_say_so() -> None:
    found = analyze(Residual(), X, StudentT(3), n=400)
    row = found.row("")
    assert row.theta == math.inf
    assert row.index == 3
    assert row.tail == "inf (index 3)"
    assert row.std.value is not None
    assert row.kurtosis.value is None
    assert "moments from it on do not exist" in row.kurtosis.note


def test_a_prior_without_a_network() -> None:
    prior = UnitPrior((10,) * 3, "leaky_relu(0.1)")
    found = analyze(prior, n=50)
    assert [row.path for row in found.rows] == ["g_1", "h_1", "g_2", "h_2", "g_3", "h_3", "g_4"]
    assert found.row("g_4").theta == 2
    assert found.row("g_3").kurtosis.value == pytest.approx(float(prior.kurtosis(3)))
    assert list(found.curves) == ["g_1", "g_2", "g_3", "g_4"]
    with pytest.raises(InputError, match="no place 'g_9'"):
        found.row("g_9")
    with pytest.raises(InputError, match="without x"):
        analyze(prior, X)


def test_many_places_are_thinned_and_said() -> None:
    found = analyze(UnitPrior((3,) * 40), n=20)
    assert len(found.rows) == 60
    assert (found.rows[0].path, found.rows[-1].path) == ("g_1", "g_41")
    assert "60 of 81 places" in found.notes[0]


def test_everything_is_written(tmp_path, chain: Analysis) -> None:
    found, files = chain, chain.save(tmp_path / "new")
    assert {one.name for one in files} == {
        *("analysis.json", "survival.png", "kurtosis.png", "std.png", "penalty.png", "joint.png")
    }
    assert set(files) == set((tmp_path / "new").iterdir())
    written = json.loads(files[0].read_text())
    assert written == json.loads(json.dumps(found.to_dict()))
    assert all(one.read_bytes()[:4] == b"\x89PNG" for one in files[1:])


def test_a_second_analysis_leaves_no_figures_of_the_first(tmp_path, drawn: Analysis) -> None:
    for folder in ("of an analysis", "of something else"):
        (tmp_path / folder).mkdir()
        for name in ("joint", "penalty", "mine"):
            (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "of an analysis" / "analysis.json").touch()
    files = drawn.save(tmp_path / "of an analysis")
    assert {one.name for one in files} == {
        *("analysis.json", "survival.png", "kurtosis.png", "std.png")
    }
    left = set((tmp_path / "of an analysis").iterdir())
    assert left == {*files, tmp_path / "of an analysis" / "mine.png"}
    drawn.save(tmp_path / "of something else")
    assert (tmp_path / "of something else" / "joint.png").exists()


def test_infinite_numbers_are_null_in_json() -> None:
    found = analyze(Residual(), X, "cauchy", n=400)
    assert found.row("").std.value is None
    written = found.to_dict()
    text = json.dumps(written, allow_nan=False)
    assert json.loads(text)["rows"][0]["theta"] is None
    assert json.loads(text)["rows"][0]["tail"] == "inf (index 1)"


def test_intervals_of_spread_cover() -> None:
    """95 % intervals of the standard deviation of normal draws hold it in 95 % of cases."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 500, generator=generator, dtype=torch.float64)
    ends = [[one.interval for one in spread_of(row)] for row in draws]
    for place, truth in enumerate((1.0, 3.0)):
        hits = sum(low <= truth <= high for low, high in (found[place] for found in ends))
        assert hits >= (370, 350)[place]  # a sample's kurtosis is skewed at 500 draws


def test_spread_is_that_of_the_plain_formulas() -> None:
    sample = torch.tensor([0.0, 1, 2, 3, 10])
    std, kurtosis = spread_of(sample)
    centred = sample.double() - 3.2
    second, fourth = (float(centred.pow(power).mean()) for power in (2, 4))
    assert std.value == pytest.approx(math.sqrt(second))
    assert kurtosis.value == pytest.approx(fourth / second**2)
    assert zeros_of(sample).value == 0.2
    constant, none = spread_of(torch.ones(9))
    assert constant.value == 0
    assert none.value is None


def test_effective_theta_is_refused_below_its_range() -> None:
    sample = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    found = effective_of(sample, 1e-2)
    law = UnitPrior((3,))
    at, beyond = (float(law.effective_tail(p, 1)) for p in (1e-2, 1e-3))
    assert found.interval[0] < at < found.interval[1] or found.interval[0] < beyond
    assert effective_of(sample, 1e-3).value is None
    assert "no" not in str(found)
    assert effective_of(torch.zeros(10_000), 1e-2).value is None


def test_the_unit_is_the_first_channel_at_the_middle() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 2))
    found = {place.path: place for place in places(module, torch.ones(1, 1, 5, 6), None)}
    assert found["0"].unit == found["1"].unit == 2 * 6 + 3
    assert found["0"].units == 90
    assert found["3"].unit == 0
    assert list(found) == ["0", "1", "3"]


def test_tokens_and_attention() -> None:
    from merkhet.models import Transformer

    module = Transformer(50, dim=16, layers=1, heads=2)
    found = analyze(module, torch.arange(8)[None], n=100)
    assert found.rows
    assert all(row.std.value is not None for row in found.rows)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (None, "give an input"),
        (torch.tensor(1.0), "inputs"),
        (torch.empty(0, 6), "inputs"),
        (torch.full((1, 6), math.nan), "finite"),
        (torch.ones(1, 5), "does not run"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(x, said: str) -> None:
    with pytest.raises(InputError, match=said):
        analyze(MLP, x, n=100)


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="no layer '9'"):
        analyze(MLP, X, paths=["9"])
    with pytest.raises(InputError, match="n = 0"):
        analyze(MLP, X, n=0)
    with pytest.raises(InputError, match="no place"):
        analyze(UnitPrior((3,)), paths=["h_2"])
    with pytest.raises(InputError, match="no weights"):
        analyze(nn.Flatten(), X, paths=[])


@pytest.mark.parametrize("run", [analyze, compare_initialisations])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_width_are_refused(run) -> None:
    for widths in ((6, 0, 3), (0, 3, 3)):
        module = nn.Sequential(nn.Linear(*widths[:2]), nn.ReLU(), nn.Linear(*widths[1:]))
        with pytest.raises(InputError, match="'0' has a width of 0"):
            run(module, torch.ones(1, widths[0]), n=10)


def test_an_input_of_zeros_says_that_units_are_constant() -> None:
    found = analyze(MLP, torch.zeros(1, 6), n=100)
    assert found.row("4").std.value == 0
    assert "the same in every draw" in str(found)


def test_the_first_example_of_nested_inputs() -> None:
    found = first_example((X, {"mask": X > 4}))
    assert torch.equal(found[0], X[:1])
    assert found[1]["mask"].shape == (1, 6)


class Square(nn.Module):
    """An activation that grows faster than linearly."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.square()


def test_a_chain_whose_law_is_refused_is_sampled_and_told_why() -> None:
    found = analyze(nn.Sequential(nn.Linear(6, 4), Square(), nn.Linear(4, 1)), X, n=300)
    assert found.row("2").method == "sampled"
    assert found.row("2").theta == 1.5
    assert any("grows as |u|^2" in note for note in found.notes)
    with pytest.raises(InputError, match=r"grows as \|u\|\^2"):
        analyze(UnitPrior((4,), "square"))
