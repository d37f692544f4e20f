"""Penalties in words: what they make, the way back, and mistakes that are told by their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.rkhs.adversarial import AdversarialPenalty
from merkhet.rkhs.expressions import PENALTIES, describe, parse_penalty
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.penalty import Penalty
from merkhet.rkhs.spectral import SpectralPenalty

X = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 4


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


def value(penalty: Penalty | None) -> float:
    """Return a penalty's value on one network; what it draws is the same each time."""
    assert penalty is not None
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return penalty(network(), X, Y)[0].item()


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("gradient", GradientPenalty()),
        ("gradient()", GradientPenalty()),
        ("gradient*0.01", 0.01 * GradientPenalty()),
        ("0.01*gradient", 0.01 * GradientPenalty()),
        ("2 * gradient * .5e1", 10.0 * GradientPenalty()),
        ("gradient(mean, true)", GradientPenalty("mean", exact=True)),
        ("gradient(exact=True, reduction=mean)", GradientPenalty("mean", exact=True)),
        (
            "gradient*0.01 + spectral(0.8)",
            0.01 * GradientPenalty() + SpectralPenalty(0.8),
        ),
        (
            " spectral(target=0.8,norm=reshaped)+3*loss_gradient(1)+ gradient ",
            SpectralPenalty(0.8, "reshaped") + 3.0 * LossGradientPenalty(1) + GradientPenalty(),
        ),
        ("adversarial(0.5, select=all)", AdversarialPenalty(0.5, select="all")),
        ("adversarial_loss(0.5, linf)", AdversarialLoss(0.5, "linf")),
        ("adversarial_loss(0.5, clip=(0, 1))", AdversarialLoss(0.5, clip=(0, 1))),
    ],
)
def test_an_expression_is_the_penalty(text: str, penalty: Penalty) -> None:
    found = parse_penalty(text)
    assert value(found) == pytest.approx(value(penalty), rel=1e-6)
    assert value(found) > 0


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "gradient",
        "0.0123456789*gradient(reduction=mean)",
        "gradient + 1e-07*spectral(target=0.8)",
        "0.5*adversarial(radius=0.25, select=all) + spectral(norm=reshaped) + gradient(exact=true)",
        "adversarial_loss(radius=0.5, norm=linf, clip=(0, 1))",
        "deformation + tangent",
    ],
)
def test_the_description_is_read_as_the_same(text: str) -> None:
    assert describe(parse_penalty(text)) == text


def test_every_penalty_is_known_by_a_name_and_described() -> None:
    for name in PENALTIES:
        arguments = "(0.5)" if name.startswith("adversarial") else ""
        told = describe(parse_penalty(f"2*{name}{arguments}"))
        assert told.startswith(f"2.0*{name}")
        assert describe(parse_penalty(told)) == told


def test_factors_of_sums_go_to_their_terms() -> None:
    both = 0.5 * (GradientPenalty() + 4.0 * SpectralPenalty())
    assert describe(both) == "0.5*gradient + 2.0*spectral"
    assert value(parse_penalty(describe(both))) == pytest.approx(value(both))

    class Other(Penalty):
        def measure(self, seen: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            raise NotImplementedError

    with pytest.raises(InputError, match="Other has no name in expressions"):
        describe(Other())


def test_nothing_is_no_penalty() -> None:
    assert parse_penalty(" None ") is None
    assert describe(None) == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at its end: expected number or word"),
        ("spectal", "at 'spectal', place 1: no penalty 'spectal'"),
        ("gradient + spectal(1)", "place 12: no penalty 'spectal'"),
        ("spectal", "Did you mean 'spectral'?"),
        ("gradient + none", "none stands alone"),
        ("gradient +", "at its end: expected number or word"),
        ("gradient spectral", "at 'spectral', place 10: expected + or end"),
        ("gradient*spectral", "place 10: penalties are added, not multiplied"),
        ("0.5", "place 1: give a penalty with the factor, one of adversarial"),
        ("gradient - spectral", "at '-', place 10: expected + or end"),
        ("-1*gradient", "at '-', place 1: expected number or word"),
        ("1e999*gradient", "the factor is not finite"),
        ("gradient & spectral", "at '&', place 10: no such sign"),
        ("__import__('os')", "at '_', place 1: no such sign"),
        ("gradient(reduction=most)", "no reduction 'most'"),
        ("gradient(reducton=mean)", "Did you mean 'reduction'?"),
        ("gradient(0.5", "at its end: expected , or )"),
        ("gradient(mean, reduction=sup)", "reduction is given twice"),
        ("gradient(reduction=sup, reduction=sup)", "reduction is given twice"),
        ("gradient(exact=true, mean)", "at 'mean', place 22: arguments by name come last"),
        ("gradient(mean, true, 3)", "gradient takes gradient(reduction, exact)"),
        ("gradient(generator=1)", "no argument of gradient 'generator'"),
        ("adversarial", "adversarial needs radius: write adversarial(radius=1)"),
        ("adversarial(-1)", "at 'adversarial', place 1: "),
        ("adversarial(abc)", "at 'adversarial', place 1: "),
        ("spectral(-0.8)", "give a finite norm from 0 on"),
        ("spectral(-mean)", "at 'mean', place 11: expected number"),
        ("adversarial_loss(1, clip=(0, 1)", "at its end: expected , or )"),
        ("gradient(" + "(" * 5000, "at '(', place 11: expected number or word"),
        ("adversarial(" + "9" * 5000 + ")", "radius = inf: give a positive number"),
    ],
)
def test_a_mistake_is_told_with_its_place_in_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_penalty(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
