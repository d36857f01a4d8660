"""How often the bands around effects of inputs contain the true effects."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.engine.tables.effects import effect_table
from kanrun.points import Points

NAMES = ["a", "b", "c"]
COLUMNS = {"a": [0], "b": [1], "c": [2]}
POLICY = TablePolicy(folds=0)


def nothing(t):
    return 0 * t


def wave(t):
    return np.sin(3 * t)


#: Effects of three inputs, the product of the first two, and the standard deviation of the noise.
TABLES = {
    "wave": ([wave, lambda t: t, nothing], 0.0, 0.5),
    "strong pair": ([lambda t: t, wave, nothing], 3.0, 0.3),
    "straight": ([lambda t: t, lambda t: 0.5 * t, nothing], 0.0, 1.0),
}


def centred(table, name, output, truth, x):
    """Return value, lower end, upper end and true value, each minus the mean over rows."""
    mine = table[(table["input"] == name) & (table["output"] == output)]
    at, value, lower, upper = mine[["x", "value", "lower", "upper"]].to_numpy().T
    mean = np.interp(x, at, value).mean()
    return value - mean, lower - mean, upper - mean, truth(at) - truth(x).mean()


def coverage(kind, seed, rows=250):
    """Return the fraction of grid points at which the bands contain the true effects."""
    effects, product, noise = TABLES[kind]
    rng = np.random.default_rng([seed, 41])
    x = rng.uniform(-1, 1, (rows, 3))
    y = sum(f(column) for f, column in zip(effects, x.T, strict=True))
    y = y + product * x[:, 0] * x[:, 1] + noise * rng.normal(size=rows)
    points = Points(x, y[:, None])
    table = effect_table(fit_table(points, None, POLICY, seed), points, COLUMNS, ["y"])
    found = []
    for name, truth, column in zip(NAMES, effects, x.T, strict=True):
        _, lower, upper, expected = centred(table, name, "y", truth, column)
        found.append(np.mean((lower <= expected) & (expected <= upper)))
    return found


@pytest.mark.parametrize("kind", TABLES)
def test_bands_contain_the_true_effects(kind):
    assert np.mean([coverage(kind, seed) for seed in range(8)]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_nominal_and_measured_coverage_agree(kind):
    each = np.mean([coverage(kind, seed) for seed in range(120)], axis=1)
    assert each.std() / np.sqrt(len(each)) < 0.01
    assert abs(each.mean() - 0.95) < 0.03


def test_each_output_has_its_own_band():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (200, 1))
    y = np.column_stack([wave(x[:, 0]), 100 * x[:, 0]]) + rng.normal(size=(200, 2)) * [0.1, 50.0]
    points = Points(x, y)
    model = fit_table(points, None, POLICY)
    table = effect_table(model, points, {"a": [0]}, ["u", "v"])
    ends = [table.pivot(columns="output", values=name, index="x") for name in ("lower", "upper")]
    middle = table.pivot(columns="output", values="value", index="x")
    low, centre, high = (
        model.outputs.apply(each.to_numpy()) for each in (ends[0], middle, ends[1])
    )
    assert_allclose(high - centre, centre - low, rtol=1e-6)  # symmetric on the transformed scale
    for output, truth, noise in (("u", wave, 0.1), ("v", lambda t: 100 * t, 50.0)):
        _, lower, upper, expected = centred(table, "a", output, truth, x[:, 0])
        assert np.mean((lower <= expected) & (expected <= upper)) > 0.85
        assert 0.1 * noise < np.median(upper - lower) < 2 * noise


def test_each_class_has_its_own_band():
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (300, 1))
    logits = np.column_stack([wave(x[:, 0]), x[:, 0], 0 * x[:, 0]])
    likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.random((300, 1)) > likely.cumsum(1)).sum(1, keepdims=True).astype(float)
    points = Points(x, y)
    table = effect_table(fit_table(points, 3, POLICY), points, {"a": [0]}, ["u", "v", "w"])
    assert ((table["lower"] > 0) & (table["upper"] < 1)).all()
    assert ((table["upper"] - table["lower"]) > 0.03).all()
    assert (table["lower"] < table["value"]).all()
    assert (table["value"] < table["upper"]).all()


def test_effects_of_levels_hold_no_products_of_levels():
    rng = np.random.default_rng(5)
    level = rng.integers(0, 6, 300)
    z = rng.uniform(-1, 1, 300)
    heights = np.array([0.0, 2.0, -1.0, 1.0, 0.5, -2.0])
    y = heights[level] + 2 * np.where(level % 2, -1, 1) * z + 0.5 * rng.normal(size=300)
    x = np.column_stack([np.eye(6)[level, :-1], z])
    points = Points(x, y[:, None])
    model = fit_table(points, None, POLICY)
    table = effect_table(
        model, points, {"kind": [*range(5)], "t": [5]}, ["y"], {"kind": [*"uvwxyz"]}
    )
    found = table[table["input"] == "kind"]
    expected = heights - heights[level].mean()
    value = found["value"].to_numpy()
    assert np.abs(value - value[level].mean() - expected).max() < 0.4
    assert (found["upper"] - found["lower"]).max() < 0.8
