"""The one door: names, paths, and what is neither."""

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.data import load, load_segmentation, splits


def test_a_name_that_is_none_gets_names_and_the_nearest():
    with pytest.raises(InputError, match=r"no data set or path 'digit'.*Did you mean 'digits'"):
        load("digit")
    with pytest.raises(InputError, match="no data set or path"):
        splits("nowhere/at/all")
    with pytest.raises(InputError, match="no data set or path"):
        load_segmentation("nowhere")


def test_a_split_that_a_set_has_not_is_refused():
    with pytest.raises(InputError, match="digits has no split 'val': choose one of train, test"):
        load("digits", "val")


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others():
    first, again, other = (load("digits", limit=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load("digits", limit=20)
    assert torch.equal(before, torch.get_rng_state())


def test_a_limit_above_the_number_changes_nothing():
    assert torch.equal(load("digits", limit=9999).images, load("digits").images)


def test_wrong_limits_and_sizes_are_refused_before_anything_is_read():
    with pytest.raises(InputError, match="limit is -1"):
        load("nowhere", limit=-1)
    with pytest.raises(InputError, match="size 0x8"):
        load("nowhere", size=(0, 8))


def test_a_folder_called_like_a_set_is_meant_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits")) == 355
    with pytest.raises(InputError, match="holds no pictures"):
        load("./digits")
    assert splits("digits") == ("train", "test")
