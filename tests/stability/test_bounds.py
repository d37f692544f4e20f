"""The pooling gap: known values, brute force, limits, and where the Gaussian bound ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.stability import gaussian_gap_bound, pooling_gap


def cut(scale: int) -> Tensor:
    """A Gaussian of sigma = scale / sqrt(2), cut at 2 scale + 1 taps."""
    line = torch.arange(-scale, scale + 1.0, dtype=torch.float64)
    taps = torch.exp(-(line**2) / scale**2)
    return taps / taps.sum()


def on_grid(taps: Tensor, offset: float, count: int) -> float:
    """The largest modulus over frequencies 2 pi k / count."""
    waves = torch.fft.fft(taps, count)
    angle = 2 * math.pi * torch.fft.fftfreq(count, dtype=torch.float64)
    return (2 * (angle * offset / 2).sin().abs() * waves.abs()).max().item()


@pytest.mark.parametrize(
    ("scale", "exact", "periodic", "bound"), [(2, 0.4884, 0.488, 0.429), (8, 0.1387, 0.137, 0.107)]
)
def test_a_cut_filter_exceeds_the_gaussian_bound(
    scale: int, exact: float, periodic: float, bound: float
) -> None:
    gap = pooling_gap(cut(scale), torch.tensor([1.0])).item()
    assert gap == pytest.approx(exact, abs=5e-5)
    assert on_grid(cut(scale), 1, 64) == pytest.approx(periodic, abs=5e-4)  # on 64 pixels
    assert gaussian_gap_bound(1, scale / math.sqrt(2)) == pytest.approx(bound, abs=5e-4)
    assert gap > gaussian_gap_bound(1, scale / math.sqrt(2))


@pytest.mark.parametrize("offset", [0.3, 1.0, 2.5, 7.0])
def test_the_search_finds_what_a_million_frequencies_find(offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for taps in (cut(3), torch.randn(9, generator=generator), torch.randn(2, generator=generator)):
        gap = pooling_gap(taps, torch.tensor([offset], dtype=torch.float64)).item()
        brute = on_grid(taps.double(), offset, 1 << 20)
        assert gap == pytest.approx(brute, rel=1e-8)
        assert gap >= brute - 1e-14


def test_closed_forms() -> None:
    offsets = torch.tensor([0.0, 1.0, -1.0, 0.25])
    # One tap: |exp(-iwc) - 1|, largest at the highest frequency.
    wanted = [0.0, 2.0, 2.0, 2 * math.sin(math.pi / 8)]
    assert pooling_gap(torch.ones(1), offsets).tolist() == pytest.approx(wanted)
    # Two equal taps: 2 |sin(w/2)| |cos(w/2)| = |sin w|.
    assert pooling_gap(torch.tensor([0.5, 0.5]), torch.tensor([1.0])).item() == pytest.approx(1)
    # Where a filter's values stand does not matter, their scale does.
    padded = torch.tensor([0.0, 0.0, 1.5, 1.5, 0.0])
    assert pooling_gap(padded, torch.tensor([1.0])).item() == pytest.approx(3)


def test_a_long_gaussian_reaches_its_bound_and_does_not_exceed_it() -> None:
    sigma = 4.0
    line = torch.arange(-40.0, 41.0, dtype=torch.float64)
    taps = torch.exp(-(line**2) / (2 * sigma**2))
    gaps = pooling_gap(taps / taps.sum(), torch.tensor([0.5, 1.0, 2.0]))
    for offset, gap in zip((0.5, 1.0, 2.0), gaps.tolist(), strict=True):
        bound = gaussian_gap_bound(offset, sigma)
        assert gap <= bound
        assert gap == pytest.approx(bound, rel=0.03)


def test_two_axes() -> None:
    taps = torch.outer(cut(2), cut(3))
    along = pooling_gap(taps, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # Along one axis, the other's transfer function is largest, 1, at frequency 0.
    assert along[0].item() == pytest.approx(pooling_gap(cut(2), torch.tensor([1.0])).item())
    assert along[1].item() == pytest.approx(pooling_gap(cut(3), torch.tensor([1.0])).item())
    oblique = pooling_gap(taps, torch.tensor([[1.0, 1.0]])).item()
    frequencies = 2 * math.pi * torch.fft.fftfreq(512, dtype=torch.float64)
    phase = frequencies[:, None] + frequencies
    brute = (2 * (phase / 2).sin().abs() * torch.fft.fft2(taps, (512, 512)).abs()).max().item()
    assert oblique == pytest.approx(brute, rel=1e-4)
    assert oblique >= brute
    assert oblique <= along.sum().item()  # by the triangle inequality


def test_shapes_must_fit() -> None:
    for weights, offsets in (
        (torch.ones(3), torch.ones(1, 2)),
        (torch.ones(3, 3), torch.ones(2)),
        (torch.ones(1, 3, 3), torch.ones(1, 3)),
    ):
        with pytest.raises(InputError, match=r"give .taps,. and .count,."):
            pooling_gap(weights, offsets)
