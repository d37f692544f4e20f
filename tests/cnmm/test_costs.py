"""Cost tables against brute force: every path run over, folded chains traced."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from merkhet.cnmm import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.enumeration import probabilities
from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import every_path, full_nodes, path_edges, set_edges, shortest_nodes
from merkhet.cnmm.stage import MixtureStage
from merkhet.core.costs import costs
from merkhet.core.errors import InputError
from merkhet.core.graph import trace

X = torch.zeros(2, 1, 8, 8)


@pytest.fixture(scope="module")
def model() -> CNMM:
    made = cnmm_classifier(channels=(3, 4), num_nodes=4).double()
    for stage in made.parts():
        nn.init.normal_(stage.logits)
    return made


@pytest.fixture(scope="module")
def tables(model: CNMM) -> dict[str, CostTable]:
    return {by: count_costs(model, X.double(), by) for by in ("multiply_adds", "parameters")}


def chain(model: CNMM, nodes) -> nn.Sequential:
    pairs = zip(model.parts(), nodes, strict=True)
    blocks = [stage.block(*edge) for stage, own in pairs for edge in path_edges(own)]
    return folded(nn.Sequential(model.stem, *blocks, model.head))


def test_a_path_costs_what_its_folded_chain_does(model, tables) -> None:
    for nodes in [((0, 3), (0, 3)), ((0, 2, 3), (0, 1, 3))]:
        found = costs(trace(chain(model, nodes), X.double()))
        assert tables["multiply_adds"].of_path(nodes) == found.multiply_adds
        assert tables["parameters"].of_path(nodes) == found.parameters


def test_a_segmenters_path_costs_what_its_folded_chain_does_for_one_picture() -> None:
    model = cnmm_segmenter(3, 2, channels=(3, 4), nodes=(1, 0))
    x, nodes = torch.zeros(5, 3, 8, 8), ((0, 1, 2),)
    found = costs(trace(chain(model, nodes), x[:1]))
    assert count_costs(model, x).of_path(nodes) == found.multiply_adds


def test_a_node_set_costs_all_edges_among_its_nodes(model, tables) -> None:
    table, nodes = tables["parameters"], ((0, 2, 3), (0, 1, 2, 3))
    pairs = [(stage, edge) for stage, own in enumerate(nodes) for edge in set_edges(own)]
    blocks = [folded(model.parts()[stage].block(*edge)) for stage, edge in pairs]
    parts = [folded(model.stem), *blocks, folded(model.head)]
    expected = sum(value.numel() for part in parts for value in part.parameters())
    assert table.of_subset(nodes) == expected
    assert table.of_subset(shortest_nodes(model.counts)) == table.of_path(((0, 3), (0, 3)))
    assert table.of_subset(full_nodes(model.counts)) > table.range()[1]


@pytest.mark.parametrize("by", ["multiply_adds", "parameters"])
def test_the_range_is_from_the_cheapest_path_to_the_dearest(model, tables, by) -> None:
    every = [tables[by].of_path(nodes) for nodes in every_path(model.counts)]
    assert tables[by].range() == (min(every), max(every))


def test_the_range_is_not_that_of_fewest_and_most_blocks() -> None:
    edges = {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 9.0}
    assert CostTable("latency", 2.0, (edges,)).range() == (4.0, 11.0)


def test_the_expected_cost_is_the_mean_over_every_network(model, tables) -> None:
    table = tables["multiply_adds"]
    mean = sum(p * table.of_path(nodes) for nodes, p in probabilities(model).items())
    # Both are sums of some dozens of products of numbers rounded to 1e-16.
    assert table.expected(model.logits()).item() == pytest.approx(mean, rel=1e-13)


def test_the_expected_cost_has_the_gradient_of_the_mean(model, tables) -> None:
    table, logits = (
        tables["multiply_adds"],
        [torch.randn(2).double().requires_grad_() for _ in "ab"],
    )
    table.expected(logits).backward()
    stage, j, step = 1, 0, 1e-5
    ends = []
    for sign in (1, -1):
        moved = [own.detach().clone() for own in logits]
        moved[stage][j] += sign * step
        ends.append(table.expected(moved).item())
    # A central difference: off by about step^2 of the cost, and by rounding over step.
    slope = (ends[0] - ends[1]) / (2 * step)
    assert logits[stage].grad[j].item() == pytest.approx(slope, abs=1e-8 * ends[0])


def test_another_cost_is_refused(model) -> None:
    with pytest.raises(InputError, match="choose one of multiply_adds, parameters"):
        count_costs(model, X.double(), by="flops")


def test_a_compiled_mixture_and_one_of_several_processes_cost_the_same(model, tables) -> None:
    wrapped = nn.Module()
    wrapped.module = model  # as DistributedDataParallel holds it
    for other in (torch.compile(model), wrapped):
        assert count_costs(other, X.double()) == tables["multiply_adds"]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (X[:0], "give pictures"),
        (X[0], "give pictures"),
        (X.numpy(), "in a ndarray"),
        (X.byte(), "floating"),
    ],
)
def test_examples_that_are_no_pictures_are_refused(model, example, message) -> None:
    with pytest.raises(InputError, match=message):
        count_costs(model, example)


def test_operations_that_cannot_be_counted_are_named() -> None:
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).real

    model = CNMM([MixtureStage(2, lambda i, j: Spectrum())], nn.Flatten())
    with pytest.warns(UserWarning, match="multiply-adds of fft_fft2 are not known"):
        assert count_costs(model, X).of_path(((0, 1),)) == 0


@pytest.mark.parametrize(
    ("by", "fixed", "edges", "message"),
    [
        ("flops", 0.0, ({(0, 1): 1.0},), "no cost 'flops'"),
        ("latency", 0.0, (), "without a stage"),
        ("latency", 0.0, ({},), r"edges \[\(0, 1\)\] lack"),
        ("latency", 0.0, ({(0, 1): 1.0, (0, 2): 1.0},), r"edges \[\(1, 2\)\] lack"),
        ("latency", 0.0, ({(0, 1): 1.0, (1, 0): 1.0},), "or are none"),
        ("latency", math.nan, ({(0, 1): 1.0},), "a cost of nan"),
        ("latency", 0.0, ({(0, 1): math.inf},), "a cost of inf"),
        ("latency", 0.0, ({(0, 1): -1.0},), "a cost of -1.0"),
        ("latency", 0.0, ({(0, 1): "1"},), "a cost of '1'"),
    ],
)
def test_what_is_no_table_is_refused(by, fixed, edges, message) -> None:
    with pytest.raises(InputError, match=message):
        CostTable(by, fixed, edges)


def test_costs_of_any_number_type_are_kept_as_floats() -> None:
    table = CostTable("latency", np.int64(2), ({(0, 1): np.float32(0.5)},))
    assert type(table.of_path(((0, 1),))) is float
    assert table.range() == (2.5, 2.5)


def test_the_gates_of_another_mixture_have_no_expected_cost(tables) -> None:
    with pytest.raises(InputError, match="cost table of stages"):
        tables["parameters"].expected([torch.zeros(2)])
