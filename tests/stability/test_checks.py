from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from merkhet.audit.subject import make_subject
from merkhet.core.errors import InputError
from merkhet.models import ResNet18, SmallCNN, Transformer
from merkhet.report import Subject
from merkhet.stability import checks

GENERATOR = torch.Generator().manual_seed(0)


class ByMass(nn.Module):
    """Scores by total brightness: nothing inside the border can change them by moving."""

    def forward(self, x: Tensor) -> Tensor:
        mass = x.sum((1, 2, 3))
        return torch.stack([mass, 100 - mass], 1)


class ByPlace(nn.Module):
    """Scores by single pixels: every motion changes them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, 100:110]


def subject_of(module: nn.Module, count: int = 40) -> Subject:
    pictures = torch.zeros(count, 1, 16, 16)
    generator = torch.Generator().manual_seed(0)  # of its own: tests run in any order
    pictures[:, :, 5:11, 5:11] = torch.rand(count, 1, 6, 6, generator=generator)
    labels = torch.arange(count) % 2
    return make_subject(module, (pictures, labels), samples=count)


def test_a_network_that_looks_at_mass_alone_is_found_stable() -> None:
    section = checks.stability(subject_of(ByMass()), 20.0)
    assert section.figures["stability(translation,1)"] < 1e-5
    assert section.figures["labels_changed(translation,1)"] == 0
    assert not [found for found in section.findings if "translation" in found.name]


@pytest.fixture
def linear() -> nn.Module:
    """Return a linear network of fixed random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 3))


def test_a_network_that_looks_at_places_is_found_unstable(linear: nn.Module) -> None:
    section = checks.stability(subject_of(linear), 20.0)
    found = {finding.name: finding for finding in section.findings}
    finding = found["stability(translation,1)"]
    assert finding.value == section.figures["stability(translation,1)"] > 0.3
    share = finding.value / section.figures["stability(translation,yardstick)"]
    assert f"{share:.2f} times as far" in finding.sentence
    assert finding.weight > 0.5


def test_the_code_of_every_remedy_runs(linear: nn.Module) -> None:
    section = checks.stability(replace(subject_of(linear), labels=None), 20.0)
    assert len(section.findings) == len(checks.MOTIONS)
    for finding in section.findings:
        space = {"inputs": torch.rand(4, 1, 16, 16)}
        exec(finding.code, space)
        assert space["moved"].shape == (4, 1, 16, 16)
        assert bool(space["moved"].isfinite().all())


def test_layers_are_spread_from_first_to_last() -> None:
    subject = make_subject(ResNet18(width=0.125), torch.rand(4, 3, 32, 32, generator=GENERATOR))
    layers = checks.inner_layers(subject)
    assert len(layers) == checks.INNER_LAYERS
    paths = [path for path, _ in subject.module.named_modules()]
    assert [paths.index(path) for path in layers] == sorted(paths.index(path) for path in layers)
    cnn = make_subject(SmallCNN(), torch.rand(4, 1, 28, 28, generator=GENERATOR))
    assert checks.inner_layers(cnn)[0] == "features.0"


def test_a_module_called_twice_is_not_a_layer() -> None:
    shared = nn.ReLU()
    parts = [
        nn.Conv2d(1, 2, 3),
        shared,
        nn.Conv2d(2, 2, 3),
        shared,
        nn.Flatten(),
        nn.Linear(288, 2),
    ]
    subject = make_subject(nn.Sequential(*parts), torch.rand(4, 1, 16, 16, generator=GENERATOR))
    assert "1" not in checks.inner_layers(subject)


def test_signals_are_measured_without_rotation() -> None:
    module = nn.Sequential(nn.Conv1d(2, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten())
    signals = torch.randn(30, 2, 50, generator=GENERATOR)
    section = checks.stability(make_subject(module, signals), 10.0)
    assert not any("rotation" in name for name in section.figures)
    assert "stability(translation,4)" in section.figures


def test_what_cannot_be_moved_is_refused_with_the_reason() -> None:
    tokens = torch.randint(0, 11, (20, 8), generator=GENERATOR)
    language = make_subject(Transformer(11, dim=16, layers=1), tokens)
    assert "tokens" in (checks.refuse(language) or "")
    few = subject_of(ByMass(), count=8)
    assert "8 inputs are too few" in (checks.refuse(few) or "")
    assert checks.refuse(subject_of(ByMass())) is None


class Slow(ByMass):
    """Takes a millisecond for each picture."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.001 * len(x))
        return super().forward(x)


def test_the_time_decides_how_many_inputs() -> None:
    subject = subject_of(Slow(), count=1000)
    start = time.perf_counter()
    section = checks.stability(subject, 8.0)  # room for a machine ten times as slow
    assert time.perf_counter() - start < 32
    used = int(section.notes[0].split()[0])
    assert checks.FEWEST <= used < 400
    with pytest.raises(InputError, match=r"16 inputs, .* need about \d+ s and 0 s are left"):
        checks.stability(subject, 0.1)


def test_identical_inputs_are_held_against_the_output_itself() -> None:
    same = torch.rand(1, 1, 16, 16, generator=GENERATOR).repeat(20, 1, 1, 1)
    section = checks.stability(make_subject(ByPlace(), same), 20.0)
    found = {finding.name: finding for finding in section.findings}
    assert found["stability(translation,1)"].value > 0.1
    assert "of its length" in found["stability(translation,1)"].sentence


def test_a_map_that_moves_with_its_input_is_not_called_unstable() -> None:
    subject = make_subject(nn.Conv2d(1, 2, 3), torch.rand(20, 1, 16, 16, generator=GENERATOR))
    assert "equivariance_error" in (checks.refuse(subject) or "")


def test_sizes_in_pixels_grow_with_the_picture() -> None:
    subject = subject_of(ByMass())
    wide = replace(subject, inputs=torch.zeros(20, 1, 128, 96))
    translation = next(motion for motion in checks.MOTIONS if motion.kind == "translation")
    assert checks.scaled(translation, subject).standard == 1
    assert checks.scaled(translation, wide).standard == 8
    assert (
        checks.scaled(translation, replace(subject, inputs=wide.inputs[..., :8, :8])).standard
        == 0.5
    )
    rotation = next(motion for motion in checks.MOTIONS if motion.kind == "rotation")
    assert checks.scaled(rotation, wide) == rotation


@pytest.mark.parametrize("kind", [motion.kind for motion in checks.MOTIONS])
def test_every_kind_has_a_curve_in_the_table(kind: str) -> None:
    section = checks.stability(subject_of(ByPlace()), 5.0)
    assert any(row[0].startswith(kind) for row in section.tables[0].rows)
