"""Choices of nodes: all of them, written and read, and those that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from merkhet.cnmm.nodes import (
    as_nodes,
    every_path,
    full_nodes,
    parse_nodes,
    path_edges,
    set_edges,
    shortest_nodes,
    written,
)
from merkhet.core.errors import InputError


@pytest.mark.parametrize("counts", [(2,), (3,), (5,), (4, 2, 3)])
def test_every_path_is_there_once(counts: tuple[int, ...]) -> None:
    found = list(every_path(counts))
    networks = 1
    for count in counts:
        networks *= 2 ** (count - 2)
    assert len(found) == len(set(found)) == networks
    assert {shortest_nodes(counts), full_nodes(counts)} <= set(found)
    for path in found:
        assert as_nodes(path, counts) == path
        assert parse_nodes(written(path), counts) == as_nodes(written(path), counts) == path


def test_edges_of_a_path_are_a_chain_and_those_of_a_set_all_pairs() -> None:
    assert path_edges((0, 2, 3, 5)) == [(0, 2), (2, 3), (3, 5)]
    assert set_edges((0, 2, 5)) == [(0, 2), (0, 5), (2, 5)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (((0, 2),), "mixture of 2"),
        (((0, 2), (0, 1)), "stage 1: the route is cut"),
        (((0, 2), (1, 2)), "cut"),
        (((0, 2), (0, 3)), "from 0 to 2"),
        (((0, 1, 1, 2), (0, 2)), "out of order"),
        (((0, 2, 1, 2), (0, 2)), "stage 0"),
        (((0, 2), ()), "cut"),
    ],
)
def test_routes_that_are_cut_are_refused(given: tuple[tuple[int, ...], ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_nodes(given, (3, 3))


@pytest.mark.parametrize("given", [((0, 2.0), (0, 2)), (0, 2), (("0", "2"), (0, 2)), None, 5])
def test_what_is_no_choice_is_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"a tuple of whole numbers, as in \(\(0, 1, 2\)"):
        as_nodes(given, (3, 3))  # type: ignore[arg-type]


def test_numbers_of_other_libraries_become_pythons() -> None:
    for given in (np.array([[0, 2], [0, 2]]), torch.tensor([[0, 2], [0, 2]])):
        found = as_nodes(given, (3, 3))
        assert found == ((0, 2), (0, 2))
        assert all(type(node) is int for stage in found for node in stage)


@pytest.mark.parametrize("text", ["", "0-a", "0,2", "0-2,0-1"])
def test_text_that_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"as in"):
        parse_nodes(text, (3, 3))
