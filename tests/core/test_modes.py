from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from merkhet.core.modes import evaluating, in_mode


class Adapted(nn.Linear):
    """Adds a low-rank term to its weight in evaluation mode, and takes it out to train."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.merged = False
        self.register_buffer("term", torch.ones(4, 4))  # 1 is added and taken away exactly

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if self.merged == mode:
            self.weight.data += self.term if not mode else -self.term
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.merged else super().forward(x) + x @ self.term.T


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_merges_adapters_comes_back_as_it_was(training: bool) -> None:
    module = nn.Sequential(Adapted(), nn.ReLU()).train(training)
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(16.0).reshape(4, 4) + module[0].merged)
    weight, merged = module[0].weight.clone(), module[0].merged
    with evaluating(module):
        assert module[0].merged
    assert module[0].merged == merged
    assert torch.equal(module[0].weight, weight)


def test_parts_keep_modes_of_their_own_even_after_an_error() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.ReLU())).train()
    module[1].eval()
    module[1][0].train()
    before = [part.training for part in module.modules()]
    with pytest.raises(RuntimeError, match="broke"), in_mode(module, training=False):
        assert not any(part.training for part in module.modules())
        raise RuntimeError("broke")
    assert [part.training for part in module.modules()] == before
