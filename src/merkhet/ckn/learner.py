"""What scikit-learn's estimators with a CKN share: inputs, the network and its representation.

Loaded with them, because scikit-learn is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from merkhet.ckn.form import Form
from merkhet.ckn.frames import as_group
from merkhet.ckn.network import CKN
from merkhet.ckn.networks import check_square, forms
from merkhet.core.errors import InputError

FLOATS = (np.float64, np.float32)
PATCHES = 200_000  # drawn for a layer, and no more than so many times what there are:
TIMES = 32
ROW_FILTERS = 64
ALONE = "no_validation"  # what scikit-learn takes for inputs without labels


class CKNEstimator(BaseEstimator):  # type: ignore[misc]
    """What the transformer and the classifier share.

    Args:
        filters: Of each layer, or a number for one layer.
        kernel_size: Side of the patches.
        pooling: Scale and step of the means.
        kernel: "exp", "inverse", "poly" or "relu".
        sigma: Width of "exp".
        shape: (channels, height, width) or (channels, length) that rows are reshaped to.
        group: "c4", "c8", "d4" or "reflections".
        random_state: Seed.
        verbose: Whether a terminal shows progress.
    """

    network_: CKN
    shape_: tuple[int, ...] | None

    def __init__(
        self,
        filters: Sequence[int] | int | None = None,
        *,
        kernel_size: Any = None,
        pooling: Any = None,
        kernel: Any = "exp",
        sigma: Any = 0.6,
        shape: Sequence[int] | None = None,
        group: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.filters = filters
        self.kernel_size = kernel_size
        self.pooling = pooling
        self.kernel = kernel
        self.sigma = sigma
        self.shape = shape
        self.group = group
        self.random_state = random_state
        self.verbose = verbose

    def _fit_network(self, x: Any) -> Tensor:
        """Fit the network to checked rows (n, d), and return them as it reads them."""
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.shape_ is None:
            self._look_at(x)
        inputs = self._inputs(x)
        self.network_ = self._rows_network(inputs) if self.shape_ is None else self._network()
        self.network_.to(inputs.dtype).fit_unsupervised(
            inputs,
            patches=min(PATCHES, TIMES * len(inputs) * math.prod(inputs.shape[2:])),
            seed=self._seed,
            progress=self.verbose,
        )
        return inputs

    def _network(self) -> CKN:
        """Return a fresh network of pictures or signals."""
        assert self.shape_ is not None
        channels, *size = self.shape_
        filters = _each(self.filters) or (64, 256)
        group = as_group(self.group)
        check_square(group, size)
        default = (2, 6) if len(filters) == 2 else 2
        made = CKN(
            channels,
            filters,
            3 if self.kernel_size is None else self.kernel_size,
            default if self.pooling is None else self.pooling,
            self.kernel,
            self.sigma,
            group=group,
            form=forms(None, len(filters), len(size)),
            seed=self._seed,
        )
        made.output_shape(*size)
        return made

    def _rows_network(self, inputs: Tensor) -> CKN:
        """Return a fresh network of one layer, whose patch is a whole row."""
        given = {"kernel_size": self.kernel_size, "pooling": self.pooling, "group": self.group}
        for name, value in given.items():
            if value is not None:
                raise InputError(
                    f"{name} = {value!r} of rows without positions: give "
                    "shape=(channels, height, width) too"
                )
        filters = _each(self.filters) or (_directions(inputs[:, :, 0], ROW_FILTERS),)
        if len(filters) > 1:
            raise InputError(
                f"filters = {filters} of rows without positions: give one number, or "
                "shape=(channels, height, width) too"
            )
        form, seed = Form(dims=1), self._seed
        return CKN(inputs.shape[1], filters, 1, 1, self.kernel, self.sigma, form=form, seed=seed)

    def _look_at(self, x: Any) -> None:
        """Keep the mean of rows and the mean norm of what is left."""
        self.centre_ = x.mean(0, dtype=np.float64)
        self.scale_ = float(np.linalg.norm(x - self.centre_, axis=1).mean())
        if not self.scale_ > 1e-12 * np.abs(self.centre_).max():
            raise InputError(f"all {len(x)} rows are equal: give rows that differ")

    def _inputs(self, x: Any) -> Tensor:
        """Return rows (n, d) as the network reads them, (n, channels, *size).

        The kernel is homogeneous. Of rows without positions it sees what is left without their mean
        with one number more, of the same scale: x and 2 x then differ by more than a factor.
        """
        if self.shape_ is not None:
            found = torch.from_numpy(np.require(x, requirements=["C", "W"]))
            return found.reshape(len(found), *self.shape_)
        left = torch.from_numpy((x - self.centre_).astype(x.dtype) / x.dtype.type(self.scale_))
        return F.pad(left, (0, 1), value=1.0)[:, :, None]

    def _encoded(self, inputs: Tensor) -> Tensor:
        """Return the representation (n, features) of inputs (n, channels, *size)."""
        return self.network_.encode(inputs, progress=self.verbose).flatten(1)

    def _checked(self, x: Any) -> Tensor:
        """Return new inputs as the fitted network reads them."""
        check_is_fitted(self)
        return self._inputs(self._rows(x).astype(self._dtype, copy=False))

    def _rows(self, x: Any, y: Any = ALONE, **options: Any) -> Any:
        """Return pictures as rows; (x, y), or x where there is no y, checked in fitting."""
        x = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        size = x.shape[1:] if isinstance(x, np.ndarray) and x.ndim in (3, 4) else None
        fitting = bool(options)
        shape = self.shape if fitting else self.shape_
        if size and size != (tuple(shape) if shape else size if fitting else None):
            told = "rows before" if shape is None else f"shape = {tuple(shape)}"
            raise InputError(f"pictures of {size} and {told}: they must agree")
        if isinstance(x, np.ndarray) and x.dtype == np.uint8 and (size or shape):
            x = x.astype(np.float32) / 255
        if size:
            x = x.reshape(len(x), math.prod(size))
        if not fitting:
            return validate_data(self, x, reset=False, dtype=FLOATS)
        found = validate_data(self, x, y, dtype=FLOATS, **options)
        rows = found if isinstance(y, str) else found[0]
        self._keep(rows, size if shape is None else tuple(shape))
        return found

    def _keep(self, x: Any, shape: tuple[int, ...] | None) -> None:
        """Keep the shape and type of what is fitted."""
        self.shape_, self._dtype = shape, x.dtype
        if shape and (math.prod(shape) != x.shape[1] or len(shape) not in (2, 3)):
            raise InputError(
                f"shape = {shape} of rows of {x.shape[1]}: give (channels, height, width) or "
                "(channels, length) with as many numbers"
            )


def _each(filters: Sequence[int] | int | None) -> tuple[int, ...]:
    """Return filters by layer, () where none are given."""
    if filters is None:
        return ()
    return tuple(filters) if isinstance(filters, Sequence) else (filters,)


def _directions(rows: Tensor, most: int) -> int:
    """Return how many directions rows (n, d) have, as far as k-means tells them apart.

    Each next one is that which is farthest from those before, up to `most`.
    """
    unit = F.normalize(rows.double(), dim=1)
    nearest, count = unit @ unit[0], 1
    while count < most and float(nearest.min()) < 1 - 64 * torch.finfo(rows.dtype).eps:
        nearest = torch.maximum(nearest, unit @ unit[int(nearest.argmin())])
        count += 1
    return count
