from __future__ import annotations

import json
from pathlib import Path

import pytest

from merkhet.core.errors import InputError
from merkhet.report import Figure, Goal, Record, read_record


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    record = Record("stability", "curves", "small", seeds=[0, 1], settings={"width": 8})
    record.figures["error"] = Figure(0.25, "px", (0.2, 0.3))
    record.figures["count"] = Figure(3.0)
    record.goals.append(Goal("small error", "below 0.2", 0.25, False))
    path = record.write(tmp_path)
    assert path == tmp_path / "curves.json"
    assert read_record(path) == record


def test_a_record_says_where_it_comes_from(tmp_path: Path) -> None:
    fields = json.loads(Record("a", "b", "small").write(tmp_path).read_text())
    assert set(fields["machine"]) == {"processor", "cores", "memory_gb", "gpu"}
    assert fields["machine"]["cores"] >= 1
    assert {"python", "torch", "merkhet"} <= set(fields["versions"])
    assert "/" not in fields["command"].split()[0]
    assert len(fields["commit"].removesuffix("-dirty")) == 40 or fields["commit"] == "unknown"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": {}, "goals": [], "extra": 1}'])
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a record"):
        read_record(path)
