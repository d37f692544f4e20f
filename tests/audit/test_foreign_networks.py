from __future__ import annotations

import functools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.audit import audit

sys.path.insert(0, str(Path(__file__).parent))
import foreign_networks as foreign

transformers = pytest.importorskip("transformers")

BUILT = (
    *(foreign.resnet, foreign.mobilenet, foreign.convnext, foreign.vit),
    *(foreign.bert, foreign.masked, foreign.gpt2),
)
AROUND = (foreign.OwnFunction, foreign.Outside, foreign.Branching)
QUICK = ("outputs", "accuracy", "cost", "feed_forward", "scales", "dead_units")
SLOW = ("trained_tails", "unit_tails", "tangent_kernel", "lipschitz", "certified", "stability")
DEEP = (foreign.convnext, foreign.gpt2, *AROUND)  # enough to see the slow checks on
# Words of ours or of torch that a user of a network can do nothing with.
FOREIGN = ("vectorize", "GraphModule", "network.network", "Traceback", "functorch_", "untraced")


@functools.cache
def report_on(build):
    """Return what the quick checks say of a network; time decides nothing here."""
    return audit(*built(build), samples=16, checks=QUICK, seconds=300.0)


@functools.cache
def slow_report_on(build):
    """Return what the slow checks say in little time, or why they do not."""
    return audit(*built(build), samples=16, checks=SLOW, seconds=4.0)


def built(build) -> foreign.Built:
    return foreign.around(build) if build in AROUND else build(transformers)


@pytest.mark.parametrize("build", [*BUILT, *AROUND])
def test_a_network_of_others_gets_a_whole_report(build, tmp_path: Path) -> None:
    report = report_on(build)
    assert report.failed == {}
    assert {"outputs", "cost", "scales"} <= set(report.sections)
    labelled = isinstance(built(build)[1], tuple)
    assert ("accuracy" in report.sections) == (labelled or build is foreign.gpt2)
    assert ("feed_forward" in report.sections) == (report.subject.kind == "tokens")
    page, data = report.write(tmp_path / "r.html")
    assert page.stat().st_size < 3e6
    json.loads(data.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    check_words(report)


@pytest.mark.parametrize("build", DEEP)
def test_nothing_breaks_in_the_slow_checks(build) -> None:
    report = slow_report_on(build)
    assert report.failed == {}
    assert set(report.sections) | set(report.skipped) == set(SLOW)
    check_words(report)


def check_words(report) -> None:
    """Hold what a report says to words that its reader can use, and its numbers to be numbers."""
    parts = report.sections.values()
    said = [text for part in parts for text in (part.summary, *part.notes)]
    said += [f.sentence + f.remedy + f.yardstick for f in report.findings]
    for text in [*said, *report.skipped.values()]:
        assert text
        assert "\n" not in text
        assert not any(word in text for word in FOREIGN), text
        assert " nan" not in text, text
        assert ".." not in text.replace("...", ""), text
    for part in parts:
        assert all(math.isfinite(value) for value in part.figures.values())
        assert all(len(row) == len(table.columns) for table in part.tables for row in table.rows)


@pytest.mark.parametrize("build", BUILT)
def test_parameters_are_all_of_them(build) -> None:
    report = report_on(build)
    counted = report.sections["cost"].figures["cost(parameters)"]
    assert counted == sum(value.numel() for value in report.subject.module.parameters())


def dense_layers(depth: int, width: int, hidden: int, length: int) -> int:
    """Return the multiply-adds of transformer layers: projections, attention, feed-forward."""
    attention = 4 * length * width**2 + 2 * length**2 * width
    return depth * (attention + 2 * length * width * hidden)


def test_multiply_adds_are_those_of_the_formulas() -> None:
    n, d, h = foreign.LENGTH, 16, 32
    gpt = dense_layers(2, d, 4 * d, n) + n * d * foreign.WORDS
    bert = dense_layers(2, d, h, n) + d * d + d * foreign.CLASSES  # pooler and classes
    masked = dense_layers(2, d, h, n) + n * d * d + n * d * foreign.WORDS
    patches = 4 + 1  # of 8 x 8 pixels, and one for the class
    vit = 4 * 3 * 8 * 8 * d + dense_layers(2, d, h, patches) + d * foreign.CLASSES
    stem, first, second = 16 * 16 * 8 * 3 * 49, 8 * 8 * 8 * 8 * 9, 4 * 4 * 16 * 9
    resnet = stem + 2 * first + second * (8 + 16) + 4 * 4 * 16 * 8 + 16 * foreign.CLASSES
    cell = 4 * 4  # of 4 x 4 patches of 16 x 16 pixels
    wide = cell * 8 * (3 * 16 + 49 + 2 * 4 * 8)
    deep = cell // 4 * 16 * (8 * 4 + 49 + 2 * 4 * 16)
    convnext = wide + deep + 16 * foreign.CLASSES
    expected = {
        foreign.gpt2: gpt,
        foreign.bert: bert,
        foreign.masked: masked,
        foreign.vit: vit,
        foreign.resnet: resnet,
        foreign.convnext: convnext,
    }
    for build, wanted in expected.items():
        figures = report_on(build).sections["cost"].figures
        assert figures["cost(multiply_adds)"] == wanted, build


def test_language_models_are_told_what_a_memory_would_do() -> None:
    for build in (foreign.gpt2, foreign.bert, foreign.masked):
        section = report_on(build).sections["feed_forward"]
        assert "would waste arithmetic" in section.summary, "at this width"
        n, d = foreign.LENGTH, 16
        hidden = 4 * d if build is foreign.gpt2 else 2 * d
        whole = report_on(build).sections["cost"].figures["cost(multiply_adds)"]
        share = section.figures["memory(feed_forward_share)"]
        assert share == pytest.approx(2 * 2 * n * d * hidden / whole)


def test_perplexity_is_that_of_the_scores() -> None:
    report = report_on(foreign.gpt2)
    tokens, module = report.subject.inputs, report.subject.module
    with torch.no_grad():
        scores = module(tokens).logits[:, :-1].double()
    nats = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
    figures = report.sections["accuracy"].figures
    assert figures["accuracy(perplexity)"] == pytest.approx(math.exp(float(nats)))
    right = (scores.argmax(2) == tokens[:, 1:]).double().mean()
    assert figures["accuracy"] == pytest.approx(float(right))
    assert report.findings[0].name == "accuracy(perplexity)", "nobody trained it"


def test_a_network_that_goes_two_ways_is_certified_nowhere() -> None:
    report = slow_report_on(foreign.Branching)
    assert report.subject.network.source == "hooks"
    assert "certified" not in report.sections
    if "lipschitz" in report.sections:
        assert "lipschitz(upper)" not in report.sections["lipschitz"].figures
        assert "another way" in report.sections["lipschitz"].summary


def test_what_hooks_alone_see_is_said() -> None:
    for build in (foreign.Outside, foreign.Branching):
        notes = " ".join(report_on(build).sections["cost"].notes)
        assert "module hooks only" in notes
    assert "what happens in Outside" in " ".join(report_on(foreign.Outside).sections["cost"].notes)


def test_the_network_is_left_as_found() -> None:
    module, data = foreign.gpt2(transformers)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    audit(module.train(), data, samples=16, checks=["outputs", "unit_tails"], seconds=3.0)
    assert all(part.training for part in module.modules())
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
