"""The formats that a network is exported to: how each is written, and how its file is run."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from merkhet.core.building import check_counts
from merkhet.core.calls import first_line
from merkhet.core.errors import InputError, need

Run = Callable[[Tensor], Tensor]
ONE_FILE = 2**31 - 2**20
MODULES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: Of its files.
        modules: Libraries that it needs, of the extra "export".
        write: Writes a network, captured and as it is, to a path; returns ONNX's opset or None.
        read: Returns a function that runs the file at a path.
    """

    suffix: str
    modules: tuple[str, ...]
    write: Callable[[ExportedProgram, Path], int | None]
    read: Callable[[Path], Run]


def captured(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Return the network as torch.export sees it, for batches of any size.

    Args:
        network: In evaluation mode.
        example: A batch; its other sides are fixed.

    Raises:
        InputError: torch.export cannot follow the network, or it fixes the size of the batch.
    """
    batch = example.repeat(2, 1, 1, 1)[: max(2, len(example))]  # one picture would be taken as 1
    shapes = ({0: torch.export.Dim("batch")},)
    try:
        with torch.no_grad():
            return torch.export.export(network, (batch,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises errors of many kinds
        raise InputError(
            f"torch.export cannot follow this {type(network).__name__} for batches of any size: "
            f"{first_line(error)}"
        ) from error


def onnx_session(path: Path | str, threads: int | None = None) -> Run:
    """Return a function that runs an ONNX file by onnxruntime on the CPU.

    Args:
        path: The file, of one input and one output.
        threads: By default as many as torch uses now.

    Returns:
        From a batch of pictures to the output, tensors on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: onnxruntime cannot load the file, or has no form of a step for its dtype.
    """
    runtime: Any = need("onnxruntime", "export")
    threads = torch.get_num_threads() if threads is None else threads
    check_counts(threads=threads)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it would log, it raises
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class
        raise InputError(
            f"onnxruntime cannot run this network: {first_line(error)}; in float32, "
            "network.float(), it has every step"
        ) from error
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.detach().numpy()})[0])

    return run


def _write_torch(program: ExportedProgram, path: Path) -> None:
    """Write torch's own format."""
    with path.open("wb") as file:
        torch.export.save(program, file)


def _read_torch(path: Path) -> Run:
    """Return a function that runs such a file."""
    return cast("Run", torch.export.load(io.BytesIO(path.read_bytes())).module())


def _write_onnx(program: ExportedProgram, path: Path) -> int:
    """Write ONNX; return its opset."""
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > ONE_FILE:
        raise InputError(f"weights of {size:,} bytes: a file of ONNX holds {ONE_FILE:,}")
    made = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["pictures"],
        output_names=["output"],
    )
    assert made is not None
    _name_batch(made.model)
    made.save(str(path))
    return int(made.model.opset_imports[""])


def _name_batch(model: Any) -> None:
    """Call the batch's size "batch" in input and output, where torch numbers it."""
    values = (*model.graph.inputs, *model.graph.outputs)
    symbol = str(model.graph.inputs[0].shape[0])
    for value in values:
        if str(value.shape[0]) == symbol:
            value.shape[0] = "batch"


FORMATS = {
    "torch": Format(".pt2", (), _write_torch, _read_torch),
    "onnx": Format(".onnx", MODULES, _write_onnx, onnx_session),
}
