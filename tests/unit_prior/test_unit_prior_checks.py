"""The audit's checks of units, on networks of which the answers are known."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.audit import audit
from merkhet.audit.subject import make_subject
from merkhet.core.errors import InputError
from merkhet.models import SmallCNN, Transformer
from merkhet.report import Finding, Section, Subject
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.checks import CHECKS, by_depth, dead, looking, over_inputs, over_weights
from merkhet.unit_prior.checks.by_depth import ratio, scales
from merkhet.unit_prior.checks.dead import dead_units, has_no_switch, switches
from merkhet.unit_prior.checks.looking import fresh_networks, has_no_layers, layers_of
from merkhet.unit_prior.checks.over_inputs import tails_over_inputs, trained_tails
from merkhet.unit_prior.checks.over_weights import Unit, heavy_units, unit_tails

SECONDS = 1000.0  # as much as a busy machine needs: what is looked at is told by the sizes
NAMES = {"unit_tails", "dead_units", "scales", "trained_tails"}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def dense(*widths: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def subject_of(module: nn.Module, inputs: Tensor | None = None) -> Subject:
    inputs = drawn(40, 6) if inputs is None else inputs
    return make_subject(module, inputs, samples=len(inputs))


@functools.cache
def plain() -> Subject:
    return subject_of(dense(6, 30, 30, 3))


@functools.cache
def of_plain(name: str) -> Section:
    """Return what one check says of the plain network: drawing takes longer than the rest."""
    (check,) = (one for one in CHECKS if one.name == name)
    return check.run(plain(), SECONDS)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Draw nothing, where pictures are not what is looked at."""
    for part in (by_depth, dead, over_inputs, over_weights):
        monkeypatch.setattr(part, "to_svg", lambda made: "<svg></svg>")


def names(section: Section) -> list[str]:
    return [finding.name for finding in section.findings]


def ran(finding: Finding, subject: Subject) -> dict[str, Any]:
    """Run the code of a finding with nothing but what is the user's: the network, and inputs."""
    names = {"inputs": subject.inputs, "preprocess": subject.preprocess}
    space = {"network": copy.deepcopy(subject.module), **names}
    exec(finding.code, space)
    return space


def test_the_tails_of_a_chain_are_exact() -> None:
    section = of_plain("unit_tails")
    for number, path in enumerate(("0", "2", "4")):
        assert section.figures[f"unit_tails(theta,gaussian,{path})"] == (number + 1) / 2
        assert section.figures[f"unit_tails(theta,init,{path})"] == 0
        wanted = 3 * (1 + 5 / 30) ** number
        assert section.figures[f"unit_tails(kurtosis,{path})"] == pytest.approx(wanted, rel=1e-9)
    assert names(section) == []
    assert "theta of 1.5" in section.summary
    assert "over weights" in section.notes[0]
    assert section.tables[0].rows[2][2:4] == ("1.5", "0")
    assert all("<svg" in picture.svg for picture in section.pictures)


def test_units_that_are_heavy_beyond_their_error_are_found(capsys) -> None:
    units = [
        Unit(Place(f"{number}", "Linear", 4, True, 0), kurtosis, error)
        for number, (kurtosis, error) in enumerate([(3.0, 0.0), (20.0, 6.0), (15.0, 0.0)])
    ]
    (found,) = heavy_units(units)
    assert (found.name, found.value) == ("unit_tails(kurtosis,2)", 15.0)
    assert "solve_scale('kurtosis=4', widths=(100,) * 2)" in found.code
    ran(found, plain())
    assert "hidden layers of width" in capsys.readouterr().out
    assert heavy_units(units[:2]) == ()


class Residual(nn.Module):
    """y + W phi(y): no chain, with the activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        y = self.first(x)
        return self.last(F.relu(y + self.second(F.relu(y))))


def test_other_networks_are_sampled(undrawn) -> None:
    section = unit_tails(subject_of(Residual()), 4.0)
    # Of y_i + sqrt(S / 4) z with y ~ N(0, v), S = sum of relu(y)^2: E g^4 and E g^2 in closed form.
    figures = section.figures
    assert figures["unit_tails(kurtosis,first)"] == pytest.approx(3, abs=0.6)
    assert figures["unit_tails(theta,gaussian,second)"] == 1.0
    assert figures["unit_tails(theta,gaussian,last)"] == 1.5
    assert "draws" in section.notes[0]


def test_units_that_are_always_off_are_counted(undrawn) -> None:
    module = dense(6, 8, 8, 3)
    with torch.no_grad():
        module[0].bias[:5] = -100.0
    subject = subject_of(module)
    section = dead_units(subject, SECONDS)
    assert section.figures["dead_units(0)"] == 5 / 8
    alive = F.relu(module[2](F.relu(module[0](subject.inputs)))).amax(0) > 0
    assert section.figures["dead_units(2)"] == pytest.approx(1 - float(alive.double().mean()))
    fresh, _ = fresh_networks(subject, subject.inputs)
    shares = [1 - float((copy[0](subject.inputs).amax(0) > 0).double().mean()) for copy in fresh()]
    assert section.figures["dead_units(fresh,0)"] == pytest.approx(sum(shares) / len(shares))
    assert names(section) == ["dead_units(0)"]
    assert "died since" in section.findings[0].remedy
    assert isinstance(ran(section.findings[0], subject)["network"][1], nn.LeakyReLU)
    # The output of a chain of these widths is 0 with probability 1 - (1 - 2^-8)^2.
    assert section.figures["dead_units(layer_off)"] == pytest.approx(1 - (1 - 2**-8) ** 2)


def test_channels_are_units_and_functions_are_seen_by_what_they_are_applied_to(
    undrawn,
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(F.relu(self.conv(x)).mean((2, 3)))

    module = Net()
    with torch.no_grad():
        module.conv.bias[:3] = -100.0
        module.conv.bias[3:] = 100.0
    subject = subject_of(module, drawn(20, 1, 6, 6))
    found, missed = switches(subject)
    assert [(one.path, one.axis, one.relu) for one in found] == [("conv", 1, "")]
    assert missed == 0
    section = dead_units(subject, SECONDS)
    assert section.figures["dead_units(conv)"] == 0.5
    assert "in place of torch.relu" in section.findings[0].code
    ran(section.findings[0], subject)
    residual = switches(subject_of(Residual()))
    assert ([one.path for one in residual[0]], residual[1]) == (["first"], 1)


def test_networks_without_relu_have_no_units_to_die() -> None:
    subject = subject_of(nn.Sequential(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 2)))
    assert "units cannot die" in str(has_no_switch(subject))
    assert has_no_layers(subject) is None


def test_scales_are_root_mean_squares(undrawn) -> None:
    module = dense(6, 8, 8, 8, 3)
    subject = subject_of(module)
    section = scales(subject, SECONDS)
    first = module[0](subject.inputs).detach()
    wanted = float(first.double().square().mean().sqrt())
    assert section.figures["scales(0)"] == pytest.approx(wanted, rel=1e-6)
    assert names(section) == []
    grown = copy.deepcopy(module)
    with torch.no_grad():
        for layer in (grown[0], grown[2], grown[4]):
            layer.weight.mul_(10)
            layer.bias.mul_(10)
    found = scales(subject_of(grown), SECONDS)
    # Homogeneous up to the biases of later layers, which matter less and less.
    assert found.figures["scales(0)"] == pytest.approx(10 * wanted, rel=1e-6)
    assert found.figures["scales(ratio)"] > 50 * section.figures["scales(ratio)"]
    assert found.figures["scales(fresh,ratio)"] == section.figures["scales(fresh,ratio)"]


def test_the_layer_that_has_grown_in_training_is_named_with_its_factor(undrawn) -> None:
    module = dense(6, 8, 8, 8, 8, 3)
    with torch.no_grad():
        module[4].weight.mul_(1e5)
    subject = subject_of(module)
    section = scales(subject, SECONDS)
    assert names(section) == ["scales(ratio)"]
    (finding,) = section.findings
    size = section.figures["scales(fresh,4)"]
    times = section.figures["scales(4)"] / size
    assert f"layer 4, with units {times:,.0f} times as large as there" in finding.sentence
    penalty = ran(finding, subject)["loss"]
    wanted = (module[4](module[:4](subject.inputs)).detach() / float(f"{size:.3g}")).square() / 2
    assert float(penalty.detach()) == pytest.approx(1e-4 * float(wanted.sum(1).mean()), rel=1e-5)


def test_scales_that_vanish_from_the_start_are_found(undrawn, capsys) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [part for _ in range(10) for part in (nn.Linear(20, 20, bias=False), nn.ReLU())]
    subject = subject_of(nn.Sequential(*layers), drawn(40, 20))
    section = scales(subject, SECONDS)
    # torch's own initialisation shrinks the mean square to a sixth in each ReLU layer.
    assert names(section) == ["scales(fresh,ratio)"]
    logs = math.log(section.figures["scales(fresh,ratio)"]) / (8 * math.log(6**-0.5))
    assert logs == pytest.approx(1.0, abs=0.25)
    (finding,) = section.findings
    told = re.search(
        r"units of layer 16 are ([\d,]+) times as small as those of layer 0", finding.sentence
    )
    assert float(told[1].replace(",", "")) == pytest.approx(1 / finding.value, rel=0.01)
    assert re.search(r"step is at layer \d+: 2\.\d+ times as small as", finding.sentence)
    ran(finding, subject)
    assert "take he: its scale is kept" in capsys.readouterr().out


def test_the_ratio_leaves_the_output_out() -> None:
    sizes = {"a": 2.0, "b": 6.0, "c": 1e9}
    assert ratio(sizes, ("a", "b", "c")) == 3.0
    assert ratio(sizes, ("a", "b")) == 3.0
    assert math.isnan(ratio(sizes, ("a",)))
    assert math.isnan(ratio(sizes | {"b": 0.0}, ("a", "b")))


def test_a_layer_that_looks_at_rare_inputs_is_heavier_than_fresh_ones(undrawn) -> None:
    inputs = drawn(300, 12)
    inputs[:, 0] = 0.01 * inputs[:, 0]
    inputs[:4, 0] = 5.0  # 4 of 300 are on
    module = dense(12, 8, 2)
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].weight[:, 0] = 1.0
    subject = subject_of(module, inputs)
    section = trained_tails(subject, SECONDS)
    assert names(section) == ["trained_tails(kurtosis,2)"]  # which sees the same
    # A share p that is on has kurtosis 1 / (p (1 - p)) - 3, less what the noise takes.
    p = 4 / 300
    found = section.figures["trained_tails(kurtosis,0)"]
    assert found == pytest.approx(1 / (p * (1 - p)) - 3, rel=0.05)
    assert section.figures["trained_tails(kurtosis,fresh,0)"] < 9
    assert "over inputs" in section.findings[0].sentence.lower()
    assert "loss" in ran(section.findings[0], subject)
    assert "over weights" in section.notes[0]


def test_tails_over_inputs_are_of_units_at_variance_one() -> None:
    values = drawn(2000, 5).double() * torch.tensor([1.0, 10.0, 1e-3, 0.0, 1e6]) + 7
    found = tails_over_inputs(values)
    assert found.values.shape == (2000, 4)
    assert found.kurtosis == pytest.approx(3, abs=4 * math.sqrt(24 / 8000))
    assert found.theta == pytest.approx(0.5, abs=0.15)
    few = tails_over_inputs(values[:50])
    assert few.theta is None
    assert math.isfinite(few.kurtosis)
    assert math.isnan(tails_over_inputs(torch.ones(50, 2, dtype=torch.float64)).kurtosis)


def test_a_network_as_initialised_is_like_fresh_ones() -> None:
    assert {check.name for check in CHECKS} == NAMES
    for name in NAMES:
        assert names(of_plain(name)) == []


def test_norms_of_fresh_copies_have_the_sample_s_statistics() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    subject = subject_of(module.eval(), 3 + 2 * drawn(40, 6))
    make, how = fresh_networks(subject, subject.inputs, copies=2)
    first, second = make()
    assert "themselves" in how
    for fresh in (first, second):
        assert not fresh[1].training
        values = fresh[0](subject.inputs)
        assert torch.allclose(fresh[1].running_mean, values.mean(0), atol=1e-5)
        assert fresh[1].momentum == 0.1
    assert not torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(next(iter(make()))[0].weight, first[0].weight)


def test_networks_that_cannot_initialise_themselves_get_gaussian_weights() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(6, 4))

        def forward(self, x):
            return x @ self.matrix

    subject = subject_of(nn.Sequential(Own(), nn.ReLU(), nn.Linear(4, 2)))
    _, how = fresh_networks(subject, subject.inputs)
    assert "Gaussian weights of He's scale" in how
    assert "0.matrix" in how


@pytest.mark.parametrize("kind", ["pictures", "tokens"])
def test_all_checks_run_on_models_and_leave_them_as_they_are(kind: str, undrawn) -> None:
    generator = torch.Generator().manual_seed(0)
    if kind == "pictures":
        module: nn.Module = SmallCNN(widths=(4, 8))
        inputs = torch.rand(24, 1, 8, 8, generator=generator)
    else:
        module = Transformer(vocab_size=11, dim=16, layers=1)
        inputs = torch.randint(11, (24, 6), generator=generator)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    report = audit(module, inputs, checks=sorted(NAMES), seconds=40)
    assert not report.failed
    refused = set() if kind == "pictures" else {"dead_units"}  # its activations are SiLU
    assert set(report.skipped) == refused
    assert set(report.sections) == NAMES - refused
    assert torch.equal(torch.get_rng_state(), state)
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Branching(nn.Module):
    """What torch.export cannot follow: hooks alone see its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.on = nn.ReLU()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        y = self.on(self.first(x))
        return self.last(y if float(y.sum()) > -1 else -y)


def test_networks_that_hooks_alone_see_are_looked_at_or_refused_in_words(
    undrawn,
) -> None:
    report = audit(Branching(), drawn(24, 6), checks=sorted(NAMES), seconds=40)
    assert report.subject.network.source == "hooks"
    assert not report.failed
    assert {"dead_units", "scales", "trained_tails"} <= set(report.sections)


def test_what_has_no_layers_or_few_inputs_is_refused() -> None:
    assert "no layer with weights" in str(has_no_layers(subject_of(nn.Flatten())))
    few = replace(plain(), inputs=plain().inputs[:3])
    assert "3 inputs are too few" in str(has_no_layers(few))
    with pytest.raises(InputError, match="allow more seconds"):
        looking.affordable(replace(plain(), seconds_each=100.0), 10.0, 2.0)


def test_layers_are_picked_evenly() -> None:
    subject = subject_of(dense(6, *[4] * 9, 2))
    assert [place.path for place in layers_of(subject, 3)] == ["0", "8", "18"]
    assert len(layers_of(subject)) == 10
