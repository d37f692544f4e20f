from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.data import Pictures
from merkhet.data.inputs import CONTEXT, load_inputs


def test_pictures_come_from_the_test_split() -> None:
    found = load_inputs("digits", samples=9)
    assert isinstance(found, Pictures)
    assert len(found) == 9
    assert found.split == "test"


def test_tokens_come_from_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", tokens=np.arange(40).reshape(10, 4))
    found = load_inputs(tmp_path / "t.npz", samples=3, seed=1)
    assert isinstance(found, torch.Tensor)
    assert found.shape == (3, 4)
    assert found.dtype == torch.int64


def test_text_is_encoded_by_the_networks_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a b c " * 100)
    found = load_inputs(tmp_path / "text.txt", samples=3, tokenizer=tmp_path / "tokenizer.json")
    assert isinstance(found, torch.Tensor)
    assert found.shape == (3, CONTEXT)
    assert found[0].tolist() == ([0, 1, 2] * CONTEXT)[:CONTEXT]
    (tmp_path / "short.txt").write_text("a b c")
    with pytest.raises(InputError, match="too short"):
        load_inputs(tmp_path / "short.txt", samples=3, tokenizer=tmp_path / "tokenizer.json")


def test_text_without_a_tokenizer_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_inputs("python", samples=3)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"t\.npz"):
        load_inputs(tmp_path / "t.npz", samples=3)
