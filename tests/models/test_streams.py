from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merkhet.core.errors import InputError
from merkhet.models import streams
from merkhet.models.streams import StoredTensors, write_tensors

KINDS = [*streams.DTYPES.values()]


def drawn(dtype: torch.dtype) -> torch.Tensor:
    values = torch.randint(0, 2, (7, 5), generator=torch.Generator().manual_seed(0))
    return values.to(dtype)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_the_library_reads_what_is_written_and_the_other_way_round(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {"b": drawn(dtype), "a": torch.tensor(3.5), "none": torch.empty(0, 4)}
    write_tensors(tmp_path / "ours", tensors)
    found = load_file(tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    stored = StoredTensors(tmp_path / "theirs")
    assert stored.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        for other in (found[name], stored.tensor(name)):
            assert other.dtype == tensor.dtype
            assert torch.equal(other.float(), tensor.float())


def test_many_pieces_casts_and_strides(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(streams, "PIECE", 40)
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    write_tensors(tmp_path / "w", {"w": values})
    stored = StoredTensors(tmp_path / "w")
    for into in (
        torch.empty(9, 4),
        torch.empty(9, 4, dtype=torch.float64),
        torch.empty(9, 4, dtype=torch.bfloat16),
        torch.empty(4, 9).T,
    ):
        stored.read_into("w", into)
        assert torch.equal(into, values.to(into.dtype))


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError):
        StoredTensors(path)
    write_tensors(path, {"w": torch.ones(100)})
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:30], b"", b"PK" + whole, whole + b"more"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"w\.safetensors is damaged or not a safetensors"):
            StoredTensors(path)
    with pytest.raises(InputError, match=r"w is torch\.complex128"):
        write_tensors(path, {"w": torch.ones(1, dtype=torch.complex128)})


MEMORY = """
import resource, sys, torch
from torch import nn
from merkhet.models import load_weights, save_weights
table = nn.Embedding(2**17, 1024)  # 512 MiB
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
save_weights(table, sys.argv[1])
load_weights(table, sys.argv[1])
print((peak() - before) / 2**10)
"""


def test_a_large_table_is_never_twice_in_memory(tmp_path: Path) -> None:
    call = [sys.executable, "-c", MEMORY, str(tmp_path / "w.safetensors")]
    more = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    assert more < 200, "MiB beyond the 512 of the table"
