"""Attacks of the Adversarial Robustness Toolbox where it is installed, else the refusal."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.rkhs.attacked import attacked
from merkhet.rkhs.attacks import PGD
from merkhet.rkhs.robustness import PLAIN, TOOLBOX, evaluate_robustness
from merkhet.rkhs.threat import Examples, Threat
from merkhet.rkhs.toolbox import APGD, Square

INSTALLED = importlib.util.find_spec("art") is not None
here = pytest.mark.skipif(not INSTALLED, reason="the extra robust is not installed")


def network(classes: int = 4, side: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))


def examples_of(model: nn.Module, side: int = 10, count: int = 24) -> Examples:
    x = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Examples(x, model(x).argmax(1), torch.arange(count))


@pytest.mark.skipif(INSTALLED, reason="the extra robust is installed")
@pytest.mark.parametrize("name", TOOLBOX)
def test_without_the_toolbox_the_refusal_says_what_to_install(name) -> None:
    model = network()
    examples = examples_of(model)
    with pytest.raises(InputError, match=r"pip install 'merkhet\[robust\]'"):
        evaluate_robustness(model, (examples.x, examples.y), radii=(0.1,), attacks=(name,))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="ce, dlr"):
        APGD("margin")
    with pytest.raises(InputError, match="1 or more of each"):
        APGD(starts=0)
    with pytest.raises(InputError, match="give 1 or more"):
        Square(0)


@here
@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", [APGD("ce", 20), APGD("dlr", 20), Square(60)])
def test_points_are_within_the_ball_and_judged_by_us(attack, norm, clip) -> None:
    model = network()
    examples = examples_of(model)
    radius = {"l2": 0.2, "linf": 0.02}[norm]
    with attacked(model) as seen:
        points, wrong = attack.find(seen, examples, Threat(norm, clip), radius)
        strong = PGD("margin").find(seen, examples, Threat(norm, clip), radius)[1]
    assert float(Threat(norm, clip).sizes(examples.x, points).max()) <= radius
    assert clip is None or (float(points.min()) >= 0 and float(points.max()) <= 1)
    assert torch.equal(model(points).argmax(1) != examples.y, wrong)
    # Of a linear network PGD finds all there is, up to those at the very boundary.
    assert int((wrong & ~strong).sum()) <= 1
    if isinstance(attack, APGD):
        assert int((strong & ~wrong).sum()) <= 2


@here
def test_the_worst_is_of_all_and_global_random_numbers_are_left() -> None:
    model = network()
    examples = examples_of(model)
    data, before = (examples.x, examples.y), np.random.get_state()[1].copy()  # noqa: NPY002
    run = {"radii": (0.1, 0.3), "steps": 10, "attacks": (*PLAIN[:2], "apgd-ce", Square(30))}
    found = evaluate_robustness(model, data, **run)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(found.distances, evaluate_robustness(model, data, **run).distances)
    assert min(found.accuracy(name) for name in found.stands) >= found.accuracy()
    assert all(parameter.grad is None for parameter in model.parameters())


@here
def test_square_shows_that_rounded_inputs_mask_gradients() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network((x * 20).round() / 20)

    model = Rounded()
    examples = examples_of(model)
    run = {"radii": (0.1,), "attacks": ("pgd-margin", Square(80)), "restarts": 0}
    found = evaluate_robustness(model, (examples.x, examples.y), "linf", **run)
    assert found.accuracy("pgd-margin")[0] > found.accuracy("square")[0]
    assert "gradient_free" in {warning.name for warning in found.warnings}


@here
def test_what_the_toolbox_cannot_attack_is_refused_by_name() -> None:
    two = network(2)
    examples = examples_of(two)
    with pytest.raises(InputError, match="three classes"):
        evaluate_robustness(two, (examples.x, examples.y), radii=(0.1,), attacks=("apgd-dlr",))
    soft = nn.Sequential(network(), nn.Softmax(1))
    data = (examples.x, soft(examples.x).argmax(1))
    with pytest.raises(InputError, match="leave the softmax out"):
        evaluate_robustness(soft, data, radii=(0.1,), attacks=("apgd-ce",), certify=False)
    flat = nn.Linear(100, 3)
    rows = torch.rand(5, 100)
    with pytest.raises(InputError, match="square takes pictures"):
        evaluate_robustness(flat, (rows, flat(rows).argmax(1)), radii=(0.1,), attacks=("square",))
    small = network(4, side=6)
    tiny = examples_of(small, side=6)
    with pytest.raises(InputError, match="10 pixels or more for l2"):
        evaluate_robustness(small, (tiny.x, tiny.y), radii=(0.1,), attacks=("square",))


@here
@pytest.mark.parametrize("side", [*range(10, 22), 28, 32])
def test_square_takes_pictures_of_every_side(side) -> None:
    model = network(3, side)
    examples = examples_of(model, side, count=4)
    with attacked(model) as seen:
        for norm in ("l2", "linf"):
            Square(6).find(seen, examples, Threat(norm), 0.01)
