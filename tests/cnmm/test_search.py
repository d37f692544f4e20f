"""The search for paths against enumeration of all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from merkhet.cnmm import cnmm_classifier, gates
from merkhet.cnmm.costs import CostTable
from merkhet.cnmm.nodes import every_path
from merkhet.cnmm.points import programme, search
from merkhet.cnmm.points.budgets import Minimum, bucket_of, shown, spread
from merkhet.cnmm.points.search import Candidate, best_paths, best_within, enumerated, least_path
from merkhet.core.errors import InputError

COUNTS = (5, 6)


def table_of(counts, cost, fixed=2.0, by="latency") -> CostTable:
    edges = ({edge: cost(*edge) for edge in combinations(range(count), 2)} for count in counts)
    return CostTable(by, fixed, tuple(edges))


@pytest.fixture(params=["random", "whole", "equal", "zero"])
def case(request, generator) -> tuple[list[torch.Tensor], CostTable]:
    def drawn(i: int, j: int) -> float:
        return float(torch.rand((), generator=generator)) + (j - i)

    kinds = {
        "random": drawn,
        "whole": lambda i, j: float(int(1e6 * drawn(i, j))),
        "equal": lambda i, j: 3.0,
        "zero": lambda i, j: float(i > 0),
    }
    fixed = 0.0 if request.param == "zero" else 2.0
    logits = [2 * torch.randn(count - 2, generator=generator) for count in COUNTS]
    return logits, table_of(COUNTS, kinds[request.param], fixed)


def log_p(logits, nodes) -> float:
    doubled = [own.double() for own in logits]
    pairs = zip(doubled, nodes, strict=True)
    return float(sum(gates.log_probability(*pair) for pair in pairs))


def brute(logits, table) -> list[Candidate]:
    paths = every_path(table.counts)
    return [Candidate(nodes, log_p(logits, nodes), table.of_path(nodes)) for nodes in paths]


def told(found) -> list[tuple]:
    return [(one.nodes, one.cost, pytest.approx(one.log_probability, rel=1e-12)) for one in found]


def plain(found) -> list[tuple]:
    return [(one.nodes, one.cost, one.log_probability) for one in found]


def test_enumeration_gives_every_path_with_its_log_p_and_cost(case) -> None:
    assert plain(enumerated(search.gates_of(*case), case[1])) == told(brute(*case))


def test_best_paths_are_the_likeliest_of_each_bucket(case) -> None:
    logits, table = case
    least, (low, high) = least_path(table), table.range()
    ends = spread(6, least, high)
    found = best_paths(logits, table, 6, best=2)
    expected = []
    for below, end in zip([-1.0, *ends], ends, strict=False):
        inside = [one for one in brute(logits, table) if below < one.cost <= end + 1e-9]
        inside = [one for one in inside if one.cost > below + 1e-9]
        expected += sorted(inside, key=lambda one: one.rank)[:2]
    expected.sort(key=lambda one: (one.cost, *one.rank))
    assert plain(found) == told(expected)
    assert found[0].cost == pytest.approx(low)


def test_the_programme_keeps_every_path_where_places_suffice(case) -> None:
    logits, table = case
    doubled = search.gates_of(logits, table)
    found = sorted(programme.likely(doubled, table, best=10_000), key=lambda one: one.nodes)
    expected = sorted(brute(logits, table), key=lambda one: one.nodes)
    assert [one.nodes for one in found] == [one.nodes for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-12)
        assert one.cost == pytest.approx(other.cost, rel=1e-14)


def test_the_programme_is_within_the_error_it_states(case, monkeypatch) -> None:
    monkeypatch.setattr(programme, "CELLS", 64)  # coarse, so that starts are given up
    logits, table = case
    low, high = table.range()
    off = (high - low) / 64 * sum(COUNTS) + 1e-9
    found = programme.likely(search.gates_of(logits, table), table, best=1)
    for path in brute(logits, table):
        near = [one for one in found if abs(one.cost - path.cost) <= off]
        assert max(one.log_probability for one in near) >= path.log_probability - 1e-12


def test_the_programme_gives_what_enumeration_does_where_costs_are_apart(generator, monkeypatch):
    # Costs are sums of 1, 2, 4, ...: every start of a path has a cell of its own.
    places = {edge: place for place, edge in enumerate(combinations(range(5), 2))}
    table = table_of((5,), lambda i, j: 2.0 ** places[i, j])
    logits = [torch.randn(3, generator=generator)]
    expected = best_paths(logits, table, 4, best=1)
    monkeypatch.setattr(search, "ENUMERATED", 1)
    assert plain(best_paths(logits, table, 4, best=1)) == told(expected)


def test_large_mixtures_are_searched_too(generator) -> None:
    counts = (9, 9)  # 16,384 paths
    table = table_of(counts, lambda i, j: float(100 + 10 * (j - i)))
    logits = [torch.randn(7, generator=generator) for _ in counts]
    found = best_paths(logits, table, 8, best=1)
    likeliest = tuple((0, *(1 + int(k) for k in own.gt(0).nonzero()), 8) for own in logits)
    assert likeliest in [one.nodes for one in found]
    for one in found:
        assert one.cost == table.of_path(one.nodes)
        assert one.log_probability == pytest.approx(log_p(logits, one.nodes), rel=1e-12)


def test_the_best_within_a_budget_is_the_likeliest_that_fits(case) -> None:
    logits, table = case
    every = brute(logits, table)
    low, high = table.range()
    budgets = [low + (high - low) * share for share in (0.1, 0.33, 0.77)]
    for budget in (*budgets, float("inf"), *(one.cost for one in every[::17])):
        found = best_within(logits, table, budget)
        expected = min((x for x in every if x.cost <= budget), key=lambda one: one.rank)
        assert found.cost <= budget
        assert found.log_probability == pytest.approx(expected.log_probability, rel=1e-12)


@pytest.mark.parametrize("case", ["random", "whole", "equal"], indirect=True)
def test_the_cheapest_path_is_named_where_no_path_fits(case) -> None:
    logits, table = case
    least = min(brute(logits, table), key=lambda one: one.cost)
    with pytest.raises(InputError, match=r"no network costs 1 s or less: the cheapest, 0-") as told:
        best_within(logits, table, 1)
    named = float(str(told.value).split("budget of ")[1].split()[0])
    assert least.cost <= named <= least.cost * 1.0002
    assert best_within(logits, table, named).cost == pytest.approx(least.cost, rel=2e-4)


def test_a_mixture_of_one_network_has_that_one() -> None:
    table, logits = table_of((2, 2), lambda i, j: 1.0), [torch.zeros(0)] * 2
    only = Candidate(((0, 1), (0, 1)), 0.0, 4.0)
    assert best_paths(logits, table) == [only] == [best_within(logits, table, 4)]


def test_a_dear_shortcut_is_not_taken_for_the_cheapest_path() -> None:
    table = table_of((4,), lambda i, j: 10.0 if j - i > 1 else 1.0)
    assert least_path(table) == Minimum("network", ((0, 1, 2, 3),), 5.0, "s")


def test_a_mixture_is_searched_as_its_logits_are() -> None:
    model = cnmm_classifier(channels=(3,), num_nodes=4)
    table = table_of((4,), lambda i, j: float(j - i) ** 2)
    assert best_paths(model, table) == best_paths(model.logits(), table)
    assert best_paths(torch.compile(model), table) == best_paths(model, table)


@pytest.mark.parametrize(
    ("logits", "table", "message"),
    [
        ([torch.zeros(2)], table_of((5,), lambda i, j: 1.0), "cost table of stages of"),
        ([torch.full((2,), torch.nan)], table_of((4,), lambda i, j: 1.0), "not finite"),
        ([[0.0, 0.0]], table_of((4,), lambda i, j: 1.0), "list of its logits"),
        ([torch.zeros(2, 1)], table_of((4,), lambda i, j: 1.0), "list of its logits"),
        (None, table_of((4,), lambda i, j: 1.0), "gates in a NoneType"),
        (torch.nn.Linear(1, 1), table_of((4,), lambda i, j: 1.0), "give a CNMM"),
    ],
)
def test_what_does_not_fit_is_refused(logits, table, message) -> None:
    for call in (lambda: best_paths(logits, table), lambda: best_within(logits, table, 1e9)):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("wrong", [float("nan"), "3", True, None])
def test_what_is_no_budget_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="give a number of s"):
        best_within([torch.zeros(2)], table_of((4,), lambda i, j: 1.0), wrong)


@pytest.mark.parametrize("wrong", [10**400, -(10**400)])
def test_a_budget_beyond_floats_is_infinite(wrong) -> None:
    case = [torch.zeros(2)], table_of((4,), lambda i, j: 1.0)
    if wrong > 0:
        assert best_within(*case, wrong) == best_within(*case, float("inf"))
    else:
        with pytest.raises(InputError, match="no network costs -inf s"):
            best_within(*case, wrong)


@pytest.mark.parametrize("given", [np.array([4.0, 3.0]), torch.tensor([4.0, 3.0]), {3, 4}])
def test_budgets_may_be_an_array(given) -> None:
    case = [torch.zeros(2)], table_of((4,), lambda i, j: 1.0)
    assert best_paths(*case, given) == best_paths(*case, [3.0, 4.0])


@pytest.mark.parametrize("wrong", [0, 2.5, [], [1.0], ["9"], "9", b"9"])
def test_what_are_no_buckets_is_refused(wrong) -> None:
    with pytest.raises(InputError):
        best_paths([torch.zeros(2)], table_of((4,), lambda i, j: 1.0), wrong)


def test_buckets_are_even_in_log_cost_and_hold_both_ends() -> None:
    least = Minimum("network", ((0, 1),), 2.0, "s")
    assert spread(3, least, 8.0) == pytest.approx([2.0, 4.0, 8.0])
    assert spread(1, least, 8.0) == spread(4, Minimum("n", (), 8.0, "s"), 8.0) == [8.0]
    assert spread(3, Minimum("network", (), 0.0, "s"), 8.0) == [0.0, 4.0, 8.0]
    assert spread([5, 3.0, 5], least, 8.0) == [3.0, 5.0]


def test_an_end_belongs_to_its_bucket_up_to_rounding() -> None:
    ends = [0.3, 0.6]
    assert [bucket_of(cost, ends) for cost in (0.1, 0.1 + 0.2, 0.31, 0.6, 0.7)] == [0, 0, 1, 1, 2]


def test_costs_are_shown_such_that_they_fit() -> None:
    assert [shown(cost) for cost in (3.0, 123456789.0, 1 / 3, 1.23e-7)] == [
        "3",
        "123456789",
        "0.33334",
        "1.23e-07",
    ]
    assert float(shown(2**0.5 * 1e-3)) >= 2**0.5 * 1e-3
