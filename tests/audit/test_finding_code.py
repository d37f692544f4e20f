"""The code of findings runs as it stands, after the report's setup and with nothing else."""

from __future__ import annotations

import copy
import functools
import shlex
from collections.abc import Iterator

import pytest
import torch
import typer.main
from torch import nn

from merkhet import cli
from merkhet.audit import Case, Report, audit
from merkhet.audit.report import FROM_PYTHON
from merkhet.audit.run import find_checks
from merkhet.core.modes import evaluating
from merkhet.memory import attach
from merkhet.models import SmallCNN, Transformer
from merkhet.report import Finding
from merkhet.rkhs import Recipe, train_classifier

GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.rand(24, 1, 8, 8, generator=GENERATOR)
LABELS = torch.arange(24) % 4
TOKENS = torch.randint(0, 11, (24, 6), generator=GENERATOR)
NAMES = ("network", "inputs", "labels", "preprocess")


@pytest.fixture(autouse=True, scope="module")
def brief() -> Iterator[None]:
    """Train for one epoch, where code trains."""
    with pytest.MonkeyPatch.context() as patch:
        shorter = functools.partial(train_classifier, recipe=Recipe(epochs=1))
        patch.setattr("merkhet.rkhs.train_classifier", shorter)
        yield


class Faulty(nn.Module):
    """Stores what it does not use, folds, dies, and leaves its norms as they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
        )
        self.spare = nn.Linear(300, 30)
        with torch.no_grad():
            self.body[0].weight.mul_(30)
            self.body[1].bias[:5] = -1e4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def with_memory() -> nn.Module:
    """Return a language model most of whose slots are never read."""
    network = Transformer(vocab_size=11, dim=8, heads=2, layers=1)
    attach(network, ["layers.0.feed_forward"], "replace", num_subkeys=64, top_k=2, key_dim=8)
    return network


def named(report: Report) -> dict[str, object]:
    """Return what a report's setup defines."""
    space: dict[str, object] = {"report": report}
    exec(report.setup, space)
    return {name: space[name] for name in NAMES}


def run(finding: Finding, names: dict[str, object]) -> None:
    """Run the code of a finding on a network of its own; parse what is a command."""
    if finding.code.startswith("merkhet "):
        parse(finding.code)
        return
    with torch.random.fork_rng():
        exec(finding.code, {**names, "network": copy.deepcopy(names["network"])})
    torch.autograd.set_detect_anomaly(False)


def parse(line: str) -> None:
    """Parse a command of merkhet as its command line does, without running it."""
    _, *words = shlex.split(line)
    command = typer.main.get_command(cli.build())
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.fixture(scope="module")
def of_the_command() -> tuple[Report, Case]:
    """An audit as `merkhet audit` makes it, with all checks."""
    arguments = {"widths": [4, 8], "seed": 3}
    case = Case("merkhet.models:SmallCNN", "digits", None, arguments, "0.3", "0.4", samples=24)
    target, inputs, preprocess = case.open()
    report = audit(target.module, inputs, preprocess=preprocess, samples=24, seconds=60)
    return report.of_case(case), case


def test_the_setup_gives_what_was_audited(of_the_command) -> None:
    report, _ = of_the_command
    found, subject = named(report), report.subject
    assert torch.equal(found["inputs"], subject.inputs)
    assert torch.equal(found["labels"], subject.labels)
    with evaluating(subject.module):
        answered = found["network"](found["preprocess"](found["inputs"]))
        assert torch.equal(answered, subject.forward(subject.inputs))
    assert report.to_dict()["setup"] == report.setup
    assert next(iter(report.to_dict())) == "setup"


def test_the_code_of_an_audit_by_command_runs(of_the_command) -> None:
    report, _ = of_the_command
    assert len(report.every_finding) >= 6
    names = named(report)
    for finding in report.every_finding:
        run(finding, names)


def test_the_figures_of_every_check_begin_as_it_says(of_the_command) -> None:
    """What `--fail-on` knows of a check before it runs is what the check gives."""
    report, _ = of_the_command
    heads = {check.name: set(check.heads) for check in find_checks()}
    for name, part in report.sections.items():
        given = [*part.figures, *(finding.name for finding in part.findings)]
        assert {key.partition("(")[0] for key in given} <= heads[name]


CHEAP = ["accuracy", "cost", "dead_units", "feed_forward", "memory", "outputs", "scales"]


@pytest.mark.parametrize(
    ("build", "data", "wanted"),
    [
        (Faulty, (PICTURES, LABELS), {"cost(unused_parameters)", "dead_units(body.1)"}),
        (with_memory, TOKENS, {"memory(used,layers.0.feed_forward.values)"}),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), PICTURES, set()),
    ],
)
def test_the_code_of_an_audit_from_python_runs(build, data, wanted) -> None:
    report = audit(build(), data, checks=CHEAP, samples=24)
    assert not report.failed
    assert report.setup == FROM_PYTHON
    assert wanted <= {finding.name for finding in report.every_finding}
    names = named(report)
    for finding in report.every_finding:
        run(finding, names)


def test_without_labels_the_predictions_stand_for_them() -> None:
    network = SmallCNN(widths=(4,))
    report = audit(network, PICTURES, checks=["outputs"])
    with evaluating(network):
        assert torch.equal(report.given().labels, network(report.subject.inputs).argmax(1))
    assert audit(nn.Flatten(0, 1), PICTURES, checks=["cost"]).given().labels is None


def test_folding_changes_no_output() -> None:
    from merkhet.audit.folding import fold_code, foldable
    from merkhet.audit.subject import make_subject

    class Before(nn.Module):
        """A norm before its convolution, and one behind two uses: neither folds."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3)
            self.other, self.head = nn.BatchNorm2d(3), nn.Linear(3, 2)
            self.last = nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(self.norm(x))
            return self.last(self.head((x + self.other(x)).mean((2, 3))))

    network = Before()
    network(PICTURES)  # statistics of data, and not those it was made with
    subject = make_subject(network, PICTURES)
    assert foldable(subject) == {"last": "head"}
    folded = {"network": copy.deepcopy(network).eval()}
    exec(fold_code(subject, foldable(subject)), folded)
    assert isinstance(folded["network"].last, nn.Identity)
    with evaluating(network):
        wanted = network(PICTURES)
    torch.testing.assert_close(folded["network"](PICTURES), wanted)


def test_commands_in_findings_name_the_case() -> None:
    from merkhet.audit.report import _filled

    plain = Finding("f", 1.0, "s", "y", "r", "merkhet audit MODEL --data DATA --samples 9", 0.5)
    case = Case("a.py:b", "my pictures", "w.safetensors", {"n": 1}, mean="0.5")
    line = _filled(plain, case).code
    assert shlex.split(line) == [
        *("merkhet", "audit", "a.py:b", "--weights", "w.safetensors", "--arguments", '{"n": 1}'),
        *("--data", "my pictures", "--mean", "0.5", "--samples", "9"),
    ]
    parse(line)
