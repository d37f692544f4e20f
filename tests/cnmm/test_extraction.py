"""Networks out of a mixture: the same outputs, plain, and nothing shared."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from merkhet.cnmm import networks as builders
from merkhet.cnmm.extraction.extract import extract, extracted_network
from merkhet.cnmm.extraction.submixture import SubMixture, Weighted
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_classifier, cnmm_segmenter
from merkhet.cnmm.nodes import written
from merkhet.cnmm.recalibration import recalibrated
from merkhet.cnmm.stage import MixtureStage
from merkhet.core.errors import InputError
from merkhet.core.graph import trace
from merkhet.core.modes import evaluating
from merkhet.models import Spec, load_weights, save_weights

NODES = ((0, 1, 3), (0, 2, 3))
TWO = ((0, 3), (0, 3))
SMALL = {"channels": (3, 4), "num_nodes": 4}


def mixture(dtype: torch.dtype = torch.float64, **given: object) -> CNMM:
    model = cnmm_classifier(1, 5, **(SMALL | given)).to(dtype)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(0.3 * noise.to(dtype))
    return model


def pictures(dtype: torch.dtype = torch.float64, channels: int = 1) -> Tensor:
    return torch.rand(8, channels, 8, 8, dtype=dtype)


def difference(model: CNMM, nodes: object, subset: bool, x: Tensor, y: Tensor) -> float:
    """Of two runs of one network, over the largest output."""
    gates = model.subset(nodes) if subset else model.path(nodes)
    network, reference = extract(model, nodes, [x, y], subset=subset), model
    if any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        reference = recalibrated(model, gates, [x, y])
    with evaluating(reference):
        wanted = reference(y, gates)
        return float((network(y) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kind", ["plain", "residual", "separable"])
def test_it_computes_what_the_recalibrated_mixture_computes(kind: str) -> None:
    for norm, activation in product(("batch", "group"), ("relu", "gelu")):
        model = mixture(kind=kind, norm=norm, activation=activation)
        for nodes, subset in ((NODES, False), (NODES, True), (TWO, True)):
            assert difference(model, nodes, subset, pictures(), pictures()) < 1e-12
    single = mixture(torch.float32, kind=kind)
    x, y = pictures(torch.float32), pictures(torch.float32)
    assert difference(single, NODES, False, x, y) < 1e-5
    assert difference(single, NODES, True, x, y) < 1e-5


def test_it_takes_mixtures_of_several_resolutions() -> None:
    model = cnmm_segmenter(3, 4, (3, 4, 5)).double()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    for subset in (False, True):
        assert difference(model, ((0, 2, 3, 5),), subset, x, x) < 1e-12


def test_a_path_is_a_chain_of_its_blocks_and_holds_no_more() -> None:
    network = extract(mixture(), NODES, [pictures()])
    assert [name for name, _ in network.named_children()] == [
        *("stem_0", "stem_1"),
        *("stage0_0_1_0", "stage0_0_1_1", "stage0_1_3_0", "stage0_1_3_1"),
        *("stage1_0_2_0", "stage1_0_2_1", "stage1_2_3_0", "stage1_2_3_1"),
        *("head_0", "head_1", "head_2"),
    ]
    assert not any(part.training for part in network.modules())
    assert {type(part) for part in network.modules()} == {
        nn.Sequential,
        nn.Conv2d,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Linear,
    }
    network(pictures()).square().sum().backward()
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_node_set_holds_the_live_edges() -> None:
    model = mixture(activation="gelu")
    network = extract(model, NODES, [pictures()], subset=True)
    names = [name for name, _ in network.named_children()]
    assert names == ["stem_0", "stem_1", "stage0", "stage1", "head_0", "head_1", "head_2"]
    stage = network.stage1
    assert isinstance(stage, SubMixture)
    # The one edge into a node has weight 1; GELU keeps the other weights where they are.
    kinds = {"0_2": nn.Sequential, "0_3": Weighted, "2_3": Weighted}
    assert {name: type(block) for name, block in stage.blocks.items()} == kinds
    assert len(dict(network.named_buffers())) == 4


def test_two_nodes_a_stage_are_a_path() -> None:
    model, x = mixture(), pictures()
    path, nodes = extract(model, TWO, [x]), extract(model, TWO, [x], subset=True)
    assert str(path) == str(nodes)
    assert torch.equal(path(x), nodes(x))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("subset", [False, True])
def test_nothing_is_shared_with_the_mixture(norm: str, subset: bool) -> None:
    model, x = mixture(norm=norm, activation="gelu"), pictures()
    before = copy.deepcopy(model.state_dict())
    network = extract(model, NODES, [x], subset=subset)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    theirs = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert not own & theirs
    wanted = network(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(network(x), wanted)
    assert torch.equal(copy.deepcopy(network)(x), wanted)


def test_it_trains_where_the_mixture_does() -> None:
    model = mixture()
    assert all(p.requires_grad for p in extract(model, NODES, [pictures()]).parameters())
    model.stem.requires_grad_(False)
    network = extract(model, NODES, [pictures()])
    assert not any(p.requires_grad for p in network.stem_0.parameters())
    assert all(p.requires_grad for p in network.stage0_0_1_0.parameters())


def test_no_stem_and_no_norm_need_no_pictures() -> None:
    stage = MixtureStage(3, lambda _i, _j: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()))
    network = extract(CNMM([stage], nn.Flatten()), ((0, 2),))
    assert [name for name, _ in network.named_children()] == [
        *("stage0_0_2_0", "stage0_0_2_1", "head"),
    ]


def test_a_compiled_mixture_is_seen_through() -> None:
    model = mixture(norm="group")
    compiled = torch.compile(model)
    assert str(extract(compiled, NODES)) == str(extract(model, NODES))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (None, "give batches of pictures"),
        ([], "one batch or more"),
        ([torch.rand(1, 1, 8, 8)], "two or more"),
        ([(torch.rand(4, 1, 8, 8), torch.zeros(4))], "a batch is a tuple: give pictures alone"),
        (torch.rand(4, 1, 8, 8), r"a batch is a tensor of shape \(1, 8, 8\)"),
        ([torch.zeros(4, 1, 8, 8, dtype=torch.uint8)], "floating"),
        ([torch.full((4, 1, 8, 8), float("nan"))], "not finite"),
    ],
)
def test_batches_that_do_not_serve_are_refused(batches: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        extract(mixture(), NODES, batches)


def test_what_is_no_sound_mixture_is_refused() -> None:
    with pytest.raises(InputError, match="a Linear is no mixture"):
        extract(nn.Linear(1, 1), NODES)
    with pytest.raises(InputError, match="the route is cut"):
        extract(mixture(norm="group"), ((0, 1), (0, 3)))
    model = mixture(norm="group")
    with torch.no_grad():
        next(model.head.parameters()).fill_(float("inf"))
    with pytest.raises(InputError, match=r"head.*not finite"):
        extract(model, NODES)


@pytest.mark.parametrize("subset", [False, True])
def test_weights_go_to_a_network_that_a_spec_rebuilds(
    subset: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(builders.NETWORKS, "cnmm_extracted", extracted_network)
    arguments = SMALL | {"in_channels": 1, "classes": 5, "activation": "gelu"}
    given = {"builder": "cnmm_classifier", "arguments": arguments}
    spec = Spec("cnmm_extracted", given | {"nodes": written(NODES), "subset": subset})
    model = mixture(torch.float32, activation="gelu")
    x = pictures(torch.float32)
    network = extract(model, NODES, [x], subset=subset)
    save_weights(network, tmp_path / "small.safetensors")
    fresh = Spec.from_json(spec.to_json()).build()
    assert not fresh.training
    load_weights(fresh, tmp_path / "small.safetensors")
    assert str(fresh) == str(network)
    assert torch.equal(fresh(x), network(x))


def test_a_spec_that_builds_no_mixture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builders.NETWORKS, "cnmm_extracted", extracted_network)
    for builder, arguments, nodes, said in (
        ("cnmm_clasifier", {}, "0-4", "Did you mean 'cnmm_classifier'"),
        ("cnmm_extracted", {}, "0-4", "no mixture 'cnmm_extracted'"),
        ("cnmm_classifier", {"widths": 3}, "0-4", "unexpected keyword.*it takes in_channels"),
        ("cnmm_classifier", SMALL, "0-4", "nodes of 1 stages"),
    ):
        with pytest.raises(InputError, match=said):
            extracted_network(builder, json.loads(json.dumps(arguments)), nodes)


class Twin(nn.Module):
    """The network of nodes (0, 1, 3), (0, 2, 3) as one writes it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv3 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv4 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.conv5 = nn.Conv2d(4, 4, 3, padding=1)
        self.scores = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = torch.relu(convolution(x))
        return self.scores(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def test_it_runs_the_operations_of_a_twin_written_by_hand() -> None:
    x = pictures(torch.float32)
    network, twin = extract(mixture(torch.float32), NODES, [x]), Twin()
    tensors = zip(twin.state_dict(), network.state_dict().values(), strict=True)
    twin.load_state_dict(dict(tensors))
    mine, hand = (trace(one, x) for one in (network, twin))
    assert [node.op for node in mine.nodes] == [node.op for node in hand.nodes]
    assert [node.shape for node in mine.nodes] == [node.shape for node in hand.nodes]
    wanted = twin(x)
    assert (network(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
