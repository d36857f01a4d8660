"""The automatic model of a table: never absurd, never worse than linear by more than chance, and what it reports."""

from __future__ import annotations

import numpy as np
import pytest

from kanrun.study.cross_validation import OURS, cross_validate, folds_of
from kanrun.study.effects import effect_table, importance_table, pair_table
from kanrun.study.table_model import TablePolicy, fit_table
from kanrun.targets import Points


def nasty(seed: int) -> tuple[Points, np.random.Generator]:
    """A synthetic table with long tails, ties, outliers and gaps."""
    rng = np.random.default_rng(seed)
    rows, inputs = int(rng.integers(30, 250)), int(rng.integers(1, 8))
    columns = []
    for _ in range(inputs):
        kind = rng.integers(0, 6)
        if kind == 0:
            column = rng.lognormal(sigma=rng.uniform(0.5, 3), size=rows)
        elif kind == 1:
            column = np.round(rng.normal(size=rows) * 2)
        elif kind == 2:
            column = np.where(rng.random(rows) < 0.02, 1e4, rng.normal(size=rows))
        elif kind == 3:
            column = np.where(rng.random(rows) < 0.5, rng.uniform(0, 1, rows), rng.uniform(50, 51, rows))
        elif kind == 4:
            column = rng.standard_t(1.5, size=rows)
        else:
            column = np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(size=rows))
        columns.append(column)
    x = np.stack(columns, 1)
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    y = z @ rng.normal(size=inputs) + np.sin(2 * z[:, 0]) + (z[:, 0] * z[:, -1] if rng.random() < 0.5 else 0)
    y = y + rng.uniform(0.05, 2) * rng.normal(size=rows)
    if rng.random() < 0.3:
        y = np.exp(np.clip(y, -4, 4))
    return Points(x, y[:, None]), rng


def check_bounded(seed: int) -> None:
    points, rng = nasty(seed)
    low, high = points.x.min(0), points.x.max(0)
    inside = rng.uniform(low, high, size=(300, len(low)))
    width = float(np.ptp(points.y))
    free = fit_table(points, None, TablePolicy(clip=False)).values(inside)
    assert np.isfinite(free).all()
    middle = (points.y.max() + points.y.min()) / 2
    assert np.abs(free - middle).max() <= 3 * width
    held = fit_table(points, None, TablePolicy()).values(np.concatenate([inside, inside * 1e3]))
    assert held.min() >= points.y.min() - 0.1001 * width
    assert held.max() <= points.y.max() + 0.1001 * width


@pytest.mark.parametrize("seed", range(20))
def test_inside_the_training_box_predictions_are_bounded(seed: int) -> None:
    check_bounded(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 220))
def test_on_many_tables_predictions_are_bounded(seed: int) -> None:
    check_bounded(seed)


def linear(rows: int = 60, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=(rows, 3))
    return Points(x, (x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=rows))[:, None])


def test_a_linear_table_gets_a_linear_model() -> None:
    chosen = []
    for seed in range(6):
        model = fit_table(linear(seed=seed), None, TablePolicy())
        chosen.append(model.chosen)
        new = linear(400, 100 + seed)
        assert np.sqrt(np.mean((model.values(new.x) - new.y) ** 2)) < 1.25
    assert chosen.count("linear") >= 4


def test_a_multiplicative_table_gets_a_transformed_output() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    y = np.exp(x.sum(1) + 0.5 * rng.normal(size=200))
    model = fit_table(Points(x, y[:, None]), None, TablePolicy())
    assert model.chosen == "transformed"
    assert model.outputs is not None


def test_one_output_that_is_constant_and_two_outputs() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    flat = fit_table(Points(x, np.full((40, 1), 5.0)), None, TablePolicy())
    np.testing.assert_allclose(flat.values(x), 5.0)
    both = fit_table(Points(x, np.stack([x[:, 0], 100 * x[:, 1] + 3], 1)), None, TablePolicy())
    np.testing.assert_allclose(both.values(x)[:, 1], 100 * x[:, 1] + 3, atol=3)


def test_every_row_is_left_out_once_and_classes_are_spread() -> None:
    labels = np.array([0] * 40 + [1] * 10)
    held = folds_of(50, 5, 0, labels)
    assert sorted(np.concatenate(held)) == list(range(50))
    assert all((labels[one] == 1).sum() == 2 for one in held)
    assert len(folds_of(20_000, 5, 0)) == 1


def test_cross_validation_measures_what_new_rows_show() -> None:
    points = linear(150)
    found = cross_validate(points, None, TablePolicy(), 5, 0, baselines=True)
    assert set(found.losses) == {OURS, "mean", "ridge regression", "gradient boosting"}
    assert found.mean() == pytest.approx(1, abs=0.25)
    assert found.mean() < found.mean("gradient boosting") < found.mean("mean")
    assert not np.isnan(found.values).any()


def test_reports_name_what_matters() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 4))
    y = np.sin(2 * x[:, 2]) + x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=300)
    points, names = Points(x, y[:, None]), ["a", "b", "c", "d"]
    model = fit_table(points, None, TablePolicy())
    importance = importance_table(model, points, names, None, 0).columns
    assert importance["input"][-1] == "d"
    pairs = pair_table(model, points, names)
    assert pairs is not None
    assert {pairs.columns["input"][0], pairs.columns["with"][0]} == {"a", "b"}
    effects = effect_table(model, points, names, ["y"]).columns
    mine = effects["input"] == "c"
    assert (effects["lower"][mine] <= effects["value"][mine]).all()
    near = np.abs(effects["x"][mine]) < 1.5
    truth = np.sin(2 * effects["x"][mine][near])
    assert np.corrcoef(truth, effects["value"][mine][near])[0, 1] > 0.98


def test_classes_of_a_table() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 2))
    labels = (x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=300) > 0).astype(float)[:, None]
    model = fit_table(Points(x, labels), 2, TablePolicy())
    likely = model.values(x)
    np.testing.assert_allclose(likely.sum(1), 1)
    assert (likely.argmax(1) == labels[:, 0]).mean() > 0.85
    assert model.clipped(x) == 0
