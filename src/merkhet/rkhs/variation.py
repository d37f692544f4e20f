"""How much each logit varies about given inputs: lower bounds on its Lipschitz constant.

Each is a ratio |f_k(x') - f_k(x)| / |x' - x|, or its limit, of the network as evaluated; its
supremum over all inputs is at most the l2 Lipschitz constant of f_k, and so is the RKHS norm's
where the kernel map is non-expansive. They hold up to rounding: give a network and inputs in
float64 where the last digits matter. Where an input moved by less than 100 roundings of itself,
the ratio would be all rounding, and is 0.

Reference: Bietti et al., ICML 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from merkhet.core.building import as_generator, check_counts, check_positive
from merkhet.core.deformations import deform
from merkhet.core.errors import InputError
from merkhet.rkhs import adversarial
from merkhet.rkhs.balls import norms, safe_norms
from merkhet.rkhs.fields import random_fields, tangents
from merkhet.rkhs.input_gradients import class_gradients
from merkhet.rkhs.passes import Pass

BATCH = 256
LEAST = 100  # roundings of an input that it is to move by, for a ratio that is not their own

Measure = Callable[[Pass], Tensor]


def gradient_norms(model: nn.Module, x: Tensor, *, batch_size: int = BATCH) -> Tensor:
    """Return |grad f_k(x_i)|, (n, K), lower bounds on the Lipschitz constants of the f_k.

    Args:
        model: Gives logits (n, K), or (n,) for one function.
        x: (n, *in).
        batch_size: Examples in one pass.

    Raises:
        InputError: The inputs or the logits are not such, or a part of the network is compiled.
    """

    def measure(seen: Pass) -> Tensor:
        columns = [safe_norms(gradient) for gradient in class_gradients(seen.logits, seen.x)]
        return torch.stack(columns, 1)

    return _measured(model, x, batch_size, measure)


def adversarial_ratio(
    model: nn.Module, x: Tensor, radius: float, *, steps: int = 5, batch_size: int = BATCH
) -> Tensor:
    """Return (f_k(x_i + delta) - f_k(x_i)) / |delta|, (n, K), for delta found by ascent.

    Args:
        model: Gives logits (n, K), or (n,) for one function.
        x: (n, *in).
        radius: Of the l2 balls that are searched, in the units of the inputs; of each delta the
            length it has is divided by.
        steps: Of projected gradient ascent.
        batch_size: Examples in one pass, each attacked for one class at a time.

    Raises:
        InputError: The inputs or the logits are not such, a number is not above 0, or the radius
            is within 100 roundings of every input.
    """
    check_positive(radius=radius)
    check_counts(steps=steps)

    def measure(seen: Pass) -> Tensor:
        clean, start = seen.logits.detach(), seen.x.detach()
        _check_radius(radius, start)
        columns = []
        for number in range(clean.shape[1]):
            classes = torch.full((len(start),), number, device=start.device)
            delta = adversarial.ascend(seen.look, start, classes, radius, steps)
            columns.append(_ratios(seen, clean, start + delta)[:, number])
        return torch.stack(columns, 1)

    return _measured(model, x, batch_size, measure)


def deformation_ratio(
    model: nn.Module,
    x: Tensor,
    max_displacement: float = 1.0,
    max_gradient: float = 0.25,
    *,
    samples: int = 4,
    padding: str = "zeros",
    seed: int | torch.Generator = 0,
    batch_size: int = BATCH,
) -> Tensor:
    """Return the largest |f_k(L_tau x_i) - f_k(x_i)| / |L_tau x_i - x_i|, (n, K), of a few tau.

    Args:
        model: Gives logits (n, K), or (n,) for one function.
        x: (n, channels, height, width) or (n, channels, length).
        max_displacement: |tau|_inf of every field, in pixels.
        max_gradient: |grad tau|_inf of every field.
        samples: Deformations of each example.
        padding: What lies outside a picture.
        seed: Of the fields.
        batch_size: Examples in one pass.

    Raises:
        InputError: The inputs or the logits are not such, or no field has these norms.
    """
    check_positive(max_displacement=max_displacement)
    check_counts(samples=samples)
    generator = as_generator(seed)

    def measure(seen: Pass) -> Tensor:
        clean, start = seen.logits.detach(), seen.x.detach()
        ratios = []
        for _ in range(samples):
            fields = random_fields(start, max_displacement, max_gradient, generator=generator)
            moved = deform(start, fields, padding=padding)
            ratios.append(_ratios(seen, clean, moved).abs())
        return torch.stack(ratios).amax(0)

    return _measured(model, x, batch_size, measure)


def tangent_ratio(
    model: nn.Module,
    x: Tensor,
    max_gradient: float = 0.25,
    *,
    padding: str = "zeros",
    seed: int | torch.Generator = 0,
    batch_size: int = BATCH,
) -> Tensor:
    """Return |<grad f_k(x_i), t_i>| / |t_i|, (n, K), for random tangents t of deformations.

    Args:
        model: Gives logits (n, K), or (n,) for one function.
        x: (n, channels, height, width) or (n, channels, length).
        max_gradient: |grad tau|_inf of the fields, which have |tau|_inf = 1.
        padding: What lies outside a picture.
        seed: Of the fields.
        batch_size: Examples in one pass.

    Raises:
        InputError: The inputs or the logits are not such, or no field has this gradient.
    """
    generator = as_generator(seed)

    def measure(seen: Pass) -> Tensor:
        start = seen.x.detach()
        fields = random_fields(start, 1.0, max_gradient, generator=generator)
        along = tangents(start, fields, padding)
        return _divided(seen.along(along).detach().abs(), norms(along))

    return _measured(model, x, batch_size, measure)


def _measured(model: nn.Module, x: Tensor, batch_size: int, measure: Measure) -> Tensor:
    """Return what is measured of all examples, (n, K), detached."""
    check_counts(batch_size=batch_size)
    with torch.inference_mode(False), torch.enable_grad():
        whole = Pass(model, x, through_inputs=True)
        parts = [
            measure(Pass(whole.model, part, through_inputs=True)).detach()
            for part in whole.x.split(batch_size)
        ]
    return torch.cat(parts)


@torch.no_grad()
def _ratios(seen: Pass, clean: Tensor, moved: Tensor) -> Tensor:
    """Return (f_k(x') - f_k(x)) / |x' - x|, (n, K), and 0 where nothing moved but by rounding.

    What the two logits' own rounding could have made of the rise is taken off.
    """
    there, lengths = seen.look(moved), norms(moved - seen.x)
    rises, rounding = there - clean, torch.finfo(seen.x.dtype).eps * (there.abs() + clean.abs())
    rises = rises.sign() * (rises.abs() - rounding).relu()
    return _divided(rises, torch.where(lengths > _least(seen.x), lengths, 0))


def _least(x: Tensor) -> Tensor:
    """Return how far inputs (n, *in) are to move, (n,), for more than rounding."""
    return LEAST * torch.finfo(x.dtype).eps * norms(x)


def _check_radius(radius: float, x: Tensor) -> None:
    """Refuse a radius that is rounding to all inputs."""
    least = float(_least(x).min())
    if radius <= least:
        raise InputError(
            f"radius {radius:g} is lost in the rounding of inputs in {x.dtype}: give more than "
            f"{least:.2g}, or the network and inputs in a wider type, such as float64"
        )


def _divided(rises: Tensor, lengths: Tensor) -> Tensor:
    """Return rises (n, K) over lengths (n,), and 0 where the length is 0."""
    safe = torch.where(lengths > 0, lengths, 1)[:, None]
    return torch.where(lengths[:, None] > 0, rises / safe, 0)
