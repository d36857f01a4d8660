"""Numbers, dates and missing values in the notations that people use."""

import msgspec
import numpy as np
import pytest
from cases import cases, refuses

from kanrun.targets.encoding import TableCode
from kanrun.targets.table_text import read_days


def first_column(target):
    return target.points.x[:, 0].tolist()


def test_numbers_as_people_write_them_are_read_with_a_note(of_column):
    numbers = {"$1,234.50": 1234.5, "-€5": -5, "12.3%": 12.3, "1'234'567": 1234567}
    numbers |= {"1\u202f234.5": 1234.5, "1,234": 1234, "7": 7}
    target = of_column(numbers)
    assert first_column(target) == [*numbers.values()]
    assert target.notes == ("column 'a' is read as numbers: '$1,234.50' is 1234.5",)
    for text in ("1,23", "12_1", "5 m"):
        with refuses(f"first '{text}' in row 9"):
            of_column([*numbers, text])


@pytest.mark.parametrize(
    "texts, day_first, first",
    cases(r"""
        ['13.04.2021', '01.05.2021'] | True | 2021-04-13
        ['03.04.2021', '01.05.2021'] | True | 2021-04-03
        ['01/05/2021', '13/04/2021'] | True | 2021-05-01
        ['01/12/2021', '13/12/2021'] | True | 2021-12-01
        ['12/05/2021', '12/13/2021'] | False | 2021-12-05
        ['01/05/2021', '02/04/2021'] | None | 2021-01-05
        ['2021-04-13T01:30+02:00', '2021-04-14'] | None | 2021-04-12T23:30
        ['13.04.2021 01:30 -0230', '2021-04-14'] | True | 2021-04-13T04:00
        ['2021-04-13 01:30:00Z', '2021-04-14'] | None | 2021-04-13T01:30
    """),
)
def test_dates_are_read_in_many_notations(texts, day_first, first):
    days, faults, found = read_days(texts)
    assert not faults["text"]
    assert found is day_first
    assert days[0] == pytest.approx(np.datetime64(first, "m").astype(float) / 1440, abs=1e-9)


def stored(code):
    return msgspec.convert(msgspec.to_builtins(code), TableCode)


def test_order_of_ambiguous_dates_is_reported_settable_and_stored(of_column):
    months = [f"0{i % 9 + 1}/02/2021" for i in range(20)]
    january = 18629  # 2021-01-02, as days since 1970-01-01
    february = 18659
    target = of_column(months)
    assert "are read with the month first" in target.notes[0]
    assert "target.day_first=true" in target.notes[0]
    assert first_column(target)[0] == january
    days = of_column(months, day_first=True)
    assert days.notes == ()
    assert stored(days.code).encode({"a": ["01/02/2021"]})[0, 0] == february


def test_a_bad_date_among_new_rows_is_named_with_its_row(of_column):
    target = of_column(["2021-02-01", "2021-02-02", "2021-02-04"])
    with refuses("'a' of x has 1 value that is not a date (first 'soon' in row 1"):
        target.code.encode({"a": ["2021-02-03", "soon"]})


def test_words_for_missing_values(of_column):
    column = ["1", "-", "#DIV/0!", "k.A.", "5", "-999", "7", "8"]
    target = of_column(column, missing_values=["-999.0"])
    assert target.inputs == ("a", "a is missing")
    assert first_column(target) == [1, 6, 6, 6, 5, 6, 7, 8]
    assert target.notes == ("column 'a' has 4 missing values written '-'",)
    assert stored(target.code).encode({"a": [-999.0, "?"]}).tolist() == [[6, 1], [6, 1]]
    dropped = of_column(column, missing_values=["-999"], missing="drop")
    assert first_column(dropped) == [1, 5, 7, 8]
    # A column without missing values recognises the marks too, but has no value to put in.
    complete = of_column(["1", "2", "3"], missing_values=["-999"])
    assert complete.inputs == ("a",)
    with refuses("'a' of new.csv has 2 missing values (first in row 8) ... was trained on none"):
        complete.code.encode({"a": ["1", "-999.0", ""]}, "new.csv", [7, 8, 9])


@pytest.mark.parametrize(
    "levels, rows, kept, named",
    cases("""
        20 | 3 | 20 | False
        21 | 3 | 21 | True
        501 | 2 | 500 | True
        21 | 1 | 1 | True
    """),
)
def test_a_column_of_many_levels_is_named(of_column, levels, rows, kept, named):
    target = of_column(["c0"] + [f"c{i % levels}" for i in range(rows * levels)])
    assert len(target.inputs) == kept
    said = f"{levels} different texts, of which {kept} become"
    assert [said in note for note in target.notes] == [True] * named


def test_a_column_that_counts_rows_is_left_out_unless_named(built):
    text = "Id,a,y\n" + "".join(f"{i + 5},{i * i},{-i}\n" for i in range(9))
    target = built(text)
    assert target.inputs == ("a",)
    assert "'Id' counts the rows and is left out" in target.notes[0]
    assert built(text, inputs=["Id", "a"]).inputs == ("Id", "a")
    assert built(text.replace("\n7,", "\n99,")).inputs == ("Id", "a")
