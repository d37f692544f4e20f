from __future__ import annotations

import json

import pytest

from merkhet.core.errors import InputError
from merkhet.training.config import Optimisation, Running, TrainingConfig, flatten


def test_a_configuration_survives_json() -> None:
    config = TrainingConfig(
        steps=10,
        batch_size=4,
        accumulate=2,
        precision="bf16",
        optimisation=Optimisation(betas=(0.8, 0.9), clip_norm=1.0, warmup_steps=10),
        running=Running(save_every=3, tracker="tensorboard"),
    )
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_fill_a_short_dict() -> None:
    assert TrainingConfig.from_dict({"steps": 3, "batch_size": 2}) == TrainingConfig(3, 2)


@pytest.mark.parametrize("fields", [{"steps": 3}, {"steps": 3, "batch_size": 2, "epochs": 1}])
def test_other_fields_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InputError, match="fields of a TrainingConfig"):
        TrainingConfig.from_dict(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", True),
        ("batch_size", 1.5),
        ("accumulate", 0),
        ("seed", -1),
        ("precision", "fp16"),
    ],
)
def test_a_wrong_run_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        TrainingConfig(**{"steps": 5, "batch_size": 2, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("betas", 0.9),
        ("warmup_steps", -1),
        ("schedule", "linear"),
        ("final_fraction", 1.5),
        ("clip_norm", 0.0),
    ],
)
def test_a_wrong_optimisation_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        Optimisation(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["save_every", "keep", "log_every"])
def test_running_counts_start_at_one(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} = 0: give a whole number of at least 1"):
        Running(**{name: 0})  # type: ignore[arg-type]


def test_the_warm_up_fits_into_the_run() -> None:
    with pytest.raises(InputError, match="6 is more than all the 5 steps: give at most 5"):
        TrainingConfig(5, 2, optimisation=Optimisation(warmup_steps=6))


def test_flatten_names_by_dots() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }
