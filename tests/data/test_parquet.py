"""The hub's parquet files, whole and damaged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from merkhet.core.errors import InputError, MissingExtraError
from merkhet.data import load, parquet


def _png(value: int, size: tuple[int, int] = (4, 3)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), [value, 0, 255], np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, cells: list, labels: list, column="img", label="label", names=()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({column: cells, label: labels, "other": [0.5] * len(cells)})
    if names:
        features = {"info": {"features": {label: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=2)
    return path


def _cells(values) -> list:
    return [{"bytes": _png(value), "path": None} for value in values]


def test_several_files_and_row_groups_are_one_split_in_order(tmp_path):
    _write(tmp_path / "train-00001-of-00002.parquet", _cells([5, 6, 7]), [2, 0, 1])
    _write(tmp_path / "train-00000-of-00002.parquet", _cells([0, 1, 2, 3, 4]), [0, 1, 2, 0, 1])
    train = load(tmp_path, "train")
    assert train.images.shape == (8, 3, 4, 3)
    assert train.images[:, 0, 0, 0].tolist() == list(range(8))
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_limit_keeps_rows_whole_and_decodes_no_other(tmp_path, monkeypatch):
    labels = [value % 3 for value in range(20)]
    _write(tmp_path / "test-00000.parquet", _cells(range(10)), labels[:10])
    _write(tmp_path / "test-00001.parquet", _cells(range(10, 20)), labels[10:])
    decoded = []
    real = parquet.decode
    monkeypatch.setattr(parquet, "decode", lambda p, s: (decoded.append(len(p)), real(p, s))[1])
    part = load(tmp_path, limit=6, seed=1)
    assert decoded == [6]
    values = part.images[:, 0, 0, 0].tolist()
    assert len(set(values)) == 6
    assert part.labels.tolist() == [value % 3 for value in values]
    assert values == load(tmp_path, limit=9, seed=1).images[:6, 0, 0, 0].tolist()


def test_class_names_come_from_the_hubs_own_metadata(tmp_path):
    _write(tmp_path / "data/test.parquet", _cells([1]), [1], column="image", names=("cat", "dog"))
    assert load(tmp_path).classes == ("cat", "dog")


def test_a_label_without_a_name_is_refused(tmp_path):
    _write(tmp_path / "test-0.parquet", _cells([1]), [2], names=("cat", "dog"))
    with pytest.raises(InputError, match="the test labels go up to 2: they must be from 0 to 1"):
        load(tmp_path)


def test_broken_metadata_leaves_numbers(tmp_path):
    path = _write(tmp_path / "test-0.parquet", _cells([1, 2]), [1, 0])
    table = pq.read_table(path).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, path)
    assert load(tmp_path).classes == ("0", "1")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: _write(p, _cells([1]), [-1]), "numbered 0, 1, 2"),
        (lambda p: _write(p, _cells([1]), [None]), "integers"),
        (lambda p: _write(p, _cells([1]), ["cat"]), "integers"),
        (lambda p: _write(p, [{"bytes": None, "path": "a"}], [0]), "row 0 .* no picture file"),
        (lambda p: _write(p, ["text"], [0]), "no picture file"),
        (lambda p: _write(p, [{"bytes": b"junk", "path": ""}], [0]), "row 0 is not a picture"),
        (lambda p: _write(p, _cells([1]), [0], column="photo"), "columns photo, label, other"),
        (lambda p: _write(p, _cells([1]), [0], label="kind"), "one of label, fine_label"),
        (lambda p: _write(p, pa.array([], pa.binary()), []), "says it holds 0 pictures"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_bytes(b"PAR1 nothing more"), "damaged"),
    ],
)
def test_damage_is_told(tmp_path, write, message):
    write(tmp_path / "test-0.parquet")
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_a_cut_file_is_named(tmp_path):
    path = _write(tmp_path / "test-0.parquet", _cells(range(30)), [0] * 30)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"test-0\.parquet is not a parquet file or is damaged"):
        load(tmp_path)


def test_pages_of_garbage_are_told(tmp_path):
    path = _write(tmp_path / "test-0.parquet", _cells(range(30)), [0] * 30)
    data = bytearray(path.read_bytes())
    data[4:600] = b"\xff" * 596
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        load(tmp_path)


def test_pictures_of_two_sizes_want_a_size(tmp_path):
    cells = [{"bytes": _png(1), "path": ""}, {"bytes": _png(1, (8, 8)), "path": ""}]
    _write(tmp_path / "test-0.parquet", cells, [0, 0])
    with pytest.raises(InputError, match="--size HxW"):
        load(tmp_path)
    assert load(tmp_path, size=(5, 6)).images.shape == (2, 3, 5, 6)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    _write(tmp_path / "test-0.parquet", _cells([1]), [0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"merkhet\[parquet\]"):
        load(tmp_path)


def test_cifar_from_the_hub(need_data):
    need_data("cifar10")
    test = load("cifar10", "test", limit=500)
    assert test.images.shape == (500, 3, 32, 32)
    assert test.classes[9] == "truck"
    # Channel means of CIFAR-10 are 0.49, 0.48, 0.45; 500 pictures give them to about 0.02.
    assert test.floats().mean((0, 2, 3)).tolist() == pytest.approx([0.49, 0.48, 0.45], abs=0.04)
