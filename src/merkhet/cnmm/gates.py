"""Gates: how likely each node of a stage is active, and the weights of its edges.

Nodes 0 ... T of a stage have gates b with b_0 = b_T = 1 and, between, b_t Bernoulli of probability
pi_t = sigmoid(a_t), independent. Node j reads the last active node before it, which is node i with
probability w_ij = pi_i prod_(i < k < j) (1 - pi_k): the Markov product.

Reference: Ruiz and Verbeek, "Adaptative inference cost with convolutional neural mixture models",
ICCV 2019 (arXiv 1908.06694).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.building import check_positive


@dataclass(frozen=True)
class Gates:
    """The gates of one stage.

    Attributes:
        values: (T + 1,), in [0, 1], the first and the last 1; what is 1 - values enters too.
        nodes: The nodes whose gate may be above 0, in order.
        hard: Whether each gate is 0 or 1, so that the stage is one plain network.
    """

    values: Tensor
    nodes: tuple[int, ...]
    hard: bool = False

    def edges(self) -> tuple[tuple[int, int], ...]:
        """Return the edges (i, j) whose weight may be above 0, by j, then by i."""
        pairs = zip(self.nodes, self.nodes[1:], strict=False) if self.hard else None
        found = combinations(self.nodes, 2) if pairs is None else pairs
        return tuple(sorted(found, key=lambda edge: (edge[1], edge[0])))

    def weights(self) -> Tensor:
        """Return w (T + 1, T + 1), w[i, j] the weight of edge i -> j, 0 where i >= j."""
        return edge_weights(self.values)


def edge_weights(gates: Tensor) -> Tensor:
    """Return w[i, j] = g_i prod_(i < k < j) (1 - g_k) for i < j, else 0.

    The columns 1 ... T sum to 1, by telescoping, for any gates in [0, 1] with g_0 = 1; so they do
    for relaxed gates.

    Args:
        gates: (T + 1,), the first one 1.

    Returns:
        (T + 1, T + 1), of the gates' dtype.
    """
    place = torch.arange(len(gates), device=gates.device)
    i, j, k = place[:, None, None], place[None, :, None], place[None, None, :]
    skipped = torch.where((i < k) & (k < j), 1 - gates, gates.new_ones(())).prod(2)
    return torch.where(place[:, None] < place, gates[:, None] * skipped, gates.new_zeros(()))


def with_ends(inner: Tensor) -> Tensor:
    """Return gates (T + 1,) from those of the inner nodes (T - 1,)."""
    one = inner.new_ones(1)
    return torch.cat([one, inner, one])


def mixed(logits: Tensor) -> Gates:
    """Return the gates' probabilities: the mean field.

    Args:
        logits: a, (T - 1,), of the inner nodes.
    """
    return Gates(with_ends(logits.sigmoid()), tuple(range(len(logits) + 2)))


def relaxed(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Gates:
    """Return relaxed samples b = sigmoid((a + logit u) / temperature), u uniform.

    Their mean is not pi (at pi = 0.9 it is 0.82 at temperature 1): evaluate with `mixed`.

    Args:
        logits: a, (T - 1,).
        temperature: Above 0.
        generator: Draws u; torch's global one by default.

    Raises:
        InputError: The temperature is not a positive number.

    Reference:
        Maddison, Mnih and Teh, "The concrete distribution", ICLR 2017 (arXiv 1611.00712).
    """
    check_positive(temperature=temperature)
    tiny = torch.finfo(logits.dtype).eps
    drawn = _uniform(logits, generator).clamp(tiny, 1 - tiny)
    inner = torch.sigmoid((logits + torch.logit(drawn)) / temperature)
    return Gates(with_ends(inner), tuple(range(len(logits) + 2)))


def sampled(logits: Tensor, generator: torch.Generator | None = None) -> Gates:
    """Return gates of 0 and 1 drawn with their probabilities: one network of the stage.

    Args:
        logits: a, (T - 1,).
        generator: Draws them; torch's global one by default.
    """
    active = _uniform(logits, generator) < logits.detach().sigmoid()
    inner = [place + 1 for place, on in enumerate(active.tolist()) if on]
    return chosen(logits, (0, *inner, len(logits) + 1))


def swept(
    logits: Sequence[Tensor], temperature: float, generator: torch.Generator | None = None
) -> tuple[Gates, ...]:
    """Return one network, drawn so that every number of inner nodes is as likely.

    A number k is drawn from 0 to all of them, of all stages together; the k nodes with the largest
    a + temperature * Gumbel noise are active. Towards temperature 0 that leaves a nested family,
    whose members are the likeliest networks of their numbers of nodes: what a search for the
    likeliest at each cost will find. Draws by p itself are nearly all of middle depth.

    Args:
        logits: a, (T - 1,) for each stage.
        temperature: Above 0.
        generator: Draws; torch's global one by default.

    Raises:
        InputError: The temperature is not a positive number.
    """
    check_positive(temperature=temperature)
    together = torch.cat([own.detach() for own in logits])
    drawn = _uniform(together.new_empty(len(together) + 1), generator)
    eps = torch.finfo(drawn.dtype).eps
    noise = -torch.log(-torch.log(drawn[1:].clamp(eps, 1 - eps)))
    count = int(drawn[0] * (len(together) + 1))
    order = torch.argsort(together + temperature * noise, descending=True)
    active = torch.zeros(len(together), dtype=torch.bool)
    active[order[:count].cpu()] = True
    found = []
    for own, on in zip(logits, active.split([len(own) for own in logits]), strict=True):
        inner = [place + 1 for place, yes in enumerate(on.tolist()) if yes]
        found.append(chosen(own, (0, *inner, len(own) + 1)))
    return tuple(found)


def chosen(logits: Tensor, path: Sequence[int]) -> Gates:
    """Return the gates of a path: 1 for its nodes, 0 for all others.

    Args:
        logits: (T - 1,), for their number, dtype and device.
        path: The nodes, the first and the last among them.
    """
    values = logits.new_zeros(len(logits) + 2)
    values[list(path)] = 1
    return Gates(values, tuple(path), hard=True)


def restricted(logits: Tensor, nodes: Sequence[int]) -> Gates:
    """Return the gates of a node set: pi for its nodes, 0 for those that are dropped.

    Args:
        logits: a, (T - 1,).
        nodes: The nodes that are kept, the first and the last among them.
    """
    kept = torch.zeros(len(logits) + 2, dtype=torch.bool, device=logits.device)
    kept[list(nodes)] = True
    values = torch.where(kept, with_ends(logits.sigmoid()), logits.new_zeros(()))
    return Gates(values, tuple(nodes), hard=len(nodes) == 2)


def log_probability(logits: Tensor, path: Sequence[int]) -> Tensor:
    """Return log p of a path: sum of log pi over its inner nodes and log(1 - pi) over the others.

    Args:
        logits: a, (T - 1,).
        path: The nodes, the first and the last among them.

    Returns:
        A scalar, differentiable.
    """
    sign = -torch.ones_like(logits)
    sign[[node - 1 for node in path[1:-1]]] = 1
    return F.logsigmoid(sign * logits).sum()


def log_kept(logits: Tensor, nodes: Sequence[int]) -> Tensor:
    """Return the log of the probability that no dropped node is active.

    Its negative is the divergence KL(restricted, mixture) of the networks that are left, of their
    probabilities renormalised, from all.

    Args:
        logits: a, (T - 1,).
        nodes: The nodes that are kept, the first and the last among them.
    """
    dropped = [node - 1 for node in range(1, len(logits) + 1) if node not in nodes]
    return F.logsigmoid(-logits[dropped]).sum()


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the inner gates in nats: T - 1 times log 2 at most."""
    return F.binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="sum")


def as_logit(probability: float) -> float:
    """Return log(p / (1 - p))."""
    return math.log(probability / (1 - probability))


def _uniform(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return uniform numbers of the logits' shape, drawn on the generator's device."""
    device = logits.device if generator is None else generator.device
    drawn = torch.rand(logits.shape, generator=generator, device=device, dtype=torch.float32)
    return drawn.to(logits)
