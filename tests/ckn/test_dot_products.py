"""Kernels of the cosine: Taylor series, unit at 1, positive definite, their Lipschitz constants."""

from __future__ import annotations

import mpmath
import pytest
import torch

from merkhet.ckn import DotProductKernel
from merkhet.core.errors import InputError

KERNELS = [
    DotProductKernel("exp", 0.5),
    DotProductKernel("exp", 1.3),
    DotProductKernel("inverse"),
    DotProductKernel("poly"),
    DotProductKernel("relu"),
]
FORMULAS = {
    "exp": lambda u, s: mpmath.exp((u - 1) / mpmath.mpf(s) ** 2),
    "inverse": lambda u, s: 1 / (2 - u),
    "poly": lambda u, s: ((1 + u) / 2) ** 2,
    "relu": lambda u, s: (u * (mpmath.pi - mpmath.acos(u)) + mpmath.sqrt(1 - u * u)) / mpmath.pi,
}


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_coefficients_are_taylors(kernel: DotProductKernel) -> None:
    with mpmath.workdps(40):
        expected = mpmath.taylor(lambda u: FORMULAS[kernel.kind](u, kernel.sigma), 0, 9)
    # logarithms of factorials and powers to some 16 digits of numbers of up to 30
    found = kernel.coefficients(10)
    for ours, exact in zip(found.tolist(), expected, strict=True):
        assert ours == pytest.approx(float(exact), rel=1e-12, abs=1e-15)
    assert bool((found >= 0).all())


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_series_sums_to_the_kernel(kernel: DotProductKernel) -> None:
    u = torch.linspace(-0.7, 0.7, 29, dtype=torch.float64)
    powers = u[:, None] ** torch.arange(120)
    assert torch.allclose(powers @ kernel.coefficients(120), kernel.value(u), rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_it_is_one_at_one_and_clamped_beyond(kernel: DotProductKernel) -> None:
    u = torch.tensor([1.0, 1 + 1e-7, -1 - 1e-7, -1.0], dtype=torch.float64)
    found = kernel.value(u)
    assert found[0] == pytest.approx(1, abs=1e-15)
    assert found[0] == found[1]
    assert found[2] == found[3]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_kernel_map_is_as_fast_as_its_constant_and_no_faster(kernel) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    near = z + 1e-3 * torch.randn(2000, 3, generator=generator, dtype=torch.float64)

    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        norms = a.norm(dim=1), b.norm(dim=1)
        cosines = (a * b).sum(1) / (norms[0] * norms[1])
        return norms[0] ** 2 + norms[1] ** 2 - 2 * norms[0] * norms[1] * kernel.value(cosines)

    ratios = (squared(z, near) / (z - near).square().sum(1)).clamp_min(0).sqrt()
    assert float(ratios.max()) <= kernel.lipschitz * (1 + 1e-3)
    if kernel.kind != "poly":  # whose slope at 1 is 1 as well, reached all the same
        assert float(ratios.max()) >= 0.95 * kernel.lipschitz


@pytest.mark.parametrize("given", [("rbf", 1.0), ("exp", 0.0), ("exp", float("nan"))])
def test_what_is_no_kernel_is_refused(given) -> None:
    with pytest.raises(InputError):
        DotProductKernel(*given)
