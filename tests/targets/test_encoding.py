"""Any table in: categories, missing values, all columns but the outputs, and back from plain JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kanrun.config import TableTarget
from kanrun.errors import UsageError
from kanrun.targets import TableCode, build_target

TEXT = """id,age,sex,city,income,note,price
a1,30,m,Bern,5.5,x,1
a2,,f,Bern,6.5,y,2
a3,50,f,Basel,,z,3
a4,60,m,Basel,8.5,w,4
a5,70,m,Chur,9.5,v,5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(TEXT)
    return path


def test_all_columns_but_the_outputs_are_inputs(file: Path) -> None:
    target = build_target(TableTarget(path=str(file), outputs=["price"]))
    assert target.inputs == ("age", "age is missing", "sex=m", "city=Basel", "city=Bern", "income", "income is missing")
    assert target.points is not None
    np.testing.assert_array_equal(target.points.x[:, 0], [30, 55, 50, 60, 70])
    np.testing.assert_array_equal(target.points.x[:, 1], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(target.points.x[:, 2], [1, 0, 0, 1, 1])
    assert any("'note'" in note for note in target.notes)


def test_what_is_excluded_or_dropped_is_not_there(file: Path) -> None:
    target = build_target(TableTarget(path=str(file), outputs=["price"], exclude=["id", "note"], missing="drop"))
    assert target.points is not None
    assert len(target.points) == 3
    assert "age is missing" not in target.inputs
    assert any("2 of 5 rows" in note for note in target.notes)


def test_missing_values_are_refused_on_request(file: Path) -> None:
    config = TableTarget(path=str(file), inputs=["age", "income"], outputs=["price"], missing="refuse")
    with pytest.raises(UsageError, match="column 'age' of people\\.csv has 1 missing value"):
        build_target(config)


def test_numbers_with_a_little_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("a,b\n1,2\n2,3\noops,4\n")
    with pytest.raises(UsageError, match="'a' has numbers and text, such as 'oops'"):
        build_target(TableTarget(path=str(path), outputs=["b"]))
    path.write_text("a,b\n1,2\n1,3\n2,4\n2,5\n")
    assert build_target(TableTarget(path=str(path), outputs=["b"], categories=["a"])).inputs == ("a=2",)


def test_complete_numbers_need_no_code(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("a,b\n1,2\n2,3\n")
    target = build_target(TableTarget(path=str(path), outputs=["b"]))
    assert target.code is None
    assert target.inputs == ("a",)


def test_the_code_comes_back_from_json_and_counts_unknown_levels(file: Path) -> None:
    target = build_target(TableTarget(path=str(file), outputs=["price"], exclude=["id", "note"]))
    assert target.code is not None
    again = TableCode.from_plain(json.loads(json.dumps(target.code.plain())))
    assert again == target.code
    x, notes = again.encode({"age": ["40"], "sex": ["f"], "city": ["Paris"], "income": [""]})
    np.testing.assert_array_equal(x, [[40, 0, 0, 0, 0, 7.5, 1]])
    assert notes == ["1 of 1 rows have a city that the model was not trained on"]


def test_an_excluded_column_must_be_there(file: Path) -> None:
    with pytest.raises(UsageError, match="no column 'nope'"):
        build_target(TableTarget(path=str(file), outputs=["price"], exclude=["nope"]))
