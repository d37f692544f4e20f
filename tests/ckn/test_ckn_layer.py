"""A layer against its slow form, the mathematics of its map, and its numbers at the edges."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from merkhet.ckn import CKNLayer, Form, cpu, plain
from merkhet.core.errors import InputError
from merkhet.core.groups import circular_translations, cyclic, reflections

spec = importlib.util.spec_from_file_location("slow_ckn", Path(__file__).parent / "slow_ckn.py")
assert spec is not None
assert spec.loader is not None
slow_ckn = sys.modules.setdefault("slow_ckn", importlib.util.module_from_spec(spec))
spec.loader.exec_module(slow_ckn)

KINDS = ("exp", "inverse", "poly", "relu")


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(made: CKNLayer, x: torch.Tensor, turn: int = 0) -> torch.Tensor:
    unit = torch.nn.functional.normalize(made.filters.detach(), dim=1)
    centred = made.patches.start() if made.patches.centred else None
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return torch.stack(
            [
                slow_ckn.layer(
                    one,
                    unit,
                    side=made.patches.side,
                    kind=made.kernel.kind,
                    sigma=made.kernel.sigma,
                    ridge=made.form.ridge,
                    pooling=made.pooling,
                    valid=made.form.padding == "valid",
                    centred=centred,
                    turn=turn,
                )
                for one in x
            ]
        )
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("side", "pooling", "form"),
    [
        (3, 1, Form(root="symmetric")),
        (3, 2, Form(root="symmetric", padding="valid")),
        (2, (2, 3), Form(root="symmetric")),
        (3, (3, 1), Form(root="symmetric", patches="centred")),
        (1, 2, Form(root="symmetric")),
    ],
)
def test_a_layer_is_the_papers_map(kind, side, pooling, form) -> None:
    made = CKNLayer(2, 5, side, pooling, kind, 0.7, form=form).double()
    x = pictures(2, 2, 6, 5)
    expected = slow(made, x)
    # The root of a matrix with ridge 1e-4 amplifies rounding by 1e4 at most.
    assert torch.allclose(made(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("turn", range(4))
def test_an_element_of_the_group_reads_turned_patches(turn: int) -> None:
    form = Form(lifts=True, root="symmetric")
    made = CKNLayer(2, 5, 3, 2, group=cyclic(4), form=form).double()
    x = pictures(1, 2, 5, 5)
    assert torch.allclose(made(x)[:, turn], slow(made, x, turn), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_both_roots_give_the_same_kernel(kind: str) -> None:
    x = pictures(3, 2, 5, 5)
    maps = [
        CKNLayer(2, 7, 3, 2, kind, form=Form(root=root)).double()(x).flatten(1)
        for root in ("cholesky", "symmetric")
    ]
    products = [one @ one.T for one in maps]
    assert torch.allclose(*products, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_at_filters_are_the_kernel(kind: str) -> None:
    form = Form(padding="valid", ridge=1e-9)
    made = CKNLayer(1, 6, 3, 1, kind, 0.9, form=form).double()
    scales = torch.arange(1, 7).double()
    patches = scales[:, None] * made.filters.detach()
    mapped = made(patches.reshape(6, 1, 3, 3)).flatten(1)
    unit = made.filters.detach()
    expected = scales[:, None] * scales * made.kernel.value(unit @ unit.T) / 9
    assert torch.allclose(mapped @ mapped.T, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_homogeneous_and_never_longer_than_its_patches(kind: str) -> None:
    made = CKNLayer(3, 20, 3, 1, kind).double()
    x = pictures(2, 3, 6, 6) - 0.5
    assert torch.allclose(made(2.5 * x), 2.5 * made(x), rtol=1e-12)
    norms = made.patches.squared_norms(x, 0, None)[:, 0]
    assert bool((made(x).square().sum(1) <= norms / 9 * (1 + 1e-12)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_moves_no_faster_than_its_lipschitz_constant(kind: str) -> None:
    made = CKNLayer(2, 30, 3, 1, kind, 0.5, form=Form(padding="valid")).double()
    x, y = pictures(200, 2, 3, 3) - 0.5, pictures(200, 2, 3, 3, seed=1) - 0.5
    for other in (y, x + 1e-3 * y):
        moved = (made(x) - made(other)).flatten(1).norm(dim=1)
        bound = made.kernel.lipschitz * (x - other).flatten(1).norm(dim=1) / 3
        assert bool((moved <= bound * (1 + 1e-9)).all())


def test_filters_count_by_their_direction() -> None:
    made = CKNLayer(1, 6, 3).double()
    x = pictures(1, 1, 5, 5)
    before = made(x)
    with torch.no_grad():
        made.filters.mul_(torch.arange(1, 7).double()[:, None])
    assert torch.allclose(made(x), before, rtol=1e-9)
    made.renormalise()
    assert torch.allclose(made.filters.norm(dim=1), torch.ones(6).double())
    assert torch.allclose(made(x), before, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("root", ["cholesky", "symmetric"])
def test_gradients_are_right_and_finite_with_equal_filters_and_zero_patches(kind, root) -> None:
    made = CKNLayer(1, 4, 3, 2, kind, form=Form(root=root)).double()
    with torch.no_grad():
        made.filters[1] = made.filters[0]  # the kernel between filters has a zero eigenvalue
        made.filters[3] = -made.filters[2]
    x = pictures(1, 1, 6, 6)
    x[..., :4, :] = 0  # whole patches of zeros
    x.requires_grad_()
    made(x).square().sum().backward()
    assert bool(x.grad.isfinite().all())
    assert bool(made.filters.grad.isfinite().all())
    fresh = CKNLayer(1, 4, 3, 2, kind, form=Form(root=root)).double()
    y = (pictures(1, 1, 4, 4) + 0.1).requires_grad_()
    filters = fresh.filters

    def of(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(fresh, {"filters": weight}, images)

    assert torch.autograd.gradcheck(of, (y, filters.detach().clone().requires_grad_()))


@pytest.mark.parametrize("kind", ["exp", "inverse", "poly"])
@pytest.mark.parametrize("patches", ["raw", "centred", "whitened"])
@pytest.mark.parametrize("pooling", [1, 2, (3, 1)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_fast_path_is_the_plain_form(kind, patches, pooling, padding) -> None:
    form = Form(patches=patches, padding=padding)
    made = CKNLayer(2, 19, 3, pooling, kind, form=form)
    x = pictures(3, 2, 9, 8).float()
    x[0, :, :5] = 0
    products, norms = made.readings(x, 0)
    above = torch.randn(plain.pooled(made, products, norms).shape)
    found, exact, double = [], [], []
    for pooled, dtype, out in (
        (cpu.pooled, torch.float32, found),
        (plain.pooled, torch.float32, exact),
        (plain.pooled, torch.float64, double),
    ):
        given = [one.detach().to(dtype).requires_grad_() for one in (products, norms)]
        value = pooled(made, *given)
        out += [value, *torch.autograd.grad(value, given, above.to(dtype))]
    # Values and gradients by products and norms: sums of some 20 terms, each to a few roundings.
    for ours, plainly, truly in zip(found, exact, double, strict=True):
        scale = 2e-6 * float(truly.detach().norm())
        assert float((ours.double() - truly).detach().norm()) < scale
        assert float((plainly.double() - truly).detach().norm()) < scale


def test_the_fast_path_can_be_differentiated_twice() -> None:
    made = CKNLayer(1, 4, 3, 2)
    x = pictures(1, 1, 6, 6).float().requires_grad_()
    (slope,) = torch.autograd.grad(made(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    y = x.detach().double().requires_grad_()
    made = made.double()
    (slope,) = torch.autograd.grad(made(y).square().sum(), y, create_graph=True)
    (expected,) = torch.autograd.grad(slope.square().sum(), y)
    assert torch.allclose(second.double(), expected, rtol=1e-3, atol=1e-5)


def test_float32_is_stable_with_filters_that_nearly_agree() -> None:
    made = CKNLayer(1, 40, 3)
    with torch.no_grad():
        made.filters[20:] = made.filters[:20] + 1e-4 * torch.randn(20, 9)
    x = pictures(4, 1, 10, 10).float()
    with torch.no_grad():
        found = made(x)
        double = made.double()(x.double())
    # 6e-8 of rounding in each of 40 kernel values, over the root of the ridge, 1e-2
    assert float((found.double() - double).norm() / double.norm()) < 4e-5


def test_flat_patches_of_centred_layers_are_nearly_zero_in_float32() -> None:
    made = CKNLayer(1, 8, 5, form=Form(patches="centred", padding="valid"))
    with torch.no_grad():
        found = made(torch.full((1, 1, 9, 9), 0.7))
    assert float(found.abs().max()) < 1e-6


def test_second_derivatives_hold_where_patches_lie_along_filters() -> None:
    made = CKNLayer(1, 12, 3, form=Form(padding="valid")).double()
    x = pictures(12, 1, 3, 3)
    with torch.no_grad():
        made.filters.copy_(x.flatten(1))  # cosines of 1, beyond it by rounding
    assert torch.autograd.gradgradcheck(made, x[:3].clone().requires_grad_())


def test_the_threads_do_not_change_the_result() -> None:
    made, x = CKNLayer(1, 16, 3, 2), pictures(7, 1, 12, 12).float()
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(made(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(*found, atol=1e-6)


def test_signals_and_leading_axes() -> None:
    made = CKNLayer(2, 5, 3, 2, form=Form(dims=1)).double()
    x = pictures(4, 3, 2, 11)
    assert made(x).shape == (4, 3, 5, 6)
    assert torch.allclose(made(x)[1, 2], made(x[1, 2]))
    flat = CKNLayer(2, 5, 3, form=Form(padding="valid", root="symmetric")).double()
    line = CKNLayer(2, 5, 9, form=Form(dims=1, padding="valid", root="symmetric")).double()
    line.load_state_dict(flat.state_dict())
    x = pictures(3, 2, 3, 3)  # one patch: a picture and the signal of its pixels
    assert torch.allclose(flat(x).flatten(1), line(x.flatten(2)).flatten(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({}, (1, 3, 8, 8), r"give \(\.\.\., 1, height, width\)"),
        ({}, (8,), "give"),
        ({"form": Form(padding="valid")}, (1, 1, 2, 2), "no patch of side 3"),
        ({"group": cyclic(4), "form": Form(lifts=True)}, (1, 1, 8, 6), "square"),
        ({"group": cyclic(4)}, (1, 3, 1, 8, 8), "give"),
    ],
)
def test_maps_that_do_not_fit_are_refused(arguments, shape, message) -> None:
    made = CKNLayer(1, 4, 3, **arguments)
    with pytest.raises(InputError, match=message):
        made(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": 0}, "filters"),
        ({"kernel": "rbf"}, "choose one of"),
        ({"sigma": -1.0}, "sigma"),
        ({"pooling": 0}, "pooling"),
        ({"kernel_size": 4, "group": cyclic(4), "form": Form(lifts=True)}, "odd kernel_size"),
        ({"kernel_size": 1, "form": Form(patches="centred")}, "leave nothing"),
        ({"form": Form(across=True)}, "without a group"),
        ({"group": cyclic(4), "form": Form(dims=1, lifts=True)}, "reflections"),
        ({"group": circular_translations((8, 8)), "form": Form(lifts=True)}, "translations"),
    ],
)
def test_layers_that_cannot_be_are_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        CKNLayer(**{"in_channels": 1, "filters": 4, "kernel_size": 3, **change})


@pytest.mark.parametrize(
    "change", [{"dims": 3}, {"padding": "full"}, {"patches": "pca"}, {"root": "qr"}, {"ridge": 0.0}]
)
def test_forms_that_cannot_be_are_refused(change) -> None:
    with pytest.raises(InputError):
        Form(**change)


def test_reflections_act_on_signals() -> None:
    made = CKNLayer(1, 5, 3, group=reflections(), form=Form(dims=1, lifts=True)).double()
    x = pictures(2, 1, 9)
    turned = reflections().act_on_maps(made(x), 1)
    assert torch.allclose(made(x.flip(-1)), turned, rtol=1e-9, atol=1e-12)
