"""Learning curves of kernel ridge regression on the sphere: measured, and as a spectrum predicts.

n: training points; k: degree; v_k: power of the target in degree k, of sum 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor

from merkhet.kernels import Layer, gram
from merkhet.kernels.spectrum import Spectrum
from merkhet.kernels.sphere import legendre, multiplicities

RIDGES = tuple(10.0**power for power in range(-8, 3))  # in units of k(1)
TERMS = 200  # zonal functions in each degree of a target
VALIDATION, TEST = 500, 2000
BISECTIONS = 200


def on_sphere(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return points drawn uniformly from the unit sphere, (count, dim), float64."""
    found = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    unit: Tensor = found / found.norm(dim=1, keepdim=True)
    return unit


def target(x: Tensor, power: Mapping[int, float], generator: torch.Generator) -> Tensor:
    """Return a random function at the points x (n, dim), (n,).

    A sum of zonal functions around random points in each degree, scaled so that its mean square
    over the sphere is exactly the degree's power.

    Args:
        x: Unit vectors.
        power: v_k by degree.
        generator: Draws the function.
    """
    dim = x.shape[1]
    counts = multiplicities(dim, max(power))
    found = torch.zeros(len(x), dtype=torch.float64)
    for k, wanted in power.items():
        poles = on_sphere(TERMS, dim, generator)
        amounts = torch.randn(TERMS, generator=generator, dtype=torch.float64)
        own, at_x = (
            next(islice(legendre((points @ poles.mT).clamp(-1, 1), dim), k, None))
            for points in (poles, x)
        )
        # E[P_k(<v, x>) P_k(<w, x>)] = P_k(<v, w>) / N(p, k)
        size = (amounts @ own @ amounts) / counts[k]
        found += (wanted / size).sqrt() * (at_x @ amounts)
    return found


def measure(
    network: Layer,
    kind: str,
    dim: int,
    sizes: tuple[int, ...],
    power: Mapping[int, float],
    noise: float,
    seed: int,
) -> list[float]:
    """Return the mean squared error on the noiseless target for each number of points.

    The ridge is the best of `RIDGES` on noisy validation points.

    Args:
        network: Of whose kernel.
        kind: "ntk" or "nngp".
        dim: Of the space.
        sizes: Numbers of training points.
        power: v_k by degree.
        noise: Variance of the noise in the labels.
        seed: Of points, target and noise: the same for every kernel.
    """
    generator = torch.Generator().manual_seed(seed)
    x = on_sphere(max(sizes) + VALIDATION + TEST, dim, generator)
    clean = target(x, power, generator)
    drawn = torch.randn(len(x), generator=generator, dtype=torch.float64)
    labels = clean + noise**0.5 * drawn
    kernel = gram(network, x, x[: max(sizes)], kind=kind, dtype=torch.float64, progress=False)
    validation = slice(max(sizes), max(sizes) + VALIDATION)
    test = slice(max(sizes) + VALIDATION, None)
    found = []
    for size in sizes:
        tried = []
        for ridge in RIDGES:
            weights = _fitted(kernel[:size, :size], labels[:size], ridge)
            error = (kernel[validation, :size] @ weights - labels[validation]).square().mean()
            tried.append((float(error), weights))
        weights = min(tried, key=lambda one: one[0])[1]
        found.append(float((kernel[test, :size] @ weights - clean[test]).square().mean()))
    return found


def _fitted(kernel: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Return the weights of ridge regression, (n,)."""
    shift = ridge * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
    found: Tensor = torch.linalg.solve(kernel + shift, labels)
    return found


def predict(spectrum: Spectrum, size: int, power: Mapping[int, float], noise: float) -> float:
    """Return the error that a spectrum predicts, at the best of `RIDGES`.

    Simon, Dickens, Karkada & DeWeese, TMLR 2023, after Bordelon, Canatar & Pehlevan, ICML 2020;
    degrees beyond the spectrum act as a ridge of their share of k(1).

    Args:
        spectrum: Of the kernel.
        size: Training points.
        power: v_k by degree.
        noise: Variance of the noise in the labels.
    """
    return min(_predicted(spectrum, size, power, noise, ridge) for ridge in RIDGES)


def _predicted(
    spectrum: Spectrum, size: int, power: Mapping[int, float], noise: float, ridge: float
) -> float:
    """Return the error predicted at one ridge."""
    values = spectrum.eigenvalues.clamp(min=0)
    counts = spectrum.multiplicities
    shift = ridge * spectrum.at_one + max(spectrum.tail, 0.0)
    low, high = -40.0, 20.0  # of log kappa
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kappa = torch.tensor(middle, dtype=torch.float64).exp()
        used = float((counts * values / (values + kappa)).sum() + shift / kappa)
        low, high = (middle, high) if used > size else (low, middle)
    learned = values / (values + kappa)
    excess = size / (size - float((counts * learned.square()).sum()))
    missed = sum(share * float((1 - learned[k]) ** 2) for k, share in power.items())
    return excess * (missed + noise) - noise
