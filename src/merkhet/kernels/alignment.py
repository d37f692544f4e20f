"""What a Gram matrix says of learning: effective rank, condition, alignment with labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.errors import InputError

SHUFFLES = 40  # random orders of the labels; all but 2 of them are what chance reaches
ROUNDING = 1e-12  # of the largest eigenvalue; smaller ones are rounding of float32 gradients


@dataclass(frozen=True)
class Labelled:
    """How a kernel goes with the labels.

    Attributes:
        alignment: Centred alignment, from 0 to 1.
        chance: What 19 of 20 random orders of the labels stay below.
        energy: Share of the labels in as many first eigenvectors as there are classes.
        share: What share of all eigenvectors these are: that of labels by chance.
        classes: Classes in the sample.
    """

    alignment: float
    chance: float
    energy: float
    share: float
    classes: int


@dataclass(frozen=True)
class Seen:
    """What a kernel is like.

    Attributes:
        spectrum: Eigenvalues of the centred kernel, (n,), the largest first.
        top: Share of the trace that the largest eigenvalue of the kernel itself has.
        condition: Its largest eigenvalue over its smallest, 1 / ROUNDING at most.
        labelled: How it goes with the labels, where there are any.
    """

    spectrum: Tensor
    top: float
    condition: float
    labelled: Labelled | None

    @property
    def rank(self) -> float:
        """The effective rank of the centred kernel."""
        return effective_rank(self.spectrum)


def centred(kernel: Tensor) -> Tensor:
    """Return the kernel (n, n) of features with their mean over the n inputs taken off."""
    _check_square(kernel)
    rows: Tensor = kernel - kernel.mean(0, keepdim=True)
    found: Tensor = rows - rows.mean(1, keepdim=True)
    return found


def eigenvalues(kernel: Tensor) -> Tensor:
    """Return the eigenvalues (n,) of a kernel (n, n), the largest first, in float64 on the CPU."""
    _check_square(kernel)
    found: Tensor = torch.linalg.eigvalsh(kernel.detach().double().cpu())
    return found.flip(0)


def effective_rank(eigenvalues: Tensor) -> float:
    """Return (sum of eigenvalues)^2 / sum of squares, from 1 to n: 0 where all of them are 0.

    Args:
        eigenvalues: (n,), from 0 on; negative ones, that rounding leaves, count as 0.
    """
    values = eigenvalues.double().clamp(min=0)
    squares = float(values.square().sum())
    return float(values.sum()) ** 2 / squares if squares else 0.0


def entropy_rank(eigenvalues: Tensor) -> float:
    """Return exp of the entropy of the eigenvalues' shares, from 1 to n: 0 where all are 0.

    It gives small eigenvalues more weight than `effective_rank` does.

    Args:
        eigenvalues: (n,), from 0 on; negative ones, that rounding leaves, count as 0.

    Reference:
        Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    values = eigenvalues.double().clamp(min=0)
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def target_alignment(kernel: Tensor, labels: Tensor) -> float:
    """Return the centred alignment of a kernel with labels, from 0 to 1.

    <K, Y> / (|K| |Y|) in Frobenius norms, with K the centred kernel and Y that of the one-hot
    labels; 0 where one of them is 0.

    Args:
        kernel: (n, n).
        labels: (n,) integers.

    Raises:
        InputError: Sizes do not fit.

    Reference:
        Cortes, Mohri and Rostamizadeh, JMLR 2012, arXiv 1203.0550, Definition 4.
    """
    targets = _targets(kernel, labels)
    flat = centred(kernel.double()).to(targets.device)
    wanted = targets @ targets.mT
    norms = flat.norm() * wanted.norm()
    return float((flat * wanted).sum() / norms) if norms > 0 else 0.0


def label_energy(kernel: Tensor, labels: Tensor, count: int) -> float:
    """Return the share of the centred labels in the first eigenvectors of the centred kernel.

    Gradient descent learns labels first along these (Arora et al., ICML 2019, arXiv 1901.08584,
    Theorem 4.1). Labels that have nothing to do with the kernel have count / (n - 1).

    Args:
        kernel: (n, n).
        labels: (n,) integers.
        count: Eigenvectors, those of the largest eigenvalues.

    Raises:
        InputError: Sizes do not fit.
    """
    targets = _targets(kernel, labels).cpu()
    _, vectors = torch.linalg.eigh(centred(kernel.double()).cpu())
    first = vectors[:, len(vectors) - count :]
    total = targets.square().sum()
    return float((first.mT @ targets).square().sum() / total) if total > 0 else 0.0


def shuffled(labels: Tensor, times: int, seed: int) -> list[Tensor]:
    """Return the labels (n,) in so many random orders."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(times)]
    return [labels[order.to(labels.device)] for order in orders]


def look(kernel: Tensor, labels: Tensor | None, seed: int) -> Seen:
    """Return what a kernel is like.

    Args:
        kernel: (n, n), symmetric, finite.
        labels: (n,) integers, or None.
        seed: Seed of the random orders of the labels.
    """
    own = eigenvalues(kernel)
    first, last = float(own[0]), float(own[-1])
    return Seen(
        spectrum=eigenvalues(centred(kernel)),
        top=first / max(float(own.sum()), 1e-300),
        condition=first / max(last, ROUNDING * first, 1e-300),
        labelled=_labelled(kernel, labels, seed),
    )


def _labelled(kernel: Tensor, labels: Tensor | None, seed: int) -> Labelled | None:
    """Hold a kernel against the labels, where there are two at least."""
    classes = 0 if labels is None else len(labels.unique())
    if labels is None or classes < 2:
        return None
    orders = shuffled(labels, SHUFFLES, seed)
    chance = sorted(target_alignment(kernel, order) for order in orders)
    count = min(classes, len(kernel) - 1)
    return Labelled(
        alignment=target_alignment(kernel, labels),
        chance=chance[SHUFFLES - 2],
        energy=label_energy(kernel, labels, count),
        share=count / (len(kernel) - 1),
        classes=classes,
    )


def _targets(kernel: Tensor, labels: Tensor) -> Tensor:
    """Return the centred one-hot labels (n, classes) in float64."""
    _check_square(kernel)
    if labels.shape != kernel.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} with a kernel of "
            f"{len(kernel)} inputs: give integers of shape ({len(kernel)},)"
        )
    classes = labels.unique(return_inverse=True)[1]
    hot = torch.nn.functional.one_hot(classes).double()
    return hot - hot.mean(0)


def _check_square(kernel: Tensor) -> None:
    """Refuse what is no kernel of inputs with themselves."""
    if kernel.dim() != 2 or kernel.shape[0] != kernel.shape[1]:
        raise InputError(f"the kernel has shape {tuple(kernel.shape)}: give (n, n)")
