"""Starts of the deepest network: the same outputs and gradients as path by path."""

from __future__ import annotations

import pytest
import torch

from merkhet.cnmm import CNMM, cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.nodes import full_nodes, shortest_nodes
from merkhet.cnmm.starts import inner_nodes, start_nodes
from merkhet.core.errors import InputError


def mixtures() -> list[tuple[CNMM, torch.Tensor]]:
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    scenes = torch.rand(2, 3, 8, 16, dtype=torch.float64)
    return [
        (cnmm_classifier(1, 3, (3, 4, 5), 4).double(), x),
        (cnmm_classifier(1, 3, (3, 4), 2).double(), x),
        (cnmm_classifier(1, 3, (3,), 3, norm="group").double(), x),
        (cnmm_segmenter(3, 2, (3, 4), (1, 1, 0)).double(), scenes),
    ]


@pytest.mark.parametrize("place", range(4))
def test_starts_are_the_paths_that_they_name(place: int) -> None:
    model, x = mixtures()[place]
    model.train()
    numbers = range(inner_nodes(model.counts) + 1)
    together = model(x, model.starts(numbers))
    apart = torch.stack([model(x, model.path(start_nodes(model.counts, k))) for k in numbers])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    weights = torch.randn_like(together)
    parameters = [one for one in model.parameters() if one.dim() > 1]
    found, wanted = (
        torch.autograd.grad((weights * out).sum(), parameters, materialize_grads=True)
        for out in (together, apart)
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_some_starts_are_rows_of_all() -> None:
    model, x = mixtures()[0]
    model.eval()
    every = model(x, model.starts(range(7)))
    for numbers in ((0,), (6,), (1, 4), (5, 2, 2)):
        rows = sorted(set(numbers))
        torch.testing.assert_close(model(x, model.starts(numbers)), every[rows])


def test_the_ends_of_the_family() -> None:
    counts = (4, 2, 5)
    family = [start_nodes(counts, number) for number in range(inner_nodes(counts) + 1)]
    assert family[0] == shortest_nodes(counts)
    assert family[-1] == full_nodes(counts)
    assert len(set(family)) == len(family)
    sizes = [sum(map(len, nodes)) for nodes in family]
    assert sizes == list(range(6, 12))


@pytest.mark.parametrize("numbers", [(), (-1,), (0, 3)])
def test_starts_that_are_not_there_are_refused(numbers: tuple[int, ...]) -> None:
    model = cnmm_classifier(1, 3, (3,), 4)
    with pytest.raises(InputError, match="0 to 2"):
        model.starts(numbers)
