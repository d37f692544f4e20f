"""Deformations: fast against plain, exactness at whole pixels, norms, random smooth fields."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merkhet.core import deformations
from merkhet.core.deformations import (
    deform,
    displacement_norms,
    rescale,
    rotate,
    rotation,
    scaling,
    smooth_displacement,
    translate,
    translation,
)
from merkhet.core.errors import InputError
from merkhet.core.smooth_fields import largest_ratio


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def field(like: Tensor, size: float, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(like), like.dim() - 2, *like.shape[2:])
    return size * torch.randn(shape, generator=generator, dtype=like.dtype)


@pytest.mark.parametrize("padding", deformations.PADDINGS)
@pytest.mark.parametrize("interpolation", deformations.INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(3, 2, 7, 9), (3, 2, 9), (2, 1, 1, 5), (2, 1, 1), (2, 1, 5, 1)])
def test_fast_is_plain(padding: str, interpolation: str, shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    for size in (0.7, 8.0):  # the larger one leaves the picture several times over
        tau = field(images, size)
        fast = deform(images, tau, padding=padding, interpolation=interpolation)
        plain = deformations._deform_plain(
            images, tau, padding=padding, interpolation=interpolation
        )
        assert torch.allclose(fast, plain, atol=1e-12)


@pytest.mark.parametrize("padding", deformations.PADDINGS)
@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 2, 6)])
def test_gradients(padding: str, shape: tuple[int, ...]) -> None:
    images = pictures(*shape).requires_grad_()
    # Away from whole pixels, where bilinear interpolation has a kink.
    tau = (field(images.detach(), 1.0).floor() + 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: deform(x, t, padding=padding), (images, tau))


@pytest.mark.parametrize("padding", deformations.PADDINGS)
def test_one_field_serves_all_pictures_and_zero_is_the_identity(padding: str) -> None:
    images = pictures(4, 3, 8, 6)
    tau = field(images[:1], 1.5)
    own = tau.expand(4, -1, -1, -1)
    assert torch.equal(deform(images, tau, padding=padding), deform(images, own, padding=padding))
    assert torch.allclose(deform(images, 0 * tau, padding=padding), images, atol=1e-14)


@pytest.mark.parametrize("interpolation", deformations.INTERPOLATIONS)
def test_whole_pixels_copy(interpolation: str) -> None:
    images = pictures(2, 1, 6, 7, dtype=torch.float32)
    moved = translate(images, (2.0, -1.0), interpolation=interpolation)
    wanted = torch.zeros_like(images)
    wanted[..., 2:, :-1] = images[..., :-2, 1:]
    assert torch.allclose(moved, wanted, atol=1e-5)
    around = translate(images, (2.0, -9.0), padding="circular", interpolation=interpolation)
    assert torch.allclose(around, images.roll((2, -9), (-2, -1)), atol=1e-5)
    signal = images[..., 0, :]
    around = translate(signal, 3.0, padding="circular", interpolation=interpolation)
    assert torch.allclose(around, signal.roll(3, -1), atol=1e-5)


def test_bilinear_is_linear_between_pixels() -> None:
    ramp = torch.arange(5.0, dtype=torch.float64)[None, None]
    assert torch.allclose(
        translate(ramp, 0.25, padding="border"), (ramp - 0.25).clamp_min(0), atol=1e-14
    )


@pytest.mark.parametrize("side", [1, 4, 7])
def test_quarter_turns_are_rot90(side: int) -> None:
    images = pictures(2, 3, side, side)
    for turns in (-1, 1, 2, 3):
        wanted = torch.rot90(images, turns, (-2, -1))
        assert torch.allclose(rotate(images, 90.0 * turns), wanted, atol=1e-12)
    oblong = pictures(2, 3, 4, 7)
    assert torch.allclose(rotate(oblong, 180.0), oblong.flip(-2, -1), atol=1e-12)


def test_each_example_has_its_own_parameter() -> None:
    images = pictures(3, 1, 6, 6)
    angles, factors = torch.tensor([10.0, -20.0, 90.0]), torch.tensor([0.5, 1.0, 2.0])
    offsets = torch.tensor([[1.0, 0.0], [0.5, -2.0], [0.0, 3.0]])
    for function, values in ((rotate, angles), (rescale, factors), (translate, offsets)):
        every = function(images, values)
        for index in range(3):
            alone = function(images[index : index + 1], values[index])
            assert torch.allclose(every[index : index + 1], alone, atol=1e-12)


def test_rescaling_keeps_the_centre_and_undoes_itself() -> None:
    line = torch.linspace(-1, 1, 33, dtype=torch.float64)
    bump = torch.exp(-8 * (line[:, None] ** 2 + line**2))[None, None]
    larger = rescale(bump, 1.5)
    wanted = torch.exp(-8 * ((line[:, None] / 1.5) ** 2 + (line / 1.5) ** 2))[None, None]
    # Bilinear interpolation is off by at most h^2/8 (|f_rr| + |f_cc|), here 16 + 16 at h = 1/16.
    assert (larger - wanted).abs().max() < (1 / 16) ** 2 / 8 * 32
    assert larger[0, 0, 16, 16] == pytest.approx(1, abs=1e-12)
    assert (rescale(larger, 1 / 1.5) - bump)[..., 8:-8, 8:-8].abs().max() < 0.03


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept_and_half_precision_keeps_its_coordinates(dtype: torch.dtype) -> None:
    images = pictures(2, 1, 6, 300).to(dtype)
    moved = translate(images, (0.0, 7.0))
    assert moved.dtype == dtype
    # In bfloat16 itself the coordinate 293 would be 292 or 294.
    assert torch.allclose(moved[..., 7:], images[..., :-7], atol=1e-3)


def test_gradients_reach_the_parameters() -> None:
    angle = torch.tensor([10.0, 20.0], requires_grad=True)
    rotate(pictures(2, 1, 8, 8), angle).square().sum().backward()
    assert angle.grad is not None
    assert bool((angle.grad != 0).all())


def test_norms_of_rigid_motions() -> None:
    shape, corner = (9, 5), math.hypot(4, 2)
    angles = torch.tensor([0.0, 30.0, 90.0, 180.0])
    largest, steepest = displacement_norms(rotation(shape, angles, dtype=torch.float64))
    wanted = 2 * torch.sin(torch.deg2rad(angles) / 2)
    assert torch.allclose(steepest, wanted.double(), atol=1e-12)
    assert torch.allclose(largest, corner * wanted.double(), atol=1e-12)
    largest, steepest = displacement_norms(scaling(shape, 0.8, dtype=torch.float64))
    assert steepest.item() == pytest.approx(0.25)
    assert largest.item() == pytest.approx(0.25 * corner)
    largest, steepest = displacement_norms(translation(shape, (3.0, -4.0), dtype=torch.float64))
    assert (largest.item(), steepest.item()) == (5.0, 0.0)
    largest, steepest = displacement_norms(scaling((11,), 2.0, dtype=torch.float64))
    assert (largest.item(), steepest.item()) == (2.5, 0.5)


def test_the_gradient_norm_of_affine_fields_is_the_spectral_norm() -> None:
    jacobians = pictures(20, 2, 2)
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    points = torch.stack((rows, columns)).double()
    steepest = displacement_norms(torch.einsum("bij,jhw->bihw", jacobians, points))[1]
    assert torch.allclose(steepest, torch.linalg.matrix_norm(jacobians, 2))


@pytest.mark.parametrize("shape", [(4, 5), (1, 6), (6, 1)])
def test_the_gradient_norm_is_the_interpolated_fields_supremum(
    shape: tuple[int, ...],
) -> None:
    tau = pictures(1, 2, *shape)
    samples = torch.linspace(0, 1, 21, dtype=torch.float64)
    steepest = 0.0
    for i in range(max(shape[0] - 1, 1)):
        for j in range(max(shape[1] - 1, 1)):
            a, b = (tau[0, :, i, j], tau[0, :, i, min(j + 1, shape[1] - 1)])
            c, d = (tau[0, :, min(i + 1, shape[0] - 1), k] for k in (j, min(j + 1, shape[1] - 1)))
            down = torch.stack([(1 - t) * (c - a) + t * (d - b) for t in samples])
            across = torch.stack([(1 - s) * (b - a) + s * (d - c) for s in samples])
            first, second = down[:, None].expand(21, 21, 2), across[None].expand(21, 21, 2)
            norms = torch.linalg.matrix_norm(torch.stack((first, second), -1), 2)
            steepest = max(steepest, norms.max().item())
    assert displacement_norms(tau)[1].item() == pytest.approx(steepest, rel=1e-12)


@pytest.mark.parametrize("shape", [(28, 28), (12, 30), (2, 2), (1, 9), (40,), (2,)])
@pytest.mark.parametrize("share", [1e-3, 0.05, 0.2, 0.6, 0.95, 1.0])
def test_smooth_fields_have_both_norms_exactly(
    shape: tuple[int, ...], share: float, generator: torch.Generator
) -> None:
    gradient = share * 2.5 * largest_ratio(shape)
    fields = smooth_displacement(
        shape, 2.5, gradient, generator=generator, count=6, dtype=torch.float64
    )
    assert fields.shape == (6, len(shape), *shape)
    largest, steepest = displacement_norms(fields)
    assert torch.allclose(largest, torch.full_like(largest, 2.5), rtol=1e-9)
    assert torch.allclose(steepest, torch.full_like(steepest, gradient), rtol=1e-9)


def test_smooth_fields_are_seeded_and_differ(generator: torch.Generator) -> None:
    def make(seed: int) -> Tensor:
        again = torch.Generator().manual_seed(seed)
        return smooth_displacement((10, 10), 1.0, 0.3, generator=again, count=3)

    assert torch.equal(make(0), make(0))
    assert not torch.equal(make(0), make(1))
    assert (make(0)[0] - make(0)[1]).abs().max() > 0.1
    assert make(0).dtype == torch.float32


def test_smooth_fields_are_smooth_and_of_zero_mean_where_they_can_be(
    generator: torch.Generator,
) -> None:
    fields = smooth_displacement(
        (28, 28), 1.0, 0.2, generator=generator, count=50, dtype=torch.float64
    )
    assert fields.mean((2, 3)).abs().max() < 1e-12
    # Smooth: second differences are far below the first ones.
    assert fields.diff(n=2, dim=-1).abs().mean() < 0.4 * fields.diff(dim=-1).abs().mean()
    # No period: opposite edges differ as much as anything.
    across = (fields[..., 0] - fields[..., -1]).abs().mean()
    assert across > fields.abs().mean() / 2
    gentle = smooth_displacement((28, 28), 1.0, 0.01, generator=generator, count=50)
    assert gentle.mean((2, 3)).norm(dim=1).min() > 0.8


def test_no_gradient_is_a_translation_in_any_direction(generator: torch.Generator) -> None:
    fields = smooth_displacement((6, 6), 3.0, 0.0, generator=generator, count=200)
    assert displacement_norms(fields)[1].max() == 0
    assert torch.allclose(fields[:, :, 0, 0].norm(dim=1), torch.tensor(3.0))
    assert fields[:, :, 0, 0].mean(0).norm() < 0.6
    still = smooth_displacement((6,), 0.0, 0.0, generator=generator, count=2)
    assert torch.equal(still, torch.zeros(2, 1, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), 1.0, 3.0), "at most 2.82843"),
        (((8,), 1.0, 3.0), "at most 2"),
        (((1, 1), 1.0, 0.1), "at most 0"),
        (((8, 8), 0.0, 0.1), "at most 0"),
        (((8, 8), -1.0, 0.1), "max_displacement -1.0"),
        (((8, 8), 1.0, math.nan), "max_gradient nan"),
        (((8, 8, 8), 1.0, 0.1), "give .height, width."),
    ],
)
def test_impossible_fields_are_refused(arguments, message, generator) -> None:
    with pytest.raises(InputError, match=message):
        smooth_displacement(*arguments, generator=generator)


@pytest.mark.parametrize(
    ("images", "tau", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 1, 3), "batch, channels, height, width"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, 2, 3, 3), "uint8"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(1, 3, 3, 3), r"give \(2 or 1, 2, 3, 3\)"),
        (torch.zeros(3, 1, 3, 3), torch.zeros(2, 2, 3, 3), r"give \(3 or 1, 2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(1, 2, 4, 3), r"give \(2 or 1, 2, 3, 3\)"),
        (torch.zeros(2, 1, 3), torch.zeros(1, 2, 3), r"give \(2 or 1, 1, 3\)"),
        (torch.zeros(2, 1, 3), torch.full((1, 1, 3), torch.nan), "not finite"),
        (torch.zeros(2, 1, 3), torch.zeros(1, 1, 3, dtype=torch.int64), "not finite floats"),
    ],
)
def test_what_does_not_fit_is_refused(images: Tensor, tau: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        deform(images, tau)


def test_wrong_choices_are_refused() -> None:
    images = pictures(2, 1, 4, 4)
    with pytest.raises(InputError, match=r"no padding 'zero'.*'zeros'"):
        translate(images, (0.0, 1.0), padding="zero")
    with pytest.raises(InputError, match="no interpolation"):
        rotate(images, 3.0, interpolation="nearest")
    with pytest.raises(InputError, match="rows, columns"):
        translate(images, 1.0)
    with pytest.raises(InputError, match="a number"):
        translate(images[0], torch.zeros(2, 2))
    with pytest.raises(InputError, match="signal cannot be rotated"):
        rotate(images[0], 3.0)
    with pytest.raises(InputError, match="factors above 0"):
        rescale(images, 0.0)
    with pytest.raises(InputError, match="degrees of shape"):
        rotate(images, torch.zeros(2, 2))
    with pytest.raises(InputError, match="displacement of shape"):
        displacement_norms(images[:, :, 0, 0])
