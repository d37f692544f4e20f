"""Nested node sets against brute force."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch

from merkhet.cnmm import cnmm_classifier
from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.enumeration import probabilities
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import full_nodes, shortest_nodes
from merkhet.cnmm.points.node_sets import nested_node_sets, node_set_within
from merkhet.cnmm.stage import MixtureStage
from merkhet.core.errors import InputError

COUNTS = (5, 4)


def block(i: int, j: int) -> torch.nn.Module:
    return torch.nn.Identity()


@pytest.fixture(params=range(3))
def generator(request) -> torch.Generator:
    return torch.Generator().manual_seed(request.param)


@pytest.fixture
def model(generator) -> CNMM:
    made = CNMM([MixtureStage(count, block) for count in COUNTS], torch.nn.Flatten()).double()
    for stage in made.parts():
        torch.nn.init.normal_(stage.logits, generator=generator)
    return made


@pytest.fixture
def table(generator) -> CostTable:
    def drawn(i: int, j: int) -> float:
        return 1.0 + (j - i) * float(torch.rand((), generator=generator))

    edges = ({edge: drawn(*edge) for edge in combinations(range(count), 2)} for count in COUNTS)
    return CostTable("latency", 0.5, tuple(edges))


def without(nodes):
    for stage, own in enumerate(nodes):
        for node in own[1:-1]:
            left = tuple(one for one in own if one != node)
            yield stage, node, (*nodes[:stage], left, *nodes[stage + 1 :])


def inside(path, nodes) -> bool:
    return all(set(own) <= set(kept) for own, kept in zip(path, nodes, strict=True))


def test_each_set_is_the_one_before_without_one_node(model, table) -> None:
    found = [one.nodes for one in nested_node_sets(model, table)]
    assert found[0] == full_nodes(model.counts)
    assert found[-1] == shortest_nodes(model.counts)
    for larger, smaller in pairwise(found):
        assert smaller in [nodes for _, _, nodes in without(larger)]


def test_the_divergence_is_that_of_the_networks_that_are_left(model, table) -> None:
    every = probabilities(model)
    for one in nested_node_sets(model, table):
        left = [p for path, p in every.items() if inside(path, one.nodes)]
        share = sum(left)
        kl = sum(p / share * math.log(p / share / p) for p in left)
        assert one.kl == pytest.approx(kl, abs=1e-12)
        assert math.exp(one.log_probability) == pytest.approx(share, rel=1e-12)
        assert one.cost == table.of_subset(one.nodes)


def test_the_node_is_dropped_that_costs_least_for_what_it_saves_now(model, table) -> None:
    for larger, smaller in pairwise(nested_node_sets(model, table)):
        rates = {}
        for stage, node, nodes in without(larger.nodes):
            harm = -math.log(1 - model.logits()[stage].sigmoid()[node - 1].item())
            rates[nodes] = harm / (larger.cost - table.of_subset(nodes))
        assert min(rates, key=rates.get) == smaller.nodes


def test_a_measured_loss_decides_where_it_is_given(model, table) -> None:
    asked = []

    def loss(gates) -> float:
        asked.append(gates)
        # Only node 2 of the first stage matters; to drop node 1 of the second is a gain.
        return 10.0 * (gates[0].values[2] == 0).item() - (gates[1].values[1] == 0).item()

    found = nested_node_sets(model, table, loss)
    assert found[1].nodes == ((0, 1, 2, 3, 4), (0, 2, 3))
    assert [one.loss for one in found] == [0.0, -1.0, -1.0, -1.0, -1.0, 9.0]
    assert found[-2].nodes == ((0, 2, 4), (0, 3))
    assert len(asked) == 5 * 6 // 2 + 1


def test_the_node_is_dropped_whose_loss_rises_least_for_what_it_saves(model, table) -> None:
    harms = [[3.0, 1.0, 2.0], [1.5, 4.0]]  # they add up

    def loss(gates) -> float:
        pairs = zip(harms, gates, strict=True)
        dropped = (own.values[1:-1].eq(0).double() @ torch.tensor(h).double() for h, own in pairs)
        return 100.0 + float(sum(dropped))

    for larger, smaller in pairwise(nested_node_sets(model, table, loss)):
        rates = {
            nodes: harms[stage][node - 1] / (larger.cost - table.of_subset(nodes))
            for stage, node, nodes in without(larger.nodes)
        }
        assert min(rates, key=rates.get) == smaller.nodes


def test_of_two_gains_in_loss_the_one_that_saves_more_comes_first() -> None:
    model = CNMM([MixtureStage(4, block)], torch.nn.Flatten())
    edges = {edge: 9.0 if 1 in edge else 1.0 for edge in combinations(range(4), 2)}
    gain = torch.tensor([0.0, 1.0, 1.5, 0.0])  # of nodes 1 and 2

    def loss(gates) -> float:
        return -float(gain[gates[0].values == 0].sum())

    found = nested_node_sets(model, CostTable("latency", 0.0, (edges,)), loss)
    assert found[1].nodes == ((0, 2, 3),)


def test_nodes_that_save_nothing_go_last_and_the_least_harmful_first() -> None:
    model = cnmm_classifier(channels=(3,), num_nodes=5)
    with torch.no_grad():
        model.logits()[0].copy_(torch.tensor([2.0, 3.0, 1.0]))
    edges = {edge: float(2 in edge) for edge in combinations(range(5), 2)}
    found = nested_node_sets(model, CostTable("parameters", 0.0, (edges,)))
    assert [one.nodes[0] for one in found[1:]] == [(0, 1, 3, 4), (0, 1, 4), (0, 4)]


def test_the_largest_set_within_a_budget_is_given(model, table) -> None:
    found = nested_node_sets(model, table)
    for larger, one in pairwise(found):
        assert node_set_within(model, table, one.cost) == one
        assert node_set_within(model, table, (larger.cost + one.cost) / 2) == one
    assert node_set_within(model, table, math.inf) == found[0]


def test_an_infeasible_budget_names_the_minimum(model, table) -> None:
    least = table.of_subset(shortest_nodes(model.counts))
    with pytest.raises(InputError, match=r"no node set costs 1 s .* 0-4,0-3, costs") as told:
        node_set_within(model, table, 1)
    named = float(str(told.value).split("budget of ")[1].split()[0])
    assert least <= named <= least * 1.0002


def test_a_loss_that_is_no_number_is_refused(model, table) -> None:
    with pytest.raises(InputError, match="return a finite number"):
        nested_node_sets(model, table, lambda gates: math.nan)
    for found in (None, "high", torch.ones(2)):
        with pytest.raises(InputError, match="return one finite number"):
            nested_node_sets(model, table, lambda gates, found=found: found)
    with pytest.raises(InputError, match="give a function"):
        nested_node_sets(model, table, 0.5)


def test_all_nodes_have_log_probability_zero_without_a_sign(model, table) -> None:
    assert str(nested_node_sets(model, table)[0].log_probability) == "0.0"


def test_a_table_of_another_mixture_is_refused(model) -> None:
    other = CostTable("latency", 0.0, ({(0, 1): 1.0},))
    with pytest.raises(InputError, match="cost table of stages"):
        node_set_within(model, other, 1)
