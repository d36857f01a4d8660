"""SQL conditions and queries on runs."""

import io
import json
from pathlib import Path

import pytest
from cases import cases, refuses

from kanrun.runs import Manifest, Row, RunFolder, RunLabels, Status
from kanrun.runs.index import RunIndex, listed


def add(outputs, error, degree=3):
    """Make one finished run of `fit` with a configuration."""
    target = {"kind": "named", "name": "product"}
    config = {"model": {"kind": "kan", "degree": degree}, "seed": 0, "target": target}
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
    RunLabels(("good",), "a note").store(outputs / "fit/v0001")
    return outputs


def names(outputs, where=None, sort=None, tag=None, status=None):
    return [row["name"] for row in RunIndex(outputs).rows(where or "1", sort, tag, status)]


def test_a_folder_without_runs_has_no_rows(outputs):
    assert RunIndex(outputs / "nothing").rows("1") == []


def test_index_opens_each_file_of_a_run_once(tmp_path, monkeypatch):
    paths = {add(tmp_path, 1e-3) for _ in range(3)}
    opened, plain_open = [], io.open

    def counted(file, *args, **kwargs):
        opened.append(Path(file))
        return plain_open(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", counted)
    assert len(RunIndex(tmp_path).rows('"model.degree" = 3')) == 3
    assert len(opened) == len(set(opened))
    assert {file.parent for file in opened} == paths


def test_a_run_of_several_points_is_one_row_with_its_best(outputs):
    (row,) = RunIndex(outputs).rows("points > 1")
    best = {"name": "fit/v0004", "points": 2, "best": "fit/v0004/1", "test_rmse": 0.1, "a": 1}
    assert {name: row[name] for name in best} == best


@pytest.mark.parametrize(
    "condition, found",
    cases("""
        test_rmse < 1e-4 | [2]
        test_rmse < 1e-4 or "model.degree" = 2 | [2, 1]
        test_rmse is not null and 2 <= "model.degree" and not "model.degree" = 3 | [1]
        test_rmse IS NULL | [3]
        name in ('fit/v0001', 'fit/v0003') -- a comment | [3, 1]
        "MODEL.KIND" = 'mlp' | []
        -1 < test_rmse and command = 'fit' and seeds = 2 | [2, 1]
    """),
)
def test_conditions_select_runs(outputs, condition, found):
    assert names(outputs, condition) == [f"fit/v000{number}" for number in found]


@pytest.mark.parametrize(
    "condition, message",
    cases("""
        test_rmse < | is not valid SQL
        load_extension('x') | is not valid SQL
        1; DROP TABLE runs | is not valid SQL
        test_rms < 1 | no run has a column 'test_rms' ... did you mean test_rmse
        model.degree = 2 | names with a dot need double quotes: "model.degree"
    """),
)
def test_broken_conditions_are_one_sentence(outputs, condition, message):
    with refuses(message):
        names(outputs, condition)


@pytest.mark.parametrize(
    "sql, message",
    cases("""
        SELECT point, "model.kind" FROM points | no point has ... 'model.kind'; runs have it
        SELECT point, "sta" FROM points | no point has a column 'sta'; did you mean status
        SELECT name FROM runs WHERE "model.knd" = 1 | no run has ... did you mean model.kind
        SELECT p.run FROM (SELECT run FROM points) p ORDER BY "rum" | no point has ... 'rum'
        SELECT nothing FROM runs | is not valid SQL
        DELETE FROM runs | is not valid SQL
        INSERT INTO runs (name) VALUES ('x') | is not valid SQL
        ATTACH DATABASE 'x.db' AS x | is not valid SQL
        PRAGMA journal_mode=WAL | is not valid SQL
        SELECT 1; DROP TABLE runs | is not valid SQL
        CREATE TABLE x (y) | is not valid SQL
    """),
)
def test_queries_cannot_write_or_name_absent_columns(outputs, sql, message):
    with refuses(message):
        RunIndex(outputs).query(sql)
    assert [path.name for path in outputs.iterdir()] == ["fit"]


def test_order_columns_status_and_tags(outputs):
    assert names(outputs, sort="test_rmse") == [f"fit/v000{number}" for number in (2, 1, 4, 3)]
    assert names(outputs, sort="-model.degree")[:2] == ["fit/v0003", "fit/v0002"]
    assert len(names(outputs, status="complete")) == 4
    assert names(outputs, status="running") == names(outputs, tag="goo") == []
    assert names(outputs, tag="good") == ["fit/v0001"]
    every = RunIndex(outputs)
    columns = listed(every, every.rows("1"), [])
    shown = "name target started test_rmse status model.degree seconds points best tags note"
    assert list(columns) == shown.split()
    assert columns["target"] == ["named", "product", "product", "product"]
    with refuses("no run has a column 'model.degre'; did you mean model.degree"):
        listed(every, every.rows("1"), ["model.degre"])


@pytest.mark.parametrize(
    "sql, found",
    [
        (
            'SELECT name, "model.degree" AS degree FROM runs WHERE test_rmse < 1 '
            "ORDER BY test_rmse",
            {"name": ["fit/v0002", "fit/v0001", "fit/v0004"], "degree": [3, 2, None]},
        ),
        (
            "SELECT name, a, test_rmse FROM points WHERE point = 1",
            {"name": ["fit/v0004/1"], "a": [1], "test_rmse": [0.1]},
        ),
        (
            'WITH "the best" AS (SELECT points.name AS "a ""b""", points."a" /* "c" */ '
            'FROM points WHERE point = 1) -- a "comment"\n'
            'SELECT "a ""b""", max("a"), \'a "text"\' AS "t" FROM "the best"',
            {'a "b"': ["fit/v0004/1"], 'max("a")': [1], "t": ['a "text"']},
        ),
    ],
)
def test_queries_read_runs_and_points(outputs, sql, found):
    """Names in double quotes are understood."""
    assert RunIndex(outputs).query(sql) == found


def test_a_damaged_run_is_a_row_like_others(tmp_path):
    (add(tmp_path, 1e-3) / "run.json").write_text("{")
    (add(tmp_path, 1e-3) / "records.jsonl").write_text("a: [")
    add(tmp_path, 1e-3)
    rows = RunIndex(tmp_path).rows("1")
    assert [row["status"] for row in rows] == ["COMPLETED", "COMPLETED", "UNREADABLE"]
    assert json.dumps(rows)
