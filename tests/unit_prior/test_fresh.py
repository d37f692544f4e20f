"""Fresh weights: what is drawn, at which scale, what stays; and that nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from merkhet.core.errors import InputError
from merkhet.models import ResNet18, SmallCNN, Transformer
from merkhet.unit_prior.sampling.fresh import draw_parameters, fresh_copy
from merkhet.unit_prior.sampling.fresh_roles import Role, fans, roles
from merkhet.unit_prior.weight_priors import Gaussian, Laplace


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class Tied(nn.Module):
    """An embedding that is the output layer too, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.embedding.weight
        self.register_parameter("position", nn.Parameter(torch.zeros(1, 3, 5)))
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens) + self.scale * self.position)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(3, 5), (3, 5)),
        (nn.Conv2d(4, 6, 3), (36, 54)),
        (nn.Conv2d(4, 6, 3, groups=2), (18, 27)),
        (nn.Conv1d(8, 8, 5, groups=8), (5, 5)),
        (nn.ConvTranspose2d(4, 6, 3), (36, 54)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (18, 27)),
        (nn.Embedding(7, 5), (5, 7)),
        (nn.Bilinear(3, 4, 5), (12, 20)),
    ],
)
def test_fans(layer: nn.Module, expected: tuple[int, int]) -> None:
    assert fans(layer, layer.weight) == expected
    if not isinstance(layer, nn.ConvTranspose2d) and getattr(layer, "groups", 1) == 1:
        assert nn.init._calculate_fan_in_and_fan_out(layer.weight) == expected


def test_a_unit_of_a_layer_sums_fan_in_entries() -> None:
    """At "lecun" a constant input of 1 gives outputs of variance 1, away from borders."""
    for layer in (nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.ConvTranspose2d(6, 8, 3, groups=2)):
        inside = torch.ones(1, layer.in_channels, 7, 7)
        fresh = [fresh_copy(layer, Gaussian(scale="lecun"), seed(n)) for n in range(100)]
        outputs = torch.stack([one(inside)[0, :, 3, 3] for one in fresh]).detach()
        assert float(outputs.square().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 800))


def test_roles() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.LayerNorm((4, 6, 6)), nn.Flatten()
    )
    network.append(nn.MultiheadAttention(8, 2))
    found = roles(network)
    assert found["0.weight"] == Role("weight", 9, 36)
    assert found["0.bias"].kind == "bias"
    assert found["1.weight"].kind == found["3.weight"].kind == "ones"
    assert found["1.bias"].kind == found["3.bias"].kind == "zeros"
    assert found["2.weight"].kind == "kept"
    assert found["5.in_proj_weight"] == Role("weight", 8, 24)
    assert found["5.in_proj_bias"].kind == "bias"
    assert found["5.out_proj.weight"] == Role("weight", 8, 8)
    assert set(found) == {name for name, _ in network.named_parameters()}
    assert {role.kind for role in roles(nn.LSTM(3, 4)).values()} == {"weight", "bias"}


def test_tied_weights_are_drawn_once() -> None:
    found = draw_parameters(Tied(), "gaussian", 6, seed())
    assert set(found) == {"embedding.weight", "head.bias", "position"}
    assert found["embedding.weight"].shape == (6, 7, 5)
    fresh = fresh_copy(Tied(), "gaussian", seed())
    assert fresh.head.weight is fresh.embedding.weight
    assert fresh.scale.item() == pytest.approx(0.3)


@pytest.mark.parametrize("prior", [Gaussian(bias=0.5), Laplace(scale="xavier", bias=0.2)])
def test_scales_of_draws(prior) -> None:
    found = draw_parameters(nn.Linear(8, 24, dtype=torch.float32), prior, 2000, seed())
    assert found["weight"].dtype == torch.float32
    std = prior.std(8, 24)
    count = found["weight"].numel()
    spread = math.sqrt((6 if prior.family == "laplace" else 3) / count)  # of the mean square
    assert float(found["weight"].square().mean()) == pytest.approx(std**2, rel=5 * spread)
    assert float(found["bias"].std()) == pytest.approx(prior.bias, rel=0.05)


def test_biases_are_zero_and_norms_begin_anew() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    for _ in range(3):
        network(torch.randn(8, 3, generator=seed()) + 5)
    with torch.no_grad():
        network[1].weight.fill_(9.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fresh = fresh_copy(network, "gaussian", seed())
    assert torch.equal(fresh[0].bias, torch.zeros(4))
    assert torch.equal(fresh[1].weight, torch.ones(4))
    assert torch.equal(fresh[1].running_mean, torch.zeros(4))
    assert not torch.equal(fresh[0].weight, network[0].weight)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert fresh.training
    assert draw_parameters(network, "gaussian", 5, seed())["1.weight"].shape == (5, 4)


def test_a_generator_decides_and_global_ones_do_not_move() -> None:
    network, state = nn.Linear(3, 4), torch.get_rng_state()
    for prior in ("gaussian", "cauchy", "init"):
        one, same, other = (fresh_copy(network, prior, seed(n)).weight for n in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(one, fresh_copy(network, prior, 1).weight)
    assert torch.equal(state, torch.get_rng_state())


def test_init_is_torchs_own() -> None:
    network = nn.Sequential(nn.Linear(100, 400), nn.PReLU(init=0.1), nn.BatchNorm1d(400))
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(7.0)
    fresh = fresh_copy(network, "init", seed())
    assert float(fresh[0].weight.detach().abs().max()) == pytest.approx(0.1, rel=1e-3)
    assert float(fresh[0].weight.detach().square().mean()) == pytest.approx(0.01 / 3, rel=0.03)
    assert fresh[1].weight.item() == pytest.approx(0.1)
    assert torch.equal(fresh[2].weight, torch.ones(400))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.TransformerEncoderLayer(16, 2, 32),
        lambda: nn.GRU(4, 5, num_layers=2),
        lambda: ResNet18(classes=3, width=0.1),
        SmallCNN,
        lambda: Transformer(vocab_size=50, dim=16, layers=1, heads=2),
        lambda: nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Bilinear(4, 4, 4)),
    ],
)
def test_networks_initialise_themselves(build) -> None:
    network = build()
    fresh = fresh_copy(network, "init", seed())
    for (name, old), new in zip(network.named_parameters(), fresh.parameters(), strict=True):
        assert bool(new.isfinite().all()), name
        if old.dim() >= 2 and bool(old.any()):
            assert not torch.equal(old, new), name


def test_a_hugging_face_network_initialises_itself() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=6)
    network = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(3.0)
    fresh = fresh_copy(network, "init", seed())
    assert float(fresh.transformer.wte.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    block = roles(network)["transformer.h.0.mlp.c_fc.weight"]
    assert (block.fan_in, block.fan_out) == (8, 32)


def test_errors() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3, 3))

    with pytest.raises(InputError, match=r"nothing initialises 1\.table"):
        fresh_copy(nn.Sequential(nn.Linear(2, 2), Bare()), "init", seed())
    assert "table" in draw_parameters(Bare(), "gaussian", 2, seed())
    with pytest.raises(InputError, match="lazy"):
        fresh_copy(nn.LazyLinear(3), "gaussian", seed())
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(InputError, match="made of other parameters"):
        draw_parameters(normed, "gaussian", 1, seed())
    with pytest.raises(InputError, match="at least 1"):
        draw_parameters(nn.Linear(2, 2), "gaussian", 0, seed())
    with pytest.raises(InputError, match="init"):
        draw_parameters(nn.Linear(2, 2), "init", 3, seed())

    class Locked(nn.Linear):
        def __deepcopy__(self, memo: dict) -> nn.Module:
            raise RuntimeError("only one of me")

    with pytest.raises(InputError, match="only one of me"):
        fresh_copy(Locked(2, 2), "gaussian", seed())


def test_draws_of_lazy_networks_and_beyond_memory_are_refused() -> None:
    with pytest.raises(InputError, match="the network is lazy"):
        draw_parameters(nn.LazyLinear(3), "gaussian", 3)
    with pytest.raises(InputError, match="do not fit in memory"):
        draw_parameters(nn.Linear(3000, 3000), "gaussian", 10**6)
