"""Text as documents."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merkhet.core.errors import InputError
from merkhet.data.corpus import Document, corpus_root, documents, split_of, text_of


def _write(root, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_every_text_file_is_a_document_in_the_order_of_paths(tmp_path):
    _write(tmp_path, b_txt="b", a__z_py="z", a__y_txt="y", empty_txt="")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    found = documents(tmp_path)
    assert [doc.key for doc in found] == ["a/y.txt", "a/z.py", "b.txt"]
    assert [doc.read() for doc in found] == [b"y", b"z", b"b"]


def test_suffixes_and_skipped_folders(tmp_path):
    _write(tmp_path, a_py="a", b_txt="b", tests__c_py="c")
    assert [d.key for d in documents(tmp_path, suffixes=(".py",))] == ["a.py", "tests/c.py"]
    assert [d.key for d in documents(tmp_path, skip={"tests"})] == ["a.py", "b.txt"]
    with pytest.raises(InputError, match=r"start it with a dot: '.py'"):
        documents(tmp_path, suffixes=("py",))
    with pytest.raises(InputError, match=r"no text with the suffixes .c"):
        documents(tmp_path, suffixes=(".c",))


def test_python_is_its_own_source_without_tests_and_installed_packages():
    found = documents("python")
    keys = {doc.key for doc in found}
    assert "argparse.py" in keys
    assert len(keys) == len(found) > 300
    for folder in ("site-packages", "dist-packages", "test", "tests", "__pycache__"):
        assert not any(folder in key.split("/") for key in keys)


BREAKS = {
    "paragraphs": ("word " * 300 + "\n\n", b"\n\n"),
    "lines": ("word " * 300 + "\n", b"\n"),
    "words": ("word ", b" "),
    "nothing": ("é", b""),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_single_file_is_cut_at_its_best_breaks_and_loses_nothing(tmp_path, kind):
    unit, mark = BREAKS[kind]
    path = tmp_path / "book.txt"
    text = "x" + unit * (100_000 // len(unit))
    path.write_text(text, encoding="utf-8")
    found = documents(path)
    parts = [doc.read() for doc in found]
    assert len(parts) >= 6
    assert b"".join(parts) == text.encode()
    assert all(part.endswith(mark) for part in parts)
    assert all(8192 <= len(part) <= 16384 for part in parts[:-1])
    assert "".join(map(text_of, parts)) == text


def test_a_small_file_is_one_document_and_an_empty_one_none(tmp_path):
    _write(tmp_path, a_txt="hello", b_txt="")
    assert [doc.read() for doc in documents(tmp_path / "a.txt")] == [b"hello"]
    with pytest.raises(InputError, match="holds no text"):
        documents(tmp_path / "b.txt")


def test_text_that_is_nowhere_is_told(tmp_path):
    with pytest.raises(InputError, match="no text at"):
        corpus_root(tmp_path / "none")
    with pytest.raises(InputError, match="holds no text"):
        documents(tmp_path)


def test_bytes_that_are_no_utf8_are_replaced():
    assert text_of(b"a\xffb") == "a\ufffdb"


def test_a_file_that_shrank_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(InputError, match="became shorter"):
        Document("a", tmp_path / "a", 0, 9).read()


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_the_split_depends_on_the_bytes_alone(data):
    assert split_of(data) == split_of(bytes(data)) in ("train", "validation", "test")


def test_the_splits_have_their_shares():
    found = [split_of(f"document {number}".encode()) for number in range(20_000)]
    # 5 % of 20,000 is 1,000 with a standard deviation of 31.
    assert abs(found.count("test") - 1000) < 150
    assert abs(found.count("validation") - 1000) < 150


def test_the_split_is_the_same_in_every_version():
    assert [split_of(str(n).encode()) for n in range(40)].count("train") == 38
    assert split_of(b"") == "train"
