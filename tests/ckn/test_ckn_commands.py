"""The command line: fits that are found, resumed and audited; predictions; mistakes in one line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from merkhet import cli, data
from merkhet.models.target import find_target
from merkhet.training import read_run

SMALL = ("--filters", "8,16", "--pooling", "2,2")
FEW = ("--limit", "120")


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)


def fitted(*more: str, out: str = "run") -> int:
    return run("ckn", "fit", "--data", "digits", *SMALL, *FEW, "--out", out, *more)


def saved(name: str, images: np.ndarray, labels: np.ndarray | None = None) -> str:
    more = {} if labels is None else {"labels": labels}
    np.savez(f"{name}.npz", images=images, **more)
    return f"{name}.npz"


def test_a_fit_is_told_found_and_predicts(capsys) -> None:
    assert fitted() == 0
    first = capsys.readouterr().out
    assert "filters of 120 pictures" in first
    assert "held-out accuracy" in first
    assert fitted() == 0
    assert "run holds this fit already: penalty" in capsys.readouterr().out
    out = ("--out", "predictions.csv")
    assert run("ckn", "predict", "run", "--data", "digits", *out) == 0
    told = capsys.readouterr().out
    with Path("predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    test = data.load("digits", "test")
    assert [row["label"] for row in rows] == [str(int(label)) for label in test.labels]
    hits = sum(row["predicted"] == row["label"] for row in rows)
    assert f"accuracy {hits / 355:.2%} [" in told
    assert hits / 355 > 0.7
    module = find_target("run").module
    found = module(test.floats()).argmax(1)
    assert [row["predicted"] for row in rows] == [str(int(label)) for label in found]


def test_the_run_says_how_it_is_built() -> None:
    fitted("--group", "c4", "--kernel", "inverse,exp", "--patches", "raw")
    about = read_run("run")["about"]
    assert read_run("run")["status"] == "finished"
    arguments = about["spec"]["model"]["arguments"]
    assert (arguments["filters"], arguments["group"]) == ([8, 16], "c4")
    assert about["spec"]["classes"] == list("0123456789")
    target = find_target("run")
    assert (target.data, target.name) == ("digits", "ckn")
    assert [layer.kernel.kind for layer in target.module.representation.layers] == [
        "inverse",
        "exp",
    ]
    x = data.load("digits", "test", limit=5).floats()
    turned = torch.rot90(x, 1, (2, 3))
    torch.testing.assert_close(target.module(turned), target.module(x), atol=1e-2, rtol=1e-3)


def test_training_with_labels_begins_from_the_fit_and_goes_on(capsys) -> None:
    assert fitted("--epochs", "2") == 0
    told = capsys.readouterr().out
    assert "after 2 epochs" in told
    assert read_run("run/unsupervised")["status"] == "finished"
    begin, end = (find_target(place).module for place in ("run/unsupervised", "run"))
    moved = end.representation.layer(0).filters - begin.representation.layer(0).filters
    assert float(moved.detach().abs().max()) > 1e-4
    torch.testing.assert_close(end.representation.layer(0).filters.norm(dim=1), torch.ones(8))
    assert fitted("--epochs", "2") == 0
    again = capsys.readouterr().out
    assert "run/unsupervised holds this fit already" in again
    assert again.splitlines()[-2:] == told.splitlines()[-2:], "found finished"
    assert run("ckn", "predict", "run") == 0
    assert "accuracy" in capsys.readouterr().out


def test_a_run_is_audited(capsys) -> None:
    fitted()
    out = ("--out", "report.html", "--samples", "8", "--checks", "cost")
    assert run("audit", "run", *out) == 0, capsys.readouterr().err
    assert "digits" in Path("report.html").read_text()


def test_data_that_are_not_divided_say_that_they_were_learned_from(capsys) -> None:
    digits = data.load("digits", "train", limit=100)
    given = saved("all", digits.images.numpy(), digits.labels.numpy())
    assert run("ckn", "fit", "--data", given, *SMALL, "--out", "run") == 0
    assert run("ckn", "predict", "run") == 0
    assert "which the run learned from" in capsys.readouterr().out


def test_pictures_without_labels_are_only_predicted(capsys) -> None:
    fitted()
    given = saved("new", data.load("digits", "test").images[:7].numpy())
    assert run("ckn", "predict", "run", "--data", given, "--out", "found.csv") == 0
    assert "7 pictures without labels" in capsys.readouterr().out
    assert len(Path("found.csv").read_text().splitlines()) == 8
    assert Path("found.csv").read_text().startswith("picture,predicted\n")


MISTAKES = [
    (("--out", __file__), "is a file: give a folder"),
    (("--filters", "0,16"), "filters = 0"),
    (("--filters", "a"), "--filters takes numbers"),
    (("--kernel-size", "1,3", "--patches", "raw"), "layer 0, 8 filters"),
    (("--pooling", "2,2,2"), "for 2 layers: give one value, or one for each layer"),
    (("--kernel", "rbf"), "rbf"),
    (("--sigma", "0"), "sigma"),
    (("--group", "c5"), "no group 'c5': choose one of c4, c8, d4, reflections"),
    (("--group", "c4", "--kernel-size", "4"), "give an odd kernel_size"),
    (("--patches", "centered"), "Did you mean 'centred'"),
    (("--limit", "5000"), "digits has 1,442 pictures, give that or less"),
    (("--limit", "4"), "4 pictures are too few: give 12 or more"),
    (("--rate", "0"), "rate = 0"),
    (("--data", "nowhere"), "no data set or path 'nowhere'"),
]


@pytest.mark.parametrize(("given", "words"), MISTAKES)
def test_mistakes_are_one_line(given: tuple[str, ...], words: str, capsys) -> None:
    assert fitted(*given) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert words in printed
    assert not Path("run").exists()


def test_pictures_that_are_not_square_are_not_turned(capsys) -> None:
    digits = data.load("digits", "train", limit=20)
    given = saved("wide", digits.images[:, :, :6].numpy(), digits.labels.numpy())
    assert run("ckn", "fit", "--data", given, *SMALL, "--group", "c4", "--out", "run") == 2
    assert "pictures of 6x8 are not mapped onto themselves" in capsys.readouterr().err


def test_another_run_is_left_alone(capsys) -> None:
    assert fitted() == 0
    before = Path("run/run.json").read_text()
    assert fitted("--sigma", "0.7") == 2
    assert "holds a run with spec.model.arguments.sigma = 0.6, not 0.7" in capsys.readouterr().err
    assert fitted("--epochs", "1") == 2
    assert "run holds a run without --epochs" in capsys.readouterr().err
    Path("other").mkdir()
    spec = {"model": {"name": "small_cnn", "arguments": {}}}
    Path("other/run.json").write_text(json.dumps({"status": "finished", "about": {"spec": spec}}))
    for more in ((), ("--epochs", "1")):
        assert fitted(*more, out="other") == 2
        assert "other holds a run with" in capsys.readouterr().err
    assert run("ckn", "predict", "other") == 2
    assert "other is not a run of `merkhet ckn fit`" in capsys.readouterr().err
    assert Path("run/run.json").read_text() == before


def test_what_the_run_does_not_read_is_refused(capsys) -> None:
    fitted()
    digits = data.load("digits", "test", limit=30)
    images, labels = digits.images.numpy(), digits.labels.numpy()
    cases = [
        (
            ("--data", saved("small", images[:, :, :7, :7])),
            "pictures of 1x7x7, and run reads 1x8x8",
        ),
        (("--data", saved("rgb", images.repeat(3, 1))), "pictures of 3x8x8, and run reads 1x8x8"),
        (("--data", saved("two", images, labels % 2)), "has the classes 0, 1, and run 0, 1, 2, 3"),
        (("--out", "found.txt"), "give NAME.csv"),
        (("--split", "other"), "other"),
    ]
    for given, words in cases:
        assert run("ckn", "predict", "run", *given) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert words in printed
    assert run("ckn", "predict", "nowhere") == 2
    assert "nowhere is not a run of `merkhet ckn fit`" in capsys.readouterr().err
