"""A stage and a mixture against enumeration of their networks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from merkhet.cnmm import CNMM, MixtureStage, cnmm_classifier, expectation
from merkhet.cnmm import gates as gating
from merkhet.cnmm.enumeration import probabilities
from merkhet.cnmm.nodes import every_path
from merkhet.core.errors import InputError


def affine(num_nodes: int = 5, seed: int = 0) -> MixtureStage:
    torch.manual_seed(seed)
    stage = MixtureStage(num_nodes, lambda i, j: nn.Conv2d(3, 3, 3, padding=1)).double()
    nn.init.normal_(stage.logits)
    return stage


class Last(nn.Module):
    """The states as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x


SAME = nn.Identity()
X = torch.rand(2, 3, 5, 5, dtype=torch.float64)


def test_for_affine_blocks_the_mean_field_is_the_mean_of_all_networks() -> None:
    model = CNMM([affine(), affine(4, 1)], Last())
    # Sums of 32 networks of at most 7 convolutions: rounding alone.
    torch.testing.assert_close(model(X), expectation(model, X), rtol=1e-12, atol=1e-13)


def test_for_other_blocks_it_is_near_and_not_equal() -> None:
    torch.manual_seed(0)
    stage = MixtureStage(4, lambda i, j: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.SiLU()))
    model = CNMM([stage.double()], Last())
    exact = expectation(model, X)
    error = ((model(X) - exact).norm() / exact.norm()).item()
    assert 1e-6 < error < 0.1


@pytest.mark.parametrize("path", [(0, 4), (0, 2, 4), (0, 1, 2, 3, 4)])
def test_a_path_is_the_chain_of_its_blocks(path: tuple[int, ...]) -> None:
    stage = affine()
    expected = X
    for i, j in pairwise(path):
        expected = stage.block(i, j)(expected)
    gates = gating.chosen(stage.logits, path)
    assert torch.equal(stage(X, gates), expected)
    soft = gating.Gates(gates.values, tuple(range(5)))  # the same gates, all edges run
    torch.testing.assert_close(stage(X, soft), expected)


def test_blocks_off_the_path_are_not_run() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 4)
    ran: list[str] = []
    for name, part in model.named_modules():
        if ".blocks." in name and name.rpartition(".")[0].endswith("blocks"):
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.rand(1, 1, 8, 8), model.path(((0, 3), (0, 1, 3))))
    assert ran == ["stages.0.blocks.0_3", "stages.1.blocks.0_1", "stages.1.blocks.1_3"]


def test_a_node_set_is_the_mixture_of_its_paths() -> None:
    stage = affine()
    model = CNMM([stage], Last())
    nodes = (0, 1, 3, 4)
    inside = [path for (path,) in every_path((5,)) if set(path) <= set(nodes)]
    weights = torch.stack([model.log_probability((path,)).detach() for path in inside]).softmax(0)
    each = torch.stack([model(X, model.path((path,))) for path in inside])
    expected = torch.einsum("p,p...->...", weights, each)
    torch.testing.assert_close(model(X, model.subset((nodes,))), expected)


def test_a_block_that_writes_into_what_others_read_is_refused() -> None:
    def block(i: int, j: int) -> nn.Module:
        return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)).double()

    stage = MixtureStage(3, block)
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled), pytest.raises(InputError, match="block 0_1 writes"):
            stage(X.clone())
    stage(X.clone(), gating.chosen(stage.logits, (0, 1, 2)))  # each is read once


def test_blocks_into_one_node_give_states_of_one_shape() -> None:
    stage = MixtureStage(3, lambda i, j: nn.Conv2d(2, 2, 3, stride=2, padding=1))
    with pytest.raises(InputError, match="block 1_2 gives states of shape"):
        stage(torch.rand(1, 2, 8, 8))


def test_every_block_and_gate_of_the_mixture_gets_a_gradient() -> None:
    model = cnmm_classifier(1, 3, (3, 4), 4)
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None]
    assert missing == []
    assert all(stage.logits.grad.any() for stage in model.parts())


def test_probabilities_are_those_of_draws() -> None:
    model = cnmm_classifier(1, 3, (3,), 4)
    nn.init.normal_(model.parts()[0].logits, generator=torch.Generator().manual_seed(1))
    likely = probabilities(model)
    assert sum(likely.values()) == pytest.approx(1, abs=1e-6)
    made, counts = torch.Generator().manual_seed(0), dict.fromkeys(likely, 0)
    for _ in range(2000):
        counts[tuple(gates.nodes for gates in model.sample(made))] += 1
    for path, count in counts.items():
        spread = (likely[path] * (1 - likely[path]) / 2000) ** 0.5
        assert abs(count / 2000 - likely[path]) < 4.5 * spread


def test_too_many_networks_are_not_enumerated() -> None:
    with pytest.raises(InputError, match="too many"):
        probabilities(cnmm_classifier(1, 3, (3, 3, 3), 7))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MixtureStage(1, lambda i, j: nn.Identity()), "one node"),
        (lambda: MixtureStage(0, lambda i, j: nn.Identity()), "num_nodes"),
        (lambda: MixtureStage(3, lambda i, j: torch.relu), "return an nn.Module"),
        (lambda: MixtureStage(3, lambda i, j: SAME), "share a block"),
        (lambda: MixtureStage(3, lambda i, j: nn.Identity(), open=1.0), "between 0 and 1"),
        (lambda: MixtureStage(3, lambda i, j: nn.Identity(), open="x"), "positive number"),
        (lambda: CNMM([affine()], torch.relu), "head is a builtin_function.*give an nn.Module"),
        (lambda: CNMM([affine()], Last(), stem=1), "stem is a int"),
        (
            lambda: affine()(X, gating.chosen(affine(4).logits, (0, 3))),
            "gates of 4 nodes for a stage of 5",
        ),
        (lambda: CNMM([], Last()), "needs stages"),
        (lambda: CNMM([nn.Identity()], Last()), "needs stages"),
        (lambda: CNMM([affine()], Last(), multiple=0), "multiple"),
        (lambda: CNMM([affine()], Last())(X[0]), "batch, channels"),
        (lambda: CNMM([affine()], Last(), multiple=4)(X), "resize or pad them to 8x8"),
        (lambda: CNMM([affine()], Last())(X, []), "gates of 0 stages"),
        (lambda: CNMM([affine()], Last()).path(((0, 1),)), "cut"),
    ],
)
def test_what_is_no_mixture_is_refused(make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
