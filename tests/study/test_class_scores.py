"""Scores of classifiers compared with scikit-learn, and classes that are never predicted."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kanrun.study.evaluation import class_scores, unpredicted_classes


@pytest.mark.parametrize("count", [2, 4])
def test_areas_are_those_of_scikit_learn(count):
    rng = np.random.default_rng(0)
    y = rng.integers(0, count, 300)
    p = rng.dirichlet(np.ones(count), 300).round(2)  # with ties
    found = class_scores(y.astype(float), p, p.argmax(1), [*"abcd"[:count]], "test")
    wanted = np.mean([roc_auc_score(y == k, p[:, k]) for k in range(count)])
    assert found["test_auc"] == pytest.approx(wanted)
    assert found["largest_class"] == np.bincount(y).max() / 300
    share = np.mean(p.argmax(1)[y == 0] == 0)
    assert str(found["test_recall"]).startswith(f"a {share:.3g}, b ")


def test_a_class_that_is_never_predicted_is_named():
    y = np.array([0.0, 0, 1])
    (note,) = unpredicted_classes(y, np.zeros(3, int), ["no", "yes"], "held-out rows")
    assert note.warning
    assert note.text.startswith("the class yes, which 1 of 3 held-out rows have, is predicted for")
