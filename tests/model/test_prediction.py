"""Predictions for files of any size, explanations, and errors relative to outputs."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cases import refuses
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from kanrun import fit
from kanrun.model import explanation, prediction
from kanrun.model.explanation import ExplainedNetwork
from kanrun.model.prediction import (
    PredictionOptions,
    contributions,
    predict_table,
    predicted_values,
    training_sample,
)
from kanrun.points import Points, root_mean_square
from kanrun.study.evaluation import doubts, r_squared, relative_error
from kanrun.targets.encoding import ColumnCode, TableCode
from kanrun.targets.table_files import TableLimits


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 1, (60, 2)), rng.uniform(2, 3, (60, 2))])
    return fit(pd.DataFrame(x, columns=["a", "b"]), x.sum(1) + 0.1 * rng.normal(size=120))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(prediction, "LIMITS", TableLimits(block=7))


@pytest.fixture
def data(tmp_path):
    """Return a table of new rows, which is also written to new.csv."""
    data = pd.DataFrame({"id": [f"00{i}" for i in range(30)], "n": range(30), "a": 0.5})
    data["b"] = np.random.default_rng(1).uniform(0, 1, 30).round(6)
    data["late"] = [None] * 29 + [1.5]
    data.loc[[3, 29], "a"] = 1.5, 40.0
    data.to_csv(tmp_path / "new.csv", index=False)
    return data


@pytest.fixture
def predicted(tmp_path):
    """Predict new.csv to out.csv, and return the table with the warnings."""

    def to_file(model, **options):
        files = tmp_path / "new.csv", tmp_path / "out.csv"
        said = predict_table(model, *files, PredictionOptions(**options))
        return pd.read_csv(files[1], dtype={"id": str}, keep_default_na=False), said

    return to_file


def test_blocks_give_the_same_as_the_whole(fitted, data, predicted):
    out, said = predicted(fitted, level=0.9)
    whole = data.astype(object).where(data.notna(), "")
    pd.testing.assert_frame_equal(out[list(data)].astype(str), whole.astype(str))
    assert_allclose(out["y"], fitted.predict(data), rtol=1e-12)
    assert_allclose(out["upper:y"], fitted.interval(data, 0.9)[1][:, 0], rtol=1e-12)
    assert {*enumerate(out["outside"])} >= {(2, ""), (3, "a in a gap"), (29, "a")}
    assert (out["outside"] != "").sum() == 2
    for part in ("outside the training range", "in a gap of the training data, such as"):
        assert any(f"3.3% of the rows have a {part}" in sentence for sentence in said)


def test_intervals_widen_outside_the_training_range(fitted):
    widths = [np.ptp(fitted.interval([a, 0.5], 0.9)) for a in (2.5, 3.0, 3.3, 3.6, 6.0)]
    assert widths[1] == pytest.approx(widths[0], rel=0.3)
    assert widths[1] < widths[2] < widths[3] < widths[4]
    assert widths[4] > 1.1 * widths[1]


def test_levels_that_no_training_row_has_are_outside(tmp_path, predicted):
    rng = np.random.default_rng(0)
    city = rng.choice(["Bonn", "Kiel", "Ulm"], 60)
    y = 3.0 * (city == "Ulm") + 0.1 * rng.normal(size=60)
    model = fit(pd.DataFrame({"city": city, "a": rng.uniform(size=60)}), y)
    (tmp_path / "new.csv").write_text("city,a\nBonn,0.5\nKiel,0.5\nUlm,0.5\nRom,-1\n")
    out, said = predicted(model)
    assert [*out["outside"]] == ["", "", "", "city unseen, a"]
    assert "25.0% of the rows have a city that the model was not trained on" in said


@pytest.mark.usefixtures("data")
def test_parquet_predictions_keep_the_types_of_columns(fitted, tmp_path):
    new, out, again, last = (tmp_path / f"{name}.parquet" for name in ("new", "out", "a", "b"))
    predict_table(fitted, new.with_suffix(".csv"), out)
    first = pd.read_parquet(out)
    kinds = {"n": "int64", "a": "float64", "late": "float64"}
    assert {name: str(first[name].dtype) for name in kinds} == kinds
    assert first["id"][4] == "004"
    stamped = first.assign(when=pd.Timestamp("2024-01-01").as_unit("ms"), seen=True)
    del stamped["y"]
    stamped.to_parquet(again, index=False)
    predict_table(fitted, again, last)
    found = pd.read_parquet(last)
    pd.testing.assert_frame_equal(found[list(stamped)], stamped)
    assert_array_equal(found["y"], first["y"])
    predict_table(fitted, again, tmp_path / "last.csv.gz")
    assert len(pd.read_csv(tmp_path / "last.csv.gz")) == 30


def test_a_bad_value_late_in_the_file_leaves_nothing(fitted, data, predicted, tmp_path):
    data["b"] = [*data["b"][:25], "oops", *data["b"][26:]]
    data.to_csv(tmp_path / "new.csv", index=False)
    with refuses("column 'b' of new.csv has 1 value that is not a number"):
        predicted(fitted)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_prediction_warns_of_cells_that_a_spreadsheet_would_run(tmp_path, predicted):
    labels = np.where(np.arange(60) % 2 == 0, "=1+1", "-3")
    model = fit({"a": np.arange(60.0)}, labels, model="additive")
    notes = ["-2e3", "=cmd()", "+1+2", "'=x", "plain"]
    rows = [f"{number},{note}" for number, note in zip((-1.5, 2, 3, 4, 5), notes, strict=True)]
    (tmp_path / "new.csv").write_text("\n".join(["a,note", *rows]) + "\n")
    out, warnings = predicted(model)
    assert re.match(r"[2-7] cells of out\.csv would be run by a spreadsheet", warnings[-1])
    lines = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert all(line.startswith(row) for line, row in zip(lines, rows, strict=True))
    assert {*map(str, out["y"])} <= {"=1+1", "-3"}
    out, warnings = predicted(model, spreadsheet_safe=True)
    assert not any("spreadsheet" in warning for warning in warnings)
    assert [*out["note"]] == ["-2e3", "'=cmd()", "'+1+2", "''=x", "plain"]
    assert {*map(str, out["y"])} <= {"'=1+1", "-3"}


def test_explanations_sum_to_predictions_and_are_shapley_values_of_pairs(fitted, monkeypatch):
    def product(_, x):
        return 3 * x[:, :1] + x[:, 1:] * x[:, :1]

    start, added = contributions(fitted, fitted.domain.T)
    sums = start + sum(added.values())
    assert_allclose(sums, predicted_values(fitted, fitted.domain.T), rtol=1e-12)
    middle = np.median(training_sample(fitted), axis=0)
    monkeypatch.setattr(prediction, "predicted_values", product)
    start, added = contributions(fitted, middle + np.array([[1.0, 2.0]]))
    assert_allclose(start, product(fitted, middle[None])[0])
    assert_allclose(added["a"], [[3 + middle[1] + 1]])
    assert_allclose(added["b"], [[2 * middle[0] + 1]])


def test_sample_fills_the_domain_without_training_inputs(fitted):
    sample = training_sample(replace(fitted, tables={}))
    assert_allclose([sample.min(0), sample.max(0)], fitted.domain.T, atol=0.05)


@pytest.mark.usefixtures("data")
def test_predictions_of_rows_are_explained(fitted, predicted):
    out, _ = predicted(fitted, explain=True)
    parts = out[["start:y", "effect:a on y", "effect:b on y"]]
    assert_allclose(parts.sum(axis=1), out["y"], rtol=1e-12)
    assert out["start:y"].nunique() == 1


def test_partial_dependence_takes_all_rows_and_local_effects_those_nearby(fitted, monkeypatch):
    a = np.linspace(-1, 1, 201)
    rows = np.stack([a, a], 1)  # b always equals a
    monkeypatch.setattr(explanation, "training_sample", lambda model: rows)
    monkeypatch.setattr(explanation, "predicted_values", lambda model, x: x[:, :1] * x[:, 1:])
    table = fitted.effect("a")
    assert_allclose(table["value"], 0, atol=1e-12)
    # If all rows are used, slopes differ: 80% of b lie between -0.8 and 0.8.
    assert_allclose(table["upper"], 0.8 * table["x"].abs(), atol=1e-12)
    # At a, the local slope is b = a, so effects are a^2 / 2 minus their mean.
    mean = (a**2).mean()
    assert_allclose(table["ale"] - mean, table["x"] ** 2 / 2 - mean / 2, atol=6e-3)


def test_partial_dependence_on_text_and_dates(fitted, monkeypatch):
    columns = ColumnCode("city", ("X", "Y")), ColumnCode("day", parts=("weekday",))
    own = {"inputs": ("X", "Y", "day", "weekday"), "table_code": TableCode(columns)}
    effect = ExplainedNetwork.effect.__get__(SimpleNamespace(**{**vars(fitted), **own}))
    rows = np.stack([[1, 0, 0, 1], [0, 1, 0, 0], np.arange(4.0), [3.0, 4, 5, 6]], 1)
    monkeypatch.setattr(explanation, "training_sample", lambda model: rows)
    weights = np.array([[1.0], [2.0], [0.0], [10.0]])
    monkeypatch.setattr(explanation, "predicted_values", lambda model, x: x @ weights)
    city = effect("city")
    assert list(city["level"]) == ["X", "Y", "(others)"]
    assert_allclose(city["value"], [46, 47, 45])
    assert city["ale"].isna().all()
    day = effect("day")
    assert day["is_date"].all()
    assert_allclose(day["value"], 1 + 10 * (np.floor(day["x"]) + 3))
    with refuses("did you mean city"):
        effect("citi")


Y = np.random.default_rng(0).normal(size=(40, 2)) + 3
DIFFERENCE = 0.1 * np.random.default_rng(1).normal(size=(40, 2))


def training(y):
    return SimpleNamespace(train=Points(y, y), classes=None)


@given(st.integers(-300, 300))
def test_errors_do_not_depend_on_the_unit(power):
    unit = 10.0**power
    error = float(root_mean_square((DIFFERENCE * unit).ravel()))
    assert error == pytest.approx(np.sqrt(np.mean(DIFFERENCE**2)) * unit, rel=1e-12)
    relative = error / unit / np.sqrt(Y.var(0).mean())
    assert relative_error(error, training(Y * unit)) == pytest.approx(relative, rel=1e-12)
    r2 = r_squared(DIFFERENCE * unit, Y * unit)
    assert r2 == pytest.approx(1 - np.mean(DIFFERENCE**2) / Y.var(0).mean(), rel=1e-12)


def test_a_warning_says_where_r2_is_undefined_or_below_zero():
    constant = np.full((7, 1), 0.1)
    undefined = r_squared(np.zeros((7, 1)), constant)
    assert undefined is relative_error(0.1, training(constant)) is None
    (note,) = doubts(undefined, "test points")
    assert note.text == "R^2 is undefined: the outputs of the test points are constant"
    (below,) = doubts(r_squared(10 * DIFFERENCE + 5, Y), "test points")
    assert (note.warning, below.warning) == (True, True)
    assert not [*doubts(0.2, "test points")]
