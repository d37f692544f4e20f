"""Networks written for other programs, and checked by running what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from merkhet.cnmm.extraction.formats import FORMATS, Run, captured, onnx_session
from merkhet.cnmm.extraction.quiet import quiet
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError, choose, need
from merkhet.core.files import atomic_file
from merkhet.core.modes import uncompiled
from merkhet.core.undisturbed import undisturbed

__all__ = ["Exported", "export_network", "onnx_session"]

# The largest difference over the largest output: some roundings of each dtype.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: By format.
        differences: By format, of the file's output from the network's, the largest over the
            largest output.
        batches: The sizes of the batches that were compared.
        opset: ONNX's, None where ONNX was not asked for.
    """

    files: Mapping[str, Path]
    differences: Mapping[str, float]
    batches: tuple[int, ...]
    opset: int | None


def export_network(
    network: nn.Module,
    example: Tensor,
    path: Path | str,
    formats: Sequence[str] = ("torch", "onnx"),
) -> Exported:
    """Write a network as PATH.pt2 (torch.export) and PATH.onnx, for batches of any size.

    Each file is run before it takes its place, on the example and on a batch of another size: the
    outputs must be the network's, up to 1e-5 of the largest in float32 (1e-12 in float64).
    Otherwise nothing is written, in no format.

        export_network(extract(model, nodes, batches), pictures[:8], "out/small")

    Args:
        network: Any network from pictures to one tensor, in evaluation mode, on the CPU; left as
            it is.
        example: Pictures, (batch, channels, height, width); their size is fixed in the files,
            which refuse others.
        path: Without suffix; in a folder that exists the files are called "network".
        formats: "torch", "onnx" (with merkhet's extra `export`).

    Raises:
        MissingExtraError: A library that ONNX needs is not installed.
        InputError: The network is in training mode, elsewhere than on the CPU, or in another
            dtype; torch.export cannot follow it; a file's output is not the network's; or a folder
            has a file's name.
        OSError: A file cannot be written.
    """
    names = [formats] if isinstance(formats, str) else formats
    chosen = [choose("format", name, FORMATS) for name in dict.fromkeys(names)]
    for module in [module for name in chosen for module in FORMATS[name].modules]:
        need(module, "export")
    network = uncompiled(network)
    _check(network, example, chosen)
    files = {name: _file(path, FORMATS[name].suffix) for name in chosen}
    inputs = [example.detach(), _other(example)]
    with undisturbed(network), _new_folders(files.values()):
        wanted = _outputs(network, inputs)
        with quiet():
            program = captured(network, inputs[0])
        differences, opset = _written(program, files, inputs, wanted)
    return Exported(files, differences, tuple(len(x) for x in inputs), opset)


def _written(
    program: ExportedProgram,
    files: Mapping[str, Path],
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
) -> tuple[dict[str, float], int | None]:
    """Write every file aside, and all in place once each gives what is wanted.

    Returns:
        The differences by format, and ONNX's opset.
    """
    differences, opsets = {}, {}
    with contextlib.ExitStack() as stack:
        for name, file in files.items():
            aside = stack.enter_context(atomic_file(file))
            with quiet(), _refusing(name):
                opsets[name] = FORMATS[name].write(program, aside)
                run = FORMATS[name].read(aside)
                differences[name] = _difference(run, inputs, wanted)
            _check_difference(name, differences[name], inputs[0].dtype)
    return differences, opsets.get("onnx")


def _check(network: nn.Module, example: Tensor, formats: Sequence[str]) -> None:
    """Refuse what cannot be exported."""
    if not isinstance(network, nn.Module) or not isinstance(example, Tensor):
        raise InputError(
            f"a {type(network).__name__} and a {type(example).__name__}: give a network and a "
            "tensor of pictures"
        )
    if not formats:
        raise InputError(f"formats = (): give one or more of {', '.join(FORMATS)}")
    if any(part.training for part in network.modules()):
        raise InputError("a network in training mode: call .eval() on it before it is exported")
    if example.dim() != 4 or not len(example):
        raise InputError(
            f"an example of shape {tuple(example.shape)}: give pictures "
            "(batch, channels, height, width)"
        )
    if not example.is_floating_point():
        raise InputError(f"an example in {example.dtype}: give example.float()")
    for tensor in (example, *network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.dtype not in TOLERANCES:
            raise InputError(f"{tensor.dtype} cannot be checked: export network.float()")
        if tensor.device.type != "cpu":
            raise InputError(f"tensors on {tensor.device}: export network.cpu() and example.cpu()")


def _other(example: Tensor) -> Tensor:
    """Return random pictures like the example's, in a batch of another size."""
    draw = torch.Generator().manual_seed(0)
    size = 1 if len(example) > 1 else 3
    noise = torch.randn(size, *example.shape[1:], generator=draw, dtype=example.dtype)
    return example.detach()[:1] + noise


@torch.no_grad()
def _outputs(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return what the network gives, one finite tensor for each batch."""
    found = []
    for x in inputs:
        try:
            y = network(x.clone())
        except InputError:
            raise
        except Exception as error:  # the network is the user's
            raise InputError(
                f"the network does not run on pictures of {tuple(x.shape)}, {x.dtype}: "
                f"{first_line(error)}"
            ) from error
        if not isinstance(y, Tensor) or not y.numel() or not y.isfinite().all():
            raise InputError("the network's output is no tensor of finite numbers")
        found.append(y)
    return found


def _file(path: Path | str, suffix: str) -> Path:
    """Return the path of one file."""
    path = Path(path)
    known = [form.suffix for form in FORMATS.values()]
    name = path.stem if path.suffix in known else path.name
    file = path / f"network{suffix}" if path.is_dir() else path.with_name(name + suffix)
    if file.is_dir():
        raise InputError(f"{file} is a folder: give another path, or take the folder away")
    return file


@contextlib.contextmanager
def _new_folders(files: Iterable[Path]) -> Iterator[None]:
    """Take folders that were made for the files away again where the files were not written."""
    folders = {folder: None for file in files for folder in file.parents}
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in new:  # the inner ones first
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say in words that a format does not take the network."""
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # exporters and runtimes raise errors of many kinds
        raise InputError(f"no export in format {name!r}: {first_line(error)}") from error


@torch.no_grad()
def _difference(run: Run, inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return the largest difference over the largest output, over all batches."""
    found = []
    for x, y in zip(inputs, wanted, strict=True):
        got = run(x.clone())
        if got.shape != y.shape:
            return float("inf")
        scale = float(y.abs().max()) or 1.0
        found.append(float((got - y).abs().max()) / scale)
    return max(found)


def _check_difference(name: str, difference: float, dtype: torch.dtype) -> None:
    """Refuse a file that computes something else."""
    if not difference <= TOLERANCES[dtype]:
        raise InputError(
            f"the file in format {name!r} does not compute what the network does: outputs differ "
            f"by {difference:.1e} of the largest, {TOLERANCES[dtype]:.0e} is allowed; nothing was "
            "written"
        )
