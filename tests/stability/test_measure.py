"""Stability curves against what the mathematics says they are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merkhet.core.deformations import translate
from merkhet.core.errors import InputError
from merkhet.stability import (
    Conditions,
    Layer,
    StabilityCurve,
    measure_yardsticks,
    pooling_gap,
    stability_curve,
    stability_curves,
)

SIZES = [0.25, 0.5, 1.0, 2.0, 4.0]
AROUND = Conditions(padding="circular")


def smooth(count: int = 40, side: int = 16, seed: int = 0) -> Tensor:
    """Pictures of few waves, periodic, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(count, 1, 3, 3, generator=generator, dtype=torch.float64)
    spectrum = torch.zeros(count, 1, side, side, dtype=torch.complex128)
    spectrum[..., :3, :3] = torch.fft.fft2(low)
    pictures: Tensor = torch.fft.ifft2(spectrum).real * side**2
    return pictures


def small_cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 64, 3),
        ).double()


def test_the_identitys_curve_is_the_distance_computed_directly() -> None:
    inputs = smooth()
    conditions = Conditions(padding="circular", direction="rows", batch_size=7)
    found = stability_curve(lambda x: x, inputs, "translation", SIZES, conditions=conditions)
    length = inputs.flatten(1).norm(dim=1)
    for size, mean in zip(SIZES, found.mean, strict=True):
        # Up and down are equally far on a circle, so the random sign does not matter.
        moved = translate(inputs, (size, 0.0), padding="circular")
        direct = (moved - inputs).flatten(1).norm(dim=1) / length
        assert mean == pytest.approx(direct.mean().item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["translation", "deformation"])
def test_smooth_pictures_move_in_proportion(kind: str) -> None:
    sizes = [0.125, 0.25, 0.5, 1.0]
    found = stability_curve(lambda x: x, smooth(), kind, sizes, conditions=AROUND)
    assert found.exponent is not None
    assert found.exponent.value == pytest.approx(1, abs=0.05)
    assert found.mean[0] / sizes[0] == pytest.approx(found.slope.value, rel=0.05)
    assert found.slope.low < found.slope.value < found.slope.high


def test_half_of_a_translation_is_at_least_half_as_far() -> None:
    """|L_2c x - x| <= 2 |L_c x - x|, because L_c is an isometry on the circle."""
    conditions = Conditions(padding="circular", direction="columns")
    found = stability_curve(
        lambda x: x, torch.rand(20, 1, 8, 8), "translation", [1, 2, 4], conditions=conditions
    )
    assert found.mean[1] <= 2 * found.mean[0]
    assert found.mean[2] <= 2 * found.mean[1]
    # Half-way around, no further than an unrelated position can be.
    assert max(found.mean) <= 2


def test_an_invariant_representation_stays() -> None:
    found = stability_curve(
        lambda x: x.mean((2, 3)),
        torch.rand(20, 3, 8, 8, dtype=torch.float64),
        "translation",
        SIZES,
        conditions=AROUND,
    )
    assert max(found.mean) < 1e-12


def test_signs_of_random_features_move_like_the_square_root() -> None:
    """Sign features' squared distance is the share of hyperplanes crossed, which is an angle."""
    inputs = smooth(60)
    directions = torch.randn(256, 6000, generator=torch.Generator().manual_seed(1)).double()

    def signs(x: Tensor) -> Tensor:
        return (x.flatten(1) @ directions).sign()

    sizes = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    rough = stability_curve(signs, inputs, "translation", sizes, conditions=AROUND)
    plain = stability_curve(lambda x: x, inputs, "translation", sizes, conditions=AROUND)
    assert rough.exponent is not None
    assert rough.exponent.value == pytest.approx(0.5, abs=0.03)
    assert rough.exponent.high < 0.6
    # Exactly: 2 sqrt(angle / pi), and the angle is about the relative distance.
    for a, b in zip(rough.mean[:3], plain.mean[:3], strict=True):
        assert a == pytest.approx(2 * math.sqrt(b / math.pi), rel=0.05)


@pytest.mark.parametrize("scale", [2, 4])
def test_pooled_pictures_obey_the_pooling_gap(scale: int) -> None:
    """|A L_c x - A x| <= |L_c A - A| |x| for whole pixels on a circle."""
    offsets = torch.arange(1.0, 4.0)
    line = torch.arange(-scale, scale + 1.0, dtype=torch.float64)
    taps = torch.exp(-(line**2) / scale**2)
    taps = taps / taps.sum()
    inputs = torch.randn(30, 1, 24, generator=torch.Generator().manual_seed(0)).double()

    def pool(x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (scale, scale), mode="circular"), taps[None, None])

    length, gaps = inputs.flatten(1).norm(dim=1), pooling_gap(taps, offsets)
    for offset, gap in zip(offsets, gaps, strict=True):
        moved = pool(inputs.roll(int(offset), -1)) - pool(inputs)
        assert bool((moved.flatten(1).norm(dim=1) <= gap * length).all())
        # And it is attained, nearly, by a wave of the worst frequency.
        waves = torch.cos(2 * math.pi * torch.arange(24.0) * torch.arange(1.0, 12.0)[:, None] / 24)
        waves = waves[:, None].double()
        moved = pool(waves.roll(int(offset), -1)) - pool(waves)
        ratio = moved.flatten(1).norm(dim=1) / waves.flatten(1).norm(dim=1)
        assert 0.9 * gap < ratio.max() <= gap


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("translation", (6, 2, 9, 7)),
        ("rotation", (6, 2, 9, 7)),
        ("scaling", (6, 2, 9, 7)),
        ("deformation", (6, 2, 9, 7)),
        ("translation", (6, 2, 20)),
        ("scaling", (6, 2, 20)),
        ("deformation", (6, 2, 20)),
    ],
)
def test_every_kind_runs_and_records_its_norms(kind: str, shape: tuple[int, ...]) -> None:
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = stability_curve(lambda x: x, inputs, kind, [0.1, 0.2, 0.4])
    assert 0 < found.mean[0] < found.mean[1] < found.mean[2] < 1
    assert (found.kind, found.count, found.excluded) == (kind, 6, 0)
    assert all(
        a < b for a, b in zip(found.max_displacement, found.max_displacement[1:], strict=False)
    )
    if kind == "deformation":
        assert found.max_gradient == pytest.approx(
            [4 / max(shape[2:]) * s for s in (0.1, 0.2, 0.4)]
        )


def test_all_layers_in_one_pass_are_the_separate_passes() -> None:
    network, inputs = small_cnn(), smooth(20)
    labels, layers = torch.arange(20) % 3, ("0", "2", "")
    passes = []
    handle = network.register_forward_hook(lambda *_: passes.append(1))
    together = stability_curves(network, inputs, "rotation", [5, 10], layers=layers, labels=labels)
    handle.remove()
    # One reference and two sizes, one batch each; the yardsticks' two reads.
    assert len(passes) == 3 + 2
    for path in layers:
        alone = stability_curve(Layer(network, path), inputs, "rotation", [5, 10], labels=labels)
        assert alone == together[path]
    assert stability_curve(network, inputs, "rotation", [5, 10], labels=labels) == together[""]


def test_the_batch_size_changes_nothing_and_the_seed_something() -> None:
    network, inputs = small_cnn(), smooth(20)

    def measure(**conditions: int) -> StabilityCurve:
        return stability_curve(
            network, inputs, "deformation", [0.5, 1.0], conditions=Conditions(**conditions)
        )

    for batch_size in (1, 3, 20):
        assert measure(batch_size=batch_size).mean == pytest.approx(measure().mean, rel=1e-12)
    assert measure() == measure()
    assert measure(seed=1).mean != measure().mean


def test_yardsticks_can_be_shared_between_kinds() -> None:
    network, inputs, layers = small_cnn(), smooth(20), ("0", "")
    labels = torch.arange(20) % 3
    shared = measure_yardsticks(network, inputs, layers=layers, labels=labels)
    found = stability_curves(network, inputs, "scaling", [0.1], layers=layers, yardsticks=shared)
    own = stability_curves(network, inputs, "scaling", [0.1], layers=layers, labels=labels)
    assert found == own
    with pytest.raises(InputError, match="no yardsticks of layer '2'"):
        stability_curves(network, inputs, "scaling", [0.1], layers=("2",), yardsticks=shared)


def test_the_network_is_left_as_it_was() -> None:
    network = small_cnn().train()
    network[3].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = [part.training for part in network.modules()]
    random = torch.get_rng_state()
    stability_curves(network, smooth(6), "scaling", [0.1], layers=("1", ""))
    with pytest.raises(InputError, match="Did you mean"):
        stability_curves(network, smooth(6), "scaling", [0.1], layers=("11",))
    assert [part.training for part in network.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(part._forward_hooks for part in network.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_preprocessing_comes_after_the_deformation() -> None:
    """Black comes in from outside: of the raw picture, not of the normalised one."""
    inputs = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    stability_curve(
        lambda x: seen.append(x) or x,
        inputs,
        "translation",
        [3.0],
        preprocess=lambda x: x - 5,
        conditions=Conditions(direction="rows", pairs=0),
    )
    edges = torch.cat((seen[1][:, :, :2], seen[1][:, :, -2:]), 2)
    assert (edges == -5).float().mean() == 0.5  # two black rows come in on one side of each


def test_zero_representations_are_left_out_and_counted() -> None:
    inputs = torch.rand(6, 1, 8, 8) + 0.1
    inputs[4] = 0
    found = stability_curve(lambda x: x, inputs, "translation", [1.0])
    assert (found.count, found.excluded) == (5, 1)
    with pytest.raises(InputError, match="not 0 on 0 of 6 inputs"):
        stability_curve(
            lambda x: 0 * x, inputs, "translation", [1.0], conditions=Conditions(pairs=0)
        )


def test_nan_names_the_layer_and_the_input() -> None:
    network, inputs = small_cnn(), smooth(20)
    inputs[13, 0, 2, 2] = torch.nan
    for conditions in (Conditions(batch_size=5), Conditions(batch_size=5, pairs=0)):
        with pytest.raises(InputError, match="layer '2' has NaN or infinite values on input 13"):
            stability_curves(
                network, inputs, "translation", [1.0], layers=("2",), conditions=conditions
            )


def test_what_cannot_be_measured_is_refused_before_anything_runs() -> None:
    def fail(_: Tensor) -> Tensor:
        raise AssertionError

    inputs = smooth(6)
    with pytest.raises(InputError, match="no kind of deformation"):
        stability_curve(fail, inputs, "blur", [1.0])
    with pytest.raises(InputError, match="increasing numbers above 0"):
        stability_curve(fail, inputs, "translation", [0.0, 1.0])
    with pytest.raises(InputError, match=r"give \(6,\) integers"):
        stability_curve(fail, inputs, "translation", [1.0], labels=torch.zeros(5).long())
