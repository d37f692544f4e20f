"""Signals come back from their representations: exactly, nearly, or as far as they were kept."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.ckn import CKN, Form
from merkhet.ckn.decoder import patch_decoder, patches_along, uncover
from merkhet.ckn.descent import minimise
from merkhet.ckn.layer import CKNLayer
from merkhet.ckn.reconstruction import reconstruct
from merkhet.core.errors import InputError
from merkhet.core.groups import cyclic

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def smooth(count: int, length: int, dims: int, seed: int = 0) -> Tensor:
    """Return (count, 1, length, ...) sums of a few waves about a positive mean."""
    t = torch.linspace(0, 1, length, dtype=F64)
    out = torch.ones(count, 1, *(length,) * dims, dtype=F64)
    generator = torch.Generator().manual_seed(seed)
    for wave in range(1, 4):
        phases = 6.3 * torch.rand(count, dims, generator=generator, dtype=F64)
        sides = [(6.3 * wave * t / 2 + phases[:, axis : axis + 1]).sin() for axis in range(dims)]
        product = sides[0] if dims == 1 else sides[0][:, :, None] * sides[1][:, None]
        out[:, 0] += product / wave
    return out


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the mean relative error."""
    apart = (found - wanted).flatten(1).norm(dim=1)
    return float((apart / wanted.flatten(1).norm(dim=1)).mean())


def represent(network: CKN, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network(images)
    return found


def without_means(images: Tensor) -> Tensor:
    return images - images.mean(tuple(range(2, images.dim())), keepdim=True)


def networks(filters: Any, side: int, pooling: Any, **form: Any) -> CKN:
    return CKN(1, filters, side, pooling, form=Form(**form)).double()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("patches", ["raw", "centred"])
@pytest.mark.parametrize(("dims", "filters"), [(1, 20), (2, 80)])
def test_a_kernel_of_degree_two_gives_everything_back(
    padding: str, patches: str, dims: int, filters: int
) -> None:
    """Where filters span all polynomials of degree 2, z is linear in psi(z): nothing is lost.

    The decoder's ridge of 1e-8, over eigenvalues down to 1e-3 of the largest or so, leaves 1e-5.
    """
    form = Form(dims=dims, padding=padding, patches=patches)
    network = CKN(2, (filters * 3,), 3, 1, "poly", form=form).double()
    images = drawn(3, 2, *(9,) * dims)
    found = reconstruct(network, represent(network, images), (9,) * dims, steps=0, ridge=1e-12)
    assert float(found.residuals.max()) < 1e-3
    if patches == "centred" and padding == "valid":  # a constant in each channel is lost
        assert error(without_means(found.images), without_means(images)) < 1e-3
        assert error(found.images, images) > 0.1
    else:
        assert error(found.images, images) < 1e-3


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("patches", ["raw", "centred"])
@pytest.mark.parametrize(("side", "pooling"), [(3, (2, 2)), (4, (1, 3)), (2, (1, 1))])
def test_covering_solves_its_least_squares_problem(
    padding: str, patches: str, side: int, pooling: tuple[int, int]
) -> None:
    """Against the dense problem, its matrix by unfolding and pooling every unit picture."""
    form = Form(padding=padding, patches=patches)
    layer = CKNLayer(1, 4, side, pooling, form=form).double()
    size, ridge = (7, 8), 1e-3
    units = torch.eye(56, dtype=F64).reshape(56, 1, *size)
    pooled = pooled_patches(layer, units)
    given = torch.randn(1, *pooled.shape[1:], generator=torch.Generator().manual_seed(1)).double()
    centring = torch.eye(side**2, dtype=F64)
    if patches == "centred":
        centring -= 1 / side**2
    seen = torch.einsum("pq,nq...->np...", centring, pooled).flatten(1)
    along = [patches_along(layer, length) for length in size]
    grams = [one.mT @ one for one in along]
    regular = [
        gram + ridge * torch.linalg.eigvalsh(gram)[-1] * torch.eye(len(gram)) for gram in grams
    ]
    matrix = seen @ seen.mT + torch.kron(*regular) - torch.kron(*grams)
    wanted = torch.linalg.solve(matrix, seen @ given.flatten()).reshape(1, 1, *size)
    found = uncover(layer, given, size, ridge)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7 * float(wanted.abs().max()))


def pooled_patches(layer: CKNLayer, images: Tensor) -> Tensor:
    """Return pooled patches (n, p, *windows) by unfolding, as the layer's convolution reads."""
    side = layer.patches.side
    if layer.form.padding == "same":
        before, after = (side - 1) // 2, side // 2
        images = F.pad(images, (before, after) * 2)
    height, width = (length - side + 1 for length in images.shape[2:])
    return layer.pool(F.unfold(images, side).unflatten(2, (height, width)))


def test_whitened_patches_are_decoded_to_centred_ones() -> None:
    network = networks((40,), 3, 1, patches="whitened", dims=1)
    network.fit_unsupervised(smooth(30, 40, 1), patches=2000, progress=False)
    layer = network.layer(0)
    assert layer.reading is not None
    raw = smooth(1, 40, 1, seed=5)[0, 0].unfold(0, 3, 1)
    seen = layer.seen(raw)
    inside = CKN(1, (40,), 3, 1, form=Form(patches="whitened", dims=1, padding="valid")).double()
    inside.load_state_dict(network.state_dict())
    psi = represent(inside, smooth(1, 40, 1, seed=5))[0]
    found = (patch_decoder(layer, seen) @ psi).mT
    assert error(found[None], (raw - raw.mean(1, keepdim=True))[None]) < 0.02


@pytest.mark.parametrize(("dims", "bound"), [(1, 0.02), (2, 0.1)])
def test_error_grows_with_the_step_of_the_pooling(dims: int, bound: float) -> None:
    """At one bandwidth: small while the patches cover the signal, and worse and worse after."""
    length = 48 if dims == 1 else 20
    images, others = smooth(4, length, dims), smooth(20, length, dims, seed=1)
    errors = []
    for step in (1, 2, 4, 8):
        network = networks((32 * dims,), 3, [(2, step)], dims=dims)
        network.fit_unsupervised(others, patches=3000, progress=False)
        size = (length,) * dims
        found = reconstruct(network, represent(network, images), size, images=others, steps=0)
        errors.append(error(found.images, images))
    assert all(one < other for one, other in itertools.pairwise(errors))
    assert errors[1] < bound
    assert errors[3] > 5 * errors[1]


def test_descent_comes_nearer_in_two_layers() -> None:
    images, others = smooth(3, 16, 2), smooth(20, 16, 2, seed=1)
    network = networks((16, 32), 3, (2, 1))
    network.fit_unsupervised(others, patches=3000, progress=False)
    features = represent(network, images)
    runs = [
        reconstruct(network, features, (16, 16), images=others, steps=steps)
        for steps in (0, 5, 20, 60)
    ]
    for before, after in itertools.pairwise(runs):
        assert bool((after.residuals <= before.residuals).all())
        assert torch.equal(before.start_residuals, after.start_residuals)
    apart = (represent(network, runs[-1].images) - features).flatten(1).norm(dim=1)
    torch.testing.assert_close(runs[-1].residuals, apart / features.flatten(1).norm(dim=1))
    assert float(runs[-1].residuals.max()) < 0.05 * float(runs[0].residuals.min())
    assert error(runs[-1].images, images) < 0.5 * error(runs[0].images, images)


def test_pictures_do_not_depend_on_each_other_or_on_chance() -> None:
    network = networks((12,), 3, 2, dims=1)
    features = represent(network, smooth(40, 16, 1))
    together = reconstruct(network, features, 16, steps=15)
    alone = reconstruct(network, features[35:36], 16, steps=15)
    # Rounding differs with the batch, and the descent lets it grow by its condition.
    torch.testing.assert_close(together.images[35:36], alone.images, rtol=1e-6, atol=1e-6)
    again = reconstruct(network, features, 16, steps=15)
    assert torch.equal(together.images, again.images)


def test_linear_decoder_is_linear() -> None:
    network = networks((12,), 3, 2, dims=1)
    first, second = represent(network, smooth(2, 16, 1)).split(1)
    both = torch.cat([first, second, 2 * first - 3 * second])
    a, b, combined = reconstruct(network, both, 16, steps=0, ridge=1e-3).images
    torch.testing.assert_close(combined, 2 * a - 3 * b)


def test_zero_comes_back_as_zero() -> None:
    network = networks((12,), 3, 2)
    found = reconstruct(network, torch.zeros(1, 12, 5, 5, dtype=F64), (9, 9), steps=3)
    assert not bool(found.images.any())
    assert not bool(found.residuals.any())


def test_penalty_smooths() -> None:
    network = networks((16,), 3, [(2, 4)], dims=1)
    features = represent(network, drawn(2, 1, 24))
    variations = [
        float(reconstruct(network, features, 24, penalty=penalty).images.diff().abs().sum())
        for penalty in (0.0, 0.01, 1.0)
    ]
    assert variations[0] > variations[1] > variations[2]


def test_network_is_left_as_it_was() -> None:
    network = CKN(1, (8,), 3, 2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    picture = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = reconstruct(network, network(picture), (8, 8), steps=5)
    assert found.images.dtype == torch.float32
    assert not found.images.requires_grad
    assert network.training
    assert all(one.requires_grad and one.grad is None for one in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_group_network_finds_a_picture_in_some_pose() -> None:
    network = CKN(1, (24,), 3, 1, group=cyclic(4)).double()
    picture = smooth(1, 6, 2)
    features = represent(network, picture)
    found = reconstruct(network, features, (6, 6), steps=150)
    assert float(found.residuals) < 0.01 < float(found.start_residuals)
    turned = represent(network, found.images.rot90(1, (2, 3)))  # is as good an answer
    apart = float((turned - features).norm() / features.norm())
    assert apart == pytest.approx(float(found.residuals), rel=1e-6)
    with pytest.raises(InputError, match="steps = 0 for a network that averages over"):
        reconstruct(network, features, (6, 6), steps=0)


def test_minimise_solves_quadratics_each_by_itself() -> None:
    """Against the solution of the normal equations; rows of any scale take their own steps."""
    matrices = torch.eye(6, dtype=F64) + drawn(5, 6, 6)
    matrices = matrices * torch.logspace(-3, 3, 5, dtype=F64)[:, None, None]
    wanted = drawn(5, 6, seed=1)
    targets = torch.einsum("nij,nj->ni", matrices, wanted)

    def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        apart = torch.einsum("nij,nj->ni", matrices[rows], x) - targets[rows]
        return apart.square().sum(1), 2 * torch.einsum("nij,ni->nj", matrices[rows], apart)

    found = minimise(objective, torch.zeros(5, 6, dtype=F64), 80)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_minimise_goes_through_rosenbrocks_valley() -> None:
    def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        at = x.detach().requires_grad_()
        values = (1 - at[:, 0]).square() + 100 * (at[:, 1] - at[:, 0].square()).square()
        (gradients,) = torch.autograd.grad(values.sum(), at)
        return values.detach(), gradients

    start = torch.tensor([[-1.2, 1.0], [2.0, -3.0]], dtype=F64)
    found = minimise(objective, start, 100)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(1, 6, 4, 5)}, r"pictures of 8x8 have \(n, 6, 4, 4\)"),
        ({"features": torch.zeros(6, 4, 4)}, r"have \(n, 6, 4, 4\)"),
        ({"features": torch.full((1, 6, 4, 4), torch.nan)}, "NaN or infinity"),
        ({"size": 8}, r"give \(height, width\)"),
        ({"steps": -1}, "steps = -1: give a whole number"),
        ({"steps": 1.5}, "steps = 1.5"),
        ({"ridge": 0.0}, "ridge = 0.0: give a positive number"),
        ({"penalty": -1.0}, "penalty = -1.0: give a number of at least 0"),
        ({"seed": "a"}, "seed 'a'"),
    ],
)
def test_what_cannot_be_given(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"features": torch.zeros(1, 6, 4, 4), "size": (8, 8)} | change
    with pytest.raises(InputError, match=message):
        reconstruct(CKN(1, (6,), 3, 2), given.pop("features"), given.pop("size"), **given)
