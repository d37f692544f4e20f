"""The command line of the kernels: networks in words, what the verbs find, mistakes in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from merkhet import cli, data
from merkhet.core.errors import InputError
from merkhet.kernels import (
    GELU,
    AvgPool2d,
    Conv2d,
    Erf,
    Exponential,
    Flatten,
    GaussianPool2d,
    GlobalAvgPool2d,
    KernelClassifier,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Residual,
    Sequential,
    Sine,
    commands,
    gram,
    words,
)
from merkhet.kernels.sphere import arc_cosine_eigenvalues
from merkhet.kernels.words import parse_network

DENSE = "flatten linear:bias=0.5 relu linear"


def run(*arguments: str) -> int:
    sys.argv = ["merkhet", "kernels", *arguments]
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERKHET_TRACEBACK", raising=False)


@pytest.fixture
def undivided(tmp_path: Path) -> str:
    """Return the path of digits without a split, ten of each of two classes."""
    digits = data.load("digits", "train")
    assert digits.labels is not None
    rows = torch.cat([(digits.labels == label).nonzero()[:10, 0] for label in (0, 1)])
    path = tmp_path / "digits.npz"
    images, labels = digits.images[rows].numpy(), digits.labels[rows].numpy()
    np.savez(path, images=images, labels=labels)
    return str(path)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("linear relu linear", (Linear(), ReLU(), Linear())),
        (
            "conv5:stride=2,padding=valid relu mean linear:std=1,bias=0.1",
            (
                Conv2d(5, stride=2, padding="valid"),
                ReLU(),
                GlobalAvgPool2d(),
                Linear(weight_std=1.0, bias_std=0.1),
            ),
        ),
        ("conv3:padding=1 avg2 flatten", (Conv2d(3, padding=1), AvgPool2d(2), Flatten())),
        ("conv3 avg3:stride=2 gauss2", (Conv2d(3), AvgPool2d(3, 2), GaussianPool2d(2))),
        ("leaky0.1 exp0.6 erf", (LeakyReLU(0.1), Exponential(0.6), Erf())),
        ("leaky exp gelu sine", (LeakyReLU(), Exponential(), GELU(), Sine())),
        (
            "conv3 residual(relu residual( relu conv3 ) conv3)\tflatten",
            (
                Conv2d(3),
                Residual(
                    Sequential(ReLU(), Residual(Sequential(ReLU(), Conv2d(3))), Conv2d(3)),
                ),
                Flatten(),
            ),
        ),
        (words.PICTURES, parse_network(words.PICTURES).steps),
    ],
)
def test_words_are_layers(text: str, layers: tuple[Layer, ...]) -> None:
    assert repr(parse_network(text)) == repr(Sequential(*layers))


def test_every_word_is_in_the_help_and_stands_for_a_layer() -> None:
    for word, (_, argument, _) in words.LAYERS.items():
        assert word in commands.WORDS
        assert parse_network(f"{word}{2 if argument else ''}").steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cov3 relu", "--network 'cov3': no word 'cov'"),
        ("conv3,relu", "--network 'conv3,relu': no word 'conv3,relu'"),
        ("conv relu", "--network 'conv': give it a whole number, as in conv3"),
        ("conv2.5", "give it a whole number, as in conv3"),
        ("conv0", "--network 'conv0': kernel_size = 0"),
        ("relu3", "--network 'relu3': it takes no number: write relu"),
        ("relu:std=1", "it takes no settings: write relu"),
        ("conv3:bia=1", "Did you mean 'bias'?"),
        ("conv3:std=a", "--network 'conv3:std=a': give a number, as in std=1"),
        ("conv3:stride=1.5", "give a number, as in stride=1"),
        ("conv3:std=nan", "weight_std = nan"),
        ("conv3:padding=sam", "Did you mean 'same'?"),
        ("conv3:", "no setting ''"),
        ("residual(conv3 relu", "residual( lacks its )"),
        ("conv3 ) relu", "--network 'conv3 ) relu': no word ')'"),
        ("(conv3)", "no word '('"),
        ("residual(conv3 relu)", "--network 'residual(conv3 relu)': the parts of"),
        ("  ", "--network is empty: give layers, as in"),
    ],
)
def test_a_wrong_word_is_told(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_network(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_classify_is_the_estimator_on_the_drawn_pictures(capsys) -> None:
    given = ("--labels", "60", "--test", "50", "--network", DENSE, "--kind", "nngp", "--seed", "3")
    assert run("classify", *given, "--compare", "--out", "c.json") == 0
    printed = capsys.readouterr().out
    written = json.loads(Path("c.json").read_text())
    train = data.load("digits", "train").sample(60, 3)
    test = data.load("digits", "test").sample(50, 3)
    model = KernelClassifier(parse_network(DENSE), "nngp")
    model.fit(train.floats().numpy(), train.labels.numpy())
    found = written["found"][f"NNGP of {DENSE}"]
    assert found["accuracy"] == pytest.approx(
        model.score(test.floats().numpy(), test.labels.numpy())
    )
    assert found["ridge"] == pytest.approx(model.ridge_, rel=1e-4)
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]
    assert found["pairs_a_second"] * found["kernel_seconds"] == pytest.approx(60 * 61 / 2 + 60 * 50)
    assert f"accuracy {found['accuracy']:.1%}" in printed
    assert "pairs a second" in printed
    assert written["labels"] == 60


def test_the_gaussian_kernel_is_tuned_by_leave_one_out() -> None:
    assert (
        run("classify", "--labels", "60", "--network", DENSE, "--compare", "--out", "c.json") == 0
    )
    found = json.loads(Path("c.json").read_text())["found"]["RBF"]
    x = data.load("digits", "train").sample(60, 0)
    flat = x.floats().flatten(1).double()
    distances = torch.cdist(flat, flat)
    middle = float(distances[distances > 0].median())

    def error(width: float) -> float:
        kernel = (-distances.square() / (2 * width**2)).exp().numpy()
        model = KernelClassifier("precomputed").fit(kernel, x.labels.numpy())
        return float(model.loo_errors_.min())

    errors = {relative: error(relative * middle) for relative in commands.RBF_WIDTHS}
    assert found["width"] == pytest.approx(middle * min(errors, key=errors.__getitem__))
    assert found["accuracy"] > 0.7


def test_pictures_without_a_split_are_divided(undivided: str, capsys) -> None:
    given = ("--data", undivided, "--network", DENSE)
    assert run("classify", *given, "--labels", "12", "--test", "8") == 0
    assert "accuracy 100.0%" in capsys.readouterr().out, "zeros and ones are told apart"
    assert run("classify", *given, "--labels", "13", "--test", "8") == 2
    assert "--labels and --test together 21: " in capsys.readouterr().err
    drawn, held_out = commands._labelled(undivided, 12, 8, 0)
    both = torch.cat([drawn.images, held_out.images]).flatten(1)
    assert len(both.unique(dim=0)) == 20, "none is in both"


@pytest.mark.parametrize("kind", ["ntk", "both"])
def test_gram_writes_the_kernel_and_goes_on(kind: str, capsys) -> None:
    given = ("--limit", "30", "--kind", kind, "--dtype", "float64", "--network", DENSE)
    assert run("gram", *given, "--out", "k.npy") == 0
    assert "pairs a second" in capsys.readouterr().out
    x = data.load("digits", "train").sample(30, 0).floats()
    network = parse_network(DENSE)
    wanted = gram(network, x, kind=kind, dtype=torch.float64)
    found = np.load("k.npy")
    np.testing.assert_array_equal(found, torch.stack([*wanted]) if kind == "both" else wanted)
    listed = Path("k.npy.blocks")
    header = listed.read_text().splitlines()[0]
    listed.write_text(f"{header}\n")  # as if it had stopped before its first block
    np.lib.format.open_memmap("k.npy", "r+")[:] = 0
    assert run("gram", *given, "--out", "k.npy") == 0
    assert "pairs a second" not in capsys.readouterr().out
    np.testing.assert_array_equal(np.load("k.npy"), found)


def test_spectrum_prints_the_closed_form(capsys) -> None:
    given = ("--network", "linear:std=1 relu linear", "--dim", "4", "--degrees", "12")
    assert run("spectrum", *given, "--kind", "both", "--out", "s.json") == 0
    printed = capsys.readouterr().out
    written = json.loads(Path("s.json").read_text())
    for kind in ("ntk", "nngp"):
        found = torch.tensor(written[kind.upper()]["eigenvalues"], dtype=torch.float64)
        wanted = arc_cosine_eigenvalues(4, 12, kind) / 4  # inputs' products are over dim
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-14)
    assert "in theory -4" in printed
    assert "in theory -6" in printed
    assert run("spectrum", "--network", "linear erf linear", "--degrees", "6") == 0
    assert "faster than any power" in capsys.readouterr().out
    assert run("spectrum", "--network", "linear", "--degrees", "1") == 0
    assert run("spectrum", *given, "--out", "s.png") == 0
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG"


def test_a_torch_network_is_read(tmp_path: Path, capsys) -> None:
    code = (
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 1))\n"
    )
    (tmp_path / "net.py").write_text(code)
    given = ("--limit", "10", "--dtype", "float64")
    network = ("--module", "net.py:build", "--initialiser", "he")
    assert run("gram", *given, *network, "--out", "a.npy") == 0
    words = ("--network", "flatten linear relu linear")
    assert run("gram", *given, *words, "--out", "b.npy") == 0
    np.testing.assert_allclose(np.load("a.npy"), np.load("b.npy"), rtol=1e-12)
    capsys.readouterr()
    for extra, told in (
        (("--module", "net.py:build"), "--module needs --initialiser"),
        ((*network, *words), "--network and --module: give one of them"),
        (("--initialiser", "he"), "--initialiser goes with --module"),
        ((*network[:3], "hee"), "--module net.py:build: no initialiser 'hee'"),
    ):
        assert run("gram", *given, *extra, "--out", "c.npy") == 2
        assert told in capsys.readouterr().err
    assert not Path("c.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("classify", "--data", "digit"), "Did you mean 'digits'"),
        (("classify", "--kind", "both"), "no --kind 'both': choose one of nngp, ntk"),
        (("classify", "--out", "c.txt"), "--out c.txt: give NAME.json"),
        (("classify", "--out", "no/c.json"), "there is no folder no"),
        (("classify", "--labels", "2000"), "--labels 2000: digits has 1,442 pictures"),
        (("classify", "--test", "400"), "--test 400: digits has 355 pictures"),
        (("classify", "--network", "conv3 relu"), "the network ends in a feature map of 8x8"),
        (("classify", "--network", "conv3 linear"), "--network 'conv3 linear': Linear after"),
        (("classify", "--network", "conv9:padding=valid flatten"), "nothing is left of it"),
        (("gram", "--kind", "nkt"), "Did you mean 'ntk'"),
        (("gram", "--dtype", "float16"), "no --dtype 'float16'"),
        (("gram", "--out", "k.npz"), "--out k.npz: give NAME.npy"),
        (("gram", "--split", "trian"), "no split 'trian': choose one of train, test"),
        (("gram", "--limit", "1443"), "--limit 1443: digits has 1,442 pictures"),
        (("spectrum", "--network", "conv3 flatten"), "Conv2d after a vector"),
        (("spectrum", "--out", "s.pdf"), "--out s.pdf: give NAME.png or NAME.json"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_another_kernel_is_not_written_over(capsys) -> None:
    given = ("gram", "--network", DENSE, "--out", "k.npy")
    assert run(*given, "--limit", "10") == 0
    before = Path("k.npy").read_bytes()
    assert run(*given, "--limit", "10", "--seed", "1") == 2
    assert "k.npy holds another kernel" in capsys.readouterr().err
    assert Path("k.npy").read_bytes() == before
