"""The verbs of rkhs: what they print and write, and mistakes in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from merkhet import cli, data
from merkhet.models import SmallCNN, find_target, save_weights
from merkhet.rkhs.bracket import lipschitz
from merkhet.rkhs.certificates import certified_accuracy, certified_radius
from merkhet.rkhs.robustness import evaluate_robustness
from merkhet.rkhs.spectral import spectral_norms

SMALL = '{"widths": [4], "norm": "none"}'
MODEL = ("merkhet.models:SmallCNN", "--arguments", SMALL)
TRAIN = ("train", "--labels", "40", "--epochs", "2", "--arguments", SMALL)


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", "rkhs", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)


class Affine(nn.Module):
    """The preparation of --mean 0.5 --std 0.25."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 4 * inputs - 2


def network(**more: object) -> SmallCNN:
    return SmallCNN(**{"widths": [4], "norm": "none", **more}).eval()


def test_train_leaves_a_run_that_other_commands_take(capsys) -> None:
    given = (*TRAIN, "--penalty", "gradient*0.01 + spectral(0.8)")
    assert run(*given) == 0
    printed = capsys.readouterr().out
    assert "test pictures" in printed
    assert "`merkhet rkhs bounds rkhs-run` bounds and certifies it" in printed
    spec = json.loads(Path("rkhs-run/run.json").read_text())["about"]["spec"]
    assert spec["expression"] == "0.01*gradient + spectral(target=0.8)"
    assert (spec["data"], spec["labels"]) == ("digits", 40)
    rows = [json.loads(line) for line in Path("rkhs-run/losses.jsonl").read_text().splitlines()]
    assert {"gradient", "spectral", "clean_loss"} <= rows[0].keys()
    assert run("bounds", "rkhs-run", "--samples", "20") == 0
    assert "median l2 radius" in capsys.readouterr().out


def test_train_finds_its_run_and_refuses_another(capsys) -> None:
    assert run(*TRAIN) == 0
    first = capsys.readouterr().out
    assert run(*TRAIN) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == first.splitlines()[-3:]
    assert run(*TRAIN, "--penalty", "gradient") == 2
    assert "holds a run with" in capsys.readouterr().err


def test_train_under_a_constraint_holds_the_operators_down() -> None:
    given = ("--constraint", "0.7", "--kappa", "0.1", "--optimiser", "adamw", "--rate", "0.01")
    assert run(*TRAIN, *given) == 0
    module = find_target("rkhs-run").module
    example = data.load("digits", "test", limit=1).floats()
    norms = spectral_norms(module, example, method="certified")
    assert len(norms) == 2
    assert all(norm <= 0.7 * 1.02 for norm in norms.values())
    rows = [json.loads(line) for line in Path("rkhs-run/losses.jsonl").read_text().splitlines()]
    assert rows[0]["spectral_bound"] == pytest.approx(0.7 * 5)


def test_a_network_in_a_file_is_trained(tmp_path: Path, capsys) -> None:
    code = (
        "from torch import nn\n"
        "def build(width=5):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), "
        "nn.Linear(width, 10))\n"
    )
    (tmp_path / "net.py").write_text(code)
    given = ("train", "--labels", "40", "--epochs", "1", "--network", "net.py:build")
    state = torch.random.get_rng_state()
    assert run(*given, "--arguments", '{"width": 7}') == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    said = capsys.readouterr().out
    model = "net.py:build --arguments '{\"width\": 7}' --weights rkhs-run/model.safetensors"
    assert f"`merkhet rkhs bounds {model} --data digits`" in said
    weights = ("--weights", "rkhs-run/model.safetensors", "--arguments", '{"width": 7}')
    assert run("bounds", "net.py:build", *weights, "--data", "digits", "--samples", "10") == 0


def test_bounds_prints_and_writes_the_bracket_and_the_certificates(capsys) -> None:
    module = network(seed=3)
    save_weights(module, Path("w.safetensors"))
    given = ("bounds", *MODEL, "--data", "digits", "--samples", "30", "--weights", "w.safetensors")
    assert run(*given, "--mean", "0.5", "--std", "0.25", "--out", "b.json", "--seed", "2") == 0
    printed = capsys.readouterr().out
    written = json.loads(Path("b.json").read_text())
    pictures = data.load("digits", "test", limit=30, seed=2)
    function = nn.Sequential(Affine(), module).eval()
    bracket = lipschitz(function, pictures.floats())
    assert written["bracket"]["upper"] == pytest.approx(bracket.upper, rel=1e-9)
    assert written["bracket"]["lower"] == pytest.approx(bracket.lower, rel=1e-6)
    assert written["bracket"]["upper"] > lipschitz(module, pictures.floats()).upper
    paths = [part["path"] for part in written["bracket"]["parts"]]
    assert paths[-1] == "head", "as the network itself names it"
    radii = certified_radius(function, pictures.floats(), pictures.labels)
    assert written["certified"]["radii"] == pytest.approx(radii.tolist(), rel=1e-6)
    shares = certified_accuracy(radii, (0.1, 0.25, 0.5, 1.0)).tolist()
    assert list(written["certified"]["accuracy"].values()) == pytest.approx(shares)
    assert f"accuracy certified at 0.1: {shares[0]:.1%}" in printed
    assert Path("b.png").read_bytes()[:4] == b"\x89PNG"


def test_estimates_certify_nothing(capsys) -> None:
    given = ("bounds", *MODEL, "--data", "digits", "--samples", "10", "--method", "power")
    assert run(*given, "--out", "b.json") == 0
    printed = capsys.readouterr().out
    assert "estimate" in printed
    assert "no certificates" in printed
    written = json.loads(Path("b.json").read_text())
    assert written["bracket"]["upper_is_estimate"]
    assert "certified" not in written
    assert Path("b.png").exists()


def test_a_network_without_class_scores_keeps_its_bracket(tmp_path: Path, capsys) -> None:
    (tmp_path / "maps.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Conv2d(1, 2, 3)\n"
    )
    target = f"{tmp_path / 'maps.py'}:build"
    assert run("bounds", target, "--data", "digits", "--samples", "4", "--out", "b.json") == 0
    assert "no certified radii: " in capsys.readouterr().out
    written = json.loads(Path("b.json").read_text())
    assert written["bracket"]["upper"] > 0
    assert "certified" not in written


def test_evaluate_is_the_function_on_the_drawn_pictures(capsys) -> None:
    given = ("--samples", "20", "--radii", "0.05,0.2", "--attacks", "pgd", "--steps", "5")
    assert run("evaluate", *MODEL, "--data", "digits", *given, "--out", "e.json") == 0
    printed = capsys.readouterr().out
    written = json.loads(Path("e.json").read_text())
    pictures = data.load("digits", "test", limit=20)
    found = evaluate_robustness(network(), pictures, "l2", (0.05, 0.2), attacks=["pgd"], steps=5)
    assert written["under"] == json.loads(json.dumps(found.to_dict()["under"]))
    assert str(found).splitlines()[0] in printed
    low, high = written["under"]["certified"]["accuracy"], written["under"]["worst"]["accuracy"]
    assert all(one <= other for one, other in zip(low, high, strict=True))
    assert run("evaluate", *MODEL, "--data", "digits", *given, "--norm", "linf", "--no-clip") == 0
    assert "linf radius" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*TRAIN, "--penalty", "gradent"), "Did you mean 'gradient'?"),
        ((*TRAIN, "--penalty", "adversarial(true)"), "radius = True"),
        ((*TRAIN, "--rate", "-1"), "rate = -1.0"),
        ((*TRAIN, "--optimiser", "adam"), "adamw"),
        ((*TRAIN, "--network", "small_cn"), "Did you mean 'small_cnn'?"),
        ((*TRAIN, "--kappa", "2"), "--kappa goes with --constraint"),
        ((*TRAIN, "--constraint", "0"), "bound = 0"),
        ((*TRAIN, "--data", "digit"), "digits"),
        (("train", "--labels", "1000000"), "digits has"),
        (("train", "--arguments", "x"), "--arguments is not JSON"),
        (("bounds", *MODEL), "no data: give --data"),
        (("bounds", *MODEL, "--data", "digits", "--method", "exact"), "certified, power"),
        (("bounds", *MODEL, "--data", "digits", "--radii", "a"), "--radii takes numbers"),
        (("bounds", *MODEL, "--data", "digits", "--radii", "-1"), "--radii -1"),
        (("bounds", *MODEL, "--data", "digits", "--out", "b.png"), "give NAME.json"),
        (("bounds", "nowhere", "--data", "digits"), "no network at"),
        (("evaluate", *MODEL, "--data", "digits", "--attacks", "pdg"), "pgd"),
        (("evaluate", *MODEL, "--data", "digits", "--norm", "l1"), "l2"),
        (("evaluate", *MODEL, "--data", "digits", "--radii", "0.5,0.25"), "radii"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], words: str, capsys) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert words in printed
    assert not list(Path().iterdir()), "nothing half-written"


def test_tokens_are_refused(capsys) -> None:
    import numpy as np

    np.savez("t.npz", tokens=np.zeros((4, 8), dtype=np.int64))
    for verb in ("bounds", "evaluate"):
        assert run(verb, *MODEL, "--data", "t.npz") == 2
        assert "not to tokens" in capsys.readouterr().err
