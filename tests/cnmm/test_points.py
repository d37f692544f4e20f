"""Operating points: chosen by validation, measured once, told in full."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

from merkhet.cnmm import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.costs import CostTable, count_costs
from merkhet.cnmm.extraction.folding import folded
from merkhet.cnmm.latency.measure import measure_latency
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.nodes import every_path, path_edges
from merkhet.cnmm.points import operating_points as finding
from merkhet.cnmm.points import scores
from merkhet.cnmm.points.operating_points import operating_points
from merkhet.cnmm.points.result import OperatingPoint, OperatingPoints
from merkhet.cnmm.points.scores import Score, Sets, batches_of, score
from merkhet.cnmm.recalibration import recalibrated
from merkhet.core.errors import InputError
from merkhet.core.intervals import wilson
from merkhet.core.iou import mean_iou

CLASSES = 3


def pictures(count: int, seed: int, channels: int = 1) -> Tensor:
    """Pictures of unlike brightness, so that untrained networks tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.rand(count, channels, 8, 8, generator=generator)
    return made.double() * torch.rand(count, channels, 1, 1, generator=generator)


def labels(shape, seed: int) -> Tensor:
    return torch.randint(CLASSES, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> CNMM:
    made = cnmm_classifier(1, CLASSES, channels=(3, 4), num_nodes=3, seed=1).double()
    for stage in made.parts():
        torch.nn.init.constant_(stage.logits, 0.7)
    return made


@pytest.fixture(scope="module")
def table(model) -> CostTable:
    return count_costs(model, pictures(1, 0), by="parameters")


@pytest.fixture(scope="module")
def sets(model) -> Sets:
    """Data whose validation labels are what the deepest network says: deeper ones are better."""
    train, x, deepest = pictures(40, 5), pictures(60, 1), model.path(((0, 1, 2), (0, 1, 2)))
    own = recalibrated(model, deepest, [train]).eval()
    return Sets(train, (x, own(x, deepest).argmax(1)), (pictures(50, 3), labels((50,), 4)))


@pytest.fixture(scope="module")
def found(model, table, sets) -> OperatingPoints:
    return operating_points(model, table, 4, sets)


def accuracy(model, nodes, sets, data) -> float:
    """Accuracy by hand: recalibrated on all training pictures at once, run at once."""
    own = recalibrated(model, model.path(nodes), [sets.train]).eval()
    with torch.no_grad():
        return float((own(data[0], own.path(nodes)).argmax(1) == data[1]).double().mean())


def test_points_are_the_best_of_each_budget_and_better_the_dearer(model, table, sets, found):
    ends = finding.spread(4, finding.least_path(table), table.range()[1])
    best: list[tuple[float, float]] = []
    assert len(found.points) > 2
    for below, end in zip([0.0, *ends], ends, strict=False):
        inside = [x for x in every_path(model.counts) if below < table.of_path(x) <= end]
        inside.sort(key=lambda nodes: -model.log_probability(nodes).item())
        told = [(accuracy(model, x, sets, sets.validation), table.of_path(x)) for x in inside[:3]]
        if told and (not best or max(told)[0] > best[-1][0]):
            best.append(max(told, key=lambda one: one[0]))
    assert [one.validation for one in found.points] == pytest.approx([one for one, _ in best])
    assert [one.cost for one in found.points] == [cost for _, cost in best]


def test_a_point_is_told_as_it_is(model, table, sets, found) -> None:
    for one in found.points:
        assert one.test == pytest.approx(accuracy(model, one.nodes, sets, sets.test))
        assert one.interval == wilson(round(one.test * 50), 50)
        assert one.cost == table.of_path(one.nodes)
        assert one.log_probability == pytest.approx(model.log_probability(one.nodes).item())
        pairs = zip(model.parts(), one.nodes, strict=True)
        blocks = [stage.block(*edge) for stage, own in pairs for edge in path_edges(own)]
        parts = [folded(part) for part in (model.stem, *blocks, model.head)]
        assert one.parameters == sum(x.numel() for part in parts for x in part.parameters())


def test_test_data_choose_nothing(model, table, sets, found) -> None:
    other = Sets(sets.train, sets.validation, (sets.test[0], (sets.test[1] + 1) % CLASSES))
    again = operating_points(model, table, 4, other)
    assert [one.nodes for one in again.points] == [one.nodes for one in found.points]
    assert [one.test for one in again.points] != [one.test for one in found.points]


def test_the_same_call_gives_the_same_and_leaves_the_mixture(model, table, sets, found) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert operating_points(model, table, 4, sets) == found
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def scored(monkeypatch, by_nodes) -> list:
    """Let networks score what a table says; return the list of what was scored."""
    asked = []

    def told(network, gates, data, ignore) -> Score:
        nodes = tuple(own.nodes for own in gates)
        asked.append((nodes, len(data[0])))
        return Score(by_nodes(nodes), (0.0, 1.0))

    monkeypatch.setattr(finding, "score", told)
    return asked


def test_dearer_points_that_are_no_better_are_dropped_and_counted(
    model, table, sets, monkeypatch
) -> None:
    asked = scored(monkeypatch, lambda nodes: 1 / sum(map(len, nodes)))
    budgets = sorted({table.of_path(nodes) for nodes in every_path(model.counts)})
    made = operating_points(model, table, [*budgets, budgets[-1] * 2], sets, best=1)
    assert [one.nodes for one in made.points] == [((0, 2), (0, 2))]
    assert f"{len(budgets) - 1} dropped: a cheaper point is as good" in made.notes[1]
    assert made.notes[0].startswith(f"1 of {len(budgets) + 1} budgets are empty")
    assert [count for _, count in asked] == [60] * len(budgets) + [50]


def test_a_gain_is_asked_of_every_dearer_point(model, table, sets) -> None:
    every = operating_points(model, table, 6, sets).points
    assert len(every) >= 3
    for gain in (0.0, 0.1, 0.3):
        kept = operating_points(model, table, 6, sets, gain=gain).points
        wanted = [every[0]]
        for one in every[1:]:
            if one.validation - wanted[-1].validation >= gain:
                wanted.append(one)
        assert list(kept) == wanted
    assert len(wanted) < len(every)


def test_a_measured_table_is_checked_and_read(model, sets) -> None:
    measured = measure_latency(model, sets.test[0], repeats=2, dtype=torch.float64)
    found = operating_points(model, measured, 3, sets)
    assert found.by == "latency"
    assert found == operating_points(model, measured.costs, 3, sets)
    other = cnmm_classifier(1, CLASSES, channels=(4, 4), num_nodes=3).double()
    with pytest.raises(InputError, match="model"):
        operating_points(other, measured, 3, sets)


def test_validation_chooses_among_the_candidates_of_a_budget(
    model, table, sets, monkeypatch
) -> None:
    target = ((0, 1, 2), (0, 2))
    scored(monkeypatch, lambda nodes: float(nodes == target))
    made = operating_points(model, table, [table.range()[1]], sets, best=4)
    assert [one.nodes for one in made.points] == [target]


@pytest.mark.parametrize("nodes", [((0, 2), (0, 2)), ((0, 1, 2), (0, 2)), ((0, 1, 2), (0, 1, 2))])
def test_the_starts_of_the_deepest_network_are_candidates_however_unlikely(
    model, table, sets, nodes, monkeypatch
) -> None:
    scored(monkeypatch, lambda own: float(own == nodes))
    likely = copy.deepcopy(model)
    with torch.no_grad():
        for own, sign in zip(likely.logits(), (1, -1), strict=True):
            own.fill_(9.0 * sign)
    made = operating_points(likely, table, [math.inf], sets, best=1)
    assert [one.nodes for one in made.points] == [nodes]
    assert made.points[0].log_probability == pytest.approx(likely.log_probability(nodes).item())
    cheap = operating_points(likely, table, [table.range()[0]], sets, best=1)
    assert [one.nodes for one in cheap.points] == [((0, 2), (0, 2))]


def test_node_sets_are_points_too(model, table, sets) -> None:
    made = operating_points(model, table, 5, sets, kind="node_sets")
    assert made.kind == "node_sets"
    for one in made.points:
        assert one.cost == table.of_subset(one.nodes)
        gates = model.subset(one.nodes)
        own = recalibrated(model, gates, [sets.train])
        assert one.test == score(own, gates, sets.test, None).value


def test_points_within_a_budget(found) -> None:
    first, last = found.points[0], found.points[-1]
    assert found.within(first.cost) == first
    assert found.within(math.inf) == last
    with pytest.raises(InputError, match=f"give a budget of {first.cost:.0f} parameters or more"):
        found.within(first.cost - 1)


def test_points_go_through_json_and_are_told_as_a_table(found) -> None:
    assert OperatingPoints.from_json(found.to_json()) == found
    lines = str(found).splitlines()
    assert lines[0].split()[:3] == ["nodes", "cost", "parameters"]
    assert len(lines) == 1 + len(found.points) + 1 + len(found.notes)
    assert f"{found.points[0].test:.4f}" in lines[1]
    assert "optimistic" in lines[-1]


@pytest.mark.parametrize(
    ("by", "said"),
    [("latency", "s for one batch;"), ("multiply_adds", "multiply-adds for one picture;")],
)
def test_what_a_cost_is_of_is_said(found, by, said) -> None:
    assert said in str(dataclasses.replace(found, by=by))


def test_a_file_that_holds_no_points_is_named(found, tmp_path) -> None:
    file = tmp_path / "points.json"
    file.write_text(found.to_json(), encoding="utf-8")
    assert OperatingPoints.load(file) == found
    for text in (b"\xff\xfe", found.to_json().encode()[:99]):
        file.write_bytes(text)
        with pytest.raises(InputError, match=r"points\.json: "):
            OperatingPoints.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"kind": "trees"},
        {"by": "flops"},
        {"metric": "loss"},
        {"counts": [3]},
        {"notes": None},
        {"notes": "text"},
    ],
)
def test_other_json_is_refused(found, change) -> None:
    with pytest.raises(InputError):
        OperatingPoints.from_json(json.dumps(json.loads(found.to_json()) | change))
    with pytest.raises(InputError, match="not the JSON of operating points"):
        OperatingPoints.from_json("[1]")


def test_a_single_pictures_interval_is_none_in_json_and_table() -> None:
    point = OperatingPoint(((0, 1),), 1e-3, -0.5, 10, 0.4, 0.5, None)
    made = OperatingPoints((point,), "paths", "latency", "mean IoU", (2,))
    assert OperatingPoints.from_json(made.to_json()) == made
    assert str(made).splitlines()[1].split()[-1] == "-"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tree"}, "no kind 'tree'"),
        ({"best": 0}, "best"),
        ({"gain": -0.1}, "gain"),
        ({"gain": math.nan}, "gain"),
        ({"best": 200}, "500 candidates are the most"),
        ({"budgets": [1]}, "the cheapest, 0-2,0-2, costs"),
        ({"budgets": 0}, "budgets"),
        ({"table": CostTable("latency", 0.0, ({(0, 1): 1.0},))}, "cost table of stages"),
        ({"model": torch.nn.Flatten()}, "give a CNMM"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, table, sets, options, message) -> None:
    given = {"model": model, "table": table, "budgets": 4, "sets": sets} | options
    with pytest.raises(InputError, match=message):
        operating_points(**given)


def test_batch_norms_need_training_pictures_and_group_norms_none(model, table, sets) -> None:
    for train in (None, pictures(1, 0)):
        with pytest.raises(InputError, match=r"Sets\(train=\.\.\.\)"):
            operating_points(model, table, 2, Sets(train, sets.validation, sets.test))
    plain = cnmm_classifier(1, CLASSES, channels=(4,), num_nodes=3, norm="group").double()
    own = Sets(None, sets.validation, sets.test)
    made = operating_points(plain, count_costs(plain, pictures(1, 0), by="parameters"), 2, own)
    assert made.notes[-1].startswith("no batch norms")


def test_scores_that_are_not_finite_are_refused(model, table, sets) -> None:
    own = Sets(sets.train, (sets.validation[0] * math.nan, sets.validation[1]), sets.test)
    with pytest.raises(InputError, match="not finite"):
        operating_points(model, table, 2, own)


@pytest.mark.parametrize(
    ("x", "y", "ignore", "message"),
    [
        (pictures(4, 0), labels((3,), 0), None, "for 4 pictures"),
        (pictures(4, 0), labels((4,), 0).float(), None, "give integers"),
        (pictures(4, 0)[0], labels((1,), 0), None, "floating-point pictures"),
        (pictures(0, 0), labels((0,), 0), None, "one or more"),
        (pictures(4, 0).numpy(), labels((4,), 0), None, "pictures in a ndarray"),
        (pictures(4, 0), labels((4,), 0).numpy(), None, "give two tensors"),
        (pictures(4, 0), labels((4,), 0).to(torch.complex64), None, "give integers"),
        (pictures(4, 0), labels((4,), 0), "0", "ignore = '0'"),
        (pictures(4, 0), labels((4,), 0), 0.5, "ignore = 0.5"),
        (pictures(2, 0), torch.full((2, 8, 8), 9), 9, "every test label is 9"),
        (pictures(2, 0), labels((2, 8, 8), 0), None, "one kind in both"),
    ],
)
def test_data_that_do_not_fit_are_refused(sets, x, y, ignore, message) -> None:
    with pytest.raises(InputError, match=message):
        Sets(sets.train, sets.validation, (x, y), ignore)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((255 * pictures(4, 0)).byte(), "scaled as in training"),
        (pictures(4, 0).numpy(), "train pictures in a ndarray"),
        (pictures(4, 0)[0], "scaled as in training"),
        (pictures(4, 0, channels=3), "does not run on train pictures"),
    ],
)
def test_training_pictures_that_do_not_fit_are_refused(model, table, sets, train, message) -> None:
    with pytest.raises(InputError, match=message):
        operating_points(model, table, 2, Sets(train, sets.validation, sets.test))


def test_data_that_are_no_pair_are_refused(sets) -> None:
    for wrong in (None, sets.test[0], (*sets.test, 1)):
        with pytest.raises(InputError, match="give two tensors"):
            Sets(sets.train, sets.validation, wrong)


def test_a_label_to_ignore_that_bytes_cannot_hold_ignores_none(model, table, sets) -> None:
    given = sets.test[1].byte()
    given[7] = 255
    own = Sets(sets.train, sets.validation, (sets.test[0], given), ignore=-1)
    with pytest.raises(InputError, match="class 255 among the test labels"):
        operating_points(model, table, 2, own)


def test_a_head_that_gives_no_scores_is_refused(table, sets) -> None:
    model = cnmm_classifier(1, 1, channels=(3, 4), num_nodes=3).double()
    model.head.append(torch.nn.Flatten(0))
    with pytest.raises(InputError, match="no scores"):
        operating_points(model, table, 2, sets)


@pytest.mark.parametrize("wrong", [CLASSES, -1, 255])
def test_a_class_beyond_the_head_is_named(model, table, sets, wrong) -> None:
    given = sets.test[1].clone()
    given[7] = wrong
    own = Sets(sets.train, sets.validation, (sets.test[0], given))
    with pytest.raises(InputError, match=rf"class {wrong} among the test labels: the head has 3"):
        operating_points(model, table, 2, own)


def test_masks_of_another_size_are_refused(model, table, sets) -> None:
    masks = (pictures(2, 0), labels((2, 8, 8), 0))
    with pytest.raises(InputError, match="give a label for each"):
        operating_points(model, table, 2, Sets(sets.train, masks, masks))


def test_masks_give_the_mean_iou_of_one_confusion_matrix() -> None:
    model = cnmm_segmenter(2, CLASSES, channels=(3, 4), nodes=(1, 0)).double()
    x, y = pictures(7, 0, channels=2), labels((7, 8, 8), 1)
    y[:, :3] = 9
    y[y == 2] = 1  # a class that no label names
    sets = Sets(x, (x, y), (x, y), ignore=9)
    one = operating_points(
        model, count_costs(model, x, by="parameters"), [math.inf], sets, best=1
    ).points[0]
    gates = model.path(one.nodes)
    own = recalibrated(model, gates, [x]).eval()
    guess = own(x, gates).argmax(1)[y != 9]
    true = y[y != 9]
    iou = [
        float(((guess == k) & (true == k)).sum() / ((guess == k) | (true == k)).sum())
        for k in (0, 1)
    ]
    assert one.test == pytest.approx(sum(iou) / 2)
    low, high = one.interval
    assert low < one.test < high


def test_the_interval_of_the_mean_iou_narrows_as_pictures_grow(generator) -> None:
    def width(count: int) -> float:
        hits = torch.randint(1, 40, (count, CLASSES), generator=generator)
        tallies = torch.stack([hits, hits + 20, hits + 20], 2).double()
        low, high = scores._bootstrap(tallies)
        assert low < float(mean_iou(*tallies.sum(0).unbind(-1))) < high
        return high - low

    # 16 times the pictures: a quarter of the width, up to what 1,000 resamples leave open.
    assert width(400) / width(25) == pytest.approx(0.25, abs=0.1)
    assert scores._bootstrap(torch.ones(1, CLASSES, 3)) is None


def test_batches_hold_every_picture_once_and_never_a_single_one(monkeypatch) -> None:
    monkeypatch.setattr(scores, "BATCH", 4)
    for count in (2, 3, 4, 5, 8, 9, 13, 31):
        x = pictures(count, 0)
        parts = batches_of(x)
        assert torch.cat(parts).equal(x)
        assert all(2 <= len(part) < 8 for part in parts)
    assert len(batches_of(torch.empty(9, 3, 1000, 1000))[0]) == 3
