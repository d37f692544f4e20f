"""Learning with a network's kernel through scikit-learn's interface.

Loaded when one of its names is first asked for, because scikit-learn is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.gaussian_process import log_marginal_likelihood, posterior_variance
from merkhet.kernels.gram import diagonal
from merkhet.kernels.learner import KernelEstimator, as_tensor


class KernelRegressor(MultiOutputMixin, RegressorMixin, KernelEstimator):  # type: ignore[misc]
    """Kernel ridge regression, Gaussian process and gradient flow with a network's kernel.

    The model has mean zero, as networks have at initialisation: centre targets that are not
    centred, as with `sklearn.compose.TransformedTargetRegressor`. The ridge is the variance of
    the Gaussian process's noise; with `kind="nngp"` it is Bayesian inference in the network.

    Args:
        network: Layers of `merkhet.kernels`; by default one hidden ReLU layer with biases, for
            features of scale 1. With "precomputed", X is a kernel: (n, n) to fit, (m, n) to
            predict.
        kind: "ntk" or "nngp".
        shape: (channels, height, width) that rows are reshaped to.
        ridge: What is added to the kernel's diagonal: a number; several, of which the one of least
            squared leave-one-out error is taken; or "loo", 17 from 1e-6 to 100 times the kernel's
            mean eigenvalue.
        time: Gradient flow on half the sum of squares up to this time, in place of a ridge;
            `math.inf` interpolates.
        landmarks: Nystrom's approximation with as many inputs, drawn at random; None is exact.
        random_state: Seed of the landmarks.
        verbose: Whether a terminal shows the kernel's progress.

    Attributes:
        dual_coef_: (c,) or (c, outputs), of the training inputs or landmarks.
        ridge_: The ridge; with `time` this and what follows from it is None.
        ridges_: (R,), those that were compared.
        loo_errors_: (R,), their mean squared leave-one-out errors.
        loo_predictions_: (n,) or (n, outputs), of each input by the others, at `ridge_`.
        log_marginal_likelihood_: Of the targets, with noise `ridge_`.
        landmark_indices_: (c,), which inputs new ones are compared with.

    Raises:
        InputError: By `fit`; what was given does not fit, says why.

    Example:
        >>> import numpy as np
        >>> from merkhet.kernels.estimators import KernelRegressor
        >>> x = np.linspace(-2, 2, 41)[:, None]
        >>> model = KernelRegressor().fit(x, np.sin(3 * x[:, 0]))
        >>> bool(abs(model.predict([[0.33]])[0] - np.sin(0.99)) < 0.02)
        True
    """

    def fit(self, X: Any, y: Any) -> KernelRegressor:  # noqa: N803
        """Learn targets y, (n,) or (n, outputs), of inputs X, (n, d) or (n, c, h, w)."""
        x, y = self._rows(X, y, multi_output=True, y_numeric=True)
        targets = as_tensor(np.asarray(y, np.float64))
        self.decomposition_ = self._learn(x, targets)
        self.log_marginal_likelihood_ = (
            None
            if self.ridge_ is None
            else float(log_marginal_likelihood(self.decomposition_, targets, self.ridge_))
        )
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:  # noqa: N803
        """Return predictions (m,) or (m, outputs), and on request their standard deviations (m,).

        Raises:
            InputError: Deviations are asked for where there are none, or inputs do not fit.
        """
        found, cross = self._outputs(X)
        return (found, self._deviations(X, cross)) if return_std else found

    def _deviations(self, inputs: Any, cross: Tensor) -> Any:
        """Return the posterior's standard deviations (m,), without the observations' noise."""
        if self.ridge_ is None:
            raise InputError(
                "return_std after gradient flow: gradient_flow_ensemble(...) gives its variance"
            )
        if self._precomputed:
            raise InputError(
                'return_std with network="precomputed": posterior(model.decomposition_, cross, '
                "diagonal, y, model.ridge_) takes the kernels' diagonal too"
            )
        own = diagonal(self.network_, self._inputs(self._rows(inputs)), self.kind)
        variance = posterior_variance(self.decomposition_, cross, own, self.ridge_)
        return variance.sqrt().numpy()


class KernelClassifier(ClassifierMixin, KernelEstimator):  # type: ignore[misc]
    """Classification by regression on centred labels with a network's kernel.

    Each of k classes has a target of 1 - 1/k for its own inputs and -1/k for others (Lee et al.,
    NeurIPS 2019, take 0.9 and -0.1 of ten); of two classes one target is learned. The ridge is
    chosen by squared error: accuracy on n inputs moves in steps of 1/n and ties over much of the
    path.

    Args:
        network: Layers of `merkhet.kernels`; by default one hidden ReLU layer with biases, for
            features of scale 1. With "precomputed", X is a kernel: (n, n) to fit, (m, n) to
            predict.
        kind: "ntk" or "nngp".
        shape: (channels, height, width) that rows are reshaped to.
        ridge: What is added to the kernel's diagonal: a number; several, of which the one of least
            squared leave-one-out error is taken; or "loo", 17 from 1e-6 to 100 times the kernel's
            mean eigenvalue.
        time: Gradient flow on half the sum of squares up to this time, in place of a ridge;
            `math.inf` interpolates.
        landmarks: Nystrom's approximation with as many inputs, drawn at random; None is exact.
        random_state: Seed of the landmarks.
        verbose: Whether a terminal shows the kernel's progress.

    Attributes:
        classes_: (k,), the labels.
        dual_coef_: (c, k), or (c,) of two classes.
        ridge_: The ridge; with `time` this and what follows from it is None.
        ridges_: (R,), those that were compared.
        loo_errors_: (R,), their mean squared leave-one-out errors.
        loo_predictions_: (n, k), or (n,) of two classes, of each input by the others.
        landmark_indices_: (c,), which inputs new ones are compared with.

    Raises:
        InputError: By `fit`; what was given does not fit, says why.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from merkhet.kernels.estimators import KernelClassifier
        >>> x, y = load_digits(return_X_y=True)
        >>> model = KernelClassifier().fit(x[::4] / 16, y[::4])
        >>> bool(model.score(x[1::4] / 16, y[1::4]) > 0.95)
        True
    """

    def fit(self, X: Any, y: Any) -> KernelClassifier:  # noqa: N803
        """Learn labels y, (n,), of inputs X, (n, d) or (n, channels, height, width)."""
        x, y = self._rows(X, y, ensure_min_samples=1)
        check_classification_targets(y)
        self.classes_, places = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        count = len(self.classes_)
        if count < 2:
            raise InputError(f"y holds one class, {self.classes_[0]!r}: give inputs of two or more")
        targets = np.eye(count)[places] - 1 / count
        self._learn(x, as_tensor(targets[:, 1] if count == 2 else targets))
        return self

    def decision_function(self, X: Any) -> Any:  # noqa: N803
        """Return predicted targets of each class, (m, k); of two classes the second's, (m,)."""
        return self._outputs(X)[0]

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return labels, (m,): of each input the class of the largest predicted target."""
        found = self.decision_function(X)
        places = (found > 0).astype(int) if found.ndim == 1 else found.argmax(1)
        return self.classes_[places]
