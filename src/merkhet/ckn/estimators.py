"""Convolutional kernel networks through scikit-learn's interface.

Loaded when one of its names is first asked for, because scikit-learn is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from merkhet.ckn.head import fit_head
from merkhet.ckn.learner import CKNEstimator
from merkhet.ckn.networks import fine_tune
from merkhet.core.errors import InputError

BATCH = 1024  # pictures whose representations are kept at once in predicting


class CKNTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CKNEstimator):  # type: ignore[misc]
    """The representation of a convolutional kernel network that is fitted without labels.

    Inputs are pictures (n, channels, height, width) or signals (n, channels, length), or rows
    (n, d), with `shape` or without. The first layer's patches are centred. Rows without positions
    are one patch each: the representation is Nystrom's of the kernel between them, less their mean.
    Inputs in float32 take the fast paths; bytes are divided by 255.

    Args:
        filters: Of each layer, or a number for one layer; by default (64, 256) for pictures and
            signals, and for rows 64 or what there are.
        kernel_size: Side of the patches, one number or one a layer; by default 3.
        pooling: Scale and step of the means, one or one a layer; by default (2, 6) of two layers.
        kernel: "exp", "inverse", "poly" or "relu", one or one a layer.
        sigma: Width of "exp", one or one a layer.
        shape: (channels, height, width) or (channels, length) that rows are reshaped to.
        group: "c4", "c8", "d4" or "reflections", under which the representation is invariant.
        random_state: Seed of the patches and of k-means.
        verbose: Whether a terminal shows progress.

    Attributes:
        network_: The `CKN`.

    Raises:
        InputError: By `fit`; what was given does not fit, says why.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from merkhet.ckn.estimators import CKNTransformer
        >>> x, _ = load_digits(return_X_y=True)
        >>> model = CKNTransformer((16, 32), shape=(1, 8, 8), random_state=0)
        >>> model.fit_transform(x[:100].astype("float32")).shape
        (100, 32)
    """

    def fit(self, X: Any, y: Any = None) -> CKNTransformer:  # noqa: N803
        """Fit the filters to inputs X, (n, d), (n, c, h, w) or (n, c, l); y is not read."""
        self._fit_network(self._rows(X, ensure_min_samples=2))
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the representations (m, features) of inputs X, (m, d) or (m, c, h, w)."""
        return self._encoded(self._checked(X)).numpy()

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        """How many features there are."""
        size = (1,) if self.shape_ is None else self.shape_[1:]
        return int(np.prod(self.network_.output_shape(*size)))


class CKNClassifier(ClassifierMixin, CKNEstimator):  # type: ignore[misc]
    """A linear classifier of a convolutional kernel network's representation.

    The network is fitted without labels, the classifier by a convex solve (squared hinge, each
    class against all others). With `epochs` both are then trained together, and the classifier is
    solved again. Inputs are as for `CKNTransformer`.

    Args:
        filters: Of each layer, or a number for one layer; by default (64, 256) for pictures and
            signals, and for rows 64 or what there are.
        kernel_size: Side of the patches, one number or one a layer; by default 3.
        pooling: Scale and step of the means, one or one a layer; by default (2, 6) of two layers.
        kernel: "exp", "inverse", "poly" or "relu", one or one a layer.
        sigma: Width of "exp", one or one a layer.
        shape: (channels, height, width) or (channels, length) that rows are reshaped to.
        group: "c4", "c8", "d4" or "reflections", under which predictions are invariant.
        penalty: Of the classifier, a number; several, or None for twelve, of which one is chosen on
            a sixth of the inputs.
        epochs: Passes of supervised training; 0 for none.
        random_state: Seed of all draws.
        verbose: Whether a terminal shows progress.

    Attributes:
        classes_: (k,) the labels.
        network_: The `CKN`.
        head_: The `Head` on its flattened representation.
        penalty_: The penalty.

    Raises:
        InputError: By `fit`; what was given does not fit, says why.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from merkhet.ckn.estimators import CKNClassifier
        >>> x, y = load_digits(return_X_y=True)
        >>> x = x.astype("float32")
        >>> model = CKNClassifier((16, 64), pooling=2, shape=(1, 8, 8), random_state=0)
        >>> bool(model.fit(x[::4], y[::4]).score(x[1::4], y[1::4]) > 0.95)
        True
    """

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
        penalty: Any = None,
        epochs: int = 0,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            filters,
            kernel_size=kernel_size,
            pooling=pooling,
            kernel=kernel,
            sigma=sigma,
            shape=shape,
            group=group,
            random_state=random_state,
            verbose=verbose,
        )
        self.penalty = penalty
        self.epochs = epochs

    def fit(self, X: Any, y: Any) -> CKNClassifier:  # noqa: N803
        """Learn labels y, (n,), of inputs X, (n, d), (n, c, h, w) or (n, c, l)."""
        x, y = self._rows(X, y, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(f"y holds one class, {self.classes_[0]!r}: give inputs of two or more")
        labels = torch.from_numpy(places)
        inputs = self._fit_network(x)
        self._fit_head(inputs, labels)
        if self.epochs:
            self._train(inputs, labels)
            self._fit_head(inputs, labels)
        self.penalty_ = self.head_.penalty
        return self

    def decision_function(self, X: Any) -> Any:  # noqa: N803
        """Return scores of each class, (m, k); of two classes the second's, (m,)."""
        batches = self._checked(X).split(BATCH)
        with torch.no_grad():
            scores = torch.cat([self.head_.linear(self._encoded(batch)) for batch in batches])
        return ((scores[:, 1] - scores[:, 0]) / 2 if len(self.classes_) == 2 else scores).numpy()

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return labels, (m,): of each input the class of the largest score."""
        found = self.decision_function(X)
        places = (found > 0).astype(int) if found.ndim == 1 else found.argmax(1)
        return self.classes_[places]

    def _fit_head(self, inputs: Tensor, labels: Tensor) -> None:
        """Solve for the classifier of the network as it is."""
        self.head_ = fit_head(
            self._encoded(inputs),
            labels,
            len(self.classes_),
            penalty=self.penalty,
            seed=self._seed,
        )

    def _train(self, inputs: Tensor, labels: Tensor) -> None:
        """Train network and classifier together, from where they are."""
        from merkhet.training import Running

        whole = nn.Sequential(self.network_, nn.Flatten(), self.head_.linear)
        running = Running(progress=self.verbose)
        fine_tune(
            whole, TensorDataset(inputs, labels), self.epochs, seed=self._seed, running=running
        )
        whole.cpu().eval()
