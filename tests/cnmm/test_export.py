"""Exported files: run again they give the same, for any batch; or there is no file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from merkhet.cnmm.extraction.export import Exported, export_network, onnx_session
from merkhet.cnmm.extraction.extract import assemble
from merkhet.cnmm.extraction.formats import FORMATS
from merkhet.cnmm.networks import cnmm_segmenter
from merkhet.core.errors import InputError, MissingExtraError

PICTURES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def small() -> nn.Module:
    draw = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return network


@pytest.fixture(scope="module")
def segmenter() -> nn.Module:
    """Return a network with every step that the builders have: up, down and added."""
    model = cnmm_segmenter(3, 4, (2, 3), nodes=(1, 0, 0), activation="gelu", seed=4)
    return assemble(model, ((0, 1, 2, 3),), subset=True)


@pytest.fixture(scope="module")
def told() -> io.StringIO:
    """Return what the exporters say."""
    return io.StringIO()


@pytest.fixture(scope="module")
def exported(
    segmenter: nn.Module, told: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Return the one export that several tests look at."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("export") / "net-0.5"
    with (
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        made = export_network(segmenter, PICTURES, path)
    told.write("".join(str(one.message) for one in warned))
    return made


def test_both_files_give_the_network_s_output(exported: Exported, segmenter: nn.Module) -> None:
    assert {name: file.name for name, file in exported.files.items()} == {
        "torch": "net-0.5.pt2",
        "onnx": "net-0.5.onnx",
    }
    assert set(exported.files["onnx"].parent.iterdir()) == set(exported.files.values())
    runs = [
        torch.export.load(exported.files["torch"]).module(),
        onnx_session(exported.files["onnx"], threads=1),
    ]
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        wanted = segmenter(x)
        for run in runs:
            assert (run(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_it_says_what_was_compared(exported: Exported) -> None:
    assert exported.batches == (4, 1)
    assert all(0 <= found <= 1e-5 for found in exported.differences.values())
    assert isinstance(exported.opset, int)


def test_the_batch_has_its_name_in_onnx(exported: Exported) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(exported.files["onnx"])).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_exporters_are_kept_quiet(exported: Exported, told: io.StringIO) -> None:
    assert exported.opset
    assert not told.getvalue()
    assert logging.root.manager.disable == logging.NOTSET


def test_a_folder_and_one_picture_are_taken(tmp_path: Path) -> None:
    made = export_network(small(), PICTURES[:1], tmp_path, ("torch",))
    assert made.files == {"torch": tmp_path / "network.pt2"}
    assert made.batches == (1, 3)
    run = torch.export.load(made.files["torch"]).module()
    assert torch.equal(run(PICTURES), small()(PICTURES))


def test_a_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FORMATS["torch"]
    wrong = dataclasses.replace(right, read=lambda path: lambda x: right.read(path)(x) + 1e-3)
    monkeypatch.setitem(FORMATS, "wrong", dataclasses.replace(wrong, suffix=".b"))
    (tmp_path / "net.pt2").write_text("as it was")
    with pytest.raises(InputError, match="'wrong' does not compute what the network does"):
        export_network(small(), PICTURES, tmp_path / "net", ("torch", "wrong"))
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_text() == "as it was"


def test_a_suffix_is_taken_off_and_float64_is_held_to_more(tmp_path: Path) -> None:
    made = export_network(small().double(), PICTURES.double(), tmp_path / "net.onnx", ("torch",))
    assert made.files == {"torch": tmp_path / "net.pt2"}
    assert made.differences["torch"] <= 1e-12
    assert made.opset is None


def test_what_onnxruntime_cannot_run_is_refused_in_words(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shapes = {"x": ["batch", 3, 8, 8], "y": ["batch", 2, 6, 6], "w": [2, 3, 3, 3]}
    double = onnx.TensorProto.DOUBLE
    x, y, w = (onnx.helper.make_tensor_value_info(k, double, v) for k, v in shapes.items())
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "double", [x, w], [y])
    opset = onnx.helper.make_opsetid("", 20)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, str(tmp_path / "double.onnx"))
    with pytest.raises(InputError, match=r"onnxruntime cannot run this.*Conv.*network\.float\(\)"):
        onnx_session(tmp_path / "double.onnx")


class FixedBatch(nn.Module):
    """Takes batches of four only, or gives no tensor."""

    def __init__(self, tuples: bool = False) -> None:
        super().__init__()
        self.tuples = tuples

    def forward(self, x: Tensor) -> object:
        return (x, x) if self.tuples else x.reshape(4, -1)


class Raises(nn.Module):
    """Is given what it does not expect."""

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("a mask")


class Counts(nn.Module):
    """Writes into its input, draws, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(1)
        return x.relu_()


def bad_output() -> nn.Module:
    network = small()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    return network


@pytest.mark.parametrize(
    ("network", "example", "formats", "said"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)), PICTURES, "torch", r"\.eval\(\)"),
        (FixedBatch().eval(), PICTURES, "torch", "batches of any size"),
        (FixedBatch(tuples=True).eval(), PICTURES, "torch", "no tensor of finite numbers"),
        (bad_output(), PICTURES, "torch", "no tensor of finite numbers"),
        (small(), PICTURES[:, :1], "torch", r"does not run on pictures of \(4, 1, 8, 8\)"),
        (small(), PICTURES[0], "torch", r"give pictures \(batch, channels"),
        (small().bfloat16(), PICTURES.bfloat16(), "torch", r"export network\.float\(\)"),
        (small(), PICTURES.to("meta"), "torch", r"network\.cpu\(\)"),
        (Raises().eval(), PICTURES, "torch", "does not run on pictures.*a mask"),
        (nn.Flatten(4).eval(), PICTURES.byte(), "torch", r"give example\.float\(\)"),
        (None, PICTURES, "torch", "a NoneType and a Tensor: give a network"),
        (small(), PICTURES.numpy(), "torch", "a Sequential and a ndarray"),
        (small(), PICTURES, "tensorrt", "no format 'tensorrt': choose one of onnx, torch"),
        (small(), PICTURES, None, "give one or more of torch, onnx"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    network: nn.Module, example: Tensor, formats: str | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        export_network(network, example, tmp_path / "net", [formats] if formats else [])
    assert not list(tmp_path.iterdir())


def test_network_example_and_generators_are_left_as_they_were(tmp_path: Path) -> None:
    network, example, drawn = Counts().eval(), torch.randn(2, 3, 4, 4), torch.get_rng_state()
    before = example.clone()
    export_network(network, example, tmp_path / "net", "torch")
    assert torch.equal(example, before)
    assert network.calls == 0
    assert torch.equal(torch.get_rng_state(), drawn)


def test_where_nothing_can_be_written_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(FORMATS["torch"], read=lambda path: lambda x: x, suffix=".b")
    monkeypatch.setitem(FORMATS, "wrong", wrong)
    with pytest.raises(InputError, match="does not compute"):
        export_network(small(), PICTURES, tmp_path / "new" / "folder" / "net", ("torch", "wrong"))
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        export_network(small(), PICTURES, tmp_path / "net", ("wrong", "torch"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        export_network(small(), PICTURES, tmp_path / "file" / "net", ("torch",))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "net.pt2"]


def test_a_library_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    form = dataclasses.replace(FORMATS["onnx"], modules=("no_such_library",))
    monkeypatch.setitem(FORMATS, "onnx", form)
    with pytest.raises(MissingExtraError, match=r"merkhet\[export\]"):
        export_network(small(), PICTURES, tmp_path / "net")
