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
from kanrun.model import model as models
from kanrun.model import trained
from kanrun.model.model import Model
from kanrun.model.trained import (
    PredictionOptions,
    contributions,
    predict_table,
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
    table = pd.DataFrame(x, columns=["a", "b"]).assign(city=["Bonn", "Kiel", "Ulm"] * 40)
    return fit(table, x.sum(1) + 0.1 * rng.normal(size=120))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return a table of new rows, which is also written to new.csv and read in small blocks."""
    monkeypatch.setattr(trained, "LIMITS", TableLimits(block=7))
    data = pd.DataFrame({"id": [f"00{i}" for i in range(30)], "n": range(30), "a": 0.5})
    data = data.assign(b=np.linspace(0.1, 0.9, 30).round(6), late=[None] * 29 + [1.5], city="Ulm")
    data.loc[[3, 29], "a"] = 1.5, 40.0
    data.loc[9, "city"] = "Rom"
    data.to_csv(tmp_path / "new.csv", index=False)
    return data


@pytest.fixture
def predicted(tmp_path):
    """Predict new.csv to out.csv, and return the table with the warnings."""

    def to_file(model, **options):
        files = tmp_path / "new.csv", tmp_path / "out.csv"
        said = predict_table(model, *files, PredictionOptions(**options))
        return pd.read_csv(files[1], dtype=str, keep_default_na=False), said

    return to_file


def test_blocks_give_the_same_as_the_whole(fitted, data, predicted):
    out, said = predicted(fitted, level=0.9, explain=True)
    whole = data.astype(object).where(data.notna(), "")
    pd.testing.assert_frame_equal(out[list(data)], whole.astype(str))
    numbers = out.filter(regex=":|^y$").astype(float)
    assert_allclose(numbers["y"], fitted.predict(data), rtol=1e-12)
    assert_allclose(numbers["upper:y"], fitted.interval(data, 0.9)[1][:, 0], rtol=1e-12)
    assert_allclose(numbers.filter(like="effect:").sum(axis=1) + numbers["start:y"], numbers["y"])
    assert numbers["start:y"].nunique() == 1
    outside = out["outside"]
    assert outside[outside != ""].to_dict() == {3: "a in a gap", 9: "city unseen", 29: "a"}
    for part in (
        "outside the training range",
        "in a gap of the training data, such as",
        "city that the model was not trained on",
    ):
        assert any(f"3.3% of the rows have a {part}" in sentence for sentence in said)


def test_intervals_widen_outside_the_training_range(fitted):
    points = pd.DataFrame({"a": [2.5, 3.0, 3.3, 3.6, 6.0], "b": 0.5, "city": "Ulm"})
    inside, *widths = np.ptp(fitted.interval(points, 0.9), axis=0)[:, 0]
    assert widths[0] == pytest.approx(inside, rel=0.3)
    assert min(np.diff(widths)) > 0
    assert widths[-1] > 1.1 * widths[0]


@pytest.mark.usefixtures("data")
def test_parquet_predictions_keep_the_types_of_columns(fitted, tmp_path):
    def predicted(table, out):
        predict_table(fitted, tmp_path / table, tmp_path / out)
        return tmp_path / out

    first = pd.read_parquet(predicted("new.csv", "out.parquet"))
    kinds = {"n": "int64", "a": "float64", "late": "float64"}
    assert first[[*kinds]].dtypes.astype(str).to_dict() == kinds
    assert first["id"][4] == "004"
    stamped = first.assign(when=pd.Timestamp("2024-01-01").as_unit("ms"), seen=True)
    del stamped["y"]
    stamped.to_parquet(tmp_path / "new.parquet", index=False)
    found = pd.read_parquet(predicted("new.parquet", "last.parquet"))
    pd.testing.assert_frame_equal(found[list(stamped)], stamped)
    assert_array_equal(found["y"], first["y"])
    assert len(pd.read_csv(predicted("new.parquet", "last.csv.gz"))) == 30


def test_a_bad_value_late_in_the_file_leaves_nothing(fitted, predicted, tmp_path):
    (tmp_path / "new.csv").write_text("a,b,city\n" + 25 * "1,2,Ulm\n" + "1,oops,Ulm\n")
    with refuses("column 'b' of new.csv has 1 value that is not a number"):
        predicted(fitted)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_prediction_warns_of_cells_that_a_spreadsheet_would_run(tmp_path, predicted):
    labels = ["=1+1", "-3"]
    model = fit({"a": np.arange(60.0)}, np.array(labels * 30), model="additive")
    notes = ["-2e3", "=cmd()", "+1+2", "'=x", "plain"]
    rows = pd.DataFrame({"a": ["-1.5", "2", "3", "4", "5"], "note": notes})
    rows.to_csv(tmp_path / "new.csv", index=False)
    out, warnings = predicted(model)
    assert re.match(r"[2-7] cells of out\.csv would be run by a spreadsheet", warnings[-1])
    pd.testing.assert_frame_equal(out[["a", "note"]], rows)
    assert {*out["y"]} <= {*labels}
    out, warnings = predicted(model, spreadsheet_safe=True)
    assert not any("spreadsheet" in warning for warning in warnings)
    assert [*out["a"]] == [*rows["a"]]
    assert [*out["note"]] == ["-2e3", "'=cmd()", "'+1+2", "''=x", "plain"]
    assert {*out["y"]} <= {"'=1+1", "-3"}


def test_explanations_are_shapley_values_of_pairs(fitted, monkeypatch):
    middle = np.median(training_sample(fitted), axis=0)
    a, b = middle[:2]
    monkeypatch.setattr(trained, "predicted_values", lambda _, x: x[:, :1] * (3 + x[:, 1:2]))
    start, added = contributions(fitted, np.array([[a + 1, b + 2, *middle[2:]]]))
    assert_allclose(start, [a * (3 + b)])
    assert_allclose([*added.values()], [[[3 + b + 1]], [[2 * a + 1]], [[0]]], atol=1e-12)


def test_sample_fills_the_domain_without_training_inputs(fitted):
    sample = training_sample(replace(fitted, tables={}))
    assert_allclose([sample.min(0), sample.max(0)], fitted.domain.T, atol=0.05)


def test_partial_dependence_takes_all_rows_and_local_effects_those_nearby(fitted, monkeypatch):
    a = np.linspace(-1, 1, 201)
    rows = np.stack([a, a, *np.zeros((3, 201))], 1)  # b always equals a
    monkeypatch.setattr(models, "training_sample", lambda model: rows)
    monkeypatch.setattr(models, "predicted_values", lambda model, x: x[:, :1] * x[:, 1:2])
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
    effect = Model.effect.__get__(SimpleNamespace(**{**vars(fitted), **own}))
    rows = np.array([[1.0, 0, 0, 3], [0, 1, 1, 4], [0, 0, 2, 5], [1, 0, 3, 6]])
    monkeypatch.setattr(models, "training_sample", lambda model: rows)
    weights = np.array([[1.0], [2.0], [0.0], [10.0]])
    monkeypatch.setattr(models, "predicted_values", lambda model, x: x @ weights)
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
    difference, data = DIFFERENCE * unit, training(Y * unit)
    error = float(root_mean_square(difference.ravel()))
    found = error / unit, relative_error(error, data), r_squared(difference, data.train.y)
    square, variance = np.mean(DIFFERENCE**2), Y.var(0).mean()
    wanted = square**0.5, (square / variance) ** 0.5, 1 - square / variance
    assert found == pytest.approx(wanted, rel=1e-12)


def test_a_warning_says_where_r2_is_undefined_or_below_zero():
    constant = np.full((7, 1), 0.1)
    undefined = r_squared(np.zeros((7, 1)), constant)
    assert undefined is relative_error(0.1, training(constant)) is None
    (note,) = doubts(undefined, "test points")
    assert note.text == "R^2 is undefined: the outputs of the test points are constant"
    (below,) = doubts(r_squared(10 * DIFFERENCE + 5, Y), "test points")
    assert (note.warning, below.warning) == (True, True)
    assert not [*doubts(0.2, "test points")]
