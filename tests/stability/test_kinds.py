"""Kinds of deformation: what is drawn, its norms, paired sizes, errors."""

from __future__ import annotations

import math

import pytest
import torch

from merkhet.core.deformations import deform, displacement_norms
from merkhet.core.errors import InputError
from merkhet.stability import Conditions, deformed
from merkhet.stability.kinds import DEFAULTS, UNITS, checked_sizes, draw

PICTURES = torch.rand(12, 1, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGNALS = PICTURES.flatten(2)


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("size", [0.3, 1.0])
def test_the_norms_a_curve_records_are_those_of_the_fields(kind: str, size: float) -> None:
    for inputs in (PICTURES, SIGNALS) if kind != "rotation" else (PICTURES,):
        moves = draw(inputs, kind, DEFAULTS)
        norms = displacement_norms(moves.field(size, slice(None)))
        for found, recorded in zip(norms, moves.norms(size), strict=True):
            assert found.max().item() == pytest.approx(recorded, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", UNITS)
def test_sizes_share_the_draw_and_slices_agree(kind: str) -> None:
    moves = draw(PICTURES, kind, DEFAULTS)
    whole = moves.field(0.5, slice(None))
    assert torch.equal(moves.field(0.5, slice(3, 8)), whole[3:8])
    assert torch.equal(draw(PICTURES, kind, DEFAULTS).field(0.5, slice(None)), whole)
    other = draw(PICTURES, kind, Conditions(seed=1)).field(0.5, slice(None))
    assert not torch.equal(other, whole)
    if kind in ("translation", "deformation"):
        assert torch.allclose(moves.field(1.5, slice(None)), 3 * whole, rtol=1e-12)
    assert len({tuple(field.flatten().tolist()) for field in whole}) > 1


def test_directions_of_translations() -> None:
    def headings(direction: str) -> torch.Tensor:
        moves = draw(PICTURES, "translation", Conditions(direction=direction))
        return moves.field(2.0, slice(None))[:, :, 0, 0]

    assert torch.allclose(headings("random").norm(dim=1), torch.tensor(2.0).double())
    assert headings("rows")[:, 0].unique().tolist() == [-2, 2]
    assert not headings("rows")[:, 1].any()
    assert headings("columns")[:, 1].unique().tolist() == [-2, 2]
    many = draw(torch.zeros(4000, 1, 2, 2), "translation", DEFAULTS)
    angles = torch.atan2(*many.field(1.0, slice(None))[:, :, 0, 0].unbind(1))
    counts = torch.histc(angles, bins=8, min=-math.pi, max=math.pi)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-squared, 7 degrees: 0.1 %


def test_smoothness_sets_the_gradient() -> None:
    moves = draw(PICTURES, "deformation", Conditions(smoothness=0.2))
    norms = displacement_norms(moves.field(1.5, slice(None)))
    assert torch.allclose(norms[0], torch.tensor(1.5, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(norms[1], torch.tensor(0.3, dtype=torch.float64), rtol=1e-9)
    still = draw(PICTURES, "deformation", Conditions(smoothness=0.0))
    assert displacement_norms(still.field(1.5, slice(None)))[1].max() == 0


def test_deformed_applies_the_draw_under_the_conditions() -> None:
    conditions = Conditions(seed=3, padding="reflection", interpolation="bicubic")
    field = draw(PICTURES, "rotation", conditions).field(20.0, slice(None))
    wanted = deform(PICTURES, field, padding="reflection", interpolation="bicubic")
    assert torch.equal(deformed(PICTURES, "rotation", 20.0, conditions=conditions), wanted)
    assert deformed(SIGNALS, "scaling", 0.1).shape == SIGNALS.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deformed(PICTURES, "rotate", 1.0), "no kind of deformation 'rotate'.*'rotation'"),
        (lambda: deformed(SIGNALS, "rotation", 1.0), "signals cannot be rotated"),
        (lambda: deformed(PICTURES[0, 0], "translation", 1.0), "cannot be deformed"),
        (lambda: deformed(PICTURES.long(), "translation", 1.0), "int64"),
        (lambda: deformed(PICTURES[:0], "translation", 1.0), "cannot be deformed"),
        (lambda: deformed(PICTURES, "translation", 0.0), "increasing numbers above 0"),
        (lambda: checked_sizes([1.0, 1.0]), "increasing"),
        (lambda: checked_sizes([1.0, math.inf]), "increasing"),
        (lambda: checked_sizes([math.nan]), "increasing"),
        (lambda: checked_sizes([]), "increasing"),
        (lambda: draw(PICTURES, "translation", Conditions(direction="up")), "direction 'up'"),
        (lambda: draw(PICTURES, "deformation", Conditions(smoothness=9.0)), "at most 2.82843"),
        (lambda: Conditions(batch_size=0), "batch_size 0: give 1"),
        (lambda: Conditions(pairs=-1), "pairs -1: give 0"),
    ],
)
def test_what_cannot_be_is_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
