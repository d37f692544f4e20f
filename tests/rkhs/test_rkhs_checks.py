"""The audit's checks of variation, on networks whose constants and distances are known."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.audit import audit
from merkhet.audit.subject import make_subject
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN, Transformer
from merkhet.report import Finding, Section, Subject
from merkhet.rkhs import Recipe, train_classifier
from merkhet.rkhs.checks import CHECKS, looking, perturbations
from merkhet.rkhs.checks.certificates import certified
from merkhet.rkhs.checks.constant import lipschitz
from merkhet.rkhs.checks.perturbations import flips
from merkhet.rkhs.pictures import plot_accuracy, plot_flips
from merkhet.rkhs.prepared import Prepared

LABELS = torch.arange(40) % 4
SECONDS = 1000.0  # as much as a busy machine needs: what is looked at is told by the sizes


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def linear(classes: int = 4) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(6, classes)


def subject_of(module: nn.Module, inputs: Tensor | None = None, **more: object) -> Subject:
    inputs = drawn(40, 6) if inputs is None else inputs
    subject = make_subject(module, (inputs, LABELS[: len(inputs)]), samples=len(inputs))
    return replace(subject, **more)  # type: ignore[arg-type]


@functools.cache
def plain(classes: int = 4) -> Subject:
    """Return a linear network as a subject: reading a network takes longer than the rest."""
    return subject_of(linear(classes))


@pytest.fixture
def short(monkeypatch) -> None:
    """Search flips for a few steps, where their size is not what is looked at."""
    monkeypatch.setattr(perturbations, "STEPS", 4)
    monkeypatch.setattr(perturbations, "RESTARTS", 0)


def distances(module: nn.Linear, subject: Subject) -> Tensor:
    """Return how far the inputs are from where a linear network changes its prediction."""
    weight, bias = module.weight.detach().double(), module.bias.detach().double()
    scores = subject.inputs.double() @ weight.T + bias
    y = scores.argmax(1)
    gaps = scores.gather(1, y[:, None]) - scores
    lengths = (weight[y][:, None] - weight[None]).norm(dim=2)
    found = gaps / lengths
    return found.scatter(1, y[:, None], math.inf).amin(1)


def names(section: Section) -> list[str]:
    return [finding.name for finding in section.findings]


def test_a_linear_network_has_the_norm_of_its_matrix() -> None:
    module = linear()
    section = lipschitz(plain(), SECONDS)
    norm = float(torch.linalg.matrix_norm(module.weight.detach().double(), ord=2))
    assert section.figures["lipschitz(lower)"] == pytest.approx(norm, rel=1e-6)
    assert section.figures["lipschitz(upper)"] == pytest.approx(norm, rel=1e-6)
    assert section.figures["lipschitz(ratio)"] >= 1
    assert names(section) == []
    assert "<svg" in section.pictures[0].svg


def test_the_preparation_of_inputs_is_a_part_of_the_function(short) -> None:
    mean, raw = torch.full((6,), 0.5), plain()  # a tensor that the graph must know
    prepared = replace(raw, preprocess=lambda inputs: (inputs - mean.to(inputs)) / 0.25)
    figures = [lipschitz(subject, SECONDS).figures for subject in (raw, prepared)]
    for name in ("lipschitz(lower)", "lipschitz(upper)"):
        assert figures[1][name] == pytest.approx(4 * figures[0][name], rel=1e-6)
    moved = replace(raw, inputs=(raw.inputs - 0.5) / 0.25)
    radii = [certified(subject, SECONDS).figures for subject in (moved, prepared)]
    assert radii[1]["certified(median)"] == pytest.approx(
        radii[0]["certified(median)"] / 4, rel=1e-5
    )
    sizes = [flips(subject, SECONDS).figures for subject in (moved, prepared)]
    assert sizes[1]["flips(median)"] == pytest.approx(sizes[0]["flips(median)"] / 4, rel=1e-3)


def test_two_scores_of_a_linear_network_are_certified_up_to_the_boundary() -> None:
    module, subject = linear(2), plain(2)
    subject = replace(subject, labels=module(subject.inputs).argmax(1))
    wanted = float(distances(module, subject).median())
    found = certified(subject, SECONDS).figures
    assert found["certified(median)"] == pytest.approx(wanted, rel=1e-5)
    assert found["certified(median)"] <= wanted * (1 + 1e-12)
    share = float((distances(module, subject) > 0.25).double().mean())
    assert found["certified(accuracy,0.25)"] == pytest.approx(share)


def test_wrong_predictions_have_no_radius_and_without_labels_none_is_wrong() -> None:
    module, subject = linear(), plain()
    right = float((module(subject.inputs).argmax(1) == subject.labels).double().mean())
    assert 0 < right < 0.5
    section = certified(subject, SECONDS)
    assert f"{right:.1%} are right at all" in section.summary
    assert section.figures["certified(median)"] == 0
    section = certified(replace(subject, labels=None), SECONDS)
    assert "right" not in section.summary
    assert section.figures["certified(median)"] > 0


def test_flips_of_a_linear_network_are_the_distance_to_the_boundary() -> None:
    module, subject = linear(), plain()
    wanted = distances(module, subject)
    found = flips(subject, SECONDS).figures
    assert found["flips(found)"] == 1
    assert found["flips(median)"] == pytest.approx(float(wanted.median()), rel=1e-3)
    assert found["flips(median)"] >= float(wanted.median()) * (1 - 1e-6)
    lengths = subject.inputs.double().norm(dim=1)
    assert found["flips(median,relative)"] == pytest.approx(
        float((wanted / lengths).median()), rel=1e-3
    )


def test_the_yardstick_is_half_the_way_to_another_label() -> None:
    inputs, labels = torch.tensor([[0.0, 0], [0, 1], [0, 4], [3, 0]]), torch.tensor([0, 0, 1, 1])
    found = looking.half_distances(inputs, labels)
    assert found is not None
    assert found.tolist() == pytest.approx([1.5, 1.5, 1.5, 1.5])
    assert looking.half_distances(inputs, torch.zeros(4, dtype=torch.long)) is None


def test_a_function_that_cannot_be_read_is_taken_as_it_is() -> None:
    def noisy(inputs: Tensor) -> Tensor:
        return inputs + torch.rand(6)

    def branching(inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() < 1e9 else -inputs

    for function in (noisy, branching):
        assert Prepared(linear(), function, drawn(1, 6)).preprocess is function
    own = nn.Identity()
    assert Prepared(linear(), own, drawn(1, 6)).preprocess is own
    shift = drawn(6)
    read = Prepared(linear(), lambda inputs: inputs - shift, drawn(1, 6))
    assert [name for name, _ in read.named_buffers()] == ["preprocess._tensor_constant0"]
    torch.testing.assert_close(read(drawn(3, 6)), linear()(drawn(3, 6) - shift))


class Sensitive(nn.Module):
    """Scores that flip within a small change: a wave of the first coordinate."""

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Linear(6, 4, bias=False)
        with torch.no_grad():
            self.wave.weight.copy_(40 * torch.eye(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.wave(x))


@functools.cache
def short_ones() -> tuple[Finding, ...]:
    subject = subject_of(Sensitive(), 3 * F.one_hot(LABELS, 6).float() + 0.01 * drawn(40, 6))
    return certified(subject, SECONDS).findings + flips(subject, SECONDS).findings


def test_short_radii_and_short_flips_are_found_with_their_remedies() -> None:
    found = {finding.name: finding for finding in short_ones()}
    radius = found["certified(median,right)"]
    assert radius.value < 0.5 * 3 / math.sqrt(2)
    assert "SpectralConstraint" in radius.code
    for finding in found.values():
        assert f"{finding.value:.3g}" in finding.sentence
        assert 0 < finding.weight < 1


@functools.cache
def loose() -> Section:
    """Return the section of a network of many layers, one of them large."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(6)]
        deep = nn.Sequential(*layers, nn.Linear(6, 4))
    with torch.no_grad():
        deep[2][0].weight.mul_(7)
    return lipschitz(subject_of(deep), SECONDS)


def test_a_loose_bound_names_the_largest_factor() -> None:
    section = loose()
    (finding,) = section.findings
    ratio = section.figures["lipschitz(upper)"] / section.figures["lipschitz(lower)"]
    assert finding.value == pytest.approx(ratio)
    assert ", of 2.0 (" in finding.remedy
    assert finding.weight <= 0.35
    assert len(section.tables[0].rows) >= 7


def test_the_code_of_every_remedy_runs(monkeypatch) -> None:
    brief = functools.partial(train_classifier, recipe=Recipe(epochs=1))
    monkeypatch.setattr("merkhet.rkhs.train_classifier", brief)
    codes = {finding.code for finding in loose().findings + short_ones()}
    assert len(codes) == 3
    for code in codes:
        space = {"network": linear(), "inputs": drawn(40, 6), "labels": LABELS}
        exec(code, {**space, "preprocess": lambda inputs: inputs})


class Attending(nn.Module):
    """Attention of the rows of a picture to each other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.parts = nn.Linear(8, 24)
            self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.parts(x[:, 0]).chunk(3, 2)
        return self.head(F.scaled_dot_product_attention(query, key, value).flatten(1))


def test_attention_has_no_bound_which_is_said_and_is_no_finding(short) -> None:
    subject = subject_of(Attending(), drawn(16, 1, 8, 8).sigmoid())
    section = lipschitz(subject, SECONDS)
    assert "There is no finite upper bound" in section.summary
    assert "attention" in section.summary
    assert section.findings == ()
    assert "lipschitz(upper)" not in section.figures
    assert section.figures["lipschitz(lower)"] > 0
    with pytest.raises(InputError, match=r"no finite Lipschitz bound to certify by: .*attention"):
        certified(subject, SECONDS)
    assert flips(subject, SECONDS).figures["flips(found)"] > 0


def test_pictures_show_examples_and_leave_the_network_as_it_was(short) -> None:
    module = SmallCNN(widths=(4,), seed=1)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    subject = subject_of(module, drawn(16, 1, 8, 8).sigmoid(), classes=("a", "b", "c", "d"))
    sections = {}
    for check in CHECKS:
        assert check.refuse(subject) is None
        section = sections[check.name] = check.run(subject, SECONDS)
        assert all("<svg" in picture.svg for picture in section.pictures)
        assert all(math.isfinite(value) for value in section.figures.values())
        assert str(len(subject.inputs)) in section.notes[0]
    assert module.training
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in module.parameters())
    assert len(sections["flips"].pictures) == 2
    radius = certified(replace(subject, labels=None), SECONDS).figures["certified(median)"]
    assert 0 < radius <= sections["flips"].figures["flips(median)"]


@functools.cache
def speaking() -> Subject:
    tokens = torch.randint(0, 11, (20, 8), generator=torch.Generator().manual_seed(0))
    return make_subject(Transformer(11, dim=16, layers=1), tokens, samples=20)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_what_has_no_lengths_is_refused_in_words(check) -> None:
    assert "tokens, whose changes have no length" in (check.refuse(speaking()) or "")
    few = replace(plain(), inputs=drawn(5, 6))
    assert "5 inputs are too few" in (check.refuse(few) or "")
    if check.name != "lipschitz":
        one = plain(1)
        assert "not scores by class" in (check.refuse(one) or "")
        more = replace(plain(3), labels=LABELS)
        assert "labels go to 3, the network has 3 scores" in (check.refuse(more) or "")


@pytest.mark.parametrize("check", [lipschitz, certified, flips])
def test_too_little_time_is_told(check) -> None:
    with pytest.raises(InputError, match="left for it: allow more seconds"):
        check(plain(), 1e-9)


def test_norms_that_would_take_too_long_are_estimated_and_not_certified(monkeypatch) -> None:
    for module in ("constant", "certificates"):
        name = f"merkhet.rkhs.checks.{module}.seconds_to_certify"
        monkeypatch.setattr(name, lambda network: 100.0)
    section = lipschitz(plain(), 100.0)
    assert "is estimated to be at most" in section.summary
    assert "lipschitz(upper,estimate)" in section.figures
    assert "lipschitz(upper)" not in section.figures
    with pytest.raises(InputError, match="need about 100 s and 10 s are left"):
        certified(plain(), 10.0)


def test_the_audit_finds_the_checks(short) -> None:
    report = audit(
        SmallCNN(widths=(4,)),
        "digits",
        samples=16,
        seconds=SECONDS,
        checks=[check.name for check in CHECKS],
    )
    assert set(report.sections) == {"lipschitz", "certified", "flips"}
    assert not report.failed


def test_a_stall_while_the_network_is_timed_does_not_refuse_it(monkeypatch) -> None:
    times = iter([0.0, 60.0, 60.0, 60.001, 61.0, 61.001])  # the first pass waits a minute
    monkeypatch.setattr(looking.time, "perf_counter", lambda: next(times))
    assert looking.affordable(plain(), 1000.0, 100.0) == 40


def test_a_constant_network_has_finite_figures_and_no_findings() -> None:
    constant = nn.Linear(6, 4)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.arange(4.0))
    given = subject_of(constant)
    for subject in (given, replace(given, labels=None)):
        section = certified(subject, SECONDS)
        assert section.findings == ()  # wrong predictions are not the bound's fault
        assert ("any radius: no change" in section.summary) is (subject.labels is None)
        assert all(math.isfinite(value) for value in section.figures.values())
    assert "lipschitz(ratio)" not in lipschitz(given, SECONDS).figures


def test_inputs_of_zeros_have_no_share_of_their_length() -> None:
    section = flips(replace(plain(), inputs=torch.zeros(40, 6)), SECONDS)
    assert "of the input's own length" not in section.summary
    assert "flips(median,relative)" not in section.figures
    assert section.figures["flips(median)"] > 0


def test_pictures_keep_to_their_room() -> None:
    for radii, reach in ((torch.zeros(4), 1.0), (torch.full((4,), math.inf), 1.0)):
        assert plot_accuracy({"certified": radii}).axes[0].get_xlim() == (0, reach)
    made = plot_flips(torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4), ["x" * 40], ["y"])
    assert made.axes[0].get_title() == "x" * 17 + "..."
