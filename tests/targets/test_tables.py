"""Reading tables: kinds of files, and refusals that state the count and row of bad values."""

import bz2
import datetime as dt
import errno
import gzip
import lzma
import os
import sys
import tracemalloc
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from kanrun.errors import UsageError
from kanrun.targets import TableFile, TableLimits, read_inputs
from kanrun.targets.settings import TableTarget
from kanrun.targets.table_targets import build_table

TEXT = "a,b,sepal length (cm)\n1,2,3.5\n4,-5e-1,.25\n"
VALUES = np.array([[1, 2, 3.5], [4, -0.5, 0.25]])
NAMES = ["a", "b", "sepal length (cm)"]


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


KINDS = {
    "data.csv": bytes,
    "DATA.CSV": bytes,
    "data.csv.gz": gzip.compress,
    "data.csv.bz2": bz2.compress,
    "data.csv.xz": lzma.compress,
    "data.tsv": lambda content: content.replace(b",", b"\t"),
    "semicolons.csv": lambda content: content.replace(b",", b";"),
    "bom.csv": lambda content: b"\xef\xbb\xbf" + content,
    "wide.csv": lambda content: content.decode().encode("utf-16"),
    "tabs.txt": lambda content: content.replace(b",", b"\t"),
    "commas.txt": bytes,
    "windows.csv": lambda content: content.replace(b"\n", b"\r\n"),
    "quoted.csv": lambda content: content.replace(b"3.5", b'"3.5"'),
    "spaces.csv": lambda content: content.replace(b",", b" , "),
    "blank lines.csv": lambda content: b"\n" + content.replace(b"\n", b"\n\n  \n"),
}


@pytest.mark.parametrize("name", KINDS)
def test_text_files_of_every_kind_are_read(name, write):
    path = write(KINDS[name](TEXT.encode()), name)
    assert_array_equal(read_inputs(path, NAMES), VALUES)
    assert_array_equal(read_inputs(str(path), ["b", "a"]), VALUES[:, [1, 0]])


def test_parquet_files_are_read(tmp_path):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame(VALUES, columns=NAMES).assign(
        whole=[1, 2], flag=[True, False], label=["u", "v"]
    )
    frame.to_parquet(path)
    assert_array_equal(read_inputs(path, NAMES), VALUES)
    assert_array_equal(read_inputs(path, ["flag", "whole"]), [[1, 1], [0, 2]])


def test_parquet_files_with_missing_or_text_values_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame(
        {"a": [1.0, None, np.inf], "t": ["x", "2", None], "d": pd.date_range("2020", periods=3)}
    )
    frame.to_parquet(path)
    for line in """
        a: column 'a' of data.parquet has 1 missing value (first in row 2), 1 infinite value
        t: column 't' of data.parquet has 1 missing value (first in row 3), 1 value that is not
        d: 3 values that are not numbers (first '2020-01-01T00:00:00.000000' in row 1)
        dd: data.parquet has no column 'dd'; did you mean d?; its columns are a, t, d
        """.strip().splitlines():
        name, _, sentence = line.strip().partition(": ")
        _refused(path, [name], sentence)
    frame.iloc[:0].to_parquet(path)
    _refused(path, ["a"], "data.parquet has columns but no rows")
    path.write_bytes(b"PAR1 but not really")
    _refused(path, ["a"], "data.parquet cannot be read as Parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _refused(path, ["a"], "reading data.parquet needs pyarrow, which is not installed; run: pip")


def _refused(path, names, sentence, limits=TableLimits()):
    with pytest.raises(UsageError) as caught:
        read_inputs(path, names, limits)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert len(message) < 400


REFUSED = r"""
'a,b\n1,\n2,3\n' | b | column 'b' of data.csv has 1 missing value (first in row 2); correct
'a,b\n1,2\n2,NA\n3,nan\n' | a,b | column 'b' of data.csv has 2 missing values (first in row 3)
'a,b\n\n1,2\n\n\n2,\n' | b | 1 missing value (first in row 6)
'a,b\n1,"2\n"\n2,x\n' | b | 1 value that is not a number (first 'x' in row 3)
'a,b\n1,2\n2,x y\n3,z\n' | b | has 2 values that are not numbers (first 'x y' in row 3)
'a;b\n1;2,5x\n' | b | (first '2,5x' in row 2)
'a,b\n1,inf\n2,-inf\n3,1e999\n' | b | column 'b' of data.csv has 3 infinite values (first in row 2)
'a,b\nx,\n1,2\n' | a,b | column 'a' of data.csv has 1 value that is not a number (first 'x'
'age,size\n1,2\n' | Age | has no column 'Age'; did you mean age?; its columns are age, size
'a,b\n1,2\n3,4,5\n' | a | data.csv: row 3 has 3 fields, but the header has 2
'a,b\n1,"2\n3,4\n' | a | cannot be read as a table
'a,b\n' | a | data.csv has columns but no rows
'PNG\n\0\0IHDR' | a | data.csv is a binary file; a text table or Parquet is needed
'a,b\n1,\x81\n' | a | is text neither in UTF-8 nor in Windows-1252; name its encoding
"""


@pytest.mark.parametrize("content, names, sentence", cases(REFUSED))
def test_unusable_text_tables_are_refused(content, names, sentence, write):
    _refused(write(content.encode("latin-1")), names.split(","), sentence)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("empty.csv", b"", "is empty"),
        ("data.xls", b"PK", "is not a kind of table that kanrun reads; it reads .csv, .tsv, .tab"),
        ("data.csv.gz", b"a\n1\n", "data.csv.gz is damaged or not compressed as its name says"),
        ("data.csv.gz", gzip.compress(TEXT.encode() * 500, mtime=0)[:-40], "gz is damaged"),
        ("data.csv.gz", gzip.compress(b"", mtime=0), "data.csv.gz has no rows"),
    ],
)
def test_files_that_are_no_table_are_refused(name, content, sentence, write):
    _refused(write(content, name), ["a"], sentence)


def test_paths_that_are_no_file_are_refused(tmp_path):
    _refused(tmp_path / "none.csv", ["a"], f"there is no file '{tmp_path}/none.csv'"[:60])
    _refused(tmp_path, ["a"], "is a directory; name a file in it")
    _refused("", ["a"], "the path of the table is empty; name a file")
    os.mkfifo(tmp_path / "pipe.csv")
    _refused(tmp_path / "pipe.csv", ["a"], "is not a regular file")
    for path in ("x" * 5000 + ".csv", "nul\0.csv"):
        with pytest.raises(UsageError, match=r"cannot be read|there is no file"):
            read_inputs(path, ["a"])


def test_a_file_without_permission(write, monkeypatch):
    path = write(TEXT)
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("builtins.open", Mock(side_effect=denied))  # root can read everything
    _refused(path, ["a"], "data.csv cannot be read: Permission denied")


READ = r"""
'id,a,,note,\nu1,1,x,,\nu2,2,,what,\n' | a | [[1], [2]]
'a\nTrue\nfalse\n1\n' | a | [[1], [0], [1]]
'a;b\n1,5;-2\n2,25e1;3\n' | a,b | [[1.5, -2], [22.5, 3]]
'a;b\n1.234,5;1,234\n1.234;1.234\n' | a,b | [[1234.5, 1.234], [1234, 1.234]]
'a,b\n"1,234",$5\n"-$1,234.5",12.3%\n' | a,b | [[1234, 5], [-1234.5, 12.3]]
"""


@pytest.mark.parametrize("content, names, values", cases(READ))
def test_values_of_many_notations_are_read(content, names, values, write):
    assert_array_equal(read_inputs(write(content), names.split(",")), values)


def test_the_home_directory_is_expanded(write, monkeypatch):
    path = write(TEXT)
    monkeypatch.setenv("HOME", str(path.parent))
    assert_array_equal(read_inputs("~/data.csv", NAMES), VALUES)
    path.rename(path.parent / "~data.csv")  # a name that only looks like a home directory
    monkeypatch.chdir(path.parent)
    assert_array_equal(read_inputs("~data.csv", NAMES), VALUES)


def test_rows_are_counted_past_the_first_block(write):
    lines = ["a,b"] + [f"{i},{i}" for i in range(12_000)]
    lines[11_001] = "1,x"
    _refused(write("\n".join(lines)), ["a", "b"], "(first 'x' in row 11002)")


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize(
    "content", [b"a" * 2**24, b"a,b\n" + b"1," * 2**23, b"a,b\n" + b" \n" * 2**16]
)
def test_a_small_file_that_unpacks_to_a_huge_one_takes_no_memory(ending, content, write):
    limits = TableLimits(characters=2**16)
    path = write(COMPRESS[ending](content), f"bomb.csv{ending}")
    tracemalloc.start()
    _refused(path, ["a"], "holds more than 65536 characters; larger tables are not read", limits)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24  # half of this is the dictionary of xz


def test_tables_with_more_cells_than_the_limit_are_refused(write, tmp_path):
    few = TableLimits(cells=100)
    _refused(
        write("a,b\n" + "1,2\n" * 51),
        ["a"],
        "data.csv has more than 100 cells; take out columns or rows",
        few,
    )
    assert_array_equal(read_inputs(write("a,b\n" + "1,2\n" * 49), ["a"], few), np.ones((49, 1)))
    _refused(
        write("a,b,c\n1,2,3\n"),
        ["a"],
        "data.csv has 3 columns, and at most 2 are read",
        TableLimits(columns=2),
    )
    pd.DataFrame({"a": np.zeros(101), "b": 1.0}).to_parquet(tmp_path / "data.parquet")
    _refused(tmp_path / "data.parquet", ["a"], "data.parquet has more than 100 cells", few)


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**9), 10**9)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=20)
def test_numbers_are_read_to_the_last_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("exact") / "data.csv"
    pd.DataFrame(rows, columns=["x 1", "n"]).to_csv(path, index=False)
    assert_array_equal(read_inputs(path, ["n", "x 1"]), [[n, x] for x, n in rows])


def test_rows_without_an_output_are_left_out_and_counted(write):
    path = str(write("a,b,kind\n1,1,x\n2,,y\n3,3,\n4,4,x\n5,5,y\n"))
    with pytest.raises(UsageError, match=r"1 missing value .* correct or remove such rows\.$"):
        build_table(TableTarget(path, ["a"], ["b"], missing="error"))
    found = build_table(TableTarget(path, ["a"], ["b"]))
    assert_array_equal(found.points.y[:, 0], [1, 3, 4, 5])
    assert found.notes == ("1 of 5 rows of data.csv have missing outputs and are left out",)
    labels = build_table(TableTarget(path, ["a"], ["kind"], "classification", test_path=path))
    assert_array_equal(labels.points.x, labels.test.x)
    assert_array_equal(labels.points.y[:, 0], [0, 1, 0, 1])


def test_german_csv_files_of_excel_are_read_with_notes(write):
    title = "Bericht für Köln;;\n\nOrt;Größe (m²);Preis\n"
    text = title + "Köln;1.234,5;1,5\nBonn;2;2,5\nBonn;3;3\nKöln;9;9\n"
    path = str(write(text.encode("cp1252")))
    target = build_table(TableTarget(path, outputs=["Preis"]))
    assert target.inputs == ("Ort=Köln", "Größe (m²)")
    assert_array_equal(target.points.x, [[1, 1234.5], [0, 2], [0, 3], [1, 9]])
    assert target.notes == (
        "data.csv is not text in UTF-8 and is read as Windows-1252; target.encoding decides",
        "data.csv has 2 rows above its header, which are not read; target.skip_rows decides",
    )
    settings = TableTarget(path, outputs=["Preis"], encoding="cp1252", skip_rows=2)
    assert build_table(settings).notes == ()
    assert_array_equal(build_table(settings).points.x, target.points.x)
    with pytest.raises(UsageError, match="not text in utf-8; correct target"):
        build_table(TableTarget(path, outputs=["Preis"], encoding="utf-8"))


HEADERS = r"""
'a,b\n1,2\n3,4\n' | 0
'title\na,b\n1,2\n3,4\n' | 1
'title,,\nof 2024,,\n,,\na,b,c\n1,2,3\n' | 3
'a,,c\n1,2,3\n1,2,3\n' | 0
'2020,2021,2022\n1,2,3\n' | 0
'a,b\nx,y\nu\n' | 0
"""


@pytest.mark.parametrize("text, above", cases(HEADERS))
def test_the_header_is_found_below_titles(text, above, write):
    table = TableFile(write(text))
    assert table.read().index[0] == above + 2
    assert ("skip_rows" in table.notes) == (above > 0)


def test_rows_to_leave_out_are_named_by_their_number(write):
    path = str(write("region,a,y\nx,1,62.1\nx,2,62.5\ny,3,n.d.\ny,4,<0.1\nTotal,,62.3\n"))
    with pytest.raises(UsageError) as caught:
        build_table(TableTarget(path, outputs=["y"]))
    assert (
        "(first 'n.d.' in row 4); correct or remove such rows (target.drop_rows=[4,5]), say that"
        in str(caught.value)
    )
    assert "(\"target.missing_values=['n.d.','<0.1']\")" in str(caught.value)
    target = build_table(TableTarget(path, outputs=["y"], missing_values=["n.d.", "<0.1"]))
    assert target.notes[0] == (
        "row 6, the last of data.csv, holds 'Total' and is used as data; target.drop_rows=[6] "
        "leaves it out"
    )
    target = build_table(TableTarget(path, outputs=["y"], drop_rows=[4, 5, 6]))
    assert_array_equal(target.points.y[:, 0], [62.1, 62.5])
    with pytest.raises(UsageError, match=r"drop_rows=\[7\]: data.csv has no such row of data"):
        build_table(TableTarget(path, outputs=["y"], drop_rows=[3, 7]))


def test_columns_separated_by_blanks_are_read(write):
    path = write("  a   b\n 1  2.5 \n-3     4\n", "data.dat")
    assert_array_equal(read_inputs(path, ["b", "a"]), [[2.5, 1], [4, -3]])


def test_workbook_must_have_one_sheet_with_content(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["a", None, "b", "when"], [], [1, "x", 2.5, dt.date(2024, 5, 1)], [None, None, 4]):
        book.active.append(row)
    book.create_sheet("empty")
    path = tmp_path / "data.xlsx"
    book.save(path)
    assert_array_equal(read_inputs(path, ["b"]), [[2.5], [4]])
    _refused(path, ["a"], "column 'a' of data.xlsx has 1 missing value (first in row 4)")
    _refused(path, ["c"], "data.xlsx has no column 'c'; its columns are a, b, when")
    book["empty"].append(["more"])
    book.save(path)
    _refused(path, ["b"], "data.xlsx has 2 sheets with content (Sheet, empty)")
    path.write_bytes(b"PK")
    _refused(path, ["b"], "data.xlsx cannot be read as a workbook of Excel")


def test_header_of_numbers_is_reported(write):
    target = build_table(TableTarget(str(write("1,2\n3,4\n5,7\n")), outputs=["2"]))
    assert "header of data.csv holds numbers only (1, 2); if it is a row" in target.notes[0]
