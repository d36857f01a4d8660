"""Reading tables: kinds of files, and refusals that state the count and row of bad values."""

import bz2
import datetime as dt
import errno
import gzip
import lzma
import sys
import tracemalloc
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from cases import cases, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from kanrun.errors import UsageError
from kanrun.targets.encoding import read_inputs
from kanrun.targets.table_files import ReadOptions, TableFile, TableLimits

TEXT = "a,b,sepal length (cm)\n1,2,3.5\n4,-5e-1,.25\n"
VALUES = np.array([[1, 2, 3.5], [4, -0.5, 0.25]])
NAMES = ["a", "b", "sepal length (cm)"]


#: Names of files, and what is replaced by what in their text.
KINDS = r"""
data.csv | '' | ''
DATA.CSV | '' | ''
data.tsv | ',' | '\t'
tabs.txt | ',' | '\t'
windows.csv | '\n' | '\r\n'
quoted.csv | '3.5' | '"3.5"'
spaces.csv | ',' | ' , '
blank lines.csv | '\n' | '\n\n  \n'
first blank.csv | 'a,b' | '\na,b'
"""
PACKED = {"data.csv.gz": gzip.compress, "data.csv.bz2": bz2.compress, "data.csv.xz": lzma.compress}


def check_values(path):
    assert_array_equal(read_inputs(path, NAMES), VALUES)
    assert_array_equal(read_inputs(str(path), ["b", "a"]), VALUES[:, [1, 0]])


@pytest.mark.parametrize("name, old, new", cases(KINDS))
def test_text_files_of_every_kind_are_read(name, old, new, write):
    check_values(write(TEXT.replace(old, new), name))


def test_compressed_files_and_other_encodings_are_read(write):
    for name, compress in PACKED.items():
        check_values(write(compress(TEXT.encode()), name))
    check_values(write(TEXT.encode("utf-8-sig")))
    table = TableFile(write(TEXT.encode("utf-16")), ReadOptions(encoding="utf-16"))
    assert table.read().astype(float).to_numpy().tolist() == VALUES.tolist()


def test_parquet_files_are_read(tmp_path):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame(VALUES, columns=NAMES)
    frame.assign(whole=[1, 2], flag=[True, False], label=["u", "v"]).to_parquet(path)
    assert_array_equal(read_inputs(path, NAMES), VALUES)
    assert_array_equal(read_inputs(path, ["flag", "whole"]), [[1, 1], [0, 2]])


PARQUET = """
a | column 'a' of data.parquet has 1 missing value (first in row 2), 1 infinite value
t | column 't' of data.parquet has 1 missing value (first in row 3), 1 value that is not
d | 3 values that are not numbers (first '2020-01-01T00:00:00.000000' in row 1)
dd | data.parquet has no column 'dd'; did you mean d?; its columns are a, t, d
"""


def test_parquet_files_with_missing_or_text_values_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    columns = {"t": ["x", "2", None], "d": pd.date_range("2020", periods=3)}
    frame = pd.DataFrame({"a": [1.0, None, np.inf], **columns})
    frame.to_parquet(path)
    for name, sentence in cases(PARQUET):
        _refused(path, [name], sentence)
    frame.iloc[:0].to_parquet(path)
    _refused(path, ["a"], "data.parquet has columns but no rows")
    path.write_bytes(b"PAR1 but not really")
    _refused(path, ["a"], "data.parquet cannot be read as Parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _refused(path, ["a"], "reading data.parquet needs pyarrow, which is not installed; run: pip")


def _refused(path, names, sentence, limits=TableLimits()):
    with refuses(sentence) as caught:
        read_inputs(path, names, limits, key="target.read.")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


REFUSED = r"""
'a,b\n1,\n2,3\n' | b | column 'b' of data.csv has 1 missing value (first in row 2); correct
'a,b\n1,2\n2,NA\n3,nan\n' | a,b | column 'b' of data.csv has 2 missing values (first in row 3)
'a,b\n\n1,2\n\n\n2,\n' | b | 1 missing value (first in row 6)
'a,b\n1,"2\n"\n2,x\n' | b | 1 value that is not a number (first 'x' in row 3)
'a,b\n1,2\n2,x y\n3,z\n' | b | has 2 values that are not numbers (first 'x y' in row 3)
'a;b\n1;2\n' | b | data.csv is read as one column, 'a;b'; try 'target.read.sep=;'
'a\tb\n1\t2\n' | b | data.csv is read as one column, 'a\tb'; try 'target.read.sep=
'title\na,b\n1,2\n' | b | row 1 of data.csv names 1 of 2 columns; if row 2 is the header, try
'title,,\n\na,b,c\n1,2,3\n' | b | if row 3 is the header, try target.read.skiprows=2
'a,b\n1,"2,5"\n2,"3,5"\n' | b | holds '2,5', which is not read as a number; try target.read.deci
'a,b\n1,inf\n2,-inf\n3,1e999\n' | b | column 'b' of data.csv has 3 infinite values (first in row 2)
'a,b\nx,\n1,2\n' | a,b | column 'a' of data.csv has 1 value that is not a number (first 'x'
'age,size\n1,2\n' | Age | has no column 'Age'; did you mean age?; its columns are age, size
'a,b\n1,2\n3,4,5\n' | a | data.csv: row 3 has 3 fields, but the header has 2
'a,b\n1,"2\n3,4\n' | a | cannot be read as a table
'a,b\n' | a | data.csv has columns but no rows
'PNG\n\0\0IHDR' | a | data.csv is a binary file; a text table or Parquet is needed
'a,b\n1,\x81\n' | a | data.csv is not text in UTF-8; try target.read.encoding=cp1252
'\xff\xfea\0' | a | data.csv is not text in UTF-8; try target.read.encoding=utf-16
"""


@pytest.mark.parametrize("content, names, sentence", cases(REFUSED))
def test_unusable_text_tables_are_refused(content, names, sentence, write):
    _refused(write(content.encode("latin-1")), names.split(","), sentence)


CUT = gzip.compress(TEXT.encode() * 500, mtime=0)[:-40]
NO_TABLE = rf"""
empty.csv | b'' | is empty
data.xls | b'PK' | is not a kind of table that kanrun reads; it reads .csv, .tsv, .tab
data.csv.gz | b'a' | data.csv.gz is damaged or not compressed as its name says
data.csv.gz | {CUT} | gz is damaged
data.csv.gz | {gzip.compress(b"", mtime=0)} | data.csv.gz has no rows
"""


@pytest.mark.parametrize("name, content, sentence", cases(NO_TABLE))
def test_files_that_are_no_table_are_refused(name, content, sentence, write):
    _refused(write(content, name), ["a"], sentence)


def test_paths_that_are_no_file_are_refused(write, tmp_path, monkeypatch):
    _refused(tmp_path / "none.csv", ["a"], f"there is no file '{tmp_path}/none.csv'"[:60])
    _refused(tmp_path, ["a"], "is a directory; name a file in it")
    _refused("", ["a"], "the path of the table is empty; name a file")
    for path in ("x" * 5000 + ".csv", "nul\0.csv"):
        with pytest.raises(UsageError, match=r"cannot be read|there is no file"):
            read_inputs(path, ["a"])
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("builtins.open", Mock(side_effect=denied))  # root can read everything
    _refused(write(TEXT), ["a"], "data.csv cannot be read: Permission denied")


READ = r"""
'id,a,,note,\nu1,1,x,,\nu2,2,,what,\n' | a | [[1], [2]]
'a\nTrue\nfalse\n1\n' | a | [[1], [0], [1]]
"""


@pytest.mark.parametrize("content, names, values", cases(READ))
def test_columns_without_a_name_and_truth_values_are_read(content, names, values, write):
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


@pytest.mark.parametrize("ending", [".gz", ".xz"])
@pytest.mark.parametrize(
    "content", [b"a" * 2**24, b"a,b\n" + b"1," * 2**23, b"a,b\n" + b" \n" * 2**16]
)
def test_a_small_file_that_unpacks_to_a_huge_one_takes_no_memory(ending, content, write):
    limits = TableLimits(characters=2**16)
    path = write(PACKED[f"data.csv{ending}"](content), f"bomb.csv{ending}")
    tracemalloc.start()
    _refused(path, ["a"], "holds more than 65536 characters; larger tables are not read", limits)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24  # half of this is the dictionary of xz


def test_tables_with_more_cells_than_the_limit_are_refused(write, tmp_path):
    few = TableLimits(cells=100)
    said = "data.csv has more than 100 cells; take out columns or rows"
    _refused(write("a,b\n" + "1,2\n" * 51), ["a"], said, few)
    assert_array_equal(read_inputs(write("a,b\n" + "1,2\n" * 49), ["a"], few), np.ones((49, 1)))
    said = "data.csv has 3 columns, and at most 2 are read"
    _refused(write("a,b,c\n1,2,3\n"), ["a"], said, TableLimits(columns=2))
    pd.DataFrame({"a": np.zeros(101), "b": 1.0}).to_parquet(tmp_path / "data.parquet")
    _refused(tmp_path / "data.parquet", ["a"], "data.parquet has more than 100 cells", few)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, st.integers(-(10**9), 10**9)), min_size=1, max_size=30))
@settings(max_examples=20)
def test_numbers_are_read_to_the_last_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("exact") / "data.csv"
    pd.DataFrame(rows, columns=["x 1", "n"]).to_csv(path, index=False)
    assert_array_equal(read_inputs(path, ["n", "x 1"]), [[n, x] for x, n in rows])


def test_rows_without_an_output_are_left_out_and_counted(built, tmp_path):
    text = "a,b,kind\n1,1,x\n2,,y\n3,3,\n4,4,x\n5,5,y\n"
    with refuses("1 missing value ... correct or remove such rows."):
        built(text, "b", inputs=["a"], missing="error")
    found = built(text, "b", inputs=["a"])
    assert_array_equal(found.points.y[:, 0], [1, 3, 4, 5])
    assert found.notes == ("1 of 5 rows of data.csv have missing outputs and are left out",)
    own = {"inputs": ["a"], "task": "classification", "test_path": str(tmp_path / "data.csv")}
    labels = built(text, "kind", **own)
    assert_array_equal(labels.points.x, labels.test.x)
    assert_array_equal(labels.points.y[:, 0], [0, 1, 0, 1])


def test_german_csv_files_of_excel_are_read_with_options(built):
    title = "Bericht für Köln;;\n\nOrt;Größe (m²);Preis\n"
    text = (title + "Köln;1.234,5;1,5\nBonn;2;2,5\nBonn;3;3\nKöln;9;9\n").encode("cp1252")
    options = dict[str, object]()
    for name, value, advice in (
        ("encoding", "cp1252", "data.csv is not text in UTF-8; try target.read.encoding=cp1252"),
        ("sep", ";", "is read as one column, 'Bericht für Köln;;'; try 'target.read.sep=;'"),
        ("skiprows", 2, "if row 3 is the header, try target.read.skiprows=2"),
        ("decimal", ",", "number; try target.read.thousands=. target.read.decimal=, (if its"),
    ):
        with refuses(advice):
            built(text, "Preis", read=ReadOptions(**options))
        options[name] = value
    options["thousands"] = "."
    target = built(text, "Preis", read=ReadOptions(**options))
    assert target.inputs == ("Ort=Köln", "Größe (m²)")
    assert_array_equal(target.points.x, [[1, 1234.5], [0, 2], [0, 3], [1, 9]])
    assert target.code.read == ReadOptions(**options)
    with refuses("data.csv is not text in ascii; correct target.read.encoding"):
        built(text, "Preis", read=ReadOptions(encoding="ascii"))


def test_header_of_numbers_is_reported(built):
    target = built("1,2\n3,4\n5,7\n", "2")
    assert "header of data.csv holds numbers only (1, 2); if it is a row" in target.notes[0]


def test_rows_to_leave_out_are_named_by_their_number(built):
    text = "region,a,y\nx,1,62.1\nx,2,62.5\ny,3,n.d.\ny,4,<0.1\nTotal,,62.3\n"
    rows = "(first 'n.d.' in row 4); correct or remove such rows (target.drop_rows=[4,5]), say that"
    with refuses(f"{rows} ... (\"target.read.na_values=['n.d.','<0.1']\")"):
        built(text)
    target = built(text, read=ReadOptions(na_values=["n.d.", "<0.1"]))
    said = "row 6, the last of data.csv, holds 'Total' and is used as data; target.drop_rows=[6] "
    assert target.notes[0] == f"{said}leaves it out"
    assert_array_equal(built(text, drop_rows=[4, 5, 6]).points.y[:, 0], [62.1, 62.5])
    with refuses("drop_rows=[7]: data.csv has no such row of data"):
        built(text, drop_rows=[3, 7])


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
    _refused(path, ["b"], "has 2 sheets with content (Sheet, empty); try target.read.sheet_name=S")
    assert_array_equal(
        read_inputs(path, ["b"], options=ReadOptions(sheet_name="Sheet")), [[2.5], [4]]
    )
    path.write_bytes(b"PK")
    _refused(path, ["b"], "data.xlsx cannot be read as a workbook of Excel")
