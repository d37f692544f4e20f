from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from merkhet.audit import audit
from merkhet.audit import run as running
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN
from merkhet.report import Check, Finding, Section


@pytest.fixture(scope="module")
def report():
    module = SmallCNN(widths=(4, 8))
    return audit(module, "digits", samples=32, checks=["accuracy", "cost"])


class Ragged(Dataset):
    """Pictures of different sizes."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, place: int):
        return torch.rand(1, 8, 8 + place), place


class Endless(IterableDataset):
    """A stream."""

    def __iter__(self):
        while True:
            yield torch.rand(1, 8, 8)


class Pages(HTMLParser):
    """Collects a page's open tags, text and references."""

    VOID: ClassVar = {"meta", "link", "br", "img", "path", "use", "rect", "line"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.references: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        keys = ("src", "href", "xlink:href")
        self.references += [value for key, value in attributes if key in keys]

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def test_every_number_of_the_page_and_of_the_json_is_the_reports(report, tmp_path: Path) -> None:
    page, beside = report.write(tmp_path / "r.html")
    parser = Pages()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.open == []
    assert all(reference.startswith("#") for reference in parser.references)
    assert "url(http" not in page.read_text(encoding="utf-8")
    for finding in report.findings:
        assert finding.sentence in parser.text
        assert finding.remedy in parser.text
    data = json.loads(beside.read_text(encoding="utf-8"))
    assert data["sections"]["cost"]["figures"] == report.sections["cost"].figures
    assert data["settings"]["samples"] == 32
    assert [found["name"] for found in data["findings"]] == [f.name for f in report.findings]


def test_costs_are_those_of_the_network(report) -> None:
    module = SmallCNN(widths=(4, 8))
    figures = report.sections["cost"].figures
    assert figures["cost(parameters)"] == sum(p.numel() for p in module.parameters())
    # 8x8 digits: 1 -> 4 channels at 8x8, 4 -> 8 at 4x4, then 8 x 2 x 2 -> 10
    assert figures["cost(multiply_adds)"] == 64 * 4 * 9 + 16 * 8 * 4 * 9 + 32 * 10
    assert figures["cost(latency_ms)"] > 0


def test_accuracy_is_measured_with_its_interval(report) -> None:
    figures = report.sections["accuracy"].figures
    assert figures["accuracy(low)"] <= figures["accuracy"] <= figures["accuracy(high)"]
    assert report.findings[0].name == "accuracy", "an untrained network is the first thing to say"


def test_a_perfect_network_is_seen_as_one() -> None:
    inputs = torch.eye(5).repeat(4, 1)
    labels = torch.arange(5).repeat(4)
    found = audit(nn.Identity(), (inputs, labels), checks=["accuracy"], samples=20)
    assert found.sections["accuracy"].figures["accuracy"] == 1
    assert not found.findings


def test_a_balanced_binary_classifier_that_works_is_not_called_broken() -> None:
    labels = torch.arange(64) % 2
    found = audit(nn.Identity(), (torch.eye(2)[labels], labels), checks=["accuracy"])
    assert not found.findings


def test_a_preparation_that_writes_in_place_changes_nothing() -> None:
    pictures = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network, labels = nn.Flatten(), torch.arange(20) % 5
    moved = [
        audit(network, (pictures.clone(), labels), preprocess=prepare, checks=["stability"])
        for prepare in (lambda x: x - 0.45, lambda x: x.sub_(0.45))
    ]
    figures = [report.sections["stability"].figures for report in moved]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_the_network_is_left_as_found() -> None:
    module = SmallCNN(widths=(4,)).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    audit(module, "digits", samples=8)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_the_budget_decides_and_what_is_left_out_is_named(monkeypatch) -> None:
    def section(subject, seconds) -> Section:
        return Section("A title", "A summary.")

    def broken(subject, seconds) -> Section:
        raise RuntimeError("unforeseen")

    def refused(subject, seconds) -> Section:
        raise InputError("not these inputs")

    yes = lambda subject: None  # noqa: E731
    checks = [
        Check("cheap", 0.0, yes, section),
        Check("refusing", 0.0, lambda subject: "no labels", section),
        Check("late", 1e6, yes, section),
        Check("broken", 0.0, yes, broken),
        Check("refused", 0.0, yes, refused),
    ]
    monkeypatch.setattr(running, "find_checks", lambda names: checks)
    found = audit(nn.Identity(), torch.rand(4, 3))
    assert set(found.sections) == {"cheap"}
    assert found.skipped["refusing"] == "no labels"
    assert re.match(r"needs about 1000000 s and \d+ s", found.skipped["late"])
    assert found.skipped["refused"] == "not these inputs"
    assert found.failed == {"broken": "RuntimeError: unforeseen"}


def test_findings_come_by_weight_and_are_ten_at_most(report) -> None:
    one = Finding("f", 1.0, "s", "y", "r", "c", 0.5)
    many = tuple(replace(one, name=str(n), weight=n / 20) for n in range(15))
    swapped = replace(report, sections={"x": Section("t", "s", findings=many)})
    assert [f.name for f in swapped.findings] == [str(n) for n in range(14, 4, -1)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (torch.full((4, 1, 8, 8), torch.nan), "inputs hold NaN or infinity.*example 0"),
        (torch.rand(1, 1, 8, 8), "at least 2 inputs"),
        (torch.rand(4, 3, 8, 8), "does not|picture|channel"),
        ((torch.rand(4, 1, 8, 8), torch.zeros(3)), "4 inputs but 3 labels"),
        ((torch.rand(4, 1, 8, 8), torch.zeros(4)), r"give integers of shape \(4,\)"),
        ((torch.rand(4, 1, 8, 8), torch.eye(4).long()), r"labels\.argmax\(1\)"),
        ((torch.rand(4, 1, 8, 8), torch.tensor([0, 1, -1, 2])), "number the classes from 0"),
        ([1, 2, 3], r"not list: write torch\.as_tensor"),
        (None, "not NoneType"),
        ((torch.rand(4, 1, 8, 8), [0, 1, 2, 3]), r"labels are a tensor, not list: write torch"),
        (TensorDataset(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, -1, 2])), "classes from 0"),
        (Ragged(), r"items of Ragged do not stack to tensors: .*; give its inputs one shape"),
        (Endless(), "Endless has no length to draw from"),
        ("no-such-data", "no-such-data"),
    ],
)
def test_bad_data_is_one_clear_line(data, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        audit(SmallCNN(widths=(4,)), data)
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    """Returns what no check but the cost's can use."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x):
        scores = x.flatten(1)[:, :5]
        return {
            "scalar": scores.sum(),
            "one number": scores.sum(1),
            "whole numbers": scores.argmax(1),
            "truth values": scores > 0,
            "complex numbers": torch.complex(scores, scores),
        }[self.kind]


@pytest.mark.parametrize(
    "kind", ["scalar", "one number", "whole numbers", "truth values", "complex numbers"]
)
def test_odd_outputs_are_refused_by_the_checks_that_cannot_use_them(kind: str, tmp_path) -> None:
    inputs = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = audit(Odd(kind), (inputs, torch.arange(20) % 5))
    assert not found.failed
    assert "cost" in found.sections
    assert "accuracy" in found.skipped
    found.write(tmp_path / "r.html")


def test_a_constant_network_is_found_out(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        module[1].weight.zero_()
    inputs = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = audit(module, inputs)
    assert found.findings[0].name == "outputs(constant)"
    found.write(tmp_path / "r.html")


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    name = """<script>alert("1")</script> & 'é'"""
    found = audit(nn.Flatten(), torch.rand(20, 1, 8, 8), name=name, checks=["cost"])
    page, _ = found.write(tmp_path / "r.html")
    assert "<script>alert" not in page.read_text(encoding="utf-8")
    parser = Pages()
    parser.feed(page.read_text(encoding="utf-8"))
    assert name in parser.text


def test_weights_that_are_not_there_are_asked_for() -> None:
    with pytest.raises(InputError, match="meta device: load them first"):
        audit(SmallCNN(widths=(4,)).to("meta"), torch.rand(4, 1, 8, 8))


def test_a_script_module_inside_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), torch.jit.script(nn.ReLU()), nn.Flatten())
    found = audit(module, torch.rand(20, 1, 8, 8), checks=["cost"])
    assert "cost" in found.sections


def test_a_network_that_returns_nan_is_refused() -> None:
    module = SmallCNN(widths=(4,))
    with torch.no_grad():
        module.head.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="returns NaN"):
        audit(module, torch.rand(4, 1, 8, 8))


def test_unknown_checks_and_other_endings_are_refused(report, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'accuracy'"):
        audit(nn.Identity(), torch.rand(4, 3), checks=["acuracy"])
    with pytest.raises(InputError, match=r"NAME\.html"):
        report.write(tmp_path / "r.pdf")
    assert not list(tmp_path.iterdir())


def test_a_dataset_and_a_loader_are_audited_as_their_tensors_are() -> None:
    inputs = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 10
    module = SmallCNN(widths=(4,))
    data = TensorDataset(inputs, labels)
    figures = [
        audit(module, given, samples=16, checks=["accuracy", "outputs"]).to_dict()["sections"]
        for given in ((inputs, labels), data, DataLoader(data, batch_size=3))
    ]
    assert figures[0] == figures[1] == figures[2]


def test_targets_that_are_no_labels_are_left_out() -> None:
    data = TensorDataset(torch.rand(8, 1, 8, 8), torch.rand(8, 8, 8))
    found = audit(SmallCNN(widths=(4,)), data, checks=["accuracy"])
    assert found.skipped == {"accuracy": "the data has no labels"}
    assert found.subject.data == "TensorDataset"


@pytest.mark.parametrize("settings", [{"seconds": float("nan")}, {"seed": -1}, {"seed": 2**64}])
def test_odd_settings_are_refused(settings) -> None:
    with pytest.raises(InputError, match="give numbers from 0 on"):
        audit(nn.Identity(), torch.rand(4, 3), **settings)


def test_no_limit_of_time_and_any_name(tmp_path: Path) -> None:
    inputs = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = audit(nn.Flatten(), inputs, seconds=float("inf"), name="a\ud800b")
    wanted = {"outputs", "cost", "stability", "lipschitz", "certified", "flips"}
    assert set(found.sections) == wanted
    found.write(tmp_path / "r.html")


def test_progress_is_told() -> None:
    lines: list[str] = []
    audit(nn.Identity(), torch.rand(4, 3), checks=["outputs"], seconds=50, tell=lines.append)
    assert re.fullmatch(r"outputs: up to (49|50) s", lines[0])
    assert len(lines) == 1


def test_names_that_matplotlib_reads_otherwise_are_shown_as_they_are(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("$x_$", nn.Conv2d(1, 2, 3))
            self.add_module("_hidden", nn.Flatten())
            self.add_module("last", nn.Linear(72, 3))

        def forward(self, x):
            for part in self.children():
                x = part(x)
            return x

    inputs = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = audit(Named(), inputs)
    assert not found.failed
    drawn = "".join(p.svg for part in found.sections.values() for p in part.pictures)
    assert drawn.count(">$x_$</text>") >= 3  # a curve, a layer, an axis: as many as had time
    assert drawn.count("_hidden</text>") >= 2


class Slow(nn.Module):
    """Takes a tenth of a second for each input."""

    def forward(self, x):
        time.sleep(0.1 * len(x))
        return x.flatten(1)[:, :3]


def test_a_slow_network_stays_within_the_budget_and_says_what_was_left_out() -> None:
    inputs = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = audit(Slow(), (inputs, torch.arange(300) % 3), samples=300, seconds=9.0)
    assert found.seconds < 20
    assert "stability" in found.skipped
    assert "accuracy" in found.sections
