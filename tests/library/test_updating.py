"""`Model.update`: new rows are learned, old ones are not forgotten, and refusals."""

import numpy as np
import pytest
import torch
from cases import refuses

from kanrun import Model, fit

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (240, 2))
Y = np.sin(3 * X[:, 0]) + X[:, 1] ** 2 + 0.1 * RNG.normal(size=240)
PLAIN = {"model": "kan", "intervals": [4], "smoothness_weight": 0.0, "validation_fraction": 0.0}


@pytest.fixture(scope="module")
def first():
    return fit(X[:120], Y[:120], hidden=[], **PLAIN)


@pytest.mark.filterwarnings("ignore:.*outside the training range")
def test_a_single_layer_ends_at_the_least_squares_fit_of_all_rows(first, tmp_path):
    half = first.update(X[120:180], Y[120:180])
    updated = Model.load(half.save(tmp_path / "half")).update(X[180:], Y[180:])
    scaled = torch.as_tensor(first.input_scaling.apply(X))
    rows = updated.network.linearise(scaled)[1].dense().numpy()
    scale = first.output_scaling
    best = scale.invert(rows @ np.linalg.lstsq(rows, scale.apply(Y[:, None]))[0])[:, 0]
    assert np.abs(first.predict(X) - best).max() > 0.05
    assert updated.predict(X) == pytest.approx(best, abs=1e-3)
    assert updated.tables["memory"]["rows"].sum() == 240
    assert (updated.domain[:, 0] == X.min(0)).all()


@pytest.mark.filterwarnings("ignore:.*outside the training range")
def test_a_classifier_learns_the_labels_of_new_rows():
    y = np.where(X[:, 0] + X[:, 1] > 0, "high", "low")
    few = fit(X[:30], y[:30], hidden=[], **PLAIN)
    updated = few.update(X[30:], y[30:])
    assert few.score(X, y) < 0.97 <= updated.score(X, y)
    with refuses("label 'middle', and the classes of the model are high,"):
        few.update(X[:1], ["middle"])


def test_rows_that_cannot_be_learned_are_refused(first):
    with refuses("y has 1 values, and x 2 rows for 1 each"):
        first.update(X[:2], Y[:1])
    wide = fit(X[:20], Y[:20], hidden=[], **{**PLAIN, "intervals": [8]})
    assert wide.network.get_unknowns().numel() == 22
    wide.update(X[:2], Y[:2])
    with refuses("22 unknowns, which 20 remembered and 1 new rows do not"):
        wide.update(X[:1], Y[:1])


def test_update_warns_of_rows_outside_the_training_range(first):
    with pytest.warns(UserWarning, match="x0 outside the training range"):
        updated = first.update([[2.0, 0.0]], [1.0])
    assert updated.domain[0, 1] == 2
