"""Whole networks: fitting without labels, encoding, shapes, and what is refused."""

from __future__ import annotations

import pytest
import torch

from merkhet.ckn import CKN, Form
from merkhet.ckn.fitting import draw_patches, whitening
from merkhet.core.errors import InputError
from merkhet.core.groups import cyclic


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_filters_are_unit_centres_and_the_same_for_a_seed() -> None:
    x = pictures(40, 1, 14, 14)
    first, second = (
        CKN(1, (8, 12), 3, (2, 2)).fit_unsupervised(x, patches=3000, seed=4, progress=False)
        for _ in range(2)
    )
    other = CKN(1, (8, 12), 3, (2, 2)).fit_unsupervised(x, patches=3000, seed=5, progress=False)
    for a, b, c in zip(first.layers, second.layers, other.layers, strict=True):
        assert torch.equal(a.filters, b.filters)
        assert not torch.equal(a.filters, c.filters)
        assert torch.allclose(a.filters.norm(dim=1), torch.ones(len(a.filters)), atol=1e-6)


def test_patches_are_drawn_from_all_over_the_set() -> None:
    # Picture n holds the value n + 1 everywhere: a patch names the picture it was drawn from.
    x = (torch.arange(50.0) + 1)[:, None, None, None].expand(50, 1, 6, 6)
    network = CKN(1, (2,), 3, 1, form=Form(padding="valid"))
    drawn = draw_patches(network, 0, x, 4000, 7, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn[:, 0].long() - 1, minlength=50)
    assert bool((drawn == drawn[:, :1]).all())
    # 80 of each are expected; 5 standard deviations of a binomial count are 45.
    assert 35 < int(counts.min()) <= int(counts.max()) < 125


def test_a_patch_drawn_is_a_patch_that_the_layer_reads() -> None:
    x = pictures(1, 2, 7, 7).double()
    for form in (Form(), Form(padding="valid")):
        network = CKN(2, (3,), 3, 1, form=form).double()
        layer = network.layer(0)
        drawn = draw_patches(network, 0, x, 300, 1, torch.Generator().manual_seed(0))
        seen, _ = layer.readings(x, 0)
        products = seen[0].flatten(1).T
        for one in drawn @ layer.raw_filters().T:
            assert float((products - one).detach().abs().sum(1).min()) < 1e-12


def test_turned_patches_of_a_group_are_drawn_as_its_elements_read_them() -> None:
    x = pictures(1, 1, 7, 7).double()
    network = CKN(1, (3,), 3, 1, group=cyclic(4)).double()
    layer = network.layer(0)
    drawn = draw_patches(network, 0, x, 300, 1, torch.Generator().manual_seed(0))
    products = torch.cat([layer.readings(x, g)[0][0].flatten(1).T for g in range(4)])
    for one in drawn @ layer.raw_filters().T:
        assert float((products - one).detach().abs().sum(1).min()) < 1e-12


def test_whitened_patches_are_white() -> None:
    raw = pictures(5000, 9).double() @ pictures(9, 9, seed=1).double()
    network = CKN(1, (4,), 3, 1, form=Form(patches="whitened"))
    start = network.layer(0).patches.start()
    centred = torch.nn.functional.normalize(raw @ start.T, dim=1)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(raw))
    seen = centred @ start @ whitening(raw, start).T
    spread = torch.linalg.eigvalsh(seen.T @ seen / len(raw))
    # With the floor of a tenth of the mean, variances are v / (v + mean / 10) of the mean.
    mean = values.mean()
    expected = values * mean / (values + 0.1 * mean)
    assert torch.allclose(spread.sort().values, expected.sort().values, rtol=1e-8)


def test_more_filters_come_nearer_to_the_kernel_of_patches() -> None:
    x = pictures(30, 1, 8, 8).double()
    form = Form(padding="valid", ridge=1e-10)
    errors = []
    for count in (4, 16, 64, 256):
        network = CKN(1, (count,), 3, 1, form=form).double()
        network.fit_unsupervised(x, patches=2000, progress=False)
        layer = network.layer(0)
        patches = draw_patches(network, 0, x, 60, 8, torch.Generator().manual_seed(1))
        mapped = layer(patches.reshape(-1, 1, 3, 3)).flatten(1).detach()
        norms = patches.norm(dim=1)
        cosines = patches @ patches.T / norms / norms[:, None]
        exact = norms[:, None] * norms * layer.kernel.value(cosines) / 9
        errors.append(float((mapped @ mapped.T - exact).norm() / exact.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 5e-3


def test_encoding_is_the_forward_pass_in_batches_and_takes_bytes_and_data_sets() -> None:
    network = CKN(1, (6, 7), 3, (2, 2))
    bytes_ = (255 * pictures(11, 1, 10, 10)).to(torch.uint8)
    x = bytes_.float() / 255
    expected = network(x).detach()
    dataset = torch.utils.data.TensorDataset(x, torch.arange(11))
    for images in (x, bytes_, dataset):
        assert torch.allclose(network.encode(images, batch_size=4), expected, atol=1e-6)
    assert network.training
    assert expected.shape[1:] == network.output_shape(10, 10)


def test_signals_are_fitted_and_encoded() -> None:
    network = CKN(2, (8, 9), 5, (2, 3), form=Form(dims=1))
    x = pictures(30, 2, 31)
    network.fit_unsupervised(x, patches=1000, progress=False)
    assert network.encode(x).shape == (30, *network.output_shape(31)) == (30, 9, 6)


@pytest.mark.parametrize(
    ("arguments", "x", "message"),
    [
        ({"form": Form(padding="valid")}, pictures(4, 1, 5, 5), "layer 1 has patches of side 3"),
        ({"form": Form(padding="valid")}, pictures(4, 1, 5, 5), "give 7x7 or more"),
        ({}, pictures(4, 3, 8, 8), r"give \(\.\.\., 1, height, width\)"),
        ({}, torch.zeros(4, 1, 8, 8), "layer 0"),
        ({"form": Form(patches="centred", padding="valid")}, torch.ones(4, 1, 9, 9), "layer 0"),
        ({}, torch.full((4, 1, 8, 8), float("nan")), "picture 0 holds NaN"),
        ({}, torch.zeros(0, 1, 8, 8), "no pictures"),
        ({"group": cyclic(4)}, pictures(4, 1, 8, 10), "square"),
    ],
)
def test_pictures_that_cannot_be_fitted_are_refused(arguments, x, message) -> None:
    network = CKN(1, (8, 8), 3, (2, 2), **arguments)
    with pytest.raises(InputError, match=message):
        network.fit_unsupervised(x, patches=500, progress=False)


def test_fewer_patches_than_filters_names_the_layer() -> None:
    network = CKN(1, (4, 300), 3, (2, 2))
    with pytest.raises(InputError, match="patches = 200 for 300 filters"):
        network.fit_unsupervised(pictures(5, 1, 8, 8), patches=200, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": ()}, "filters"),
        ({"filters": 16}, "in a tuple"),
        ({"group": "c5"}, "choose one of"),
        ({"pooling": (2, 2, 2)}, "for 2 layers"),
        ({"sigma": [0.5]}, "for 2 layers"),
        ({"form": [Form(), Form(dims=1)]}, "dims"),
        ({"form": Form(across=True)}, "without a group"),
    ],
)
def test_networks_that_cannot_be_are_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        CKN(1, **{"filters": (4, 4), "pooling": 2, **change})


@pytest.mark.parametrize("kernel", ["exp", "relu"])
def test_what_is_not_a_number_is_not_hidden(kernel: str) -> None:
    network = CKN(1, (4, 5), 3, (2, 2), kernel)
    x = pictures(2, 1, 8, 8)
    x[0, 0, 3, 3] = float("nan")
    with torch.no_grad():
        found = network(x).flatten(1).isfinite().all(1)
    assert found.tolist() == [False, True]


@pytest.mark.parametrize("images", [pictures(3, 1, 8, 8).numpy(), iter([1]), 7])
def test_what_is_no_set_of_tensors_is_refused(images) -> None:
    with pytest.raises(InputError, match="give a tensor"):
        CKN(1, (4,), 3, 2).fit_unsupervised(images, progress=False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float16])
def test_pictures_of_another_type_are_refused_in_words(dtype) -> None:
    with pytest.raises(InputError, match="divided by 255"):
        CKN(1, (4,), 3, 2)(torch.zeros(1, 1, 8, 8, dtype=dtype))


def test_groups_go_by_name_too() -> None:
    x = pictures(1, 1, 9, 9)
    named, made = (CKN(1, (4, 5), 3, 2, group=group) for group in ("c4", cyclic(4)))
    assert torch.equal(named(x), made(x))


def test_a_fit_that_is_refused_leaves_the_network_as_it_was() -> None:
    network = CKN(1, (6, 300), 3, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="layer 1, 300 filters of 400 patches"):
        network.fit_unsupervised(pictures(1, 1, 8, 8), patches=400, progress=False)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_keeps_its_norms() -> None:
    network, x = CKN(1, (16, 24), 3, (2, 2)), pictures(2, 1, 10, 10)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = network(x).float()
        halved = network.half()(x.half()).float()
    # 8 and 11 bits of products, over the root of the ridge, 1e-2
    assert float((lowered - exact).norm() / exact.norm()) < 0.3
    assert float((halved - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("group", [None, "c4", "d4", "reflections"])
def test_networks_are_exported_and_transformed_fresh(group) -> None:
    network = CKN(1, (4, 5), 3, (1, 2), group=group, form=(Form(patches="centred"), Form()))
    x = pictures(2, 1, 9, 9)
    program = torch.export.export(network, (x,), strict=False)
    assert torch.allclose(program.module()(x), network(x), atol=1e-5)

    assert torch.allclose(torch.vmap(network)(x), network(x), atol=1e-5)


def test_tables_made_on_another_device_or_in_inference_do_no_harm() -> None:
    x = pictures(1, 1, 9, 9)
    with torch.device("meta"):
        CKN(1, (4,), 3, 2, group="c4")
    with torch.inference_mode():
        CKN(1, (4,), 5, 2, group="c4")
    CKN(1, (4,), 5, 2, group="c4").double()(x.double()).sum().backward()
    assert CKN(1, (4,), 3, 2, group="c4")(x).shape == (1, 4, 5, 5)


def test_several_pictures_are_encoded_not_one() -> None:
    with pytest.raises(InputError, match="give several"):
        CKN(6, (6,), 3, 2).encode(torch.rand(6, 10, 10))


@pytest.mark.parametrize("value", [0.7, 1.0, 3e-5])
@pytest.mark.parametrize("patches", ["centred", "whitened"])
def test_the_rounding_of_constant_pictures_makes_no_filters(value, patches) -> None:
    network = CKN(1, (1,), 3, 2, form=Form(patches=patches, padding="valid"))
    with pytest.raises(InputError, match="not zero"):
        network.fit_unsupervised(torch.full((4, 1, 9, 9), value), patches=500, progress=False)
