from __future__ import annotations

import resource
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.training import checkpoints
from merkhet.training.checkpoints import State


class Tied(nn.Module):
    """A network with a tied weight and batch-norm buffers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.norm(self.second(self.first(inputs)))
        return outputs


def trained(seed: int, steps: int = 2) -> tuple[Tied, torch.optim.AdamW]:
    module = Tied(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    for step in range(steps):
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        module(inputs).square().sum().backward()
        optimiser.step()
    return module, optimiser


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(folder, State(step, 1.5, 10, "run"), *trained(step))


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_brings_back_every_bit(tmp_path: Path) -> None:
    module, optimiser = trained(1)
    state = State(2, 3.5, 77, "digest")
    path = checkpoints.save(tmp_path, state, module, optimiser)
    again, its = trained(5, steps=1)
    assert checkpoints.load(path, again, its) == state
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.first.weight is again.second.weight
    for before, after in zip(
        optimiser.state_dict()["state"].values(), its.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    save(tmp_path, 1)
    call = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    done = subprocess.run(call, cwd=tmp_path / "step-00000001", capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == 3


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "absent") is None
    assert checkpoints.newest(tmp_path) is None
    save(tmp_path, 2, 99_999_999, 100_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.newest(tmp_path) == tmp_path / "step-100000000"


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.pt", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_damaged_newest_is_told_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: object
) -> None:
    save(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002" / name)  # type: ignore[operator]
    with pytest.warns(UserWarning, match=f"step-00000002 is passed over: .*({name}|checksum)"):
        assert checkpoints.newest(tmp_path) == tmp_path / "step-00000001"


def test_nothing_but_damaged_ones_is_an_error_that_repeats(tmp_path: Path) -> None:
    save(tmp_path, 1)
    flip(tmp_path / "step-00000001" / "model.safetensors")
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match="passed over"),
            pytest.raises(InputError, match="all checkpoints"),
        ):
            checkpoints.newest(tmp_path)


def test_tidying_removes_leftovers_and_sets_the_damaged_aside(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / ".step-00000004.abc").mkdir()
    (tmp_path / "damaged-step-00000003").mkdir()
    checkpoints.tidy(tmp_path, tmp_path / "step-00000001")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"step-00000001", "damaged-step-00000002", "damaged-step-00000003"}
    assert (tmp_path / "damaged-step-00000003" / "model.safetensors").exists()


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


# The weights take 700 bytes and the optimiser's state 5344: the one or the other does not fit.
@pytest.mark.parametrize("size", [0, 500, 2000])
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    save(tmp_path, 1)
    with pytest.raises(OSError, match=r"step-00000002|File too large"), largest_file(size):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.newest(tmp_path) == tmp_path / "step-00000001"


def test_another_network_or_optimiser_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-00000001"
    module, _ = trained(1)
    with pytest.raises(InputError, match="does not fit Linear"):
        checkpoints.load(path, nn.Linear(2, 2), torch.optim.SGD(module.parameters()))
    groups = [{"params": [parameter]} for parameter in module.parameters()]
    with pytest.raises(InputError, match=r"optimiser.pt is of another optimiser"):
        checkpoints.load(path, module, torch.optim.AdamW(groups))


def test_the_optimiser_s_state_is_not_unpickled_beyond_tensors(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-00000001"
    torch.save({"state": print}, path / "optimiser.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoints.load(path, *trained(1))
