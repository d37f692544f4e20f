"""The estimators: scikit-learn's own checks, and agreement with the network and its head."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_circles
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from merkhet.ckn import CKN
from merkhet.ckn.estimators import CKNClassifier, CKNTransformer
from merkhet.ckn.head import fit_head
from merkhet.core.errors import InputError

OPTIONS = {"filters": (8, 32), "pooling": 2, "random_state": 0}


@parametrize_with_checks(
    [
        CKNTransformer(),
        CKNClassifier(),
        CKNClassifier(4, kernel="inverse", penalty=0.01),
    ]
)
def test_the_checks_of_scikit_learn_pass(estimator, check) -> None:
    check(estimator)


def digits(count: int = 200):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return x[:count], y[:count], x[count : 2 * count], y[count : 2 * count]


def test_the_transformer_is_the_network() -> None:
    x, _, new, _ = digits()
    model = CKNTransformer(**OPTIONS).fit(x)
    found = model.transform(new)
    wanted = model.network_.encode(torch.from_numpy(new)).flatten(1).numpy()
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == (200, len(model.get_feature_names_out()))
    assert isinstance(model.network_, CKN)
    assert [layer.form.patches for layer in model.network_.layers] == ["centred", "raw"]
    np.testing.assert_array_equal(CKNTransformer(**OPTIONS).fit(x).transform(new), found)


def test_the_classifier_is_the_head_on_the_transformer() -> None:
    x, y, new, truth = digits()
    model = CKNClassifier(**OPTIONS).fit(x, y)
    transformer = CKNTransformer(**OPTIONS).fit(x)
    features = torch.from_numpy(transformer.transform(x))
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    head = fit_head(features, torch.from_numpy(y), 10, seed=seed)
    assert model.penalty_ == model.head_.penalty == head.penalty
    wanted = head.linear(torch.from_numpy(transformer.transform(new))).detach().numpy()
    np.testing.assert_allclose(model.decision_function(new), wanted, atol=1e-5)
    np.testing.assert_array_equal(model.predict(new), wanted.argmax(1))
    assert model.score(new, truth) > 0.9


def test_two_classes_have_one_score_whose_sign_decides() -> None:
    x, y, new, _ = digits()
    names = np.array(["even", "odd"])
    model = CKNClassifier(penalty=1e-3, **OPTIONS).fit(x, names[y % 2])
    scores = model.decision_function(new)
    assert scores.shape == (200,)
    np.testing.assert_array_equal(model.predict(new), names[(scores > 0).astype(int)])


def test_pictures_rows_tensors_and_bytes_are_the_same_pictures() -> None:
    x, _, new, _ = digits(40)
    whole = CKNTransformer(**OPTIONS).fit(x).transform(new)
    rows = CKNTransformer(shape=(1, 8, 8), **OPTIONS).fit(x.reshape(-1, 64))
    np.testing.assert_array_equal(rows.transform(new.reshape(-1, 64)), whole)
    np.testing.assert_array_equal(rows.transform(new), whole)
    tensors = CKNTransformer(**OPTIONS).fit(torch.from_numpy(x))
    np.testing.assert_array_equal(tensors.transform(torch.from_numpy(new)), whole)
    as_bytes = np.rint(255 * x).astype(np.uint8)
    floats = CKNTransformer(**OPTIONS).fit(as_bytes.astype(np.float32) / 255)
    found = CKNTransformer(**OPTIONS).fit(as_bytes).transform(as_bytes)
    np.testing.assert_array_equal(found, floats.transform(as_bytes.astype(np.float32) / 255))


def test_types_are_kept_and_float64_agrees_to_single_precision() -> None:
    """With the same filters; one part in 1e5 is what the ridge of 1e-4 makes of rounding."""
    x, _, new, _ = digits()
    model = CKNTransformer(**OPTIONS).fit(x)
    assert model.transform(new).dtype == np.float32
    double = model.network_.double().encode(torch.from_numpy(new).double()).flatten(1).numpy()
    single = model.network_.float().encode(torch.from_numpy(new)).flatten(1).numpy()
    assert np.abs(single - double).max() < 1e-4 * np.abs(double).max()
    assert CKNTransformer(8, random_state=0).fit_transform(
        x.reshape(200, 64).astype(float)
    ).dtype == (np.float64)


def test_signals_have_three_axes() -> None:
    x = np.random.default_rng(0).standard_normal((30, 2, 16)).astype(np.float32)
    model = CKNTransformer((4, 8), pooling=2, group="reflections", random_state=0).fit(x)
    found = model.transform(x)
    assert found.shape == (30, 32)
    np.testing.assert_allclose(model.transform(x[:, :, ::-1].copy()), found, atol=1e-5)


def test_a_group_makes_predictions_invariant() -> None:
    x, y, new, _ = digits()
    model = CKNClassifier((8, 32), pooling=(2, 4), group="c4", penalty=1e-3, random_state=0)
    scores = model.fit(x, y).decision_function(new)
    turned = model.decision_function(np.rot90(new, axes=(2, 3)).copy())
    np.testing.assert_allclose(turned, scores, atol=1e-3 * np.abs(scores).max())


def test_rows_of_one_direction_are_told_apart() -> None:
    """Circles one within the other: a homogeneous kernel alone would give half right."""
    x, y = make_circles(300, factor=0.5, noise=0.05, random_state=0)
    for moved in (x, 100 * x + 500):
        model = CKNClassifier(random_state=0).fit(moved[::2], y[::2])
        assert model.score(moved[1::2], y[1::2]) > 0.97


def test_rows_are_their_kernel_where_filters_are_all_rows() -> None:
    """Nystrom's features are exact at the landmarks but for the ridge, 1e-4 of the kernel."""
    x = np.random.default_rng(0).standard_normal((20, 5))
    model = CKNTransformer(sigma=1.0, random_state=0).fit(x)
    features = model.transform(x)
    assert features.shape == (20, 20)
    left = x - x.mean(0)
    seen = np.concatenate([left / np.linalg.norm(left, axis=1).mean(), np.ones((20, 1))], 1)
    norms = np.linalg.norm(seen, axis=1)
    kernel = np.outer(norms, norms) * np.exp(seen @ seen.T / np.outer(norms, norms) - 1)
    np.testing.assert_allclose(features @ features.T, kernel, atol=1e-3 * kernel.max())


def test_by_default_rows_have_as_many_filters_as_directions() -> None:
    x = np.repeat(np.random.default_rng(0).standard_normal((7, 3)), 5, 0)
    assert CKNTransformer().fit_transform(x).shape == (35, 7)
    many = np.random.default_rng(0).standard_normal((100, 3))
    assert CKNTransformer().fit_transform(many).shape == (100, 64)


def test_training_with_labels_changes_the_filters_and_solves_the_head_again() -> None:
    x, y, new, truth = digits()
    plain = CKNClassifier(penalty=1e-4, **OPTIONS).fit(x, y)
    model = CKNClassifier(penalty=1e-4, epochs=3, **OPTIONS).fit(x, y)
    trained, filters = (one.network_.layer(0).filters.detach() for one in (model, plain))
    assert float((trained - filters).abs().max()) > 1e-4
    torch.testing.assert_close(trained.norm(dim=1), torch.ones(8))
    features = model.network_.encode(torch.from_numpy(x)).flatten(1)
    again = fit_head(features, torch.from_numpy(y), 10, penalty=1e-4)
    assert torch.equal(model.head_.linear.weight, again.linear.weight)
    assert model.score(new, truth) > 0.9


def test_it_is_part_of_scikit_learn_and_is_kept_in_files() -> None:
    x, y, new, _ = digits(60)
    pipe = make_pipeline(
        CKNTransformer((8, 16), pooling=2, random_state=0), LogisticRegression(max_iter=300)
    )
    search = GridSearchCV(pipe, {"ckntransformer__sigma": [0.5, 1.0]}, cv=3).fit(x, y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(new), search.predict(new))


def test_importing_the_package_does_not_load_scikit_learn() -> None:
    code = "import sys, merkhet.ckn.networks; print({'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


X, Y = digits(40)[:2]
ROWS = X.reshape(40, 64)
WRONG = [
    ({}, np.ones_like(X), "layer 0, 64 filters"),
    ({}, np.where(X > 0.9, np.nan, X), "NaN"),
    ({}, np.ones_like(ROWS), "all 40 rows are equal"),
    ({"filters": 60}, ROWS, "60 centres of points with 40 directions"),
    ({"filters": (4, 4)}, ROWS, "of rows without positions: give one number"),
    ({"kernel_size": 3}, ROWS, "kernel_size = 3 of rows without positions"),
    ({"group": "c4"}, ROWS, "group = 'c4' of rows without positions"),
    ({"shape": (1, 8, 4)}, ROWS, r"shape = \(1, 8, 4\) of rows of 64"),
    ({"shape": (64,)}, ROWS, r"shape = \(64,\)"),
    ({"shape": (1, 4, 16)}, X, "they must agree"),
    ({"shape": (1, 4, 16), "group": "c4"}, ROWS, "pictures of 4x16 are not mapped"),
    ({"filters": (8, 200)}, X[:5], "layer 1, 200 filters"),
    ({"filters": (0,)}, X, "filters = 0"),
    ({"group": "c3"}, X, "no group 'c3'"),
    ({"kernel": "rbf"}, X, "rbf"),
]


@pytest.mark.parametrize(("options", "x", "message"), WRONG)
def test_what_does_not_fit_is_refused(options, x, message) -> None:
    with pytest.raises(ValueError, match=message):
        CKNTransformer(random_state=0, **options).fit(x)


def test_a_classifier_needs_two_classes_and_enough_to_choose_on() -> None:
    with pytest.raises(InputError, match="y holds one class"):
        CKNClassifier(4, shape=(1, 8, 8)).fit(ROWS, np.zeros(40))
    with pytest.raises(InputError, match="give a single penalty"):
        CKNClassifier(4).fit(ROWS[:5], Y[:5])
    with pytest.raises(InputError, match="penalty = -1"):
        CKNClassifier(4, penalty=-1).fit(ROWS, Y)


def test_unfitted_and_other_inputs_are_refused() -> None:
    with pytest.raises(NotFittedError):
        CKNTransformer().transform(X)
    rows = CKNTransformer(4).fit(ROWS)
    with pytest.raises(InputError, match="and rows before: they must agree"):
        rows.transform(X)
    pictures = CKNTransformer((4, 4)).fit(X)
    with pytest.raises(InputError, match="they must agree"):
        pictures.transform(X[:, :, :4])
