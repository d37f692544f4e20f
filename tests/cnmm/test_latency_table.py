"""Tables of latencies: every edge, what they are about, and what they predict.

No test depends on how long anything takes: where numbers matter, the clock is replaced.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from merkhet.cnmm.latency import measure, validation
from merkhet.cnmm.latency import table as tables
from merkhet.cnmm.latency.device import batch_of, using_threads
from merkhet.cnmm.latency.measure import measure_latency
from merkhet.cnmm.latency.parts import find_parts
from merkhet.cnmm.latency.table import LatencyTable
from merkhet.cnmm.latency.validation import Predicted, Prediction, validate_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.nodes import every_path, path_edges
from merkhet.cnmm.stage import MixtureStage
from merkhet.core.errors import InputError

EXAMPLE = torch.rand(3, 1, 8, 8)


def mixture(seed: int = 0, norm: str = "batch") -> CNMM:
    return cnmm_classifier(1, 5, channels=(3, 4), num_nodes=4, norm=norm, seed=seed)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    """Return one table that several tests look at."""
    return measure_latency(mixture(), EXAMPLE, batch=2, threads=1, repeats=2)


def test_every_edge_has_a_latency(table: LatencyTable) -> None:
    assert table.costs.unit == "s"
    assert table.costs.counts == (4, 4)
    for stage in table.costs.edges:
        assert set(stage) == {(i, j) for j in range(4) for i in range(j)}
        assert all(0 < seconds < 1 for seconds in stage.values())
    assert table.costs.fixed > 0
    about = table.provenance
    assert (about.parts, about.measured, about.repeats) == (14, 5, 2)
    assert about.situation.pictures == (1, 8, 8)


def test_the_mixture_and_the_threads_are_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met = set()

    def timed(network: nn.Sequential, x: Tensor) -> list[float]:
        modes = {part.training for part in network.modules()}
        dtypes = {tensor.dtype for tensor in (x, *network.parameters())}
        met.add((torch.get_num_threads(), *dtypes, len(x), torch.is_grad_enabled()))
        assert modes == {False}
        return [1.0] * len(network)

    model = mixture()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(measure, "_timed", timed)
        measure_latency(model, EXAMPLE, batch=5, threads=2, dtype=torch.float64, repeats=2)
    assert met == {(2, torch.float64, 5, False)}
    assert torch.get_num_threads() == 1
    assert all(part.training for part in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with pytest.raises(RuntimeError, match="stop"), using_threads(2):
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 1


def test_what_the_parts_take_adds_up_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cnmm_segmenter(3, 4, (2, 3), nodes=(1, 0, 0))
    example = torch.rand(1, 3, 8, 8)
    parts = find_parts(model, example)
    kinds = sorted(set(parts.kinds.values()))
    taken = {name: 1.0 + kinds.index(kind) ** 2 for name, kind in parts.kinds.items()}

    def timed(network: nn.Sequential, _x: Tensor) -> list[float]:
        return [taken[name] for name, _ in network.named_children()]

    monkeypatch.setattr(measure, "_timed", timed)
    found = measure_latency(model, example, repeats=2)
    assert found.provenance.spread == 0
    for path in every_path(model.counts):
        edges = [f"stage0_{i}_{j}" for i, j in path_edges(path[0])]
        wanted = sum(taken[name] for name in ("stem", "head", *edges))
        assert found.costs.of_path(path) == pytest.approx(wanted, rel=1e-12)


def test_each_part_s_time_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Takes(nn.Module):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, x: Tensor) -> Tensor:
            now[0] += self.seconds
            return x

    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    assert measure._timed(nn.Sequential(Takes(1), Takes(4), Takes(2)), EXAMPLE) == [1, 4, 2]
    stage = MixtureStage(3, lambda i, j: Takes(10 * i + j + 1))
    model = CNMM([stage], nn.Sequential(Takes(100), nn.Conv2d(1, 1, 1)))
    found = measure_latency(model, EXAMPLE, repeats=2, seconds=1e9).costs
    assert (found.fixed, found.edges) == (100, ({(0, 1): 2, (0, 2): 3, (1, 2): 13},))
    stopped = measure_latency(model, EXAMPLE, repeats=1000, seconds=1)
    assert stopped.provenance.repeats == 2


def test_what_does_nothing_takes_no_time() -> None:
    stage = MixtureStage(
        3, lambda i, j: nn.Identity() if i else nn.Conv2d(1, 1, 2 * j - 1, padding=j - 1)
    )
    found = measure_latency(CNMM([stage], nn.Flatten()), EXAMPLE[..., :3, :3], repeats=2).costs
    assert found.edges[0][1, 2] == 0 < found.edges[0][0, 1]


def test_a_table_comes_back_from_its_file(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "small.json")
    assert LatencyTable.load(tmp_path / "small.json") == table
    with pytest.raises(FileNotFoundError):
        LatencyTable.load(tmp_path / "other.json")
    for text in (b"\xff\xfe", b"{"):
        (tmp_path / "small.json").write_bytes(text)
        with pytest.raises(InputError, match=r"small\.json: "):
            LatencyTable.load(tmp_path / "small.json")


@pytest.mark.parametrize(
    "spoil", ["", "[]", "{}", "costs", "provenance", "edge", "lacking", "negative", "dtype"]
)
def test_a_file_that_is_no_table_is_refused(table: LatencyTable, spoil: str) -> None:
    text = spoil
    if spoil.isalpha():
        found = json.loads(table.to_json())
        match spoil:
            case "costs":
                found["fixed_seconds"] = None
            case "provenance":
                found["provenance"]["situation"].pop("threads")
            case "edge":
                found["edges_seconds"][0]["first"] = 1.0
            case "lacking":
                del found["edges_seconds"][0]["0-2"]
            case "negative":
                found["edges_seconds"][0]["0-2"] = -1.0
            case "dtype":
                found["provenance"]["situation"]["dtype"] = "single"
        text = json.dumps(found)
    with pytest.raises(InputError, match="no table of latencies"):
        LatencyTable.from_json(text)


def test_a_table_of_something_else_is_refused(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"batch": 2, "threads": 1}
    table.check(mixture(seed=1), EXAMPLE[:1], **same)  # other weights, the same structure
    for model, example, options, said in (
        (mixture(), EXAMPLE, {"batch": 1}, r"batch 2 \(here 1\): measure anew"),
        (mixture(), EXAMPLE, {"threads": 2}, r"threads 1 \(here 2\)"),
        (mixture(), EXAMPLE, {"dtype": torch.float64}, r"dtype 'float32' \(here 'float64'\)"),
        (mixture(), torch.rand(1, 1, 8, 10), {}, r"pictures \(1, 8, 8\) \(here \(1, 8, 10\)\)"),
        (mixture(norm="group"), EXAMPLE, {}, "model '"),
    ):
        with pytest.raises(InputError, match=said):
            table.check(model, example, **(same | options))
    monkeypatch.setattr(tables, "processor", lambda _device: "another one")
    with pytest.raises(InputError, match=r"processor .*\(here 'another one'\)"):
        table.check(mixture(), EXAMPLE, **same)


def test_predictions_are_held_against_whole_networks(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(runs: dict[str, object], _repeats: int) -> dict[str, tuple[float, None]]:
        return {name: (2 * costs.of_path(_nodes(name)), None) for name in runs}

    costs = table.costs
    monkeypatch.setattr(validation, "interleaved", twice)
    found = validate_latency(table, mixture(), EXAMPLE, paths=5)
    assert len(found.rows) == 5
    assert found.error == pytest.approx(0.5, rel=1e-12)
    assert found.rank_correlation == pytest.approx(1)
    assert "mean error 50.0%" in str(found)
    with pytest.raises(InputError, match="model"):
        validate_latency(table, mixture(norm="group"), EXAMPLE)


def test_whole_networks_are_measured(table: LatencyTable) -> None:
    found = validate_latency(table, mixture(), EXAMPLE, paths=2, repeats=2)
    assert all(row.measured > 0 for row in found.rows)
    assert [row.predicted for row in found.rows] == [
        table.costs.of_path(row.nodes) for row in found.rows
    ]


def test_rank_correlation_is_that_of_ranks() -> None:
    rows = [Predicted(((0, 1),), one, two) for one, two in ((1, 1), (2, 9), (3, 4), (8, 30))]
    assert Prediction(tuple(rows)).rank_correlation == pytest.approx(0.8)
    same = tuple(dataclasses.replace(row, predicted=1.0) for row in rows)
    assert Prediction(same).rank_correlation != Prediction(same).rank_correlation  # no number


def test_numbers_that_do_not_serve_are_refused() -> None:
    for options, said in (
        ({"batch": 0}, "batch = 0"),
        ({"threads": 0}, "threads = 0"),
        ({"threads": 10**6}, "as many as there are cores"),
        ({"dtype": torch.int64}, "give a floating one"),
        ({"dtype": "float32"}, "give a floating one"),
        ({"repeats": 1}, "repeats = 1: give 2 or more"),
        ({"seconds": 0}, "seconds = 0"),
    ):
        with pytest.raises(InputError, match=said):
            measure_latency(mixture(), EXAMPLE, **options)
    with pytest.raises(InputError, match="a Linear is no mixture"):
        measure_latency(nn.Linear(1, 1), EXAMPLE)
    with pytest.raises(InputError, match="floating"):
        measure_latency(mixture(), EXAMPLE.byte())
    with pytest.raises(InputError, match="in a ndarray"):
        measure_latency(mixture(), EXAMPLE.numpy())
    with pytest.raises(InputError, match="does not run on pictures of shape"):
        measure_latency(mixture(), torch.rand(1, 3, 8, 8))
    assert torch.equal(batch_of(EXAMPLE, 5), EXAMPLE[[0, 1, 2, 0, 1]])


def test_numbers_of_numpy_serve(table: LatencyTable) -> None:
    options = {"batch": np.int64(2), "threads": np.int64(1)}
    found = measure_latency(mixture(), EXAMPLE, **options, repeats=2)
    assert LatencyTable.from_json(found.to_json()) == found
    table.check(mixture(), EXAMPLE, **options)


def _nodes(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(node) for node in stage.split("-")) for stage in text.split(","))
