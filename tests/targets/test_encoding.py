"""Encoding of tables: categories, dates, missing values, and storage as JSON."""

import json

import msgspec
import numpy as np
import pytest
from cases import cases, refuses
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.config import SamplingConfig
from kanrun.targets.datasets import make_dataset
from kanrun.targets.encoding import TableCode

TEXT = """id,age,sex,city,income,note,price
a1,30,m,Bern,5.5,x,1
a2,,f,Bern,6.5,y,2
a3,50,f,Basel,,z,3
a4,60,m,Basel,8.5,w,4
a5,70,m,Chur,9.5,v,5
"""
INPUTS = "age,age is missing,sex=m,city=Basel,city=Bern,income,income is missing"


def stored(code):
    """Return an encoding after it was written as JSON and read back."""
    return msgspec.convert(json.loads(msgspec.json.encode(code)), TableCode)


def test_all_columns_but_the_outputs_are_inputs_and_their_encoding_is_read_back(built):
    target = built(TEXT, "price")
    assert ",".join(target.inputs) == INPUTS
    assert_array_equal(target.points.x[:, 0], [30, 55, 50, 60, 70])
    assert_array_equal(target.points.x[:, 1], [0, 1, 0, 0, 0])
    assert_array_equal(target.points.x[:, 2], [1, 0, 0, 1, 1])
    assert any("'note'" in note for note in target.notes)
    again = stored(target.code)
    assert again == target.code
    x = again.encode({"age": ["40"], "sex": ["f"], "city": ["Paris"], "income": [""]})
    assert_array_equal(x, [[40, 0, 0, 0, 0, 7.5, 1]])


def test_excluded_columns_and_dropped_rows_are_absent(built):
    target = built(TEXT, "price", exclude=["id", "note"], missing="drop")
    assert len(target.points) == 3
    assert "age is missing" not in target.inputs
    assert any("2 of 5 rows" in note for note in target.notes)
    assert len(built("a,y\n1,1\n,2\n3,3\n", missing="drop").points) == 2


#: Texts of tables, settings, and the refusal of the table.
REFUSED = r"""
'a,y\n1,1\n,2\n,3\n' | {'missing': 'drop'} | data.csv has too few rows without missing inputs (1)
'a,y\n1,1\n,2\n3,3\n' | {'missing': 'error'} | column 'a' of data.csv has 1 missing value
'a,y\n1,2\n2,3\noops,4\n' | {} | has 1 value that is not a number (first 'oops' in row 4)
'a,y\n1,2\n2,3\np,4\nq,5\n' | {} | has 2 values that are not numbers
'a,y\n2021-02-01,1\n2021-02-30,2\n2021-03-01,1\n' | {} | is not a date (first '2021-02-30' in row 3)
'a,y\n1,1\n2,2\n' | {'split': 'groups'} | must be random, group:COLUMN or time:COLUMN
'a,y\n1,1\n2,2\n' | {'split': 'group:y'} | 'y' of target.split=group: is an input or an output too
'a,y\n1,1\n2,2\n' | {'weight_column': 'y'} | 'y' of target.weight_column is an input or an output
'a,y\n1,1\n2,2\n' | {'split': 'time:nope'} | no column 'nope'
'a,y\n1,1\n2,2\n' | {'exclude': ['nope']} | no column 'nope'
'a,y\n1,u\n2,u\n' | {} | y has one class only, 'u'; at least two classes are needed
'a,y\n1,u\n2,\n' | {'task': 'classification'} | has too few rows without missing outputs (1)
'a,y\n1,inf\n2,1\n' | {'task': 'classification'} | column 'y' holds inf, which is not a class
'a,y\n1,1e5000\n2,1\n' | {'task': 'classification'} | column 'y' holds 1e5000, which is not a class
"""


@pytest.mark.parametrize("text, settings, sentence", cases(REFUSED))
def test_unsuitable_tables_are_refused(text, settings, sentence, built):
    with refuses(sentence):
        built(text, **settings)


def test_columns_of_mostly_text_or_by_request_are_categories(built):
    assert built("a,y\n1,2\np,3\np,4\nq,5\n").inputs == ("a=p",)
    numbers = "a,y\n1,2\n1,3\n2,4\n2,5\n"
    assert built(numbers, categorical_columns=["a"]).inputs == ("a=2",)


DAYS = np.datetime64("2023-01-01T00:00") + np.arange(60) * np.timedelta64(25 * 60 * 12, "m")
LINES = [f"{day},{'abc'[i % 3]},{i % 4},{i},{i / 7}" for i, day in enumerate(DAYS)]
DATED = "\n".join(["when,plant,weight,a,y", *LINES])


def test_dates_are_days_and_places_in_year_week_and_day(built):
    target = built(DATED, exclude=["plant", "weight"])
    assert target.inputs == ("when", "day of year of when", "weekday of when", "hour of when", "a")
    assert_allclose(target.points.x[:2, :4], [[19358, 1, 6, 0], [19370.5, 13, 4, 12]])
    again = stored(target.code)
    assert_allclose(again.encode({"when": ["2023-01-02"], "a": ["1"]}), [[19359, 2, 0, 0, 1]])
    with refuses("'yesterday' in row 0 ... model was trained on none"):
        again.encode({"when": ["yesterday"], "a": ["1"]})


# 1.2 years are 438.3 days.
@pytest.mark.parametrize("days, parts", [(438, ["weekday"]), (439, ["day of year", "weekday"])])
def test_part_of_a_date_is_an_input_only_if_dates_span_more_than_its_period(built, days, parts):
    when = np.datetime64("2023-01-01") + np.array([0, 100, 201, days])
    target = built("when,y\n" + "".join(f"{day},1\n" for day in when))
    assert target.inputs == ("when", *(f"{part} of when" for part in parts))


def dataset(target, n_test):
    return make_dataset(target, SamplingConfig(None, n_test, validation_fraction=0.0), 0)


def test_weights_groups_and_times_are_read_from_columns(built):
    target = built(DATED, weight_column="weight", split="group:plant")
    assert not {"plant", "weight"} & {name.split("=")[0] for name in target.inputs}
    assert len(target.points) == 45  # rows with weight 0 are left out
    assert target.points.weights.mean() == pytest.approx(1)
    data = dataset(target, 10)
    assert not set(data.train.groups) & set(data.test.groups)
    later = dataset(built(DATED, split="time:when"), 10)
    assert later.train.x[:, 0].max() < later.test.x[:, 0].min()


def test_test_rows_from_a_file_of_their_own(write, built):
    other = "when,plant,weight,a,y\n2023-02-01,b,1,3,0.5\n2023-02-02,z,1,4,0.7\n"
    data = dataset(built(DATED, test_path=str(write(other, "test.csv"))), 0)
    assert len(data.test) == 2
    assert data.test.x.shape[1] == data.train.x.shape[1]
