"""Parts of one kind, and the paths that meet every kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merkhet.cnmm.latency.parts import covering, find_parts, spread_paths
from merkhet.cnmm.network import CNMM
from merkhet.cnmm.networks import cnmm_segmenter
from merkhet.cnmm.nodes import every_path, path_edges
from merkhet.cnmm.stage import MixtureStage

EXAMPLE = torch.rand(3, 1, 8, 8)


def test_one_kind_is_one_structure_and_one_shape() -> None:
    class Scaled(nn.Module):
        def __init__(self, how: float, size: int) -> None:
            super().__init__()
            self.how, self.weight = how, nn.Parameter(torch.ones(size))

        def forward(self, x: Tensor) -> Tensor:
            return self.how * x * self.weight[0]

    def kinds(*blocks: nn.Module) -> int:
        given = iter(blocks)
        stage = MixtureStage(3, lambda _i, _j: next(given))
        parts = find_parts(CNMM([stage], nn.Flatten()), EXAMPLE)
        return len({parts.kinds[name] for name in parts.edges[0].values()})

    assert kinds(Scaled(1, 2), Scaled(1, 2), Scaled(1, 2)) == 1
    assert kinds(Scaled(1, 2), Scaled(2, 2), Scaled(1, 3)) == 3
    one, larger = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
    assert kinds(one, larger, nn.Conv2d(1, 1, 3, padding=1)) == 2
    halves = [nn.AvgPool2d(2), nn.AvgPool2d(4), nn.AvgPool2d(2)]
    assert kinds(*halves) == 3  # the last meets smaller states than the first


def test_paths_cover_every_kind_and_spread() -> None:
    model = cnmm_segmenter(3, 4, (2, 3, 4))
    parts = find_parts(model, torch.rand(1, 3, 16, 16))
    paths = covering(parts)
    met = {parts.kinds[f"stage0_{i}_{j}"] for path in paths for i, j in path_edges(path[0])}
    assert met == {parts.kinds[name] for name in parts.edges[0].values()}
    assert set(spread_paths((4, 3), 8, seed=0)) == set(every_path((4, 3)))
    many = spread_paths((8, 8), 10, seed=1)
    lengths = [sum(map(len, path)) for path in many]
    assert len(set(many)) == 10
    assert min(lengths) <= 6
    assert max(lengths) >= 14
