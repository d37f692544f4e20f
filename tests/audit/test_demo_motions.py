"""The motions that the demo trains against, and what their effect is measured as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet import data
from merkhet.audit.demo_effects import Effect, effects
from merkhet.audit.demo_motions import KINDS, Motion
from merkhet.core.deformations import rotate
from merkhet.report import Figure, Finding


def finding(name: str) -> Finding:
    return Finding(name, 0.5, "", "", "", "", 0.5)


def test_a_finding_of_stability_names_its_motion() -> None:
    assert Motion.of(finding("stability(rotation,10)")) == Motion("rotation", 10.0)
    assert Motion.of(finding("stability(scaling,0.1)")) == Motion("scaling", 0.1)
    for other in ("accuracy", "stability(melting,3)", "stability(rotation,10", "cost(ffn)"):
        assert Motion.of(finding(other)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_motions_move_by_their_size_and_reproduce(kind: str) -> None:
    pictures = data.load("digits", limit=40).floats()
    small, large = Motion(kind, 0.1), Motion(kind, 0.4)
    assert small.words != large.words
    moved = [m.exactly(pictures, torch.Generator().manual_seed(1)) for m in (small, large)]
    near, far = ((one - pictures).norm() for one in moved)
    assert 0 < near < far
    again = small.exactly(pictures, torch.Generator().manual_seed(1))
    assert torch.equal(again, moved[0])
    spread = small.at_random(pictures, torch.Generator().manual_seed(1))
    assert (spread - pictures).norm() < far


def test_a_rotation_is_to_either_side() -> None:
    pictures = data.load("digits", limit=64).floats()
    turned = Motion("rotation", 10).exactly(pictures, torch.Generator().manual_seed(0))
    left, right = rotate(pictures, 10.0), rotate(pictures, -10.0)
    either = [
        torch.allclose(one, a, atol=1e-5) or torch.allclose(one, b, atol=1e-5)
        for one, a, b in zip(turned, left, right, strict=True)
    ]
    assert all(either)


class Constant(nn.Module):
    """Always the same class."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[0].expand(len(pictures), 10)


class Brightest(nn.Module):
    """The class is the place of the brightest of ten pixels: motions change it."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1)[:, 20:30]


def test_effects_are_those_of_the_networks() -> None:
    digits = data.load("digits", limit=400)
    found = effects(Brightest(), Constant(), digits, Motion("translation", 2.0), seed=0)
    changed, _, plain = found
    assert changed.before.value > 20
    assert changed.after.value == 0
    assert changed.verdict == "better"
    share = 100 * float((digits.labels == 0).double().mean())
    assert plain.after.value == pytest.approx(share)
    assert plain.change.value == pytest.approx(plain.after.value - plain.before.value)
    same = effects(Brightest(), Brightest(), digits, Motion("translation", 2.0), seed=0)
    assert [one.verdict for one in same] == ["no clear change"] * 3
    assert same[0].before.value == pytest.approx(changed.before.value)  # the same motions


def test_an_effect_says_what_is_worse() -> None:
    before, after = Figure(90.0, "%", (89.0, 91.0)), Figure(85.0, "%", (84.0, 86.0))
    lost = Effect("accuracy", before, after, Figure(-5.0, "points", (-6.0, -4.0)), 1)
    assert lost.verdict == "worse"
    assert "90.0 % [89.0, 91.0] before" in lost.sentence
    assert "-5.0 [-6.0, -4.0] points: worse" in lost.sentence
    assert Effect("changed", before, after, lost.change, -1).verdict == "better"
