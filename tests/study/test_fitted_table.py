"""Tables fitted from arrays and columns: weights, names, categories, and storing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from kanrun.errors import UsageError
from kanrun.study.fitted_table import ColumnRoles, fit_columns
from kanrun.study.saved import checkpoint_of, model_from_checkpoint
from kanrun.study.table_model import TablePolicy


def table(rows: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] + 0.2 * rng.normal(size=rows), rng.integers(0, 4, rows)


def test_weights_are_repeated_rows() -> None:
    x, y, weights = table()
    repeated, new = np.repeat(np.arange(len(x)), weights), 2 * np.random.default_rng(1).normal(size=(40, 3))
    policy = TablePolicy.additive()
    weighted, long = (
        fit_columns(x, y, weights=weights, policy=policy),
        fit_columns(x[repeated], y[repeated], policy=policy),
    )
    np.testing.assert_allclose(weighted.predict(new), long.predict(new), rtol=1e-7, atol=1e-9)
    assert weighted.effective == pytest.approx(long.effective)
    assert weighted.noise == pytest.approx(0.2, rel=0.3)
    labels = np.where(y > 1, "high", np.where(y > 0, "middle", "low"))
    classes = [
        fit_columns(*one, classification=True, weights=w, policy=policy)
        for one, w in (((x, labels), weights), ((x[repeated], labels[repeated]), None))
    ]
    np.testing.assert_allclose(classes[0].predict_proba(new), classes[1].predict_proba(new), rtol=1e-6, atol=1e-9)
    assert classes[0].model.classes == ("high", "low", "middle")
    assert set(classes[0].predict(new)) <= {"high", "low", "middle"}


def test_a_frame_with_text_and_missing_values_is_fitted_stored_and_read_back() -> None:
    x, y, _ = table()
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": np.where(x[:, 2] > 0, "u", "v")})
    frame.loc[3, "a"] = np.nan
    fitted = fit_columns(frame, y)
    assert fitted.model.inputs == ("a", "a is missing", "b", "c=v")
    stored = checkpoint_of(fitted.model, "model")
    json.dumps(stored.meta)
    np.testing.assert_array_equal(model_from_checkpoint(stored).values(fitted.inputs(frame)), fitted.predict(frame))
    low, high = fitted.interval(frame, 0.9)
    assert ((low < high) & (low <= fitted.predict(frame) + 0.2)).all()
    assert set(fitted.effects().columns["input"]) == set(fitted.model.inputs)
    assert fitted.importance().columns["input"][0] in ("a", "b")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": np.full(120, np.nan)}, "missing or infinite"),
        ({"y": np.zeros(7)}, "120 rows and y has 7"),
        ({"weights": -np.ones(120)}, "none of them negative"),
        ({"roles": ColumnRoles(names=["a"])}, "3 columns and there are 1 names"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, object], sentence: str) -> None:
    x, y, _ = table()
    with pytest.raises(UsageError, match=sentence):
        fit_columns(x, **({"y": y} | change))  # type: ignore[arg-type]
