from __future__ import annotations

import pytest
import torch

from merkhet import models
from merkhet.core.errors import InputError


def test_names_are_buildable_and_sorted() -> None:
    assert models.names() == sorted(models.names())
    assert {"resnet18", "small_cnn", "transformer", "vgg11"} <= set(models.names())
    assert "memory_transformer" in models.names(), "other packages offer theirs"
    assert isinstance(models.build("small_cnn", widths=(4,)), models.SmallCNN)


def test_unknown_name_lists_the_known() -> None:
    message = "no network 'resnet': choose one of .*resnet18, .*vgg11. Did you mean 'resnet18'"
    with pytest.raises(InputError, match=message):
        models.build("resnet")


def test_unknown_argument_lists_the_known() -> None:
    message = "no argument of vgg11 'widht': choose one of activation, .* Did you mean 'width'"
    with pytest.raises(InputError, match=message):
        models.build("vgg11", widht=0.5)


def test_missing_argument_is_named() -> None:
    with pytest.raises(InputError, match="transformer needs vocab_size"):
        models.build("transformer", dim=32)


def test_spec_survives_json_and_rebuilds_the_same_network() -> None:
    spec = models.Spec("small_cnn", {"widths": (4, 8), "norm": "none", "seed": 9})
    again = models.Spec.from_json(spec.to_json())
    assert again == spec
    first, second = spec.build(), again.build()
    assert first.features[0].out_channels == 4
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_spec_does_not_follow_the_dictionary_it_was_made_from() -> None:
    arguments = {"widths": [4, 8]}
    spec = models.Spec("small_cnn", arguments)
    arguments["widths"].append(16)
    assert spec.arguments == {"widths": [4, 8]}


def test_spec_refuses_what_json_cannot_hold() -> None:
    for value in (torch.Generator(), float("nan")):
        with pytest.raises(InputError, match="arguments of vgg11 do not fit into JSON"):
            models.Spec("vgg11", {"seed": value})
    with pytest.raises(InputError, match="no network 'vgg12'"):
        models.Spec("vgg12")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "vgg11"}',
        '{"name": 1, "arguments": {}}',
        '{"name": "vgg11", "arguments": 3}',
    ],
)
def test_spec_refuses_other_json(text: str) -> None:
    with pytest.raises(InputError, match="network's spec"):
        models.Spec.from_json(text)


def test_spec_refuses_keys_it_would_drop() -> None:
    with pytest.raises(InputError, match="nothing else"):
        models.Spec.from_json('{"name": "vgg11", "arguments": {}, "weights": "x"}')
