"""Conditions on runs, and the table of runs."""

import io
from pathlib import Path

import pytest
from cases import cases, refuses
from processes import python
from run_files import change_record

import kanrun
from kanrun.runs import Manifest, Row, RunFolder, Status
from kanrun.runs.finding import in_order, listed, run_entries, selected


def add(outputs, error, degree=3):
    """Make one finished run of `fit` with a configuration."""
    target = {"kind": "named", "name": "product"}
    model = {"kind": "kan", "degree": degree, "hidden": [4, -1]}
    config = {"model": model, "seed": 0, "target": target}
    folder = RunFolder.create(outputs, Manifest("fit", bases=(config,), seeds=(0, 1)))
    folder.rows(Row("summary", {"test_rmse": error}), {"seed": 0})
    folder.finish(Status.COMPLETED, metrics={} if error is None else {"test_rmse": error})
    return folder.path


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, make_points):
    outputs = tmp_path_factory.mktemp("outputs")
    for error, degree in ((1e-3, 2), (1e-5, 3), (None, 3)):
        add(outputs, error, degree)
    make_points(outputs, 0.2, 0.1)
    change_record(outputs / "fit/v0001", tags=["good", "first"], note="a note")
    return outputs


def names(outputs, condition):
    return [entry.columns["name"] for entry in selected(run_entries(outputs), condition)]


def test_each_file_of_a_run_is_opened_once(tmp_path, monkeypatch):
    paths = {add(tmp_path, 1e-3) for _ in range(3)}
    opened, plain_open = [], io.open

    def counted(file, *args, **kwargs):
        opened.append(Path(file))
        return plain_open(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", counted)
    assert len(names(tmp_path, "model.degree == 3")) == 3
    assert len(opened) == len(set(opened))
    assert {file.parent for file in opened} == paths


def test_a_run_of_several_points_is_one_row_with_its_best(outputs):
    ((row, _),) = selected(run_entries(outputs), "points > 1")
    best = {"name": "fit/v0004", "points": 2, "best": "fit/v0004/1", "test_rmse": 0.1, "a": 1}
    assert {name: row[name] for name in best} == best


@pytest.mark.parametrize(
    "condition, found",
    cases("""
        test_rmse < 1e-4 | [2]
        test_rmse < 1e-4 or model.degree == 2 | [2, 1]
        test_rmse is not null and 2 <= model.degree and not model.degree == 3 | [1]
        test_rmse == None | [3]
        name in ('fit/v0001', 'fit/v0003') # a comment | [3, 1]
        model.kind != 'kan' | [4]
        -1 < test_rmse < 1 and command == 'fit' and seeds == 2 | [2, 1]
        'good' in tags | [1]
        'goo' in tags | []
        name < 3 or model.degree < "3" | []
        "COMPLETED" in status and points == 1 | [3, 2, 1]
        model.hidden == [4, -1] | [3, 2, 1]
    """),
)
def test_conditions_select_runs(outputs, condition, found):
    assert names(outputs, condition) == [f"fit/v000{number}" for number in found]


@pytest.mark.parametrize(
    "condition, message",
    cases("""
        test_rmse < | is not a condition: invalid syntax. Write it as in
        test_rmse = 1 | 'test_rmse = 1' is not a condition
        "model.degree" == 2 | is not a condition: no column is compared
        name.upper() == "FIT" | only comparisons with and, or, not are allowed
        __import__('os').system('touch canary') | only comparisons with and, or, not
        test_rmse * 2 < 1 | only comparisons with and, or, not are allowed
        [x for x in name] == name | only comparisons with and, or, not are allowed
        name.__class__ == 1 | no run has a column 'name.__class__'
        test_rms < 1 | no run has a column 'test_rms'; did you mean test_rmse
        model.degre == 2 | no run has a column 'model.degre'; did you mean model.degree
    """),
)
def test_broken_conditions_are_one_sentence(outputs, condition, message):
    with refuses(message):
        names(outputs, condition)
    for deep in ("(" * 500 + "1", "not " * 5000 + "name", "[" * 5000):
        with refuses("is not a condition"):
            names(outputs, deep)


def test_order_and_columns(outputs):
    entries = run_entries(outputs)
    for column, order in (("test_rmse", [2, 1, 4, 3]), ("-model.degree", [3, 2, 1, 4])):
        found = [entry.columns["name"] for entry in in_order(entries, column)]
        assert found == [f"fit/v000{number}" for number in order]
    columns = listed(entries, [])
    shown = "name target created test_rmse status model.degree seconds points best tags note"
    assert list(columns) == shown.split()
    assert columns["target"] == ["named", "product", "product", "product"]
    assert columns["tags"] == [None, None, None, "good, first"]
    with refuses("no run has a column 'model.degre'; did you mean model.degree"):
        listed(entries, ["model.degre"])


def test_table_has_a_row_for_each_run_with_settings_and_results(outputs):
    frame = kanrun.runs(outputs)
    assert list(frame.columns[:7]) == [
        "name",
        "command",
        "status",
        "reason",
        "created",
        "tags",
        "note",
    ]
    assert list(frame["name"]) == [f"fit/v000{number}" for number in (4, 3, 2, 1)]
    assert frame.set_index("name")["test_rmse"].dropna().to_dict() == {
        "fit/v0004": 0.1,
        "fit/v0002": 1e-5,
        "fit/v0001": 1e-3,
    }
    best = frame[frame["test_rmse"] < 1e-4].iloc[0]
    assert (best["model.degree"], best["status"], best["created"].year > 2000) == (
        3,
        "COMPLETED",
        True,
    )
    assert list(frame["tags"])[-1] == ["good", "first"]
    assert frame["note"].iloc[-1] == "a note"
    assert kanrun.runs(outputs / "nothing").empty
    assert not python(
        "-c",
        f"import kanrun, sys; kanrun.runs({str(outputs)!r}); "
        "raise SystemExit('torch' in sys.modules)",
    ).stderr


def test_a_damaged_run_is_a_row_like_others(tmp_path):
    (add(tmp_path, 1e-3) / "run.json").write_text("{")
    (add(tmp_path, 1e-3) / "records.jsonl").write_text("a: [")
    add(tmp_path, 1e-3)
    statuses = sorted(kanrun.runs(tmp_path)["status"])
    assert statuses == ["COMPLETED", "COMPLETED", "UNREADABLE"]
