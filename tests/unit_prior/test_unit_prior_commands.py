"""The verbs of unit-prior: what they print and write, and mistakes in one line."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from merkhet import cli, data
from merkhet.unit_prior import commands
from merkhet.unit_prior.analysis.analyze import analyze
from merkhet.unit_prior.design.initialisations import NAMES, compare_initialisations
from merkhet.unit_prior.prior import UnitPrior

CNN = ("merkhet.models:SmallCNN", "--arguments", '{"widths": [4], "norm": "none"}')
DIGITS = ("--data", "digits", "--samples", "200")
MLP = (
    "from torch import nn\n"
    "def build(width=6):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), "
    "nn.Linear(width, 10))\n"
)


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", "unit-prior", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)
    (tmp_path / "net.py").write_text(MLP)


def test_analyze_of_widths_prints_the_exact_law_and_writes_it(capsys) -> None:
    given = ("--widths", "10,20", "--weight-std", "1,0.5,0.25", "--input-norm", "2")
    assert run("analyze", *given, "--samples", "500", "--out", "found") == 0
    printed = capsys.readouterr().out
    rows = json.loads(Path("found/analysis.json").read_text())["rows"]
    assert [row["path"] for row in rows] == ["g_1", "h_1", "g_2", "h_2", "g_3"]
    prior = UnitPrior((10, 20), "relu", (1, 0.5, 0.25), input_norm=2)
    assert rows[-1]["kurtosis"]["value"] == float(prior.kurtosis(3))
    assert rows[-1]["std"]["value"] == pytest.approx(2 * math.sqrt(10 / 2 * 20 / 2) / 8)
    assert rows[-1]["theta"] == 1.5
    assert f"{float(prior.kurtosis(3)):.4g}" in printed
    assert {path.name for path in Path("found").iterdir()} == {
        "analysis.json",
        *(f"{name}.png" for name in ("survival", "kurtosis", "std", "penalty", "joint")),
    }
    assert "found/survival.png" in printed


def test_analyze_of_a_chain_is_exact_for_the_first_input(capsys) -> None:
    assert run("analyze", "net.py:build", *DIGITS, "--seed", "3") == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    picture = data.load("digits", "test", limit=1, seed=3).floats()
    std = float(picture.norm()) * math.sqrt(2 / 64)
    assert rows["1"][:6] == ["1", "Linear", "6", "0.5", f"{std:.4g}", "3"]
    assert rows["3"][3:6] == ["1", f"{std:.4g}", f"{3 * (1 + 5 / 6):.4g}"]


def test_analyze_of_a_convolutional_network_draws_and_takes_other_priors(capsys) -> None:
    assert run("analyze", *CNN, *DIGITS, "--prior", "laplace", "--places", "head") == 0
    printed = capsys.readouterr().out
    row = printed.splitlines()[1].split()
    assert row[:2] == ["head", "Linear"]
    assert row[3] == "2"  # two layers of Laplace weights
    assert "weights: laplace" in printed
    assert "200 draws" in printed


def test_design_prints_the_scale_that_meets_a_target(capsys) -> None:
    given = ("design", "--widths", "30,30", "--target", "std=2", "--input-norm", "3")
    assert run(*given, "--out", "scale.json") == 0
    printed = capsys.readouterr().out
    found = json.loads(Path("scale.json").read_text())
    assert found["gain"] == pytest.approx((2 / 3) ** (1 / 3), rel=1e-8)
    assert found["code"] in printed
    prior = UnitPrior((30, 30), "relu", found["weight_std"], input_norm=3)
    assert float(prior.std(3)) == pytest.approx(2)


def test_the_code_that_design_prints_draws_such_weights(capsys) -> None:
    assert run("design", "--widths", "200,200", "--target", "std=2", "--out", "s.json") == 0
    found = json.loads(Path("s.json").read_text())
    module = nn.Sequential(
        nn.Linear(500, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 1)
    )
    exec(found["code"], {"module": module})
    for layer, std in zip(module[::2], found["weight_std"], strict=True):
        count = layer.weight.numel()
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=4 / (2 * count) ** 0.5)
        assert not layer.bias.any()


def test_design_of_a_kurtosis_gives_a_width(capsys) -> None:
    given = ("design", "--widths", "1,1", "--target", "kurtosis=4", "--vary", "width")
    assert run(*given, "--out", "s.json") == 0
    width = json.loads(Path("s.json").read_text())["widths"][0]
    assert 3 * (1 + 5 / width) ** 2 <= 4 < 3 * (1 + 5 / (width - 1)) ** 2


def test_design_of_a_model_compares_initialisations(capsys) -> None:
    wide = ("--arguments", '{"width": 20}')
    given = ("design", "net.py:build", *wide, *DIGITS, "--names", "he,xavier", "--out", "c.json")
    assert run(*given) == 0
    names = [one["name"] for one in json.loads(Path("c.json").read_text())["initialisations"]]
    assert names == ["he", "xavier"]
    assert "take he" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("analyze",), "--widths 100,100"),
        (("analyze", "--widths", "10,x"), "--widths takes numbers"),
        (("analyze", "--widths", "0"), "width 0"),
        (("analyze", "--widths", "5", "--weight-std", "1,2,3"), "weight_std has 3 numbers"),
        (("analyze", "--widths", "5", "--activation", "rely"), "relu"),
        (("analyze", "--widths", "5", "--prior", "laplace"), "--prior goes with MODEL"),
        (("analyze", "--widths", "5", "--size", "8x8"), "--size goes with MODEL"),
        (("analyze", "net.py:build", *DIGITS, "--weight-std", "2"), "goes with --widths"),
        (("analyze", "--widths", "5", "--out", "net.py"), "is a file"),
        (("analyze", "--widths", "5", "--places", "g_9"), "g_9"),
        (("analyze", "net.py:build", *DIGITS, "--widths", "5"), "give one of them"),
        (("analyze", "net.py:build", *DIGITS, "--prior", "gausian"), "gaussian"),
        (("analyze", "net.py:build", *DIGITS, "--places", "9"), "'9'"),
        (("analyze", "net.py:build", "--samples", "100"), "no data"),
        (("design", "--widths", "5"), "--target 'std=1'"),
        (("design", "--widths", "5", "--target", "std=1", "--vary", "width"), "--vary weight_std"),
        (("design", "--widths", "5", "--target", "mean=1"), "mean"),
        (("design", "--widths", "5", "--target", "std=1", "--layer", "4"), "layer 4"),
        (("design", "--widths", "5", "--target", "std=1", "--out", "a.txt"), "NAME.json"),
        (("design", "net.py:build", *DIGITS, "--target", "std=1"), "--target goes with --widths"),
        (("design", "net.py:build", *DIGITS, "--layer", "2"), "--layer goes with --widths"),
        (("design", "--widths", "5", "--target", "std=1", "--names", "he"), "--names goes with"),
        (("design", "--widths", "5", "--target", "std=1", "--samples", "200"), "--samples goes"),
    ],
)
def test_mistakes_are_one_line(given: tuple[str, ...], said: str, capsys) -> None:
    assert run(*given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "function"),
    [(commands.analyze, analyze), (commands.design, compare_initialisations)],
)
def test_the_defaults_are_the_functions(verb: Callable, function: Callable) -> None:
    draws = inspect.signature(verb).parameters["samples"].default
    assert draws == inspect.signature(function).parameters["n"].default
    assert tuple(commands.NAMES.split(",")) == NAMES
