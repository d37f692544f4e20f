"""Batch-norm statistics measured anew, against their definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from merkhet.cnmm import CNMM, MixtureStage, recalibrated
from merkhet.core.errors import InputError

PATH = ((0, 1),)


class Frozen(nn.BatchNorm2d):
    """Keeps the statistics it was given."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def measured(block: nn.Module, batches: list[Tensor]) -> nn.Module:
    """Return the one block of a mixture, recalibrated."""
    model = CNMM([MixtureStage(2, lambda i, j: block)], nn.Identity()).to(batches[0].dtype)
    return recalibrated(model, model.path(PATH), batches).parts()[0].block(0, 1)


def uneven(dtype: torch.dtype, *sizes: int) -> list[Tensor]:
    """Return batches whose means and spreads differ."""
    return [
        (torch.randn(size, 2, 4, 4) * (1 + place) + place).to(dtype)
        for place, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("norm", "dtype", "tolerance"),
    [
        # Sums of up to 31 terms; in bfloat16 one rounding of what float32 has.
        (nn.BatchNorm2d, torch.float64, 1e-13),
        (nn.BatchNorm2d, torch.bfloat16, 2.0**-8),
        (nn.InstanceNorm2d, torch.float64, 1e-13),
    ],
)
def test_every_picture_counts_the_same(
    norm: type[nn.BatchNorm2d] | type[nn.InstanceNorm2d], dtype: torch.dtype, tolerance: float
) -> None:
    batches = uneven(dtype, *[4] * 30, 2)
    found = measured(norm(2, track_running_stats=True), batches)
    over = (0, 2, 3) if norm is nn.BatchNorm2d else (2, 3)
    share = torch.tensor([len(batch) for batch in batches]).double()
    for name, statistic in (("running_mean", torch.mean), ("running_var", torch.var)):
        each = [statistic(batch.double(), dim=over).reshape(-1, 2).mean(0) for batch in batches]
        wanted = (share[:, None] * torch.stack(each)).sum(0) / share.sum()
        got = getattr(found, name)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_a_norm_that_is_met_twice_has_the_mean_of_both() -> None:
    norm = nn.BatchNorm2d(2)
    batches = uneven(torch.float64, 6, 3)
    made = measured(nn.Sequential(norm, nn.Softplus(), norm), batches)
    twice = torch.stack([(6 * x + 3 * y) / 9 for x, y in _both(batches)]).mean(0)
    torch.testing.assert_close(made[0].running_mean, twice, rtol=1e-13, atol=1e-13)


def _both(batches: list[Tensor]) -> list[list[Tensor]]:
    """Return the means of both batches where they first meet a fresh norm, and where again."""
    normed = nn.BatchNorm2d(2, affine=False, track_running_stats=False).double()
    later = [nn.functional.softplus(normed(batch)) for batch in batches]
    return [[x.mean((0, 2, 3)) for x in both] for both in (batches, later)]


def test_dropout_is_off_and_nothing_is_drawn_or_written() -> None:
    (batch,) = uneven(torch.float64, 5)
    kept, drawn = batch.clone(), torch.get_rng_state()
    made = measured(nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(), nn.BatchNorm2d(2)), [batch])
    torch.testing.assert_close(made[2].running_mean, kept.relu().mean((0, 2, 3)))
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.equal(batch, kept)


def test_a_norm_that_is_held_keeps_its_statistics() -> None:
    norm = Frozen(2)
    norm.running_mean.fill_(0.5)
    assert torch.equal(measured(norm, uneven(torch.float32, 4)).running_mean, torch.full((2,), 0.5))


def test_pictures_that_the_mixture_does_not_take_are_named() -> None:
    with pytest.raises(InputError, match=r"does not run on pictures of \(4, 2, 4, 4\)"):
        measured(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), uneven(torch.float32, 4))
