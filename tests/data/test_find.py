"""Where data sets are looked for."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.data import find
from merkhet.data.sources import SOURCES

module = importlib.import_module("merkhet.data.find")  # the package's `find` is the function
FILES = [remote.name for remote in SOURCES["fashion-mnist"].files]


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """Point all three places below a temporary folder, and return them in order."""
    monkeypatch.setenv("MERKHET_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = tmp_path / "system"
    source = dataclasses.replace(SOURCES["fashion-mnist"], system=system)
    monkeypatch.setitem(SOURCES, "fashion-mnist", source)
    cached = tmp_path / "cache" / "merkhet" / "data" / "fashion-mnist"
    return tmp_path / "own" / "fashion-mnist", cached, system


def _fill(folder: Path, names=FILES) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_the_users_own_folder_comes_first_then_the_cache_then_the_system(roots):
    for place in reversed(roots):
        _fill(place)
        assert find("fashion-mnist") == place


def test_an_incomplete_place_is_passed_over(roots):
    _fill(roots[0], FILES[:3])
    _fill(roots[2])
    assert find("fashion-mnist") == roots[2]


def test_absent_is_one_error_that_names_every_way(roots):
    with pytest.raises(InputError) as told:
        find("fashion-mnist")
    message = str(told.value)
    for way in (
        *map(str, roots),
        "train-images-idx3-ubyte.gz",
        "$MERKHET_DATA/fashion-mnist",
        "merkhet data fashion-mnist --download",
        "apt install dataset-fashion-mnist",
    ):
        assert way in message
    assert "\n" not in message


def test_incomplete_everywhere_says_where(roots):
    _fill(roots[1], FILES[:1])
    with pytest.raises(InputError, match=f"incomplete in {roots[1]}"):
        find("fashion-mnist")


def test_a_set_without_checksum_offers_no_download(roots):
    with pytest.raises(InputError) as told:
        find("camvid")
    assert "--download" not in str(told.value)
    with pytest.raises(InputError, match="cannot be downloaded: no checksum is published"):
        find("camvid", download=True)


def test_without_variables_the_home_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("MERKHET_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.places(SOURCES["mnist"]) == [tmp_path / ".cache/merkhet/data/mnist"]


def test_names_that_are_none_get_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'mnist'"):
        find("mnits")
    with pytest.raises(InputError, match="has no folder"):
        find("digits")


def test_every_source_names_layouts_and_checksums_that_exist():
    for source in SOURCES.values():
        assert all(name in module.LAYOUTS for name in source.layouts)
        for remote in source.files:
            algorithm, _, digest = remote.checksum.partition(":")
            assert len(bytes.fromhex(digest)) == {"md5": 16, "sha256": 32}[algorithm]
            assert all(url.endswith(remote.name) for url in remote.urls)


def test_the_real_sets_are_found(need_data):
    folder = need_data("mnist")
    assert find("mnist") == folder
