from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.training.groups import parameter_groups


class Tied(nn.Module):
    """An embedding whose table is also the head, a norm over pictures, a table with hints."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.body = nn.Sequential(nn.Conv1d(4, 4, 3), nn.LayerNorm([4, 5]), nn.Linear(5, 5))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(4))


class Table(nn.Module):
    def __init__(self, hints: dict[str, Any]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(5, 3))
        self.query = nn.Linear(3, 2)
        self.training_hints = hints


def names(module: nn.Module, group: dict[str, Any]) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in module.named_parameters() if id(parameter) in wanted}


def trait(module: nn.Module, groups: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Return the weight decay and rate of the parameter called `name`."""
    parameter = module.get_parameter(name)
    (group,) = [g for g in groups if any(parameter is other for other in g["params"])]
    return group["weight_decay"], group["rate"]


def test_matrices_and_kernels_decay_and_nothing_else() -> None:
    module = Tied()
    decayed, others = sorted(parameter_groups(module, 0.1), key=lambda g: -g["weight_decay"])
    assert names(module, decayed) == {"body.0.weight", "body.2.weight"}
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0


@pytest.mark.parametrize("decay_embeddings", [False, True])
def test_every_parameter_is_in_exactly_one_group(decay_embeddings: bool) -> None:
    module = Tied()
    groups = parameter_groups(module, 0.1, decay_embeddings=decay_embeddings)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in module.parameters())


def test_a_tied_table_decays_only_if_embeddings_do() -> None:
    module = Tied()
    assert trait(module, parameter_groups(module, 0.1), "embedding.weight")[0] == 0
    groups = parameter_groups(module, 0.1, decay_embeddings=True)
    assert trait(module, groups, "embedding.weight")[0] == 0.1


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.RMSNorm((4, 4)), nn.LayerNorm((4, 4))]
)
def test_norms_never_decay(norm: nn.Module) -> None:
    assert all(group["weight_decay"] == 0 for group in parameter_groups(norm, 0.1))


def test_frozen_parameters_are_left_out() -> None:
    module = nn.Linear(3, 3)
    module.bias.requires_grad_(False)
    (group,) = parameter_groups(module, 0.1)
    assert names(module, group) == {"weight"}


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="no parameter of Linear requires a gradient"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def test_a_module_gives_hints_for_its_parameters() -> None:
    hints = {"values": {"rate": 10.0, "decay": False}, "query.weight": {"rate": 0.5}}
    module = nn.Sequential(nn.Linear(2, 3), Table(hints))
    groups = parameter_groups(module, 0.1)
    assert trait(module, groups, "1.values") == (0.0, 10.0)
    assert trait(module, groups, "1.query.weight") == (0.1, 0.5)
    assert trait(module, groups, "0.weight") == (0.1, 1.0)


def test_outer_hints_win_over_inner_and_overrides_over_all() -> None:
    inner = Table({"values": {"rate": 10.0, "decay": False}})
    module = nn.Sequential(inner)
    module.training_hints = {"0.values": {"rate": 5.0}}
    assert trait(module, parameter_groups(module, 0.1), "0.values") == (0.0, 5.0)
    groups = parameter_groups(module, 0.1, overrides={"*": {"rate": 2.0}, "*ues": {"rate": 3.0}})
    assert trait(module, groups, "0.values") == (0.0, 3.0)
    assert trait(module, groups, "0.query.weight") == (0.1, 2.0)


def test_an_override_may_use_any_name_of_a_tied_parameter() -> None:
    module = Tied()
    groups = parameter_groups(module, 0.1, overrides={"head.*": {"rate": 4.0}})
    assert trait(module, groups, "embedding.weight") == (0.0, 4.0)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"vlues": {"rate": 1.0}}, "no parameter for training_hints of Table 'vlues'.*'values'"),
        ({"values": {"rates": 1.0}}, "no property in .* 'rates'.*Did you mean 'rate'"),
        ({"values": {"rate": -1.0}}, "rate = -1.0"),
    ],
)
def test_wrong_hints_are_refused(hints: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parameter_groups(Table(hints), 0.1)


def test_an_override_that_fits_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="fits no parameter: the names are weight, bias"):
        parameter_groups(nn.Linear(2, 2), 0.1, overrides={"hed.*": {"rate": 1.0}})


def test_groups_feed_any_optimiser_of_torch() -> None:
    optimiser = torch.optim.SGD(parameter_groups(Tied(), 0.1), lr=0.1)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == 8
