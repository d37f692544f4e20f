"""The commands on real digits: train, list points, export, audit; and what they refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from merkhet import cli
from merkhet.audit import audit
from merkhet.cnmm.checks import is_no_mixture
from merkhet.cnmm.commands.examples import _held_out
from merkhet.cnmm.points.result import OperatingPoints
from merkhet.core.errors import InputError
from merkhet.core.graph import trace
from merkhet.data import load
from merkhet.data.pictures import Pictures
from merkhet.models import find_target
from merkhet.report import Subject

NETWORK = '{"channels": [4, 8], "num_nodes": 3}'


def call(*arguments: object) -> str:
    """Return what a command prints; raise what it raises."""
    found = CliRunner().invoke(cli.build(), ["cnmm", *map(str, arguments)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cnmm") / "run"
    call("train", "--limit", 400, "--epochs", 4, "--network", NETWORK, "--out", folder)
    return folder


def test_a_finished_run_is_found_again(run: Path) -> None:
    said = call("train", "--limit", 400, "--epochs", 4, "--network", NETWORK, "--out", run)
    assert "points" in said
    with pytest.raises(InputError, match="another folder"):
        call("train", "--limit", 300, "--epochs", 4, "--network", NETWORK, "--out", run)


@pytest.mark.parametrize("by", ["latency", "multiply_adds", "parameters"])
def test_points_are_listed_and_kept(run: Path, tmp_path: Path, by: str) -> None:
    said = call("points", run, "--by", by, "--count", 3, "--best", 1, "--out", tmp_path)
    found = OperatingPoints.from_json((tmp_path / "points.json").read_text(encoding="utf-8"))
    assert found.by == by
    assert str(found) in said
    assert (tmp_path / "points.png").stat().st_size > 1000
    assert (tmp_path / "latency.json").exists() is (by == "latency")
    assert any("one thread, float32" in note for note in found.notes) is (by == "latency")


def test_a_table_measured_before_serves_and_another_devices_does_not(
    run: Path, tmp_path: Path
) -> None:
    call("points", run, "--count", 2, "--best", 1, "--out", tmp_path)
    table = tmp_path / "latency.json"
    call("points", run, "--count", 2, "--best", 1, "--table", table, "--out", tmp_path)
    fields = json.loads(table.read_text(encoding="utf-8"))
    fields["provenance"]["situation"]["processor"] = "another"
    table.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(InputError, match="measure anew"):
        call("points", run, "--table", table, "--out", tmp_path)
    with pytest.raises(InputError, match="--by latency"):
        call("points", run, "--by", "parameters", "--table", table, "--out", tmp_path)


def test_a_network_is_exported_and_audited(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    said = call("export", run, "--nodes", "0-2,0-1-2", "--out", out)
    assert "parameters" in said
    plain = find_target(str(out)).module
    again = torch.export.load(out / "network.pt2").module()
    x = load("digits", "test").floats(range(5))
    torch.testing.assert_close(plain(x), again(x), rtol=1e-5, atol=1e-5)
    report = audit(plain, "digits", samples=64, checks=["accuracy"])
    assert not report.failed


def test_the_best_point_within_a_budget_is_exported(run: Path, tmp_path: Path) -> None:
    call("points", run, "--by", "parameters", "--count", 3, "--best", 1)
    found = OperatingPoints.from_json((run / "points.json").read_text(encoding="utf-8"))
    call("export", run, "--within", found.points[-1].cost, "--out", tmp_path / "best")
    spec = json.loads((tmp_path / "best" / "run.json").read_text(encoding="utf-8"))
    nodes = spec["about"]["spec"]["model"]["arguments"]["nodes"]
    assert nodes == "-".join(map(str, found.points[-1].nodes[0])) + "," + "-".join(
        map(str, found.points[-1].nodes[1])
    )
    with pytest.raises(InputError, match="the cheapest"):
        call("export", run, "--within", 1, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_is_never_written_over(run: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with pytest.raises(InputError, match="give another folder"):
        call("export", run, "--nodes", "0-2,0-2", "--out", run)
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()} == before


def test_a_number_of_pictures_that_leaves_one_over_is_exported(run: Path, tmp_path: Path) -> None:
    kept = next(n for n in range(143, 200) if (n - n // 10) % 128 == 1)
    spec = json.loads((run / "run.json").read_text(encoding="utf-8"))
    spec["about"]["spec"]["limit"] = kept
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    (other / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    assert "parameters" in call("export", other, "--nodes", "0-2,0-2", "--out", tmp_path / "small")


def test_a_run_that_is_not_finished_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    spec = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run.json").write_text(json.dumps(spec | {"status": "running"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"same `merkhet cnmm train` command again"):
        call("points", tmp_path)


def test_data_without_a_test_split_is_said_to_have_none(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    network = ("--network", '{"channels": [2], "num_nodes": 2}')
    said = call("train", "--data", file, "--epochs", 1, *network, "--out", tmp_path / "run")
    assert "no test split" in said
    with pytest.raises(InputError, match="no test split"):
        call("points", tmp_path / "run", "--by", "parameters")


def test_held_out_pictures_are_of_every_class_where_one_is_frequent() -> None:
    labels = torch.tensor([0] * 900 + [1] * 100)
    found = Pictures(torch.zeros(1000, 1, 2, 2), labels, ("a", "b"))
    train, held = _held_out(found.sample(1000), seed=0)
    assert (len(train), len(held)) == (900, 100)
    # Of 100, a tenth on average; below 2 has a probability of 3e-4 and the seed is fixed.
    assert 2 <= int(held.labels.sum()) <= 20


def test_the_audit_shows_operating_points(run: Path) -> None:
    module, checks = find_target(str(run)).module, ["operating_points", "accuracy"]
    report = audit(module, "digits", samples=80, checks=checks)
    assert not report.failed
    section = report.sections["operating_points"]
    assert len(section.figures) >= 2
    assert "4 networks" in section.summary


def test_the_check_is_for_mixtures_alone(run: Path) -> None:
    inputs, output = torch.rand(40, 1, 8, 8), torch.rand(4, 10)
    for module, said in ((torch.nn.Flatten(), "no mixture"), (find_target(str(run)).module, None)):
        subject = Subject(module, trace(module, inputs[:2]), "network", inputs, output)
        refused = is_no_mixture(subject)
        assert refused is None if said is None else said in str(refused)
    assert "32 inputs" in str(is_no_mixture(dataclasses.replace(subject, inputs=inputs[:20])))
    assert "no scores" in str(is_no_mixture(dataclasses.replace(subject, output=inputs)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "--task", "detection"), "task"),
        (("train", "--limit", "10"), "too few"),
        (("train", "--size", "9"), "HEIGHTxWIDTH"),
        (("train", "--network", "{"), "JSON"),
        (("train", "--network", '{"num_nodes": 1}'), "one node"),
        (("train", "--schedule", '{"cots": 1}'), "Did you mean 'cost'"),
        (("train", "--schedule", '{"cost": "high"}'), "number"),
        (("train", "--schedule", '{"cost": true}'), "number"),
        (("train", "--network", '{"classes": 3}'), "the data has 10: leave it out"),
        (("train", "--network", '{"in_channels": 3}'), "the data has 1: leave it out"),
        (("train", "--data", "nowhere"), "nowhere"),
        (("points", "nowhere"), "not a run"),
        (("export", "nowhere", "--nodes", "0-1"), "not a run"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    verb, *others = arguments
    out = ["--out", tmp_path / "run"] if verb == "train" else []
    with pytest.raises(InputError, match=says):
        call(verb, *others, *out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("points", "--by", "flops"), "choose one of"),
        (("points", "--kind", "nodes"), "choose one of"),
        (("points", "--by", "parameters", "--budgets", "3"), "the cheapest"),
        (("points", "--out", "/nowhere/at/all"), "no folder"),
        (("points", "--by", "parameters", "--threads", "2"), "--threads goes with --by latency"),
        (("points", "--by", "parameters", "--batch", "2"), "--batch goes with --by latency"),
        (("export", "--within", "1e9", "--node-set"), "--node-set goes with --nodes"),
        (("export",), "either --nodes"),
        (("export", "--nodes", "0-2"), "mixture of 2"),
        (("export", "--nodes", "0-1,0-2"), "cut"),
        (("export", "--nodes", "0-2,0-2", "--formats", "tf"), "format"),
    ],
)
def test_what_a_run_cannot_give_is_refused(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    verb, *others = arguments
    out = ["--out", tmp_path / "new"] if verb == "export" else []
    with pytest.raises(InputError, match=says):
        call(verb, run, *others, *out)
    assert not (tmp_path / "new").exists()
