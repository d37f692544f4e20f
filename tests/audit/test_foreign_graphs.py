from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from merkhet.audit.accuracy import has_no_labels
from merkhet.audit.next_tokens import predicts_next_tokens
from merkhet.audit.subject import make_subject
from merkhet.kernels.checks.reach import unreached
from merkhet.memory import ProductKeyMemory
from merkhet.memory.feed_forward import feed_forward_layers
from merkhet.stability.checks import inner_layers
from merkhet.unit_prior.checks.dead import has_no_switch
from merkhet.unit_prior.checks.looking import layers_by_input
from merkhet.unit_prior.checks.streams import stream, unsettled_norms

sys.path.insert(0, str(Path(__file__).parent))
import foreign_networks as foreign

transformers = pytest.importorskip("transformers")


@functools.cache
def subject_of(build):
    return make_subject(*build(transformers))


@functools.cache
def subject_around(build):
    return make_subject(*foreign.around(build))


def test_feed_forward_layers_are_found_however_they_are_written() -> None:
    gpt, _ = foreign.gpt2(transformers)
    assert [one.path for one in feed_forward_layers(gpt)] == [
        "transformer.h.0.mlp",
        "transformer.h.1.mlp",
    ], "an attention goes up and down too, and is none"
    bert, _ = foreign.bert(transformers)
    found = feed_forward_layers(bert)
    assert [one.path for one in found] == [
        f"bert.encoder.layer.{place}.intermediate and output" for place in (0, 1)
    ]
    assert {(one.width, one.hidden) for one in found} == {(16, 32)}


@pytest.mark.parametrize("build", [foreign.gpt2, foreign.bert])
def test_the_code_puts_a_memory_in_their_place(build) -> None:
    network, data = build(transformers)
    tokens = data[0] if isinstance(data, tuple) else data
    before = network(tokens[:2]).logits
    exec(feed_forward_layers(network)[1].code, {"network": network})
    assert sum(isinstance(part, ProductKeyMemory) for part in network.modules()) == 1
    after = network(tokens[:2]).logits
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    assert len(feed_forward_layers(network)) == 1


def test_a_language_model_is_one_that_looks_back_only() -> None:
    gpt = subject_of(foreign.gpt2)
    assert predicts_next_tokens(gpt)
    assert has_no_labels(gpt) is None
    masked = subject_of(foreign.masked)
    assert not predicts_next_tokens(masked), "it sees both sides"
    assert has_no_labels(masked) == "the data has no labels"
    assert not predicts_next_tokens(subject_of(foreign.bert))


def test_position_tables_are_left_out_by_name() -> None:
    layers, told = layers_by_input(subject_of(foreign.gpt2))
    assert "transformer.wpe" not in [place.path for place in layers]
    assert told.endswith("transformer.wpe.")
    assert layers_by_input(subject_around(nn.Identity))[1] == ""


def test_what_a_branch_ends_in_is_not_compared() -> None:
    subject = subject_of(foreign.vit)
    paths = [place.path for place in layers_by_input(subject)[0]]
    kept = stream(subject.network, paths)
    assert {path.rpartition(".")[2] for path in set(paths) - set(kept)} == {"o_proj", "fc2"}
    assert kept[0] == paths[0]
    assert kept[-1] == "classifier"
    plain = subject_around(nn.Identity)
    assert stream(plain.network, ["0", "4", "8"]) == ["0", "4", "8"]


def test_batch_norms_that_saw_no_data_are_found() -> None:
    network, data = foreign.mobilenet(transformers)
    (finding,) = unsettled_norms(network)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert finding.value == norms
    space = {"network": network, "inputs": data[0], "preprocess": lambda inputs: inputs}
    exec(finding.code, space)
    assert unsettled_norms(network) == ()
    assert not network.training


def test_relu6_switches_off_under_any_name() -> None:
    assert has_no_switch(subject_of(foreign.mobilenet)) is None
    assert "units cannot die" in str(has_no_switch(subject_of(foreign.vit)))


def test_layers_to_be_moved_are_spread_over_the_network() -> None:
    found = inner_layers(subject_of(foreign.vit))
    assert any("layers." in path for path in found), "a list of layers is not called itself"
    found = inner_layers(subject_of(foreign.convnext))
    assert not any(other.startswith(f"{path}.") for path in found for other in found)


def test_parameters_that_no_gradient_reaches_are_found() -> None:
    subject = subject_around(foreign.Outside)
    (finding,) = unreached(subject)
    lost = sum(value.numel() for part in (0, 1) for value in subject.module[part].parameters())
    kept = sum(value.numel() for value in subject.module.parameters())
    assert finding.value == pytest.approx(lost / kept)
    assert finding.sentence.startswith(f"No gradient reaches {lost} of {kept:,} parameters, 0.wei")
    before = {name: value.clone() for name, value in subject.module.state_dict().items()}
    space = {"network": subject.module, "inputs": subject.inputs, "preprocess": lambda x: x}
    exec(finding.code, space)
    after = subject.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    for module in (foreign.OwnFunction, foreign.Branching, nn.Identity):
        assert unreached(subject_around(module)) == ()
    assert unreached(subject_of(foreign.gpt2)) == ()
