"""How often the bands around effects of inputs contain the true effects."""

import numpy as np
import pytest
from made_tables import columns, fitted, table
from numpy.testing import assert_allclose

from kanrun.engine.tables.reports import effect_table
from kanrun.points import Points


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


def centred(shown, name, output, truth, x):
    """Return value, lower end, upper end and true value, each minus the mean over rows."""
    mine = shown[(shown["input"] == name) & (shown["output"] == output)]
    at, value, lower, upper = mine[["x", "value", "lower", "upper"]].to_numpy().T
    mean = np.interp(x, at, value).mean()
    return value - mean, lower - mean, upper - mean, truth(at) - truth(x).mean()


def coverage(kind, seed, rows=250):
    """Return the fraction of grid points at which the bands contain the true effects."""
    effects, product, noise = TABLES[kind]

    def truth(*x):
        return sum(f(t) for f, t in zip(effects, x, strict=True)) + product * x[0] * x[1]

    points = table(truth, rows, 3, seed, noise, uniform=1.0)
    shown = effect_table(fitted(points), points, columns("abc"), ["y"])
    found = []
    for name, effect, column in zip("abc", effects, points.x.T, strict=True):
        _, lower, upper, expected = centred(shown, name, "y", effect, column)
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
    model = fitted(points)
    shown = effect_table(model, points, columns("a"), ["u", "v"])
    low, centre, high = (
        model.outputs.apply(shown.pivot(columns="output", values=name, index="x").to_numpy())
        for name in ("lower", "value", "upper")
    )
    assert_allclose(high - centre, centre - low, rtol=1e-6)  # symmetric on the transformed scale
    for output, truth, noise in (("u", wave, 0.1), ("v", lambda t: 100 * t, 50.0)):
        _, lower, upper, expected = centred(shown, "a", output, truth, x[:, 0])
        assert np.mean((lower <= expected) & (expected <= upper)) > 0.85
        assert 0.1 * noise < np.median(upper - lower) < 2 * noise


def test_each_class_has_its_own_band():
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (300, 1))
    logits = np.column_stack([wave(x[:, 0]), x[:, 0], 0 * x[:, 0]])
    likely = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.random((300, 1)) > likely.cumsum(1)).sum(1, keepdims=True).astype(float)
    points = Points(x, y)
    shown = effect_table(fitted(points, 3), points, columns("a"), ["u", "v", "w"])
    lower, value, upper = (shown[name] for name in ("lower", "value", "upper"))
    assert ((lower > 0) & (upper < 1) & (upper - lower > 0.03)).all()
    assert ((lower < value) & (value < upper)).all()


def test_effects_of_levels_hold_no_products_of_levels():
    rng = np.random.default_rng(5)
    level = rng.integers(0, 6, 300)
    z = rng.uniform(-1, 1, 300)
    heights = np.array([0.0, 2.0, -1.0, 1.0, 0.5, -2.0])
    y = heights[level] + 2 * np.where(level % 2, -1, 1) * z + 0.5 * rng.normal(size=300)
    x = np.column_stack([np.eye(6)[level, :-1], z])
    points = Points(x, y[:, None])
    known = {"kind": [*range(5)], "t": [5]}
    shown = effect_table(fitted(points), points, known, ["y"], {"kind": [*"uvwxyz"]})
    found = shown[shown["input"] == "kind"]
    expected = heights - heights[level].mean()
    value = found["value"].to_numpy()
    assert np.abs(value - value[level].mean() - expected).max() < 0.4
    assert (found["upper"] - found["lower"]).max() < 0.8
