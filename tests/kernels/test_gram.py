"""Gram matrices: blocks, files that resume, processes, gradients, and what is refused."""

from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels import (
    GELU,
    AvgPool2d,
    Conv2d,
    Erf,
    Exponential,
    Flatten,
    GaussianPool2d,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    ReLU,
    Sequential,
    Sine,
    diagonal,
    gram,
)

sys.path.insert(0, str(Path(__file__).parent))
import gram_work
from gram_work import COUNT, NETWORK, pictures

WORK = Path(gram_work.__file__)
ENGINES, GRAM, AVAILABLE = (
    importlib.import_module(f"merkhet.{name}")
    for name in ("kernels.engines", "kernels.gram", "core.available")
)
DOUBLE = {"dtype": torch.float64}
DENSE = Sequential(Linear(), ReLU(), Linear(bias_std=0.3), ReLU(), Linear())

PICTURES = torch.rand(3, 2, 4, 4)
NAN = torch.ones(4, 3)
NAN[2, 1] = math.nan
CONV = Sequential(Conv2d(3), ReLU(), Flatten())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES, "PLAIN_BYTES", 4 * 8 * ENGINES.ALIVE * 4 * 5)


@pytest.fixture
def blocks(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[slice, slice]]:
    """The blocks that are computed from here on."""
    found, block = [], ENGINES.Plain.block

    def listed(self: Any, rows: slice, columns: slice) -> Tensor:
        if rows.start is not None:  # not a trial of the network on one pair
            found.append((rows, columns))
        return block(self, rows, columns)

    monkeypatch.setattr(ENGINES.Plain, "block", listed)
    return found


def vectors(count: int, features: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator).double()


# Blocks


@pytest.mark.parametrize("network", [NETWORK, Sequential(Conv2d(3), Sine(), GlobalAvgPool2d())])
def test_a_set_with_itself_is_symmetric_with_an_exact_diagonal(network: Layer) -> None:
    x = pictures()
    for kind in ("ntk", "nngp"):
        found = gram(network, x, kind=kind, **DOUBLE)
        assert torch.equal(found, found.T)
        assert torch.equal(found.diag(), diagonal(network, x, kind))


@pytest.mark.parametrize("side", [1, 2, 5, 11, 30])
def test_any_side_of_blocks_gives_the_same(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pictures(), pictures()[:4].flip(-1)
    whole, cross = gram(NETWORK, x, **DOUBLE), gram(NETWORK, x, y, **DOUBLE)
    monkeypatch.setattr(ENGINES, "PLAIN_BYTES", side**2 * 8 * ENGINES.ALIVE * 4 * 5)
    torch.testing.assert_close(gram(NETWORK, x, **DOUBLE), whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(gram(NETWORK, x, y, **DOUBLE), cross, rtol=1e-13, atol=0)


def test_symmetric_work_is_done_once(blocks: list[tuple[slice, slice]]) -> None:
    gram(NETWORK, pictures())
    assert len(blocks) == 6 * 7 // 2  # 11 in parts of 2


def test_progress_counts_every_pair_that_is_computed(
    small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    @contextmanager
    def bar(_what: str, total: int, *, unit: str, shown: bool) -> Iterator[Callable[[int], None]]:
        told.append(-total)
        assert (unit, shown) == ("pairs", True)
        yield told.append

    monkeypatch.setattr(GRAM, "progress_bar", bar)
    gram(NETWORK, pictures())
    assert sum(told) == 0
    assert COUNT * (COUNT + 1) // 2 <= -told[0] < COUNT**2


# Files


def test_a_file_holds_what_memory_would(small_blocks: None, tmp_path: Path) -> None:
    x, y = pictures(), pictures()[:3].flip(-1)
    for name, other, kind in (("a", None, "ntk"), ("b", y, "nngp"), ("c", y, "both")):
        path = tmp_path / "new" / f"{name}.npy"
        wanted, found = (gram(NETWORK, x, other, kind=kind, out=out) for out in (None, path))
        if kind == "both":
            assert found._fields == ("nngp", "ntk")
            wanted, found = torch.stack(wanted), torch.stack(found)
            assert found.shape == (2, COUNT, 3)
        assert torch.equal(found, wanted)
        assert torch.equal(torch.from_numpy(np.load(path)), wanted)


def test_an_interrupted_file_goes_on(
    blocks: list[tuple[slice, slice]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, path = pictures(), tmp_path / "own.npy"
    wanted = gram(NETWORK, x)
    blocks.clear()
    listed = ENGINES.Plain.block

    def stops(self: Any, rows: slice, columns: slice) -> Tensor:
        if len(blocks) == 9:
            raise KeyboardInterrupt
        return listed(self, rows, columns)

    with monkeypatch.context() as patched:
        patched.setattr(ENGINES.Plain, "block", stops)
        with pytest.raises(KeyboardInterrupt):
            gram(NETWORK, x, out=path)
    done = set(map(str, blocks))
    blocks.clear()
    assert torch.equal(gram(NETWORK, x, out=path), wanted)
    assert len(blocks) == 21 - len(done) == 12
    assert not done & set(map(str, blocks))
    blocks.clear()
    assert torch.equal(gram(NETWORK, x, out=path), wanted)
    assert not blocks


def test_a_killed_process_can_be_followed(
    blocks: list[tuple[slice, slice]], tmp_path: Path
) -> None:
    path = tmp_path / "own.npy"
    done = subprocess.run([sys.executable, str(WORK), "die", str(path)], env=_single())
    assert done.returncode == -signal.SIGKILL
    assert torch.equal(gram(NETWORK, pictures(), out=path), gram(NETWORK, pictures()))
    assert len(blocks) == 21 - 5 + 21


def test_a_stop_before_the_list_of_blocks_is_no_dead_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, path = vectors(3), tmp_path / "own.npy"

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importlib.import_module("merkhet.kernels.store"), "write_text", stops)
        with pytest.raises(KeyboardInterrupt):
            gram(DENSE, x, out=path)
    assert torch.equal(gram(DENSE, x, out=path), gram(DENSE, x))


def test_a_file_is_of_one_kernel_only(tmp_path: Path) -> None:
    x, path = vectors(5), tmp_path / "own.npy"
    before = gram(DENSE, x, out=path).clone()
    other = Sequential(Linear(), ReLU(), Linear(bias_std=0.31), ReLU(), Linear())
    for network, inputs, more, told in (
        (DENSE, 2 * x, {}, "other inputs"),
        (DENSE, x.float(), {}, "other inputs"),
        (other, x, {}, "another network"),
        (DENSE, x, {"kind": "nngp"}, "another kernel"),
        (DENSE, x, {"y": x.clone()}, "another kernel"),
        (DENSE, x[:4], {}, r"\(5, 5\), and this kernel is float32 \(4, 4\)"),
        (DENSE, x, DOUBLE, r"float32 \(5, 5\), and this kernel is float64"),
        (DENSE, x, {"kind": "both"}, r"this kernel is float32 \(2, 5, 5\)"),
    ):
        with pytest.raises(InputError, match=f"own.npy.*{told}.*name another file"):
            gram(network, inputs, out=path, **more)
    assert torch.equal(torch.from_numpy(np.load(path)), before)


def test_numbers_of_tensors_are_part_of_a_kernel(tmp_path: Path) -> None:
    """A tensor prints four digits: two networks may print alike."""
    x, path = vectors(3), tmp_path / "own.npy"
    gram(Sequential(Linear(weight_std=torch.tensor(1.00001)), ReLU(), Linear()), x, out=path)
    with pytest.raises(InputError, match="another network"):
        gram(Sequential(Linear(weight_std=torch.tensor(1.00002)), ReLU(), Linear()), x, out=path)


def test_what_is_no_npy_file_is_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.npy", tmp_path / "kernel.txt"
    text.write_text("keep me")
    with pytest.raises(InputError, match=r"notes.npy is not a .npy file"):
        gram(DENSE, vectors(3), out=text)
    with pytest.raises(InputError, match=r"kernel.txt: give a file that ends in .npy"):
        gram(DENSE, vectors(3), out=other)
    assert text.read_text() == "keep me"
    np.save(tmp_path / "mine.npy", np.ones((3, 3), np.float32))
    with pytest.raises(InputError, match="another kernel"):
        gram(DENSE, vectors(3), out=tmp_path / "mine.npy")
    assert np.load(tmp_path / "mine.npy").min() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_go_anywhere(dtype: torch.dtype, tmp_path: Path) -> None:
    x = vectors(4).to(dtype)
    wanted = gram(DENSE, x.double())
    torch.testing.assert_close(gram(DENSE, x), wanted)
    torch.testing.assert_close(gram(DENSE, x, out=tmp_path / "own.npy"), wanted)


def test_no_room_is_said_before_the_work(
    blocks: list[tuple[slice, slice]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(AVAILABLE, "available_memory", lambda: 11 * 11 * 8 - 1)
    gram(NETWORK, pictures())  # float32 fits
    blocks.clear()
    with pytest.raises(InputError, match=r"a kernel of 11 x 11 takes .*give out=\"kernel.npy\""):
        gram(NETWORK, pictures(), **DOUBLE)
    with pytest.raises(InputError, match="11 x 11"):
        gram(NETWORK, pictures(), kind="both")
    assert not blocks
    gram(NETWORK, pictures(), out=tmp_path / "own.npy", **DOUBLE)


@pytest.mark.parametrize("network", [DENSE, CONV])
def test_what_float32_cannot_hold_is_refused(network: Layer) -> None:
    x = 1e20 * (vectors(3).float() if network is DENSE else PICTURES)
    with pytest.raises(InputError, match=r"does not fit in torch.float32: divide the inputs"):
        gram(network, x)
    assert bool(gram(network, x, **DOUBLE).isfinite().all())


# Processes


def _single() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_processes_share_the_blocks(small_blocks: None, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    call += [str(WORK), "share", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, env=_single())
    assert done.returncode == 0, done.stderr[-3000:]
    x = pictures()
    wanted = {
        "own": gram(NETWORK, x),
        "cross": gram(NETWORK, x, x[:3].clone(), kind="nngp", **DOUBLE),
        "both": torch.stack(gram(NETWORK, x, kind="both", **DOUBLE)),
        "file": gram(NETWORK, x),
        "one block": gram(NETWORK, x[:1]),
    }
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, one in wanted.items():
            assert torch.equal(found[name], one), name
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "own.npy")), wanted["own"])
    lines = (tmp_path / "own.npy.blocks").read_text().splitlines()[1:]
    assert len(lines) == len(set(lines)) == 21


# Gradients


def test_the_gradient_of_the_diagonal() -> None:
    """K(x, x) = (n + 1) |x|^2 in the papers' scale: its gradient is 2 (n + 1) x."""
    depth = 3
    network = Sequential(Linear(weight_std=2.0), *(ReLU(), Linear()) * depth)  # 2^2 over 4 features
    x = vectors(5).requires_grad_()
    found = gram(network, x, **DOUBLE)
    torch.testing.assert_close(found.diag(), (depth + 1) * x.square().sum(1), rtol=1e-7, atol=0)
    (slope,) = torch.autograd.grad(found.diag().sum(), x)
    torch.testing.assert_close(slope, 2 * (depth + 1) * x.detach(), rtol=1e-6, atol=1e-6)


NETWORKS = {
    "dense": DENSE,
    "smooth": Sequential(Linear(), GELU(), Linear(), Erf(), Linear(), Sine(), Linear()),
    "leaky": Sequential(Linear(), LeakyReLU(0.3), Linear(), Exponential(0.8), Linear()),
    "pooled": Sequential(Conv2d(2), ReLU(), GaussianPool2d(2), Conv2d(2), ReLU(), Flatten()),
    "mean": Sequential(Conv2d(2, bias_std=0.1), ReLU(), AvgPool2d(2), Conv2d(1), GlobalAvgPool2d()),
}


def inputs_of(name: str) -> Tensor:
    return vectors(3) if name in ("dense", "smooth", "leaky") else vectors(3, 9).view(3, 1, 3, 3)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_inputs_are_differences(name: str, kind: str) -> None:
    network, x = NETWORKS[name], inputs_of(name).requires_grad_()
    y = inputs_of(name).flip(0).mul(0.7).add(0.1).requires_grad_()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return gram(network, a, b, kind=kind, **DOUBLE)

    assert torch.autograd.gradcheck(kernel, (x, y))


def test_gradients_in_hyper_parameters_are_differences() -> None:
    def kernel(weight: Tensor, bias: Tensor, slope: Tensor, sigma: Tensor) -> Tensor:
        first, last = (Linear(weight_std=weight, bias_std=bias) for _ in range(2))
        middle = Sequential(LeakyReLU(slope), Linear(), Exponential(sigma))
        return gram(Sequential(first, middle, last), vectors(3), vectors(2, seed=1), **DOUBLE)

    numbers = [torch.tensor(v, requires_grad=True, **DOUBLE) for v in (1.3, 0.4, 0.2, 0.9)]
    assert torch.autograd.gradcheck(kernel, numbers)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_is_nan(name: str) -> None:
    """At equal, opposite, zero and parallel inputs, where arccos and roots have no derivative."""
    x = inputs_of(name)
    x = torch.cat([x, x[:1], -x[:1], 0 * x[:1], 2 * x[:1]])
    scale = torch.tensor(1.0, requires_grad=True, **DOUBLE)
    for given in (x.requires_grad_(), x.detach() * scale):
        found = gram(NETWORKS[name], given, kind="both", **DOUBLE)
        leaf = x if given is x else scale
        (slope,) = torch.autograd.grad(found.ntk.sum() + found.nngp.sum(), leaf)
        assert bool(slope.isfinite().all())


def test_gradients_and_files_do_not_mix(tmp_path: Path) -> None:
    x = vectors(3).requires_grad_()
    with pytest.raises(InputError, match=r"call gram under torch.no_grad\(\)"):
        gram(DENSE, x, out=tmp_path / "own.npy")
    with torch.no_grad():
        assert not gram(DENSE, x, out=tmp_path / "own.npy").requires_grad


# What is refused

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "channels": (lambda: gram(CONV, PICTURES, PICTURES[:, :1]), "x has channels 2 and y 1"),
    "height": (lambda: gram(CONV, PICTURES, PICTURES[:, :, :3]), "x has height 4 and y 3"),
    "features": (lambda: gram(DENSE, vectors(2), vectors(2, 5)), "x has features 4 and y 5"),
    "vectors and pictures": (lambda: gram(CONV, PICTURES, vectors(2)), "give both alike"),
    "NaN": (lambda: gram(DENSE, NAN), r"x\[2\] holds NaN"),
    "NaN in y": (lambda: gram(DENSE, NAN[:2], NAN), r"y\[2\] holds NaN"),
    "infinity": (lambda: diagonal(DENSE, NAN / 0), r"x\[0\] holds NaN or infinity"),
    "integers": (lambda: gram(DENSE, torch.ones(2, 3, dtype=torch.uint8)), "holds torch.uint8"),
    "booleans": (lambda: gram(DENSE, [[True, False]]), "holds torch.bool: give floats"),
    "three axes": (lambda: gram(DENSE, torch.ones(2, 3, 4)), r"shape \(2, 3, 4\): give vectors"),
    "no inputs": (lambda: gram(DENSE, torch.ones(0, 3)), r"shape \(0, 3\)"),
    "no tensor": (lambda: gram(DENSE, "x"), "x is str: give a tensor"),
    "ragged": (lambda: gram(DENSE, [[1.0], [1.0, 2.0]]), "x is list: give a tensor"),
    "nothing left of it": (
        lambda: gram(Sequential(Conv2d(3, padding="valid"), ReLU(), Conv2d(3, 1, 0)), PICTURES),
        "2x2: nothing is left",
    ),
    "nothing to pool": (
        lambda: gram(Sequential(Conv2d(3), AvgPool2d(5), Flatten()), PICTURES),
        "4x4: nothing is left",
    ),
    "Linear after a map": (
        lambda: gram(Sequential(Conv2d(3), ReLU(), Linear()), PICTURES),
        r"Linear after a feature map of 4x4: put Flatten\(\)",
    ),
    "no head": (
        lambda: gram(Sequential(Conv2d(3), ReLU()), PICTURES),
        "ends in a feature map of 4x4",
    ),
    "Conv2d of vectors": (lambda: gram(CONV, vectors(2)), "Conv2d after a vector"),
    "pooling of vectors": (
        lambda: gram(Sequential(AvgPool2d(2)), vectors(2)),
        "pooling takes pict",
    ),
    "a raw activation": (lambda: gram(ReLU(), vectors(2)), "put Linear or Conv2d before it"),
    "two activations": (
        lambda: gram(Sequential(Conv2d(3), ReLU(), ReLU(), Flatten()), PICTURES),
        "put Linear or Conv2d before it",
    ),
    "a class": (lambda: Sequential(Linear(), ReLU), r"the class ReLU: write ReLU\(\)"),
    "a torch layer": (lambda: Sequential(torch.nn.ReLU()), "not ReLU.*from_module"),
    "a class as network": (lambda: gram(ReLU, vectors(2)), "the network is a"),
    "a torch network": (lambda: gram(torch.nn.Linear(4, 2), vectors(2)), "a Linear.*from_module"),
    "kind": (
        lambda: gram(DENSE, vectors(2), kind="nkt"),
        "kind of kernel 'nkt'.*Did you mean 'ntk'",
    ),
    "dtype": (lambda: gram(DENSE, vectors(2), dtype=torch.float16), "float16: give torch.float32"),
    "padding": (lambda: Conv2d(3, padding="some"), "no padding 'some'"),
    "no patch": (lambda: Conv2d(0), "kernel_size = 0: give a whole number from 1"),
    "half a patch": (lambda: Conv2d(2.5), "kernel_size = 2.5: give a whole number"),
    "three sides": (lambda: AvgPool2d((1, 2, 3)), "kernel_size = .*or two of them"),
    "a negative scale": (lambda: Linear(weight_std=-1.0), "weight_std = -1: give a number from 0"),
    "many scales": (lambda: Linear(bias_std=torch.ones(2)), r"bias_std has shape \(2,\)"),
    "a word as scale": (lambda: Linear(weight_std="big"), "weight_std"),
    "no scale": (lambda: Linear(bias_std=None), "bias_std"),
    "two factors": (lambda: GaussianPool2d((2, 3)), "factor = .*give a whole number from 1"),
    "many slopes": (lambda: LeakyReLU(torch.ones(2)), "negative_slope"),
    "no width": (lambda: Exponential(0.0), "sigma = 0: give a number above 0"),
    "no slope": (lambda: LeakyReLU(math.nan), "negative_slope = nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(InputError, match=told) as found:
        call()
    assert "\n" not in str(found.value)


def test_a_diagonal_too_large_for_its_type_is_refused() -> None:
    network, x = Sequential(Linear(), ReLU(), Linear()), torch.full((2, 3), 1e20)
    with pytest.raises(InputError, match="does not fit in"):
        diagonal(network, x, dtype=torch.float32)
    assert bool(diagonal(network, x).isfinite().all())
