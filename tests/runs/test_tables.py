"""Tables on disk: exact numbers, new columns, damage, and anything people put into text."""

import math
import os
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanrun.errors import StorageFailed
from kanrun.runs.files import CsvFile, frame_of, read_columns, read_rows, rewrite


def append(table, row):
    table.extend({name: [value] for name, value in row.items()})


def read_table(path):
    return frame_of(read_columns(path))


def test_a_row_with_new_columns_widens_the_table(tmp_path):
    table = CsvFile(tmp_path / "metrics.csv")
    append(table, {"step": 0, "loss": 0.5})
    append(table, {"step": 1, "loss": 0.25, "penalty": 1e-3})
    append(table, {"loss": 0.125, "penalty": 2e-3})
    table.extend({"step": np.array([3, 4]), "note": np.array(["a", "b,c"])})
    frame = read_table(tmp_path / "metrics.csv")
    assert list(frame.columns) == ["step", "loss", "penalty", "note"]
    assert frame["loss"].tolist()[:3] == [0.5, 0.25, 0.125]
    assert math.isnan(frame["penalty"][0])
    assert math.isnan(frame["step"][2])
    assert frame["note"].tolist()[3:] == ["a", "b,c"]
    with pytest.raises(ValueError, match="equal lengths"):
        table.extend({"step": np.zeros(2), "loss": np.zeros(3)})


def test_rows_are_appended_and_tables_rewritten_in_one_rename(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    table = CsvFile(path)
    append(table, {"step": 0})
    before, file = path.read_bytes(), path.stat().st_ino
    append(table, {"step": 1})
    after = path.read_bytes()
    assert (after[: len(before)], path.stat().st_ino) == (before, file)
    for change in (
        lambda: append(table, {"step": 2, "loss": 0.5}),
        lambda: rewrite(path, ["step"], []),  # as when a training restarts
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                change()
        assert path.read_bytes() == after
        assert list(tmp_path.iterdir()) == [path]


def test_half_a_last_line_is_left_out_and_mended(tmp_path):
    path = tmp_path / "metrics.csv"
    table = CsvFile(path)
    for step in range(3):
        append(table, {"step": step, "loss": 0.1})
    table.close()
    path.write_bytes(path.read_bytes()[:-2])
    assert read_table(path)["step"].tolist() == [0, 1]
    again = CsvFile(path)
    append(again, {"step": 2, "loss": 0.2})
    assert read_table(path)["loss"].tolist() == [0.1, 0.1, 0.2]


def test_an_empty_file_or_half_a_header_reads_as_no_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    for content in (b"", b"step,lo"):
        path.write_bytes(content)
        assert read_table(path).empty
    append(CsvFile(path), {"step": 1})
    assert read_table(path)["step"].tolist() == [1]


def test_none_nan_truth_values_and_text_like_missing_ones(tmp_path):
    table = CsvFile(tmp_path / "t.csv")
    append(
        table,
        {
            "a": None,
            "b": float("nan"),
            "c": True,
            "d": "NA",
            "e": float("inf"),
            "f": np.float64(0.1),
        },
    )
    append(table, {"a": 1, "b": -0.0, "c": False, "d": "null", "e": 1e-320, "f": np.int32(2)})
    frame = read_table(tmp_path / "t.csv")
    assert frame["c"].tolist() == [True, False]
    assert frame["d"].tolist() == ["NA", "null"]
    assert frame["e"].tolist() == [math.inf, 1e-320]
    assert frame["f"].tolist() == [0.1, 2]
    assert frame["a"].isna().tolist() == [True, False]
    assert frame["b"].isna().tolist() == [True, False]


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_floats_come_back_to_the_last_bit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("floats") / "t.csv"
    CsvFile(path).extend({"x": np.array(values)})
    assert read_table(path)["x"].tolist() == values


@settings(max_examples=20)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=6))
def test_any_text_is_one_line_a_row(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("text") / "t.csv"
    table = CsvFile(path)
    for first, second in rows:
        append(table, {"first": first, "second\n": second})
    table.close()
    assert len(path.read_bytes().decode().split("\n")) == len(rows) + 2
    header, read = read_rows(path)
    kept = list(read)
    assert header == ["first", "second"]
    assert len(kept) == len(rows)
    for (first, _), got in zip(rows, kept, strict=True):
        if first.isprintable():
            assert got[0] == first.encode("utf-8", "replace").decode()
    assert len(read_table(path)) == len(rows)


def test_damage_and_links_are_refused(tmp_path):
    (tmp_path / "real.csv").write_text("a\n1\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with pytest.raises(StorageFailed, match="not a regular file"):
        read_table(tmp_path / "link.csv")
    with pytest.raises(StorageFailed, match="cannot write"):
        append(CsvFile(tmp_path / "link.csv"), {"a": 2})
    for damaged in ("a\n" + "x" * 200_000, 'a,b\n1,2\n"3,4', "a,b\n1,2,3\n4,5,6"):
        (tmp_path / "real.csv").write_text(damaged + "\n")
        with pytest.raises(StorageFailed, match="not a CSV table"):
            read_table(tmp_path / "real.csv")


def test_text_is_stored_as_it_is_and_comes_back(tmp_path):
    values = ["=1+1", "-x0 + 1", "'=a", "-1.5", "@b", "it's", "+inf", ""]
    table = CsvFile(tmp_path / "t.csv")
    table.extend({"=name": values, "n": range(8)})
    append(table, {"=name": "+2+3", "n": 8})
    table.close()
    written = (tmp_path / "t.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in written] == ["=name", *values, "+2+3"]
    assert read_table(tmp_path / "t.csv")["=name"].fillna("").tolist() == [*values, "+2+3"]
    assert read_columns(tmp_path / "t.csv")["=name"] == [*values[:-1], None, "+2+3"]
