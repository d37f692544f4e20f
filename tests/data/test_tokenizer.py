"""Byte-level BPE."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merkhet.core.errors import InputError, MissingExtraError
from merkhet.data.tokenizer import END, Tokenizer, train_tokenizer

TEXTS = [
    "def first(value):\n    return value + another\n" * 20,
    "the quick brown fox jumps over the lazy dog. " * 30,
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@given(st.text(max_size=60))
@settings(max_examples=80, deadline=None)
def test_every_text_comes_back_from_its_tokens(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 <= token < tokenizer.vocabulary for token in tokens)
    assert tokenizer.end not in tokens


def test_a_text_that_spells_the_end_does_not_end(tokenizer):
    text = f"a{END}b"
    assert tokenizer.end not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.end not in tokenizer.encode_many([text])[0]


def test_the_end_is_written_when_tokens_are_decoded(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.end]) == f"a{END}"


def test_what_repeats_is_merged(tokenizer):
    assert tokenizer.vocabulary == 300
    assert len(tokenizer.encode(TEXTS[0])) < 0.7 * len(TEXTS[0])


def test_many_texts_are_encoded_like_each(tokenizer):
    assert tokenizer.encode_many(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_training_is_deterministic(tokenizer):
    again = train_tokenizer(TEXTS, 300)
    assert again.checksum == tokenizer.checksum


def test_the_smallest_vocabulary_is_bytes_and_the_end():
    plain = train_tokenizer(TEXTS, 257)
    assert len(plain.encode("größe")) == len("größe".encode())
    with pytest.raises(InputError, match="vocab_size is 256: give 257"):
        train_tokenizer(TEXTS, 256)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.checksum == tokenizer.checksum
    text = f"f(x) {END} é"
    assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": 1}'])
def test_a_damaged_file_is_named(tmp_path, data):
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(InputError, match=r"t\.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_tokenizer_of_others_without_an_end_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text().replace(END, "<end>")
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"has no token <\|end\|>"):
        Tokenizer.load(tmp_path / "t.json")


def test_reading_stops_at_the_most_bytes():
    def texts():
        yield "abc" * 10
        yield "abc" * 10
        raise AssertionError("read on")

    train_tokenizer(texts(), 257, most_bytes=60)


def test_no_documents_are_told():
    with pytest.raises(InputError, match="no documents"):
        train_tokenizer([], 300)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"merkhet\[text\]"):
        train_tokenizer(TEXTS, 300)
