"""Nystrom's approximation: a kernel over many inputs from its columns at a few landmarks.

K ~ C W^(-1) C^T, with C (n, c) the kernels of all inputs with c landmarks and W (c, c) those among
the landmarks (Williams & Seeger, NIPS 2000): n c^2 operations in place of n^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import Decomposition, as_cross, decompose


@torch.no_grad()
def nystrom(cross: Tensor, landmarks: Tensor) -> Decomposition:
    """Return the decomposition of the approximate kernel over all training inputs.

    It goes where a kernel goes: `leave_one_out`, `ridge_coefficients`, `posterior`,
    `log_marginal_likelihood`, `gradient_flow`; new inputs are then compared with the landmarks
    alone. Landmarks stay as they are while an input is left out.

    Args:
        cross: (n, c), the training inputs against the landmarks, `gram(network, x, chosen)`.
        landmarks: (c, c), `gram(network, chosen)`.

    Raises:
        InputError: Shapes do not fit, numbers are not finite, or the landmarks' kernel is 0.
    """
    among = decompose(landmarks)
    columns = as_cross(cross, len(among.vectors))
    kept = among.values > among.rounding  # the inverse root of rounding would be noise
    if not kept.any():
        raise InputError("the landmarks' kernel is 0 everywhere: draw other landmarks")
    whiten = among.vectors[:, kept] / among.values[kept].sqrt()
    left, singular, right = torch.linalg.svd(columns @ whiten, full_matrices=False)
    rising = singular.argsort()
    values = singular[rising].square()
    inward = whiten @ (right.mT * singular)[:, rising]
    # An error e of the landmarks' kernel enters as C W^-1 e W^-1 C^T: it grows with the inputs.
    growth = max(1.0, float(values[-1] / among.values[-1]))
    return Decomposition(values, left[:, rising], inward, among.rounding * growth)


def draw_landmarks(count: int, landmarks: int, seed: int | torch.Generator = 0) -> Tensor:
    """Return the places of landmarks among inputs, ascending, drawn without replacement.

    Args:
        count: How many inputs there are.
        landmarks: How many are drawn, from 1 to the inputs.
        seed: A seed, or a generator on the CPU.

    Returns:
        (landmarks,), integers.

    Raises:
        InputError: More are asked for than there are, or fewer than one.
    """
    if not 1 <= landmarks <= count:
        raise InputError(f"landmarks = {landmarks} of {count} inputs: give a number from 1 to that")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:landmarks].sort().values
