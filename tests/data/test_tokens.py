"""Tokens on disk and windows of them."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from merkhet.core.errors import InputError
from merkhet.data.tokenizer import train_tokenizer
from merkhet.data.tokens import TokenFile, TokenWindows, writing


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["some text, some more text"], 260)


@pytest.fixture
def path(tmp_path, tokenizer):
    """Write two documents of 10 and 9 tokens: with their ends 21."""
    tokenizer.save(tmp_path / "tokenizer.json")
    with writing(tmp_path / "train.bin", tokenizer) as writer:
        writer.write(range(1, 11))
        writer.write(range(21, 30))
    return tmp_path / "train.bin"


def test_documents_end_with_the_end(path, tokenizer):
    file = TokenFile(path)
    end = tokenizer.end
    assert len(file) == file.header.tokens == 21
    assert file.header.documents == 2
    assert file.tokens(0, 21).tolist() == [*range(1, 11), end, *range(21, 30), end]
    assert file.tokenizer().checksum == tokenizer.checksum


@pytest.mark.parametrize("context", [1, 3, 5, 7, 20])
def test_targets_are_inputs_one_token_further_and_windows_meet(path, context):
    windows = TokenWindows(TokenFile(path), context)
    assert len(windows) == 20 // context
    every = windows.file.tokens(0, 21)
    for index, (inputs, targets) in enumerate(windows):
        start = index * context
        assert inputs.tolist() == every[start : start + context].tolist()
        assert targets.tolist() == every[start + 1 : start + context + 1].tolist()
    assert torch.equal(windows[-1][0], windows[len(windows) - 1][0])


def test_a_batch_is_its_windows(path):
    windows = TokenWindows(TokenFile(path), 4)
    inputs, targets = windows.batch([3, 0])
    assert inputs.shape == targets.shape == (2, 4)
    assert torch.equal(inputs[0], windows[3][0])
    assert inputs.dtype == torch.int64


def test_workers_read_the_same(path):
    windows = TokenWindows(TokenFile(path), 5)
    plain = next(iter(DataLoader(windows, batch_size=4)))
    loader = DataLoader(windows, batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(next(iter(loader))[0], plain[0])


def test_a_pickled_file_holds_no_tokens(path):
    file = TokenFile(path)
    copied = pickle.loads(pickle.dumps(file))
    assert torch.equal(copied.tokens(3, 9), file.tokens(3, 9))
    assert "_values" not in file.__getstate__()


def test_windows_that_do_not_fit_are_refused(path):
    for context in (0, 21):
        with pytest.raises(InputError, match="give 1 to 20"):
            TokenWindows(TokenFile(path), context)
    with pytest.raises(IndexError):
        TokenWindows(TokenFile(path), 5)[4]


def test_a_failed_write_leaves_nothing(tmp_path, tokenizer):
    def fail() -> None:
        with writing(tmp_path / "a.bin", tokenizer) as writer:
            writer.write([1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_large_vocabularies_take_four_bytes(tmp_path, tokenizer):
    class Large:
        vocabulary, end, checksum = 70_000, 69_999, "none"

    with writing(tmp_path / "a.bin", Large()) as writer:
        writer.write([66_000])
    assert TokenFile(tmp_path / "a.bin").tokens(0, 2).tolist() == [66_000, 69_999]
    assert (tmp_path / "a.bin").stat().st_size == 8


def test_no_documents_are_an_empty_file(tmp_path, tokenizer):
    with writing(tmp_path / "a.bin", tokenizer):
        pass
    assert len(TokenFile(tmp_path / "a.bin")) == 0


def _edit(path, **changes):
    header = path.with_suffix(".json")
    header.write_text(json.dumps({**json.loads(header.read_text()), **changes}))


def _flip(path):
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "has 41 bytes and its header says 42"),
        (lambda p: p.write_bytes(p.read_bytes() + b"\0\0"), "has 44 bytes"),
        (lambda p: p.unlink(), "has no bytes"),
        (_flip, "checksum"),
        (lambda p: p.with_suffix(".json").unlink(), "is missing"),
        (lambda p: p.with_suffix(".json").write_text("{"), "no header"),
        (lambda p: p.with_suffix(".json").write_text("[]"), "no header"),
        (lambda p: p.with_suffix(".json").write_text('{"tokens": 1}'), "no header"),
        (lambda p: _edit(p, tokens=-1), "another version"),
        (lambda p: _edit(p, tokens="21"), "another version"),
        (lambda p: _edit(p, dtype="float64"), "another version"),
        (lambda p: _edit(p, format="merkhet tokens 0"), "another version"),
    ],
)
def test_damage_is_told_with_the_files_name(path, damage, message):
    damage(path)
    with pytest.raises(InputError, match=message) as told:
        TokenFile(path)
    assert str(path.with_suffix("")) in str(told.value)


def test_another_tokenizer_beside_the_tokens_is_noticed(path):
    train_tokenizer(["other words entirely"], 262).save(path.with_name("tokenizer.json"))
    with pytest.raises(InputError, match="not the tokenizer that wrote"):
        TokenFile(path).tokenizer()
