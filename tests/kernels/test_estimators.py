"""The estimators: scikit-learn's own checks, and agreement with the plain functions."""

from __future__ import annotations

import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from merkhet.core.errors import InputError
from merkhet.kernels import (
    Conv2d,
    GlobalAvgPool2d,
    Kernels,
    Linear,
    ReLU,
    Sequential,
    diagonal,
    gram,
)
from merkhet.kernels.estimators import KernelClassifier, KernelRegressor
from merkhet.kernels.gaussian_process import log_marginal_likelihood, posterior
from merkhet.kernels.gradient_flow import gradient_flow, gradient_flow_ensemble
from merkhet.kernels.ridge import default_ridges, leave_one_out

sys.path.insert(0, str(Path(__file__).parent))
from given_kernels import NETWORK

PICTURES = Sequential(Conv2d(3), ReLU(), GlobalAvgPool2d(), Linear())
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@parametrize_with_checks(
    [
        KernelRegressor(),
        KernelClassifier(),
        KernelRegressor(NETWORK, "nngp", ridge=0.1),
        KernelClassifier(NETWORK, ridge=(0.01, 1.0)),
        KernelClassifier(time=1.0),
    ]
)
def test_the_checks_of_scikit_learn_pass(estimator, check) -> None:
    check(estimator)


def wave(count: int = 60, seed: int = 0):
    x = np.random.default_rng(seed).uniform(-2, 2, (count, 2))
    return x, np.sin(2 * x[:, 0]) * x[:, 1]


def digits():
    x, y = load_digits(return_X_y=True)
    return x[:150] / 16, y[:150], x[150:250] / 16, y[150:250]


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_the_regressor_is_the_plain_functions(kind) -> None:
    x, y = wave()
    new, _ = wave(20, seed=1)
    model = KernelRegressor(NETWORK, kind).fit(x, y)
    kernel, cross = (gram(NETWORK, one, x, kind, dtype=torch.float64) for one in (x, new))
    kernel = (kernel + kernel.T) / 2
    ridges = default_ridges(kernel)
    found = leave_one_out(kernel, y, ridges)
    np.testing.assert_allclose(model.loo_errors_, found.errors, rtol=1e-6)
    np.testing.assert_allclose(model.loo_predictions_, found.predictions[found.best], rtol=1e-6)
    assert model.ridge_ == model.ridges_[found.best] == pytest.approx(ridges[found.best])
    wanted = posterior(kernel, cross, diagonal(NETWORK, new, kind), y, model.ridge_)
    mean, deviation = model.predict(new, return_std=True)
    np.testing.assert_allclose(mean, wanted.mean, atol=1e-6)
    np.testing.assert_allclose(deviation, wanted.variance.sqrt(), atol=1e-6)
    likelihood = log_marginal_likelihood(kernel, y, model.ridge_)
    assert model.log_marginal_likelihood_ == pytest.approx(float(likelihood), rel=1e-6)


def test_the_ridge_it_chooses_predicts_new_inputs_well() -> None:
    """Within a quarter of the best of the path on new inputs, with targets that are half noise.

    Of six draws it was within 4 % at most, and the ends of the path were 2.5 times worse or more.
    """
    x, y = wave(150)
    y = y + np.random.default_rng(2).standard_normal(150)
    new, truth = wave(300, seed=1)
    chosen = KernelRegressor().fit(x, y)
    errors = [
        np.mean((KernelRegressor(ridge=float(ridge)).fit(x, y).predict(new) - truth) ** 2)
        for ridge in chosen.ridges_
    ]
    found = np.mean((chosen.predict(new) - truth) ** 2)
    assert found < 1.25 * min(errors)
    assert min(errors) < 0.5 * min(errors[0], errors[-1])


def test_several_outputs_are_learned_at_once() -> None:
    x, y = wave()
    both = KernelRegressor(ridge=0.01).fit(x, np.stack([y, x[:, 0]], 1))
    one = KernelRegressor(ridge=0.01).fit(x, y)
    assert both.predict(x).shape == (60, 2)
    np.testing.assert_allclose(both.predict(x)[:, 0], one.predict(x), **CLOSE)
    np.testing.assert_allclose(
        both.log_marginal_likelihood_,
        one.log_marginal_likelihood_
        + KernelRegressor(ridge=0.01).fit(x, x[:, 0]).log_marginal_likelihood_,
        **CLOSE,
    )


@pytest.mark.parametrize("time", [0.1, math.inf])
def test_gradient_flow_takes_the_place_of_the_ridge(time) -> None:
    x, y = wave()
    new, _ = wave(20, seed=1)
    model = KernelRegressor(NETWORK, time=time).fit(x, y)
    double = {"kind": "both", "dtype": torch.float64}
    train, cross = gram(NETWORK, x, **double), gram(NETWORK, new, x, **double)
    own = diagonal(NETWORK, new, "nngp")
    np.testing.assert_allclose(
        model.predict(new), gradient_flow(train.ntk, cross.ntk, y, time), **CLOSE
    )
    ensemble = gradient_flow_ensemble(train, Kernels(*cross), own, y, time)
    np.testing.assert_allclose(model.predict(new), ensemble.mean, **CLOSE)
    assert model.ridge_ is None
    assert model.log_marginal_likelihood_ is None
    if time == math.inf:
        np.testing.assert_allclose(model.predict(x), y, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_inputs_that_the_kernel_cannot_tell_apart_need_a_ridge_or_gradient_flow(factor) -> None:
    """Without biases f(3 x) = 3 f(x), and k(x, 3 x) is right only to the root of rounding.

    The kernel has rank 20 then, although half its other eigenvalues are far above rounding.
    """
    homogeneous = Sequential(Linear(), ReLU(), Linear())
    x = np.random.default_rng(0).standard_normal((20, 3))
    y = x[:, 0] * x[:, 1]
    twice, targets = np.concatenate([x, factor * x]), np.concatenate([y, factor * (y + 1)])
    with pytest.raises(InputError, match="rank 20 over 40"):
        KernelRegressor(homogeneous, ridge=0.0).fit(twice, targets)
    found = KernelRegressor(homogeneous, time=math.inf).fit(twice, targets).predict(x)
    least_squares = (y + factor**2 * (y + 1)) / (1 + factor**2)
    np.testing.assert_allclose(found, least_squares, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_classifier_learns_centred_labels(classes) -> None:
    x, y, new, truth = digits()
    x, y, new, truth = x[y < classes], y[y < classes], new[truth < classes], truth[truth < classes]
    names = np.array([f"class {name}" for name in range(classes)])
    model = KernelClassifier().fit(x, names[y])
    values = model.decision_function(new)
    assert values.shape == ((len(new),) if classes == 2 else (len(new), classes))
    centred = np.eye(classes)[y] - 1 / classes
    regressor = KernelRegressor(ridge=model.ridge_).fit(x, centred)
    expected = regressor.predict(new)
    np.testing.assert_allclose(values, expected[:, 1] if classes == 2 else expected, **CLOSE)
    np.testing.assert_allclose(expected.sum(1), 0, atol=1e-10)
    assert (model.predict(new) == names[expected.argmax(1)]).all()
    assert model.score(new, names[truth]) > 0.9


def test_with_all_landmarks_it_is_exact_and_few_are_seeded() -> None:
    x, y = wave()
    exact = KernelRegressor(ridge=0.01).fit(x, y)
    every = KernelRegressor(ridge=0.01, landmarks=60, random_state=1).fit(x, y)
    np.testing.assert_allclose(every.predict(x), exact.predict(x), atol=1e-6)
    few = KernelRegressor(landmarks=15, random_state=1).fit(x, y)
    again = KernelRegressor(landmarks=15, random_state=1).fit(x, y)
    other = KernelRegressor(landmarks=15, random_state=2).fit(x, y)
    assert few.dual_coef_.shape == (15,)
    np.testing.assert_array_equal(few.predict(x), again.predict(x))
    assert not np.array_equal(few.landmark_indices_, other.landmark_indices_)
    _, deviation = few.predict(x, return_std=True)
    assert (deviation > 0).all()


@pytest.mark.parametrize("landmarks", [None, 20])
def test_a_kernel_may_be_given_and_is_cut_by_cross_validation(landmarks) -> None:
    x, y, new, _ = digits()
    options = {"landmarks": landmarks, "random_state": 0}
    given = KernelClassifier("precomputed", **options)
    of_rows = KernelClassifier(NETWORK, **options)
    kernel, cross = (gram(NETWORK, *pair, dtype=torch.float64) for pair in ((x,), (new, x)))
    np.testing.assert_allclose(
        given.fit(kernel, y).decision_function(cross),
        of_rows.fit(x, y).decision_function(new),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        cross_val_score(given, kernel.numpy(), y, cv=3), cross_val_score(of_rows, x, y, cv=3)
    )


def test_pictures_go_in_as_they_are_or_as_rows() -> None:
    x, y, new, _ = digits()
    rows = KernelClassifier(PICTURES, shape=(1, 8, 8)).fit(x[:12], y[:12])
    whole = KernelClassifier(PICTURES).fit(x[:12].reshape(-1, 1, 8, 8), y[:12])
    tensors = KernelClassifier(PICTURES).fit(torch.tensor(x[:12]).view(-1, 1, 8, 8), y[:12])
    wanted = rows.decision_function(new[:4])
    for model in (whole, tensors):
        found = model.decision_function(new[:4].reshape(-1, 1, 8, 8))
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(whole.decision_function(new[:4]), wanted)


def test_float32_inputs_take_kernels_in_float32_and_a_float64_solve() -> None:
    x, y, new, _ = digits()
    single = KernelClassifier(ridge=0.01).fit(x.astype(np.float32), y)
    double = KernelClassifier(ridge=0.01).fit(x, y)
    assert single.centres_.dtype == np.float32
    assert single.dual_coef_.dtype == np.float64
    # Entries are off by 2e-6 of the largest; the inverse is at most 1 / ridge, predictions O(1).
    found, wanted = single.decision_function(new), double.decision_function(new)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_it_is_part_of_scikit_learn_and_is_kept_in_files() -> None:
    x, y = wave(200)
    pipe = make_pipeline(StandardScaler(), KernelRegressor())
    grid = {"kernelregressor__kind": ["ntk", "nngp"], "kernelregressor__network": [None, NETWORK]}
    search = GridSearchCV(pipe, grid, cv=3).fit(x, y)
    assert search.best_score_ > 0.9
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(x), search.predict(x))


X, Y = wave(12)
WRONG = [
    ({"kind": "tangent"}, X, Y, "no kind of kernel 'tangent': choose one of nngp, ntk"),
    ({"network": "given"}, X, Y, "no network by name 'given'"),
    ({"network": "precomputed"}, X, Y, "fit a square kernel"),
    ({"network": torch.nn.Linear(2, 1)}, X, Y, "give layers of merkhet.kernels"),
    ({"ridge": "best"}, X, Y, "no ridge by name 'best'"),
    ({"ridge": -0.1}, X, Y, "give a finite number from 0 on"),
    ({"ridge": 0.1, "time": 1.0}, X, Y, "give one of them"),
    ({"time": -1.0}, X, Y, "time -1: give a number from 0 on"),
    ({"landmarks": 13}, X, Y, "of 12 inputs"),
    ({"shape": (1, 2, 2)}, X, Y, r"shape = \(1, 2, 2\) of rows of 2"),
    ({"shape": (2, 1, 1)}, X.reshape(12, 1, 2, 1), Y, "pictures of .* must agree"),
    ({}, X, np.where(np.arange(12) == 3, np.nan, Y), "NaN"),
    ({}, X, Y[:5], "inconsistent numbers of samples"),
]


@pytest.mark.parametrize(("options", "x", "y", "message"), WRONG)
def test_what_does_not_fit_is_refused(options, x, y, message) -> None:
    with pytest.raises(ValueError, match=message):
        KernelRegressor(**options).fit(x, y)


def test_deviations_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="gradient_flow_ensemble"):
        KernelRegressor(time=1.0).fit(X, Y).predict(X, return_std=True)
    kernel = gram(NETWORK, X, dtype=torch.float64)
    with pytest.raises(InputError, match="posterior"):
        KernelRegressor("precomputed").fit(kernel, Y).predict(kernel, return_std=True)
    with pytest.raises(InputError, match="y holds one class"):
        KernelClassifier().fit(X, np.ones(12, int))
