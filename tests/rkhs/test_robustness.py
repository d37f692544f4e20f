"""Robust accuracy of linear classifiers in closed form; masked gradients; wrong certificates."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.errors import InputError
from merkhet.data import Pictures
from merkhet.rkhs.attacks import PGD, Attack, Noise
from merkhet.rkhs.robustness import evaluate_robustness
from merkhet.rkhs.smallest_flips import smallest_flips

SIDE = 6


class Wrapped(nn.Module):
    """A network with something before and after it."""

    def __init__(self, network: nn.Module, before=None, after=None) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        scores = self.network(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


def linear(seed: int = 0) -> nn.Sequential:
    """Return a classifier of two classes that divides [0, 1]^36 near its middle."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)).double()
    with torch.no_grad():
        scores = model(torch.full((1, 1, SIDE, SIDE), 0.5).double())
        model[1].bias -= scores[0]
    return model


def trained() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a network that tells apart which quarter is bright, and data."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (300,), generator=generator)
    x = 0.6 * torch.rand(300, 1, SIDE, SIDE, generator=generator)
    for row, label in enumerate(y.tolist()):
        top, left = 3 * (label // 2), 3 * (label % 2)
        x[row, 0, top : top + 3, left : left + 3] += 0.25
    torch.manual_seed(0)
    parts = (nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, 4))
    model = nn.Sequential(*parts)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[:240]), y[:240]).backward()
        optimiser.step()
    return model, (x[240:], y[240:])


MODEL, DATA = trained()
QUICK = {"certify": False, "check_masking": False}


def labelled(model: nn.Module, count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()
    return x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_linear_classifier_has_its_closed_form(norm) -> None:
    model = linear()
    x, y = labelled(model)
    y[:6] = 1 - y[:6]  # wrong from the start
    row = (model[1].weight[0] - model[1].weight[1]).detach()
    scores = model(x).detach()
    length = row.abs().sum() if norm == "linf" else row.norm()
    exact = (scores[:, 0] - scores[:, 1]).abs() / length
    exact[:6] = 0.0
    radii = [0.0, *exact[6:].quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()]
    found = evaluate_robustness(model, (x, y), norm, radii, clip=None)
    wanted = torch.stack([exact > radius for radius in radii])
    assert found.clean_accuracy == 54 / 60
    for name in ("pgd", "pgd-margin", "worst"):
        # A point on the boundary is settled a rounding inside: 1e-6 of the radius.
        differs = found.standing(name) != wanted
        near = (exact / torch.tensor(radii)[:, None] - 1).abs() < 1e-6
        assert not bool((differs & ~near).any()), name
    assert found.warnings == ()
    if norm == "l2":
        assert found.certified is not None
        # For two classes the certificate is the distance; 1e-9 of the logits is taken off.
        torch.testing.assert_close(found.certified, exact, rtol=1e-5, atol=1e-7)
        assert found.accuracy("certified") == found.accuracy("worst")


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_accuracy_falls_with_the_radius_from_the_clean_one(norm) -> None:
    found = evaluate_robustness(MODEL, DATA, norm, (0.0, 0.05, 0.1, 0.3, 2.0), steps=10)
    for name in ("pgd", "pgd-margin", "noise", "worst"):
        stands = found.standing(name)
        assert torch.equal(stands[0], found.clean)
        assert not bool((stands[1:] & ~stands[:-1]).any())
        assert found.accuracy(name)[-1] <= found.clean_accuracy
    assert torch.equal(found.worst, torch.stack(list(found.stands.values())).all(0))
    # A flip was found within the last radius exactly where the example did not stand it.
    assert torch.equal(found.distances <= 2.0, ~found.worst[-1])
    assert float(found.distances[found.distances.isfinite()].max()) <= 2.0


def test_limits_only_help_the_network() -> None:
    settings = {"attacks": (PGD("margin"),), **QUICK}
    for radius in (0.1, 0.3, 0.6):
        inside = evaluate_robustness(MODEL, DATA, radii=(radius,), **settings)
        anywhere = evaluate_robustness(MODEL, DATA, radii=(radius,), clip=None, **settings)
        # PGD is a search: it may miss one in twenty with the larger set.
        assert int((anywhere.worst & ~inside.worst).sum()) <= 3
        assert inside.accuracy()[0] >= anywhere.accuracy()[0]


def test_seeds_decide_and_batches_do_not() -> None:
    def run(**settings):
        found = evaluate_robustness(
            MODEL, DATA, radii=(0.3, 0.6), attacks=(PGD(steps=5), Noise(3)), **QUICK, **settings
        )
        return found.distances

    assert torch.equal(run(seed=1), run(seed=1))
    assert not torch.equal(run(seed=1), run(seed=2))
    # Sums of another order differ by rounding, which steps of an attack carry on.
    torch.testing.assert_close(run(seed=1), run(seed=1, batch_size=7), rtol=1e-3, atol=1e-4)


def test_certified_accuracy_is_below_that_under_attacks() -> None:
    radii = (0.0, 0.02, 0.05, 0.1)
    found = evaluate_robustness(MODEL, DATA, radii=radii, certify=True, check_masking=False)
    certified = found.standing("certified")
    assert not bool((certified & ~found.worst).any())
    assert 0 < found.accuracy("certified")[1] <= found.accuracy()[1]
    assert found.accuracy("certified")[0] == found.clean_accuracy


def test_a_wrong_certificate_is_an_error_of_ours(monkeypatch) -> None:
    right = evaluate_robustness(MODEL, DATA, radii=(0.6,), **QUICK)
    flipped = right.distances.clone()
    assert (
        evaluate_robustness(
            MODEL, DATA, radii=(0.6,), certify=flipped, check_masking=False
        ).certified
        is not None
    )
    for clip in ((0.0, 1.0), None):
        wrong = torch.zeros(len(flipped)).double()
        row = int(((flipped > 0) & (flipped < math.inf)).nonzero()[0])
        wrong[row] = 5.0
        settings = {"radii": (0.6,), "clip": clip, "check_masking": False}
        with pytest.raises(InputError, match=f"flips example {row} .* given as certify"):
            evaluate_robustness(MODEL, DATA, certify=wrong, **settings)
        with monkeypatch.context() as patch:
            patch.setattr("merkhet.rkhs.contradictions._computed", lambda *_, found=wrong: found)
            with pytest.raises(AssertionError, match=f"flips example {row} at distance"):
                evaluate_robustness(MODEL, DATA, **settings)


def test_flips_by_rounding_alone_are_noted() -> None:
    class Coarse(nn.Module):
        """The first class wins, unless 1 + x is rounded to 1."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([(x + 1) - 1, x / 2], 1)

    x, y = torch.full((2, 1), 1e-9), torch.zeros(2).long()
    settings = {"radii": (0.0,), "certify": torch.ones(2)}
    found = evaluate_robustness(Coarse(), (x, y), **settings)
    assert found.clean_accuracy == 0
    assert found.notes == (
        "2 certified examples flip within their radius by rounding alone: not in float64.",
    )


def names(found) -> set[str]:
    return {warning.name for warning in found.warnings}


def test_an_honest_network_raises_no_warning() -> None:
    assert names(evaluate_robustness(MODEL, DATA, radii=(0.3,), certify=False)) == set()


def test_rounded_inputs_are_told() -> None:
    masked = Wrapped(MODEL, before=lambda x: (x * 8).round() / 8)
    found = evaluate_robustness(masked, DATA, radii=(0.5, 2.0), certify=False)
    assert {"zero_gradient", "gradient_free"} <= names(found)
    assert "zero_gradient" in str(found)


def test_saturated_scores_are_told_and_attacked_all_the_same() -> None:
    masked = Wrapped(MODEL, after=lambda scores: scores * 1e6)
    found = evaluate_robustness(masked, DATA, radii=(0.3,), certify=False)
    plain = evaluate_robustness(MODEL, DATA, radii=(0.3,), certify=False)
    assert "saturated" in names(found)
    assert abs(found.accuracy()[0] - plain.accuracy()[0]) <= 0.05


def test_a_network_that_never_answers_otherwise_stands_however_far_the_attack_goes() -> None:
    constant = Wrapped(MODEL, after=lambda scores: 0 * scores + torch.eye(4)[0])
    data = DATA[0], torch.zeros(len(DATA[0])).long()
    for clip in ((0.0, 1.0), None):
        found = evaluate_robustness(constant, data, radii=(0.1,), certify=False, clip=clip)
        assert {"zero_gradient", "unbounded"} <= names(found)


def test_a_random_network_is_told() -> None:
    noisy = Wrapped(MODEL, after=lambda scores: scores + 0.1 * torch.randn_like(scores))
    assert "random" in names(evaluate_robustness(noisy, DATA, radii=(0.1,), certify=False))


def test_pictures_bytes_and_compiled_networks_are_taken() -> None:
    x, y = DATA
    images = (x * 255).round().to(torch.uint8)
    pictures = Pictures(images, y, tuple("abcd"))
    given = evaluate_robustness(MODEL, pictures, radii=(0.2,), **QUICK)
    plain = evaluate_robustness(MODEL, (images.float() / 255, y), radii=(0.2,), **QUICK)
    compiled = evaluate_robustness(torch.compile(MODEL), pictures, radii=(0.2,), **QUICK)
    for other in (plain, compiled):
        assert torch.equal(given.distances, other.distances)


def test_batch_norm_in_training_mode_is_evaluated_and_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), MODEL).train()
    kept = model[0].running_mean.clone()
    quick = {"radii": (0.2,), "attacks": (Noise(2),), "check_masking": False}
    found = evaluate_robustness(model, DATA, **quick)
    assert model.training
    assert torch.equal(model[0].running_mean, kept)
    assert torch.equal(found.clean, evaluate_robustness(model.eval(), DATA, **quick).clean)


def test_the_result_is_json_and_a_table() -> None:
    found = evaluate_robustness(MODEL, DATA, radii=(0.1, 0.2), steps=5, check_masking=False)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["under"]["worst"]["accuracy"] == list(found.accuracy())
    low, high = told["under"]["pgd"]["intervals"][0]
    assert low <= told["under"]["pgd"]["accuracy"][0] <= high
    assert [line.split()[0] for line in str(found).splitlines()[:6]] == [
        "l2", "pgd", "pgd-margin", "noise", "worst", "certified",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no attack of this result 'square'"):
        found.accuracy("square")


def test_where_nothing_can_be_certified_it_is_said() -> None:
    quick = {"radii": (0.1,), "attacks": (Noise(1),), "check_masking": False}
    single = Wrapped(MODEL, before=lambda x: x.float())  # does not run in float64
    found = evaluate_robustness(single, DATA, **quick)
    assert found.certified is None
    assert found.notes[0].startswith("Nothing is certified: ")
    with pytest.raises(InputError):
        evaluate_robustness(single, DATA, certify=True, **quick)
    product = Wrapped(MODEL, before=lambda x: x * x.sum((1, 2, 3), keepdim=True) / 10)
    unbounded = evaluate_robustness(product, DATA, **quick)
    assert float(unbounded.certified.max()) == 0
    assert "No example has a certified radius" in str(unbounded)
    with pytest.raises(InputError, match="l2 distances"):
        evaluate_robustness(MODEL, DATA, "linf", (0.1,), certify=True)


class Named(Attack):
    """An attack that returns one point, whatever is asked."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def search(self, network, examples, threat, radius) -> Tensor:
        return examples.x[:1]


def test_a_point_that_a_larger_ball_shows_counts_in_the_smaller_one() -> None:
    class Late(Named):
        """It looks in balls of a radius above 1 alone, and finds what is near."""

        def search(self, network, examples, threat, radius) -> Tensor:
            return examples.x.flip(1) if radius > 1 else examples.x

    x = torch.tensor([[0.3, 0.7]]).double()
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data.copy_(torch.eye(2))
    found = evaluate_robustness(
        model, (x, torch.ones(1).long()), radii=(0.5, 0.6, 2.0), attacks=Late("late"), **QUICK
    )
    assert found.standing("late").flatten().tolist() == [True, True, False]
    assert found.worst.flatten().tolist() == [True, False, False]  # it is at 0.4 * sqrt(2)


def test_inference_mode_changes_nothing() -> None:
    settings = {"radii": (0.3,), "attacks": "pgd", "steps": 5, "check_masking": False}
    wanted = evaluate_robustness(MODEL, DATA, **settings)
    with torch.inference_mode():
        given = DATA[0].clone(), DATA[1].clone()
        found = evaluate_robustness(MODEL, given, **settings)
        flips = smallest_flips(MODEL, given, steps=2, restarts=0)
    assert found.certified is not None
    assert torch.equal(found.distances, wanted.distances)
    assert torch.equal(found.certified, wanted.certified)
    assert bool(flips.found.all())


def test_radii_that_rounding_swallows_are_noted() -> None:
    x, y = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.zeros(4)
    model = nn.Linear(3, 2).bfloat16()
    quick = {"attacks": "noise", **QUICK}
    found = evaluate_robustness(model, (x, y.long()), radii=(0.001, 0.5), **quick)
    assert "Within 0.001 attacks cannot move: bfloat16" in str(found)
    assert evaluate_robustness(model, (x, y.long()), radii=(0.5,), **quick).notes == ()


X, Y = DATA


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"data": (X * 4 - 1, Y)}, "normalisation inside the network, or clip=None"),
        ({"data": (X, Y + 3)}, "labels from 0 to 3"),
        ({"data": (X, Y - 1)}, "labels go from -1"),
        ({"data": (X, Y.int())}, "give int64"),
        ({"data": (X, Y[:3])}, "give int64"),
        ({"data": ((X * 255).byte(), Y)}, "bytes / 255"),
        ({"data": (X * math.nan, Y)}, "input 0 holds NaN"),
        ({"data": Pictures((X * 255).byte())}, "no labels"),
        ({"radii": (0.2, 0.1)}, "increasing"),
        ({"radii": (0.1, 0.1)}, "increasing"),
        ({"radii": (-0.1,)}, "increasing"),
        ({"radii": (math.nan,)}, "increasing"),
        ({"radii": ()}, "increasing"),
        ({"norm": "l1"}, "l2, linf"),
        ({"attacks": ("pdg",)}, "Did you mean 'pgd'"),
        ({"attacks": ()}, "one or more"),
        ({"attacks": (PGD(), PGD(steps=2))}, "different names"),
        ({"data": X}, "data is Tensor: give"),
        ({"data": [(X, Y)]}, r"data is a list of 1 \(tuple\): give"),
        ({"data": (X, Y.tolist())}, r"data is a tuple of 2 \(Tensor, list\)"),
        (
            {"data": (X.bfloat16(), Y)},
            r"does not run on inputs torch.bfloat16 .* dtype that it takes",
        ),
        ({"data": (X[..., :3, :3], Y)}, r"does not run on inputs .* \(60, 1, 3, 3\)"),
        ({"data": (X[:, :0], Y)}, "give floats"),
        ({"radii": "0.5"}, "give numbers"),
        ({"radii": None}, "give numbers"),
        ({"attacks": None}, "give names or attacks"),
        ({"attacks": (Named("worst"),)}, "rename yours"),
        ({"attacks": Named("half")}, r"the attack half returned \(1, 1, "),
        ({"steps": 2.5}, "1 step or more"),
        ({"seed": 1.5}, "whole number"),
        ({"clip": 1}, "give \\(least, largest\\)"),
        ({"clip": (0, None)}, "give \\(least, largest\\)"),
        ({"certify": "yes"}, "certify is of type str"),
        ({"batch_size": 2.5}, "whole number"),
        ({"steps": 0}, "1 step or more"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"certify": torch.ones(3)}, r"give radii \(60,\)"),
        ({"certify": torch.full((60,), math.nan)}, "0 or more"),
        ({"model": Wrapped(MODEL, after=lambda s: s * math.nan)}, "scores of input 0 are NaN"),
        ({"model": Wrapped(MODEL, after=lambda s: s[:, :1])}, "two classes or more"),
        ({"model": nn.Identity()}, r"scores \(n, classes\)"),
    ],
)
def test_bad_input_is_refused_by_name(given, match) -> None:
    with pytest.raises(InputError, match=match):
        evaluate_robustness(**{"model": MODEL, "data": DATA, "radii": (0.1,), **given})
