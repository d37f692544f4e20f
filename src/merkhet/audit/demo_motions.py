"""The motions that the demo trains against: how each moves a batch of pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.deformations import deform, rescale, rotate, smooth_displacement, translate
from merkhet.report import Finding

GRADIENT = 4.0  # of a deformation by one side of the picture
NAME = re.compile(r"stability\((\w+),([\d.]+)\)")


@dataclass(frozen=True)
class Motion:
    """A kind and a size of motion, as a finding of stability names it.

    Attributes:
        kind: "translation", "rotation", "scaling" or "deformation".
        size: In pixels, degrees, or as a share of the size.
    """

    kind: str
    size: float

    @classmethod
    def of(cls, finding: Finding) -> Motion | None:
        """Return the motion that a finding is about, None where it is about something else."""
        found = NAME.fullmatch(finding.name)
        if found is None or found[1] not in KINDS:
            return None
        return cls(found[1], float(found[2]))

    @property
    def words(self) -> str:
        """The motion in words."""
        return WORDS[self.kind].format(size=self.size)

    def exactly(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return pictures (n, channels, height, width) moved by the size, in random directions."""
        return KINDS[self.kind](images, self.size, torch.ones(len(images)), generator)

    def at_random(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return pictures (n, channels, height, width) moved by about the size, normally spread."""
        spread = torch.randn(len(images), generator=generator).abs()
        return KINDS[self.kind](images, self.size, spread, generator)


def _translated(images: Tensor, size: float, by: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures shifted in random directions."""
    angle = 2 * torch.pi * torch.rand(len(images), generator=generator)
    return translate(images, size * by[:, None] * torch.stack((angle.sin(), angle.cos()), 1))


def _rotated(images: Tensor, size: float, by: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures turned to either side."""
    return rotate(images, size * by * _signs(len(images), generator))


def _rescaled(images: Tensor, size: float, by: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures made larger or smaller."""
    return rescale(
        images, torch.exp(torch.tensor(1 + size).log() * by * _signs(len(images), generator))
    )


def _deformed(images: Tensor, size: float, by: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures bent by smooth fields."""
    shape = images.shape[2:]
    steepest = GRADIENT / max(shape) * size
    fields = smooth_displacement(shape, size, steepest, generator=generator, count=len(images))
    return deform(images, fields * by[:, None, None, None])


def _signs(count: int, generator: torch.Generator) -> Tensor:
    """Return 1 and -1 at random, (count,)."""
    return 1.0 - 2.0 * torch.randint(2, (count,), generator=generator)


KINDS: dict[str, Callable[[Tensor, float, Tensor, torch.Generator], Tensor]] = {
    "translation": _translated,
    "rotation": _rotated,
    "scaling": _rescaled,
    "deformation": _deformed,
}
WORDS = {
    "translation": "a shift by {size:g} pixels",
    "rotation": "a rotation by {size:g} degrees",
    "scaling": "a change of size by {size:.0%}",
    "deformation": "a smooth deformation by up to {size:g} pixels",
}
