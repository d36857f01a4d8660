"""Extreme units: the same relative error at any scale, and never an error of zero."""

import numpy as np
import pandas as pd
import pytest

from kanrun.cli.app import main

MODELS = {
    "kan": ["model=kan", "model.hidden=[1]", "model.intervals=[5]", "solver.n_starts=2"],
    "auto": ["model=auto"],
}
BOUNDS = {("kan", "float64"): 1e-6, ("kan", "float32"): 1e-3, ("auto", "float64"): 2e-3}
MANY = [
    pytest.param(model, precision, 10.0**x, 10.0**y, marks=pytest.mark.slow)
    for model, precision, powers in (
        ("kan", "float64", (-300, -150, 150, 300)),
        ("kan", "float32", (-300, -30, 30, 300)),
        ("auto", "float64", (-300, -40, 40, 300)),
    )
    for x in powers
    for y in powers
]


def relative_error(folder, model, precision, x_unit, y_unit):
    """Return test RMSE in output units, and R2, for 300 rows of a smooth function."""
    x = np.random.default_rng(0).uniform(0, 1, 300)
    pd.DataFrame({"x": x * x_unit, "y": (1 + np.sin(3 * x) / 2) * y_unit}).to_csv(
        folder / "t.csv", index=False
    )
    words = f"fit -q target=table target.outputs=y sampling.n_test=60 precision={precision}"
    place = [f"target.path={folder / 't.csv'}", "--outputs", str(folder / "outputs")]
    assert main([*words.split(), *MODELS[model], *place]) == 0
    summary = pd.read_csv(folder / "outputs" / "fit" / "v0001" / "summary.csv")
    return float(summary.test_rmse[0]) / y_unit, float(summary.r2[0])


ENDS = [
    (model, "float64", 1 / unit, unit)
    for model, unit in (("kan", 1e-300), ("kan", 1e300), ("auto", 1e-300))
]


@pytest.mark.parametrize("model, precision, x_unit, y_unit", [*ENDS, *MANY])
def test_units_of_every_size(model, precision, x_unit, y_unit, tmp_path):
    error, r2 = relative_error(tmp_path, model, precision, x_unit, y_unit)
    assert 0 < error < BOUNDS[model, precision]
    assert 0.9999 < r2 < 1
