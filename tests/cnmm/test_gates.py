"""Gates: weights, probabilities and entropies against enumeration of every network."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from merkhet.cnmm import gates as gating
from merkhet.cnmm.nodes import every_path
from merkhet.core.errors import InputError


def logits(count: int, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, generator=made, dtype=torch.float64)


def by_enumeration(own: Tensor) -> Tensor:
    """Return the probability that node i is the last active one before j, from all gates."""
    last = len(own) + 1
    found = torch.zeros(last + 1, last + 1, dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=len(own)):
        on = (1, *bits, 1)
        likely = math.prod(
            float(p if b else 1 - p) for p, b in zip(own.sigmoid(), bits, strict=True)
        )
        for j in range(1, last + 1):
            before = max(i for i in range(j) if on[i])
            found[before, j] += likely
    return found


@pytest.mark.parametrize("inner", [0, 1, 2, 5])
def test_edge_weights_are_the_markov_product(inner: int) -> None:
    own = logits(inner)
    weights = gating.mixed(own).weights()
    torch.testing.assert_close(weights, by_enumeration(own), rtol=1e-14, atol=1e-15)


def test_weights_into_a_node_sum_to_one_for_relaxed_gates_too(generator: torch.Generator) -> None:
    for temperature in (1.0, 0.2):
        found = gating.relaxed(logits(6), temperature, generator)
        assert ((found.values >= 0) & (found.values <= 1)).all()
        torch.testing.assert_close(
            found.weights()[:, 1:].sum(0), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-14
        )


def test_weights_have_the_gradient_of_finite_differences_at_closed_gates_too() -> None:
    values = torch.tensor([1.0, 0.0, 0.3, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda inner: gating.edge_weights(inner), (values,))


def test_hard_gates_have_the_edges_of_their_chain_alone() -> None:
    found = gating.chosen(logits(3), (0, 2, 4))
    assert found.edges() == ((0, 2), (2, 4))
    live = {(i, j) for i, j in found.weights().nonzero().tolist() if j in (0, 2, 4)}
    assert live == {(0, 2), (2, 4)}


def test_probabilities_of_networks_sum_to_one_and_are_products() -> None:
    own = logits(4)
    paths = [stage for (stage,) in every_path((6,))]
    likely = torch.stack([gating.log_probability(own, path).exp() for path in paths])
    torch.testing.assert_close(likely.sum(), torch.ones((), dtype=torch.float64))
    own = logits(4) * 400  # log space: no underflow
    assert all(torch.isfinite(gating.log_probability(own, path)) for path in paths)


def test_the_share_that_a_node_set_keeps_is_that_of_its_networks() -> None:
    own, nodes = logits(4), (0, 2, 3, 5)
    inside = [path for (path,) in every_path((6,)) if set(path) <= set(nodes)]
    kept = sum(float(gating.log_probability(own, path).exp()) for path in inside)
    assert float(gating.log_kept(own, nodes).exp()) == pytest.approx(kept, rel=1e-13)


def test_a_node_set_is_the_mixture_of_its_networks_renormalised() -> None:
    own, nodes = logits(4), (0, 2, 3, 5)
    alone = gating.mixed(own[[1, 2]]).weights()
    found = gating.restricted(own, nodes).weights()[list(nodes)][:, list(nodes)]
    torch.testing.assert_close(found, alone, rtol=1e-14, atol=1e-15)


def test_entropy_is_that_of_all_networks() -> None:
    own = logits(3)
    logs = torch.stack([gating.log_probability(own, path) for (path,) in every_path((5,))])
    torch.testing.assert_close(gating.entropy(own), -(logs.exp() * logs).sum())


def test_samples_have_their_probabilities(generator: torch.Generator) -> None:
    own = logits(3)
    draws = [gating.sampled(own, generator).values[1:-1] for _ in range(4000)]
    shares = torch.stack(draws).mean(0)
    spread = (own.sigmoid() * (1 - own.sigmoid()) / 4000).sqrt()
    assert ((shares - own.sigmoid()).abs() < 4.5 * spread).all()  # 4.5 sigma


def test_swept_networks_have_every_depth_and_at_last_the_likeliest(
    generator: torch.Generator,
) -> None:
    own = [logits(3), logits(2, 1)]
    together = torch.cat(own)
    counts, likeliest = [0] * 6, 0
    for _ in range(1200):
        found = gating.swept(own, 1e-9, generator)
        active = torch.cat([gates.values[1:-1] for gates in found]).bool()
        counts[int(active.sum())] += 1
        rest = together[~active]
        likeliest += not len(rest) or not active.any() or together[active].min() > rest.max()
    spread = (1200 / 6 * 5 / 6) ** 0.5
    assert all(abs(count - 200) < 4.5 * spread for count in counts)
    assert likeliest == 1200
    warm = {tuple(g.nodes for g in gating.swept(own, 5.0, generator)) for _ in range(400)}
    assert len(warm) > 20  # of 32
    with pytest.raises(InputError, match="temperature"):
        gating.swept(own, 0.0)


def test_relaxed_gates_are_biased_at_temperature_one_and_not_near_zero() -> None:
    own = torch.full((20_000,), gating.as_logit(0.9), dtype=torch.float64)
    made = torch.Generator().manual_seed(0)
    means = [float(gating.relaxed(own, one, made).values.mean()) for one in (1.0, 0.1)]
    # The reference's figures, 0.816 and 0.899; the mean of 20,000 has a standard error of 0.002.
    assert means == pytest.approx([0.816, 0.899], abs=0.008)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_temperatures_that_are_none_are_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature"):
        gating.relaxed(logits(2), temperature)
