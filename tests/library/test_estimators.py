"""KANRegressor and KANClassifier with the checks and tools of scikit-learn."""

from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    estimator_checks_generator,
    parametrize_with_checks,
)

from kanrun import KANClassifier, KANRegressor, KanrunError

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.exp(X[:, 0]) + X[:, 1] ** 2
KAN_SETTINGS = {"model": "kan", "hidden": (2,), "intervals": 3, "steps": 8, "n_starts": 1}

#: Checks that always run, for one estimator; all checks are slow tests.
QUICK = {
    "check_sample_weight_equivalence_on_dense_data",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_unfitted",
    "check_estimator_sparse_tag",
    "check_fit2d_1sample",
    "check_n_features_in_after_fitting",
    "check_complex_data",
    "check_estimators_empty_data_messages",
}


#: Checks that train several models; they always run only for the regressor.
EXPENSIVE = {"check_sample_weight_equivalence_on_dense_data", "check_n_features_in_after_fitting"}


@parametrize_with_checks(
    [
        KANRegressor("additive"),
        KANClassifier("additive"),
        KANRegressor(**KAN_SETTINGS),
        KANClassifier(**{**KAN_SETTINGS, "steps": 60}),
        KANRegressor(),
        KANClassifier(),
    ]
)
@pytest.mark.slow
def test_estimators_pass_every_check_of_scikit_learn(estimator, check, monkeypatch):
    """No check is excluded, even for the default ensemble, because equal rows are merged."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it scikit-learn skips a check
    check(estimator)


@pytest.mark.parametrize(
    "estimator, names",
    [(KANRegressor("additive"), QUICK), (KANClassifier("additive"), QUICK - EXPENSIVE)],
    ids=["numbers", "classes"],
)
def test_estimators_pass_the_main_checks_of_scikit_learn(estimator, names):
    ran = set()
    for candidate, check in estimator_checks_generator(estimator):
        name = check.func.__name__ if isinstance(check, partial) else check.__name__
        if name in names:
            check(candidate)
            ran.add(name)
    assert ran == names
    check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


def test_estimators_work_in_pipelines_grid_search_and_cross_validation():
    steps = make_pipeline(StandardScaler(), KANRegressor("additive"))
    grid = GridSearchCV(steps, {"kanregressor__extrapolation": [None, "linear"]}, cv=2).fit(X, Y)
    assert grid.best_score_ > 0.9
    fitted = grid.best_estimator_[-1]
    assert not hasattr(clone(fitted), "model_")
    assert np.corrcoef(cross_val_predict(fitted, X, Y, cv=2), Y)[0, 1] > 0.95
    given = KANRegressor(**KAN_SETTINGS)
    assert clone(given).get_params() == given.get_params()


def test_importance_dependence_and_features(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b"])
    fitted = KANRegressor("additive").fit(frame, Y)
    found = permutation_importance(fitted, frame, Y, n_repeats=2, random_state=0)
    assert found.importances_mean[0] > found.importances_mean[1] > 0
    curve = partial_dependence(fitted, frame, ["a"], grid_resolution=5)
    assert (np.diff(curve["average"][0]) > 0).all()
    named = fitted.set_output(transform="pandas").transform(frame)
    assert list(named.columns) == list(fitted.get_feature_names_out())
    joblib.dump(fitted, tmp_path / "fitted")
    assert_array_equal(joblib.load(tmp_path / "fitted").predict(frame), fitted.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[["b", "a"]])


def test_weights_are_rows_in_any_order():
    weights = RNG.integers(0, 3, 60)
    rows = RNG.permutation(np.repeat(np.arange(60), weights))
    weighted = KANRegressor().fit(X, Y, sample_weight=weights)
    assert_array_equal(weighted.predict(X), KANRegressor().fit(X[rows], Y[rows]).predict(X))


def test_classifier_takes_text_inputs_and_labels():
    frame = pd.DataFrame({"a": X[:, 0], "kind": np.where(X[:, 1] > 0, "wood", "steel")})
    labels = np.where((X[:, 0] > 0) ^ (X[:, 1] > 0), "yes", "no")
    fitted = KANClassifier().fit(frame, labels)
    assert list(fitted.classes_) == ["no", "yes"]
    assert fitted.score(frame, labels) > 0.9
    assert_allclose(fitted.predict_proba(frame).sum(1), 1)
    with pytest.raises(NotFittedError):
        KANClassifier().predict(frame)
    with pytest.raises(KanrunError, match="hidden is not a setting of model=auto"):
        KANRegressor(hidden=(3,)).fit(X, Y)


def test_formula_of_an_output():
    fitted = KANRegressor("kan", hidden=(), intervals=3).fit(X, np.stack([X[:, 0], -X[:, 1]], 1))
    assert "x1" in str(fitted.formula_(1, budget=2.0))
    with pytest.raises(NotFittedError):
        KANRegressor().formula_()


def test_weights_of_classes_and_the_threshold_move_the_decision():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    rare = x[:, 0] + rng.normal(size=300) > 1.5
    weights = np.where(rare, 0.5 / rare.mean(), 0.5 / (1 - rare.mean()))
    plain = KANClassifier("additive", threshold=0.2).fit(x, rare)
    balanced = KANClassifier("additive", class_weight="balanced").fit(x, rare)
    same = KANClassifier("additive").fit(x, rare, weights)
    assert_allclose(balanced.predict_proba(x), same.predict_proba(x), rtol=1e-9)
    likely = plain.predict_proba(x)[:, 1]
    assert balanced.predict(x).mean() > 2 * (likely > 0.5).mean()
    assert_array_equal(plain.predict(x), likely > 0.2)
