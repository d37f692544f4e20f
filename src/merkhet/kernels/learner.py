"""What scikit-learn's estimators with a network's kernel share: inputs, kernels, the solve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.kernels.activations import ReLU
from merkhet.kernels.eigen import Decomposition, decompose, refuse_large
from merkhet.kernels.gradient_flow import flow_coefficients
from merkhet.kernels.gram import gram
from merkhet.kernels.layers import Layer, Linear, Sequential
from merkhet.kernels.nystrom import draw_landmarks, nystrom
from merkhet.kernels.ridge import default_ridges, leave_one_out, ridge_coefficients

FLOATS = (np.float64, np.float32)


def default_network() -> Layer:
    """Return a network of one hidden ReLU layer with biases, for rows of features of scale 1.

    Without biases a ReLU network is homogeneous: it could not tell x from 2x but by a factor.
    """
    return Sequential(Linear(bias_std=1.0), ReLU(), Linear(bias_std=1.0))


class KernelEstimator(BaseEstimator):  # type: ignore[misc]
    """What the regressor and the classifier share: kernels, landmarks, the choice of the ridge.

    Inputs are rows (n, d), or pictures (n, channels, height, width). Those in float32 take the
    kernels' fast paths; what is solved is solved in float64.

    Args:
        network: Layers of `merkhet.kernels`; by default `default_network()`. With "precomputed",
            inputs are kernels: (n, n) to fit and (m, n) to predict.
        kind: "ntk" or "nngp".
        shape: (channels, height, width) that rows are reshaped to.
        ridge: What is added to the kernel's diagonal: a number; several, of which the one of least
            squared leave-one-out error is taken; or "loo", 17 from 1e-6 to 100 times the kernel's
            mean eigenvalue.
        time: Gradient flow up to this time in place of a ridge; `math.inf` interpolates.
        landmarks: Nystrom's approximation with as many inputs, drawn at random; None is exact.
        random_state: Seed of the landmarks.
        verbose: Whether a terminal shows the kernel's progress.
    """

    network_: Layer
    shape_: tuple[int, ...] | None

    def __init__(
        self,
        network: Layer | str | None = None,
        kind: str = "ntk",
        *,
        shape: tuple[int, int, int] | None = None,
        ridge: Any = "loo",
        time: float | None = None,
        landmarks: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.kind = kind
        self.shape = shape
        self.ridge = ridge
        self.time = time
        self.landmarks = landmarks
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn to cut kernels along both sides."""
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self._precomputed
        return tags

    @property
    def _precomputed(self) -> bool:
        """Whether inputs are kernels."""
        return isinstance(self.network, str)

    def _learn(self, x: Any, targets: Tensor) -> Decomposition:
        """Learn targets (n,) or (n, k) from checked rows, and return the kernel's decomposition."""
        self._check_options()
        basis = self._decomposed(x)
        if self.time is not None:
            self.ridge_ = self.ridges_ = self.loo_errors_ = self.loo_predictions_ = None
            self.dual_coef_ = flow_coefficients(basis, targets, self.time).numpy()
            return basis
        ridges = default_ridges(basis) if isinstance(self.ridge, str) else self.ridge
        found = leave_one_out(basis, targets, ridges)
        self.ridges_, self.loo_errors_ = found.ridges.numpy(), found.errors.numpy()
        self.ridge_ = float(self.ridges_[found.best])
        self.loo_predictions_ = found.predictions[found.best].numpy()
        self.dual_coef_ = ridge_coefficients(basis, targets, self.ridge_).numpy()
        return basis

    def _check_options(self) -> None:
        """Refuse parameters that are no choice, or contradict each other."""
        choose("kind of kernel", self.kind, ("nngp", "ntk"))
        if isinstance(self.network, str):
            choose("network by name", self.network, ("precomputed",))
        if isinstance(self.ridge, str):
            choose("ridge by name", self.ridge, ("loo",))
        elif self.time is not None:
            raise InputError(f"ridge = {self.ridge} and time = {self.time}: give one of them")

    def _decomposed(self, x: Any) -> Decomposition:
        """Return the decomposition of the kernel over the rows; keep what new ones meet."""
        count = len(x)
        if self.landmarks is None:
            refuse_large(count)
            self.landmark_indices_ = np.arange(count)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self.landmark_indices_ = draw_landmarks(count, self.landmarks, seed).numpy()
        if self._precomputed:
            return self._decomposed_kernel(as_tensor(x))
        self.network_ = default_network() if self.network is None else self.network  # type: ignore[assignment]
        self.centres_ = x[self.landmark_indices_]
        among = self._gram(self.centres_)
        return decompose(among) if self.landmarks is None else nystrom(self._cross(x), among)

    def _decomposed_kernel(self, kernel: Tensor) -> Decomposition:
        """Return the decomposition of a given kernel (n, n), or of its columns at the landmarks."""
        if kernel.shape[0] != kernel.shape[1]:
            raise InputError(
                f'X is {tuple(kernel.shape)} and network="precomputed": fit a square kernel, as '
                "gram(network, x)"
            )
        if self.landmarks is None:
            return decompose(kernel)
        columns = kernel[:, self.landmark_indices_]
        return nystrom(columns, columns[self.landmark_indices_])

    def _gram(self, x: Any, y: Any = None) -> Tensor:
        """Return the kernel between rows x (n, d) and rows y (m, d)."""
        other = None if y is None else self._inputs(y)
        dtype = torch.float32 if self.centres_.dtype == np.float32 else torch.float64
        found: Tensor = gram(
            self.network_, self._inputs(x), other, self.kind, dtype=dtype, progress=self.verbose
        )
        return found

    def _cross(self, x: Any) -> Tensor:
        """Return the kernels (m, c) of rows (m, d) with the centres."""
        if self._precomputed:
            return as_tensor(x)[:, self.landmark_indices_]
        return self._gram(x.astype(self.centres_.dtype, copy=False), self.centres_)

    def _inputs(self, x: Any) -> Tensor:
        """Return rows (n, d) as the network takes them, (n, d) or (n, channels, height, width)."""
        found = as_tensor(x)
        return found if self.shape_ is None else found.reshape(len(found), *self.shape_)

    def _rows(self, x: Any, y: Any = None, **options: Any) -> Any:
        """Return pictures as rows; (x, y) checked in fitting, x checked afterwards."""
        x = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        size = x.shape[1:] if isinstance(x, np.ndarray) and x.ndim == 4 else None
        fitting = bool(options)
        shape = self.shape if fitting else self.shape_
        if size and shape is not None and size != tuple(shape):
            raise InputError(f"pictures of {size} and shape = {tuple(shape)}: they must agree")
        if size:
            x = x.reshape(len(x), math.prod(size))
        if not fitting:
            return validate_data(self, x, reset=False, dtype=FLOATS)
        x, y = validate_data(self, x, y, dtype=FLOATS, **options)
        self.shape_ = size if shape is None else tuple(shape)
        if self.shape_ and math.prod(self.shape_) != x.shape[1]:
            raise InputError(f"shape = {self.shape_} of rows of {x.shape[1]}: they must agree")
        return x, y

    def _outputs(self, X: Any) -> tuple[Any, Tensor]:  # noqa: N803
        """Return what is predicted at new inputs, (m,) or (m, k), and their kernels (m, c)."""
        check_is_fitted(self)
        cross = self._cross(self._rows(X)).double()
        return (cross @ torch.from_numpy(self.dual_coef_)).numpy(), cross


def as_tensor(x: Any) -> Tensor:
    """Return an array of any shape as a tensor, copied only where torch cannot share it."""
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))
