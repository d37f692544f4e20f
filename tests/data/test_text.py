"""From files to windows of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.data import documents, encode_corpus, load_text, split_of, text, train_tokenizer
from merkhet.data.tokens import TokenFile

SPLITS = ("train", "validation", "test")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(120):
        body = f"document {number}: the value of x{number} is {number * number}.\n" * 4
        (folder / f"{number:03}.txt").write_text(body)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["document 1: the value of x1 is 1.\n" * 20], 300)


def _decoded(folder: Path, split: str) -> list[str]:
    file = TokenFile(folder / f"{split}.bin")
    whole = file.tokenizer().decode(file.tokens(0, len(file)).tolist())
    return whole.split("<|end|>")[:-1]


def test_each_document_is_whole_in_its_split_and_in_order(corpus, tokenizer, tmp_path):
    folder = encode_corpus(corpus, tokenizer, tmp_path / "out")
    for split in SPLITS:
        wanted = [d.read().decode() for d in documents(corpus) if split_of(d.read()) == split]
        assert wanted
        assert _decoded(folder, split) == wanted


def test_the_same_text_gives_the_same_bytes(corpus, tokenizer, tmp_path):
    one, two = (encode_corpus(corpus, tokenizer, tmp_path / name) for name in "ab")
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())


def test_a_new_document_moves_no_other(corpus, tokenizer, tmp_path):
    before = encode_corpus(corpus, tokenizer, tmp_path / "a")
    (corpus / "000new.txt").write_text("something new")
    after = encode_corpus(corpus, tokenizer, tmp_path / "b")
    for split in SPLITS:
        kept = [doc for doc in _decoded(after, split) if doc != "something new"]
        assert kept == _decoded(before, split)


def test_a_folder_that_exists_is_never_overwritten(corpus, tokenizer, tmp_path):
    with pytest.raises(FileExistsError):
        encode_corpus(corpus, tokenizer, tmp_path)


def test_windows_are_made_once_and_found_again(corpus, tmp_path, monkeypatch):
    first = load_text(corpus, 300, 16, cache=tmp_path / "cache")
    monkeypatch.setattr(text, "train_tokenizer", None)  # a second training would fail
    again = load_text(corpus, 300, 8, "val", cache=tmp_path / "cache")
    assert first.file.path.parent == again.file.path.parent
    assert first.vocabulary <= 300
    assert again.file.path.name == "validation.bin"
    assert again[0][0].shape == (8,)


def test_changed_text_and_other_settings_are_made_anew(corpus, tmp_path):
    def made(size=300):
        return load_text(corpus, size, 8, cache=tmp_path / "cache").file.path.parent

    first = made()
    assert made(280) != first
    (corpus / "000.txt").write_text("changed " * 5)
    assert made() != first


def test_the_tokenizer_sees_the_training_documents_alone(corpus, tmp_path, monkeypatch):
    seen = []
    real = text.train_tokenizer

    def spy(docs, size):
        seen.extend(docs)
        return real(seen, size)

    monkeypatch.setattr(text, "train_tokenizer", spy)
    load_text(corpus, 300, 8, cache=tmp_path / "cache")
    assert seen
    assert all(split_of(doc.read()) == "train" for doc in seen)


def test_what_another_process_finished_first_is_used(corpus, tmp_path, monkeypatch):
    real = text._encode

    def overtaken(docs, tokenizer, folder):
        real(docs, tokenizer, folder)
        return real(docs, tokenizer, folder)

    monkeypatch.setattr(text, "_encode", overtaken)
    assert len(load_text(corpus, 300, 8, cache=tmp_path / "cache")) > 0


def test_too_little_text_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("short " * 20)
    with pytest.raises(InputError, match=r"\(1 documents\) gives 0 tokens in test: too few"):
        load_text(tmp_path / "a.txt", 300, 8, "test", cache=tmp_path / "cache")


def test_a_split_that_is_none_is_told(corpus):
    with pytest.raises(InputError, match="choose one of test, train, validation"):
        load_text(corpus, 300, 8, "all")


def test_the_cache_is_the_users(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    windows = load_text(corpus, 300, 8)
    assert windows.file.path.is_relative_to(tmp_path / "xdg" / "merkhet" / "text")


def test_pythons_own_source_without_its_larger_folders(tmp_path):
    found = documents("python", skip={"encodings", "idlelib", "lib2to3", "asyncio", "pydoc_data"})
    some = [doc for doc in found if doc.key.startswith(("a", "b", "json"))]
    tokenizer = train_tokenizer(some, 600)
    sample = some[0].read().decode()
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
    assert len(tokenizer.encode("    return self")) < 6
