"""The journal: exact values, discarded records, large arrays, damage, and CSV files."""

import errno
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_files import sealed

from kanrun.errors import StorageFailed
from kanrun.runs import Manifest, Row, Run, RunFolder, Status, Table, records
from kanrun.runs.files import Appender
from kanrun.runs.folder import write_tables
from kanrun.runs.records import BegunLine, FinishedLine

SEED = {"seed": 0}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, Manifest("fit"))


def rows(folder, table, *values, marks=SEED):
    for each in values:
        folder.rows(Row(table, each), marks)


def read(folder, table):
    return Run(folder.path).columns(table)


FLOATS = st.floats() | st.sampled_from([-0.0, 5e-324, math.nan, math.inf, -math.inf])
VALUES = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=20)


def same(value, stored):
    """Return whether a stored value has the same type and bits.

    In text, characters that are not valid Unicode are replaced.
    """
    if isinstance(value, float):
        return isinstance(stored, float) and repr(value) == repr(stored)
    if isinstance(value, str):
        return stored == value.encode("utf-8", "replace").decode()
    return type(value) is type(stored) and value == stored


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory):
    return RunFolder.create(tmp_path_factory.mktemp("values"), Manifest("fit"))


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=8))
def test_values_are_read_back_unchanged(kept_folder, values):
    folder = kept_folder
    (folder.path / "records.jsonl").write_bytes(b"")
    rows(folder, "a", *({"x": value} for value in values))
    folder.rows(Table("b", {"x": values}), SEED)
    for table in ("a", "b"):
        stored = read(folder, table)
        assert stored["seed"] == [0] * len(values)
        assert all(map(same, values, stored["x"]))


def test_numbers_of_numpy_are_read_back_also_from_several_lines(folder, monkeypatch):
    monkeypatch.setattr(records, "MOST_VALUES", 10)
    columns = {
        "single": np.array([0.1, np.nan, np.inf] * 5, dtype=np.float32),
        "large": np.array([2**64 - 1, 0, 1] * 5, dtype=np.uint64),
        "truth": np.array([True, False, True] * 5),
        "text": np.array(["a", "b,c", "nän"] * 5),
    }
    folder.rows(Table("t", columns), SEED)
    assert (folder.path / "records.jsonl").read_bytes().count(b"\n") > 3
    stored = read(folder, "t")
    for name, values in columns.items():
        np.testing.assert_array_equal(stored[name], values)
    with pytest.raises(ValueError, match="equal lengths"):
        folder.rows(Table("t", {"a": np.zeros(2), "b": np.zeros(3)}), SEED)


def test_column_that_begins_later_is_empty_in_earlier_rows(folder):
    rows(folder, "metrics", {"step": 0}, {"step": 1, "penalty": 1e-3}, {"penalty": 2e-3})
    frame = Run(folder.path).table("metrics")
    assert list(frame) == ["seed", "step", "penalty"]
    assert [*zip(*frame.isna().to_numpy().nonzero(), strict=True)] == [(0, 2), (2, 1)]
    path = folder.path / "metrics.csv"
    assert path.read_text() == "seed,step\n0,0\n0,1\n0,\n"  # while it runs
    folder.finish(Status.COMPLETED)
    assert path.read_text() == "seed,step,penalty\n0,0,\n0,1,0.001\n0,,0.002\n"


def test_rows_of_a_training_that_begins_again_are_discarded(folder):
    other = {"seed": 1}
    for marks in (SEED, other):
        folder.record(BegunLine(**marks, digest="a"))
        rows(folder, "metrics", {"step": 0}, {"step": 1}, marks=marks)
    folder.record(FinishedLine(**other))
    folder.record(BegunLine(**SEED, digest="a"))
    assert read(folder, "metrics") == {"seed": [1, 1], "step": [0, 1]}
    rows(folder, "metrics", {"step": 7})
    assert read(folder, "metrics") == {"seed": [0, 1, 1], "step": [7, 0, 1]}
    assert Run(folder.path).journal.finished == {(0, 0, 1)}


def test_a_changed_digit_is_damage(folder):
    rows(folder, "metrics", {"step": 0, "loss": 0.125}, {"step": 1, "loss": 0.25})
    path = folder.path / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(StorageFailed, match=r"records\.jsonl is damaged at byte"):
        read(folder, "metrics")


def test_a_journal_cut_at_any_byte_is_read_up_to_its_last_line(folder):
    rows(folder, "metrics", *({"step": step, "loss": 0.1} for step in range(3)))
    path = folder.path / "records.jsonl"
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        steps = list(range(content[:end].count(b"\n")))
        assert read(folder, "metrics").get("step", []) == steps


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "\0",
        "[]",
        "{",
        '{"kind":"rows","table":"t","columns":{"a":[["x","y"]]}}',
        '{"kind":"rows","table":"t","columns":{"a":[["x"]]}}',
        '{"kind":"rows","table":"t","columns":{"a":[{}]}}',
        '{"kind":"rows","table":1}',
        '{"kind":"rows","table":"t","columns":{"a":3}}',
        '{"kind":"other"}',
        '{"kind":"rows","point":99,"table":"summary","columns":{"a":[1]}}',
        *(
            json.dumps({"kind": "rows", "table": name, "columns": {"x": [1]}})
            for name in ("../outside", "/tmp/outside", "a/b", ".hidden", "a\n", "")
        ),
    ],
)
def test_damage_is_one_error_and_writes_no_file(folder, line):
    """Names of tables that are paths count as damage."""
    rows(folder, "t", {"a": 1})
    before = {*folder.path.parent.rglob("*")}
    with open(folder.path / "records.jsonl", "ab") as file:
        file.write(sealed(line))
    rows(folder, "t", {"a": 2})
    run = Run(folder.path)
    with pytest.raises(StorageFailed):
        list(map(run.table, run.tables))
    write_tables(folder.path)
    assert {*folder.path.parent.rglob("*")} == before


def test_a_link_is_neither_read_nor_written(folder, tmp_path):
    (tmp_path / "other").write_text("")
    path = folder.path / "records.jsonl"
    path.unlink()
    path.symlink_to(tmp_path / "other")
    assert Run(folder.path).tables == ()
    with pytest.raises(StorageFailed, match=r"cannot write .*records\.jsonl"):
        rows(folder, "metrics", {"step": 0})


def test_csv_keeps_text_and_writes_one_line_per_row(folder):
    values = ["=1+1", "-x0 + 1", "'=a", "@b", "it's", "a\nb", "ä\0"]
    rows(folder, "t", *({"=name": value} for value in values))
    expected = ["seed,=name", "0,=1+1", "0,-x0 + 1", "0,'=a", "0,@b", "0,it's", "0,a b", "0,ä "]
    path = folder.path / "tables" / "t.csv"
    assert path.read_text().splitlines() == expected
    path.write_bytes(b"garbage")
    folder.finish(Status.COMPLETED)
    assert path.read_text().splitlines() == expected
    assert read(folder, "t")["=name"] == values


def test_a_csv_that_cannot_be_written_is_a_warning(folder, monkeypatch, caplog):
    write = Appender.write

    def full(file, lines):
        if file.path.suffix == ".csv":
            raise StorageFailed(f"cannot write {file.path}: {os.strerror(errno.ENOSPC)}.")
        write(file, lines)

    monkeypatch.setattr(Appender, "write", full)
    rows(folder, "metrics", {"step": 0}, {"step": 1})
    folder.finish(Status.COMPLETED)
    assert caplog.text.count("metrics.csv: No space left on device") == 1
    assert read(folder, "metrics")["step"] == [0, 1]
    assert (folder.path / "metrics.csv").read_text() == "seed,step\n0,0\n0,1\n"
