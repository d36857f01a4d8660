"""Numbers, dates and missing values in the notations that people use."""

import msgspec
import numpy as np
import pytest
from cases import cases, refuses

from kanrun.config.rules import check
from kanrun.targets.encoding import TableCode
from kanrun.targets.table_files import ReadOptions
from kanrun.targets.table_text import other_notation, read_days


def first_column(target):
    return target.points.x[:, 0].tolist()


@pytest.mark.parametrize(
    "texts, options, signs",
    cases(r"""
        ['1.234,50 EUR', '7,5 EUR'] | {'thousands': '.', 'decimal': ','} | ['EUR']
        ['$1,234.50', '12', '-$5'] | {'thousands': ','} | ['$']
        ['12.3%', '4%'] | {} | ['%']
        ['1,5', '2,25', '3,125', 'x'] | {'decimal': ','} | []
        ['1,234', '22,500'] | {'thousands': ','} | []
        ['1.234.567', '1.234,5'] | {'thousands': '.', 'decimal': ','} | []
        ['1 234', '12 345 678'] | {'thousands': ' '} | []
        ["1'234'567", "12'000.5"] | {'thousands': "'"} | []
    """),
)
def test_numbers_in_another_notation_are_refused_with_the_options_that_help(
    texts, options, signs, of_column
):
    assert other_notation(texts) == (texts[0], options, signs)
    with refuses(f"column 'a' of data.csv holds {texts[0]!r}, which is not read as a number; "):
        of_column(texts * 2)
    assert of_column(texts * 2, categorical_columns=["a"]).inputs[0].startswith("a=")


@pytest.mark.parametrize(
    "texts",
    [["1.2.3", "10.0.1"], ["a,b", "1,5", "c"], ["A12", "B12"], ["10-20", "20-30"], ["12_1"]],
)
def test_texts_that_only_resemble_numbers_are_categories(texts, of_column):
    assert of_column(texts * 2 + ["other"] * 2).inputs[0].startswith("a=")


@pytest.mark.parametrize(
    "texts, options, values",
    cases(r"""
        ['1.234,5', '-2,25e1', '3'] | {'decimal': ',', 'thousands': '.'} | [1234.5, -22.5, 3]
        ['1,234.5', '12,34,567', '7'] | {'thousands': ','} | [1234.5, 1234567, 7]
        ['1 234', '1 234 567.5'] | {'thousands': ' '} | [1234, 1234567.5]
        ['1,5', '2', '-,5'] | {'decimal': ','} | [1.5, 2, -0.5]
    """),
)
def test_numbers_are_read_as_the_options_say(texts, options, values, of_column):
    assert first_column(of_column(texts, read=ReadOptions(**options))) == values


def test_a_point_in_a_file_of_decimal_commas_is_refused(of_column):
    with refuses("'a' of data.csv holds '1.234' in row 3, although its decimal mark is ','; try "):
        of_column(["1,5", "1.234"], read=ReadOptions(decimal=","))
    with refuses("holds '1.5' in row 3, although its decimal mark is ','; correct the value"):
        of_column(["1,5", "1.5"], read=ReadOptions(decimal=",", thousands="."))


@pytest.mark.parametrize(
    "options, said",
    cases("""
        {'decimal': ',', 'thousands': ','} | read.decimal and read.thousands are both ','
        {'decimal': 'comma'} | read.decimal='comma' must be one punctuation mark
        {'sep': ',;'} | read.sep=',;' must be one punctuation mark
        {'encoding': 'ansi'} | read.encoding=ansi must be an encoding, such as cp1252
    """),
)
def test_wrong_options_are_refused(options, said):
    with refuses(said):
        check(ReadOptions(**options), "read.")


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
    assert days.notes == ("columns are read by their values: a as dates",)
    assert stored(days.code).encode({"a": ["01/02/2021"]})[0, 0] == february


def test_a_bad_date_among_new_rows_is_named_with_its_row(of_column):
    target = of_column(["2021-02-01", "2021-02-02", "2021-02-04"])
    with refuses("'a' of x has 1 value that is not a date (first 'soon' in row 1"):
        target.code.encode({"a": ["2021-02-03", "soon"]})


def test_words_for_missing_values(of_column):
    column = ["1", "", "nan", "N/A", "5", "-999", "7", "8"]
    target = of_column(column, read=ReadOptions(na_values=["-999.0"]))
    assert target.inputs == ("a", "a is missing")
    assert first_column(target) == [1, 6, 6, 6, 5, 6, 7, 8]
    assert target.notes == ()
    assert stored(target.code).encode({"a": [-999.0, "null"]}).tolist() == [[6, 1], [6, 1]]
    assert stored(target.code).read.na_values == ["-999.0"]
    dropped = of_column(column, read=ReadOptions(na_values=["-999"]), missing="drop")
    assert first_column(dropped) == [1, 5, 7, 8]
    # A column without missing values recognises the marks too, but has no value to put in.
    complete = of_column(["1", "2", "3"], read=ReadOptions(na_values=["-999"]))
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
    assert any(said in note for note in target.notes) == named


def test_a_column_of_row_numbers_is_left_out_if_it_is_named(built):
    text = "Id,a,y\n" + "".join(f"{i + 5},{i * i},{-i}\n" for i in range(9))
    assert built(text).inputs == ("Id", "a")
    numbered = ReadOptions(index_col="Id")
    assert built(text, read=numbered).inputs == ("a",)
    assert built(text, read=numbered, inputs=["Id", "a"]).inputs == ("Id", "a")
    with refuses("has no column 'id'; did you mean Id"):
        built(text, read=ReadOptions(index_col="id"))
