"""What a fit of a table says and refuses: nothing that changes a result is silent."""

import numpy as np
import pytest

from kanrun import fit


def noisy(rows, slope):
    """Return the model of noise and a straight line."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 3))
    return fit(x, slope * x[:, 0] + rng.normal(size=rows), baselines=False, folds=3, pairs=False)


def test_the_mean_is_the_model_where_nothing_beats_it_by_its_standard_error():
    model = noisy(21, 0.0)
    summary = model.tables["summary"].iloc[0]
    assert summary["selected_model"] == "mean"
    assert summary["effective_parameters"] == 0
    assert np.ptp(model.predict(np.random.default_rng(0).normal(size=(9, 3)))) == 0
    train = model.tables["predictions"].query("split == 'train'")
    assert model.predict([[0.0, 0, 0]])[0] == pytest.approx(train["truth:y"].mean())
    assert any("selected the mean of the outputs" in note for note in model.notes)
    assert noisy(21, 1.5).tables["summary"]["selected_model"][0] != "mean"


@pytest.mark.parametrize("classes", [2, 3])
def test_the_frequencies_of_classes_are_the_model_of_noise(classes):
    rng = np.random.default_rng(1)
    y = np.sort(rng.integers(0, classes, 40)).astype(float)
    model = fit(
        rng.normal(size=(40, 2)), y, task="classification", baselines=False, folds=3, pairs=False
    )
    assert model.tables["summary"]["selected_model"][0] == "mean"
    np.testing.assert_allclose(model([[0.0, 0]])[0], np.bincount(y.astype(int)) / 40, rtol=1e-9)
    expected = np.mean(y == np.bincount(y.astype(int)).argmax())
    for labels in (y, y.astype(int), *([y == 1] if classes == 2 else [])):
        assert model.score(rng.normal(size=(40, 2)), labels) == expected


def test_negative_predictions_of_counts_are_named():
    x = np.linspace(-2, 2, 60)[:, None]
    counts = np.maximum(np.round(3 * x[:, 0] + np.sin(40 * x[:, 0])), 0)
    options = {"baselines": False, "folds": 2, "pairs": False}
    notes = fit(x, counts, **options).notes
    advice = "set target.family=poisson for counts, gamma for sizes above 0, or model.bounds=[0,1"
    assert any(f"training rows are negative, which no output is; {advice}" in n for n in notes)
    assert not any("are negative" in note for note in fit(x, counts - 1, **options).notes)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"folds": 20}, "20 of 20 folds of the cross-validation were left out because of the size"),
        (
            {"folds": 20, "baselines": True},
            "the baselines were left out because of the size of the table",
        ),
        ({"folds": 3, "max_cpu_seconds": 1e-3}, "3 of 3 folds of the cross-validation were left"),
        ({"folds": 3, "baselines": False}, ""),
    ],
)
def test_folds_and_baselines_that_are_left_out_are_named(settings, said):
    x = np.linspace(-1, 1, 30)[:, None]
    notes = fit(x, x[:, 0] ** 2, pairs=False, **settings).notes
    left = [note for note in notes if "left out because of" in note]
    assert any(said in note for note in left) if said else not left
