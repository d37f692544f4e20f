"""Gaussian pooling as a module: the means that layers take, for networks of other layers."""

from __future__ import annotations

from torch import Tensor, nn

from merkhet.core.building import check_counts
from merkhet.core.pooling import gaussian_windows


class GaussianPool2d(nn.Module):
    """Gaussian means of every channel, over windows that lie symmetrically about the centre.

    Args:
        scale: Windows of 2 scale + 1 with standard deviation scale / sqrt(2); 1 still averages
            a little.
        step: Between windows; by default the scale.

    Raises:
        InputError: A count below 1.
    """

    def __init__(self, scale: int, step: int | None = None) -> None:
        super().__init__()
        self.scale, self.step = scale, scale if step is None else step
        check_counts(scale=self.scale, step=self.step)

    def forward(self, maps: Tensor) -> Tensor:
        """Return means of maps (batch, channels, height, width): sides over the step, upwards."""
        rows, columns = (
            gaussian_windows(length, self.scale, self.step).to(maps) for length in maps.shape[-2:]
        )
        return rows @ maps @ columns.mT

    def extra_repr(self) -> str:
        """Return scale and step."""
        return f"scale={self.scale}, step={self.step}"
