"""A curve's numbers: slope, exponent, intervals, interpolation, records."""

from __future__ import annotations

import json

import pytest
import torch

from merkhet.core.errors import InputError
from merkhet.stability import Estimate, StabilityCurve, Yardsticks
from merkhet.stability.curves import curve

SIZES = (0.5, 1.0, 2.0, 4.0)


def made(
    distances: torch.Tensor, sizes: tuple[float, ...] = SIZES, seed: int = 0
) -> StabilityCurve:
    description = {
        "kind": "translation",
        "unit": "pixels",
        "layer": "body.0",
        "sizes": sizes,
        "max_displacement": sizes,
        "max_gradient": (0.0,) * len(sizes),
    }
    yardsticks = Yardsticks(None, Estimate(0.9, 0.8, 1.0))
    generator = torch.Generator().manual_seed(seed)
    return curve(distances, description, yardsticks, generator)


def power(exponent: float, count: int = 50) -> torch.Tensor:
    scale = torch.rand(count, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (0.1 + scale) * torch.tensor(SIZES, dtype=torch.float64) ** exponent


def test_a_line_has_its_slope_and_a_root_its_exponent() -> None:
    line = made(power(1.0))
    assert line.slope.value == pytest.approx(power(1.0).mean(0)[1].item())
    assert line.exponent is not None
    assert line.exponent.value == pytest.approx(1)
    assert line.exponent.interval == pytest.approx((1, 1))
    root = made(power(0.5))
    assert root.exponent is not None
    assert root.exponent.value == pytest.approx(0.5)


def test_the_fits_use_the_smaller_half_only() -> None:
    bent = power(1.0)
    bent[:, 2:] = 0.01
    assert made(bent).slope == made(power(1.0)).slope
    assert made(bent).exponent == made(power(1.0)).exponent


def test_intervals_hold_the_mean_and_cover() -> None:
    hits = torch.zeros(2)
    generator = torch.Generator().manual_seed(0)
    for seed in range(150):
        draws = torch.empty(40, 4, dtype=torch.float64).exponential_(generator=generator)
        found = made(draws * torch.tensor(SIZES), seed=seed)
        assert found.low[0] <= found.mean[0] <= found.high[0]
        hits[0] += found.low[1] <= SIZES[1] <= found.high[1]
        hits[1] += found.slope.low <= 1 <= found.slope.high
    # 95 % nominal; percentile intervals of skewed means at n = 40 cover a little less.
    assert bool((hits >= 0.87 * 150).all())


def test_intervals_shrink_with_the_root_of_the_inputs() -> None:
    def width(count: int) -> float:
        draws = torch.rand(count, 1, generator=torch.Generator().manual_seed(3)).double()
        found = made(draws.expand(-1, 4))
        return found.high[0] - found.low[0]

    assert width(1600) / width(100) == pytest.approx(1 / 4, rel=0.2)


def test_inputs_without_a_distance_are_left_out_and_counted() -> None:
    distances = power(1.0)
    distances[3] = torch.nan
    found = made(distances)
    assert (found.count, found.excluded) == (49, 1)
    kept = torch.cat((distances[:3], distances[4:]))
    assert found.mean == pytest.approx(kept.mean(0).tolist())


def test_an_invariant_representation_has_no_exponent() -> None:
    found = made(torch.zeros(5, 4, dtype=torch.float64))
    assert found.exponent is None
    assert found.slope.value == 0
    assert made(power(1.0)[:, :1], sizes=(0.5,)).exponent is None


def test_values_between_the_sizes() -> None:
    found = made(power(1.0))
    assert found.at(0) == 0
    assert found.at(0.25) == pytest.approx(found.mean[0] / 2)
    assert found.at(1.0) == pytest.approx(found.mean[1])
    assert found.at(3.0) == pytest.approx((found.mean[2] + found.mean[3]) / 2)
    for size in (-0.1, 4.1):
        with pytest.raises(InputError, match="measured up to 4"):
            found.at(size)


def test_records_come_back_from_json() -> None:
    for found in (made(power(1.0)), made(torch.zeros(5, 4, dtype=torch.float64))):
        assert StabilityCurve.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    record = found.to_dict()
    del record["slope"]
    with pytest.raises(InputError, match="check the fields slope"):
        StabilityCurve.from_dict(record)


def test_rows_and_table() -> None:
    found = made(power(1.0))
    rows = found.rows()
    assert [row["size"] for row in rows] == list(SIZES)
    assert rows[2]["mean"] == found.mean[2]
    assert set(rows[0]) == {"size", "mean", "low", "high", "max_displacement", "max_gradient"}
    lines = found.table().splitlines()
    assert "layer body.0" in lines[0]
    assert len(lines) == 1 + len(SIZES) + 1
    assert lines[-1].split()[:3] == ["any", "label", "0.9000"]
