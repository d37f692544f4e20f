"""`merkhet data`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from merkhet import cli
from merkhet.core.errors import InputError

RUNNER = CliRunner()


def _run(*words: str) -> str:
    result = RUNNER.invoke(cli.build(), ["data", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_list_tells_of_every_set_where_it_is_or_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    for split in ("train", "val", "test"):
        (tmp_path / "camvid" / split).mkdir(parents=True)
        (tmp_path / "camvid" / f"{split}annot").mkdir()
    told = _run()
    for name in ("digits", "mnist", "fashion-mnist", "kmnist", "cifar10", "camvid", "python"):
        assert name in told
    assert "merkhet data kmnist --download" in told
    assert str(tmp_path / "camvid")[-20:] in told
    assert "always at hand" in told


def test_the_example_of_the_help_runs():
    told = _run("digits")
    assert "digits train: 1442 of 1x8x8 uint8; 10 classes: 0 143, 1 146" in told
    assert "digits test: 355" in told
    assert "merkhet data digits" in _run("--help")


def test_a_folder_is_checked_by_its_path(tmp_path):
    for name, size in (("a", (4, 4)), ("b", (6, 4))):
        (tmp_path / name).mkdir()
        Image.new("L", size).save(tmp_path / name / "1.png")
    assert "2 of 1x8x9 uint8" in _run(str(tmp_path), "--size", "8x9")
    with pytest.raises(InputError, match="give --size HxW"):
        _run(str(tmp_path))


def test_pictures_without_labels_say_so(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 4, 4)))
    assert "a all: 3 of 1x4x4 float32" in _run(str(tmp_path / "a.npz"))
    assert "no labels" in _run(str(tmp_path / "a.npz"))


def test_python_counts_its_documents():
    assert "documents" in _run("python")


def test_pixels_are_counted(need_data):
    need_data("camvid")
    told = _run("camvid")
    assert "camvid val: 101 of 3x180x240 uint8" in told
    assert "road 29." in told


def test_options_without_a_name_are_refused():
    with pytest.raises(InputError, match="need a name"):
        _run("--download")


def test_an_error_is_one_line_and_exit_code_two(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", "from merkhet.cli import main; main()", "data", "mnits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: no data set or path 'mnits'")
    assert ran.stderr.count("\n") == 1


def test_the_package_loads_no_heavy_library():
    heavy = "PIL sklearn pyarrow tokenizers transformers matplotlib accelerate scipy.stats"
    loaded = f"[m for m in '{heavy}'.split() if m in sys.modules]"
    code = f"import sys, merkhet.data.commands; print({loaded})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
