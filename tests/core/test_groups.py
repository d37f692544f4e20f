"""Finite groups: axioms, the action as a homomorphism, exactness, what is refused."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.core.groups import Group, circular_translations, cyclic, dihedral, reflections

PICTURE_GROUPS = [
    cyclic(1),
    cyclic(2),
    cyclic(4),
    dihedral(1),
    dihedral(2),
    dihedral(4),
    reflections(),
    circular_translations((4, 4), step=2),
]
ALL = [*PICTURE_GROUPS, cyclic(3), cyclic(8), dihedral(3), circular_translations((6,))]


@pytest.mark.parametrize("group", ALL, ids=lambda group: group.name)
def test_group_axioms(group: Group) -> None:
    assert len(set(group.labels)) == group.order
    for a, b in itertools.product(group.elements, repeat=2):
        assert group.compose(a, b) in group.elements
        for c in group.elements:
            left = group.compose(group.compose(a, b), c)
            assert left == group.compose(a, group.compose(b, c))
    for a in group.elements:
        assert group.compose(a, 0) == group.compose(0, a) == a
        assert group.compose(a, group.inverse(a)) == group.compose(group.inverse(a), a) == 0


def test_only_rotations_commute() -> None:
    def commutes(group: Group) -> bool:
        pairs = itertools.product(group.elements, repeat=2)
        return all(group.compose(a, b) == group.compose(b, a) for a, b in pairs)

    assert commutes(cyclic(8))
    assert commutes(dihedral(2))
    assert not commutes(dihedral(3))
    assert not commutes(dihedral(4))


@pytest.mark.parametrize("group", PICTURE_GROUPS, ids=lambda group: group.name)
def test_the_action_is_a_homomorphism_bit_for_bit(group: Group) -> None:
    assert group.exact
    images = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    seen = set()
    for a, b in itertools.product(group.elements, repeat=2):
        twice = group.act(group.act(images, b), a)
        assert torch.equal(twice, group.act(images, group.compose(a, b)))
        seen.add(tuple(group.act(images, a).flatten().tolist()))
    assert len(seen) == group.order  # no two elements do the same
    assert torch.equal(group.act(images, 0), images)


@pytest.mark.parametrize("group", PICTURE_GROUPS, ids=lambda group: group.name)
def test_the_action_on_maps_is_a_homomorphism(group: Group) -> None:
    maps = torch.randn(2, group.order, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for a, b in itertools.product(group.elements, repeat=2):
        twice = group.act_on_maps(group.act_on_maps(maps, b), a)
        assert torch.equal(twice, group.act_on_maps(maps, group.compose(a, b)))


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=lambda group: group.name)
def test_lifting_by_transformed_filters_is_equivariant(group: Group) -> None:
    """A first layer with one filter per element: maps transform as act_on_maps says."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)
    kernel = torch.randn(5, 3, 3, 3, generator=generator, dtype=torch.float64)
    filters = torch.cat([group.act(kernel, element) for element in group.elements])

    def lift(x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(x, filters, padding=1).unflatten(1, (group.order, 5))

    for element in group.elements:
        moved = lift(group.act(images, element))
        assert torch.allclose(moved, group.act_on_maps(lift(images), element), atol=1e-12)


def test_turns_are_counter_clockwise_and_reflections_left_to_right() -> None:
    picture = torch.tensor([[1, 2], [3, 4]])
    assert cyclic(4).act(picture, 1).tolist() == [[2, 4], [1, 3]]
    assert reflections().act(picture, 1).tolist() == [[2, 1], [4, 3]]
    assert dihedral(4).act(picture, 5).tolist() == [[1, 3], [2, 4]]  # mirrored, then turned
    assert dihedral(4).name_of(5) == "mirrored, 90 degrees"


def test_translations_roll() -> None:
    group = circular_translations((6, 4), step=2)
    images = torch.randn(2, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    assert group.order == 6
    assert group.name_of(3) == "2 by 2 pixels"
    assert torch.equal(group.act(images, 3), images.roll((2, 2), (-2, -1)))
    # On maps of half the size the same translation is by half as many pixels.
    half = images[..., :3, :2]
    assert torch.equal(group.act(half, 3), half.roll((1, 1), (-2, -1)))
    signals = circular_translations((6,))
    assert torch.equal(signals.act(images[..., 0], 5), images[..., 0].roll(5, -1))
    with pytest.raises(InputError, match=r"\(1/3, 1/2\).*larger step"):
        group.act(images[..., :4, :], 3)


def test_signals_reverse_and_shift() -> None:
    signal = torch.arange(4.0)[None, None]
    assert reflections().act(signal, 1)[0, 0].tolist() == [3, 2, 1, 0]
    assert circular_translations((4,)).act(signal, 1)[0, 0].tolist() == [3, 0, 1, 2]
    maps = torch.arange(8.0).reshape(1, 2, 1, 4)
    assert reflections().act_on_maps(maps, 1)[0, :, 0].tolist() == [[7, 6, 5, 4], [3, 2, 1, 0]]


def test_other_rotations_interpolate_and_say_so() -> None:
    group = cyclic(8)
    assert not group.exact
    assert "interpolated" in group.name
    line = torch.linspace(-1, 1, 21)
    bump = torch.exp(-10 * ((line[:, None] - 0.2) ** 2 + line**2))[None, None]
    twice = group.act(group.act(bump, 1), 1)
    assert 1e-4 < (twice - group.act(bump, 2)).abs().max() < 0.1
    assert torch.equal(group.act(bump, 2), torch.rot90(bump, 1, (-2, -1)))


def test_groups_pickle_and_compare() -> None:
    for group in ALL:
        copy = pickle.loads(pickle.dumps(group))
        assert copy == group
        assert copy.compose(1 % group.order, 1 % group.order) == group.compose(
            1 % group.order, 1 % group.order
        )
    assert cyclic(4) != cyclic(2)
    assert cyclic(8) != cyclic(8, padding="border")


def test_what_does_not_fit_is_refused() -> None:
    oblong = torch.zeros(1, 1, 4, 6)
    for group in (cyclic(4), cyclic(3), dihedral(8)):
        with pytest.raises(InputError, match=r"4x6 cannot be rotated.*cyclic\(2\)"):
            group.act(oblong, 1)
    assert cyclic(2).act(oblong, 1).shape == oblong.shape
    with pytest.raises(InputError, match=r"give .batch, channels, height, width."):
        cyclic(2).act(torch.zeros(2, 4, 4), 1)
    with pytest.raises(InputError, match=r"no element 4 of .*give 0 to 3"):
        cyclic(4).act(oblong, 4)
    with pytest.raises(InputError, match="no element -1"):
        cyclic(4).compose(0, -1)
    with pytest.raises(InputError, match=r"give \(batch, 4, channels"):
        cyclic(4).act_on_maps(torch.zeros(1, 3, 1, 4, 4), 1)
    with pytest.raises(InputError, match="give n from 1"):
        cyclic(0)
    with pytest.raises(InputError, match="divides the sides"):
        circular_translations((6, 4), step=4)
