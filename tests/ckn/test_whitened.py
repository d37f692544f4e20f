"""Steps in white coordinates are AdamW's steps of the network written in them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from merkhet.ckn import CKN
from merkhet.ckn.whitened import WhitenedAdamW


class White(nn.Module):
    """The same network with v and a as its parameters."""

    def __init__(self, representation: CKN, head: nn.Linear, optimiser: WhitenedAdamW) -> None:
        super().__init__()
        self.representation, self.optimiser = representation, optimiser
        apart = head.weight.detach().unflatten(1, (len(optimiser.mean), -1))
        self.v = nn.Parameter(torch.einsum("cd,kdp->kcp", optimiser.restore, apart))
        self.a = nn.Parameter(head.bias.detach() + (apart.sum(2) @ optimiser.mean))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.representation(x).flatten(2) - self.optimiser.mean[:, None]
        white = torch.einsum("cd,ndp->ncp", self.optimiser.whiten, maps)
        return torch.einsum("ncp,kcp->nk", white, self.v) + self.a


def test_the_steps_are_those_of_the_network_in_white_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 9, 9, generator=generator, dtype=torch.float64)
    labels = torch.arange(12) % 3
    representation = CKN(1, (4, 5), 3, (2, 2)).double()
    maps = representation(x).detach()
    head = nn.Linear(maps[0].numel(), 3, dtype=torch.float64)
    optimiser = WhitenedAdamW(representation, head, maps, 1e-3, 1e-2)
    white = White(copy.deepcopy(representation), head, optimiser)
    groups = [{"params": list(white.representation.parameters()), "lr": 1e-3}]
    other = torch.optim.AdamW([*groups, {"params": [white.v, white.a], "lr": 1e-2}], weight_decay=0)
    ours = nn.Sequential(representation, nn.Flatten(), head)
    for _ in range(8):
        for network, steps in ((ours, optimiser), (white, other)):
            steps.zero_grad()
            nn.functional.cross_entropy(network(x), labels).backward()
            steps.step()
        # Coordinates are changed twice a step, by matrices of condition 10 at most.
        assert torch.allclose(ours(x), white(x), rtol=1e-9, atol=1e-10)


def test_maps_without_variance_do_no_harm() -> None:
    representation = CKN(1, (4,), 3, 2)
    maps = torch.zeros(3, 4, 2, 2)
    head = nn.Linear(16, 2)
    optimiser = WhitenedAdamW(representation, head, maps, 1e-3, 1e-3)
    before = head.weight.detach().clone()
    head(torch.rand(5, 16)).square().sum().backward()
    for parameter in representation.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert bool(head.weight.isfinite().all())
    assert not torch.equal(head.weight, before)
