"""Whatever is wrong with a file, the user gets one error that names it."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from merkhet.core.errors import InputError
from merkhet.data import TokenFile, Tokenizer, load, train_tokenizer
from merkhet.data.tokens import writing

TRIES = 120


def _npz(path: Path) -> None:
    np.savez(path, images=np.zeros((3, 5, 5)), y=np.arange(3), classes=np.array(list("abc")))


def _packed_npz(path: Path) -> None:
    np.savez_compressed(path, images=np.eye(5)[None], y=np.array([1]))


def _parquet(path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    cells = [{"bytes": stream.getvalue(), "path": "a.png"}] * 5
    pq.write_table(pa.table({"img": cells, "label": [0, 1, 2, 1, 0]}), path)


def _idx(path: Path) -> None:
    header = bytes((0, 0, 8, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 5))
    path.write_bytes(gzip.compress(header + bytes(range(200))))
    labels = bytes((0, 0, 8, 1, 0, 0, 0, 8)) + bytes(range(8))
    path.with_name("t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def _tokenizer(path: Path) -> None:
    train_tokenizer(["hello world " * 30], 270).save(path)


def _tokens(path: Path) -> None:
    with writing(path.with_suffix(".bin"), train_tokenizer(["hello"], 257)) as writer:
        writer.write(range(50))


CASES: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object]]] = {
    "npz": ("set.npz", _npz, load),
    "packed npz": ("set.npz", _packed_npz, load),
    "parquet": ("test-0.parquet", _parquet, lambda path: load(path.parent)),
    "idx": ("t10k-images-idx3-ubyte.gz", _idx, lambda path: load(path.parent)),
    "tokenizer": ("tokenizer.json", _tokenizer, Tokenizer.load),
    "header": ("a.json", _tokens, lambda path: TokenFile(path.with_suffix(".bin"))),
}


@pytest.mark.parametrize("case", CASES)
def test_flipped_and_cut_bytes_give_an_input_error_that_names_the_file(tmp_path, case):
    name, write, read = CASES[case]
    path = tmp_path / name
    write(path)
    read(path)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    told = []
    for number in range(TRIES):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data))] if number % 4 == 0 else data)
        try:
            read(path)
        except InputError as error:
            told.append(str(error))
    assert len(told) > TRIES / 2
    assert all(str(path.with_suffix("")) in message for message in told)
