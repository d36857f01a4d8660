"""Reading runs: damaged and manipulated ones, and finding runs by name.

Runs that were killed or lost power are tested in `tests/hard`.
"""

import pytest
from cases import cases, refuses
from run_files import change_record

from kanrun.errors import KanrunError, StorageFailed
from kanrun.runs import (
    Manifest,
    Row,
    Run,
    RunFolder,
    Status,
    find_run,
    find_runs,
)


def make_run(outputs, command="fit", status=Status.COMPLETED):
    folder = RunFolder.create(outputs, Manifest(command))
    folder.rows(Row("metrics", {"step": 0}), {"seed": 0})
    if status is not None:
        folder.finish(status)
    return folder


def test_run_without_run_json_counts_as_killed_before_it_started(tmp_path):
    (tmp_path / "fit" / "v0001").mkdir(parents=True)
    (run,) = find_runs(tmp_path)
    assert run.status == "INTERRUPTED (killed before it started)"
    with pytest.raises(StorageFailed, match="missing"):
        _ = run.manifest
    assert [*run.tables, *run.checkpoints, *run.figures] == []


@pytest.mark.parametrize(
    "changes, status",
    [
        ({}, "RUNNING"),
        ({"process_start": 1e9}, "INTERRUPTED (killed)"),  # the number was used again
        ({"pid": -1, "further": {"a key of": "a later version"}}, "INTERRUPTED (killed)"),
        ({"host": "elsewhere", "pid": 1}, "RUNNING"),
    ],
)
def test_a_run_that_has_not_ended_is_running_if_its_process_may_be(tmp_path, changes, status):
    folder = make_run(tmp_path, status=None)
    change_record(folder.path, **changes)
    assert Run(folder.path).status == status


@pytest.mark.parametrize(
    "content, message",
    [
        ("[" * 100_000, "is not valid JSON"),
        ("\0", "is not valid JSON"),
        ("", "is not valid JSON"),
        ({"metrics": {"a": 10**400}}, r"\$\.metrics"),
        *cases(r"""
            [] | does not hold what is expected
            {'status': 'DONE'} | status
            {'status': ['RUNNING']} | status
            {'seconds': 'long'} | Expected `float \| null`, got `str` - at `\$\.seconds`
            {'claims': [{'sentence': 's', 'bound': '', 'measured': [1], 'holds': True}]} | \$\.claims\[0\]\.measured
            {'claims': [{'sentence': 's', 'bound': '', 'measured': 1}]} | required field `holds`
            {'started': 'yesterday'} | \$\.started
        """),  # noqa: E501
    ],
)
def test_a_damaged_run_json_is_one_error_and_never_stops_a_listing(tmp_path, content, message):
    folder = make_run(tmp_path)
    if isinstance(content, dict):
        change_record(folder.path, **content)
    else:
        (folder.path / "run.json").write_text(str(content))
    (run,) = find_runs(tmp_path)
    assert run.status == "UNREADABLE"
    with pytest.raises(StorageFailed, match=rf"run\.json.*{message}"):
        _ = run.manifest
    assert find_run("latest", tmp_path).name == "fit/v0001"


#: Names of runs as typed in the folder `fit/v0002`, and the runs that they mean.
NAMES = cases("""
    curves/latest | curves/v0001
    cu | curves/v0001
    latest | curves/v0001
    fit/latest | fit/v0003
    fit/v0003 | fit/v0003
    fit/v0002/ | fit/v0002
    fit/latest/2 | fit/v0003/2
    fit/3/2 | fit/v0003/2
    ../v0003/10 | fit/v0003/10
    ../v0003/tables/.. | fit/v0003
    . | fit/v0002
    no1 | fit/v0001
""")
UNKNOWN = cases("""
    fit/v0003/11 | no run 'fit/v0003/11'
    fit/v0009 | no run 'fit/v0009' ... fit/v000
    '' | no run ''
    ~nobody_of_this_name/x | there is no run '~nobody_of_this_name/x'
    fit/v | 3 runs begin with 'fit/v': fit/v0001, ... ; write more of the name
    good | 2 runs have the tag good: fit/v0001, fit/v0002; name one
""")


def test_runs_are_found_by_names_tags_and_places(tmp_path, make_points, monkeypatch):
    with refuses("no runs yet"):
        find_run("latest", tmp_path)
    for number in (1, 2):
        change_record(make_run(tmp_path).path, tags=["good", f"no{number}"])
    make_points(tmp_path, *[1.0] * 11)
    make_run(tmp_path, "curves")
    (tmp_path / "fit" / "notes").mkdir()
    runs = find_runs(tmp_path)
    assert [run.name for run in runs] == ["curves/v0001", "fit/v0001", "fit/v0002", "fit/v0003"]
    assert [point.name for point in runs[-1].points] == [f"fit/v0003/{n}" for n in range(11)]
    assert runs[1].points[0].point is None
    change_record(tmp_path / "fit/v0001", started="2100-01-01T00:00:00+00:00")  # a wrong clock
    monkeypatch.chdir(tmp_path / "fit" / "v0002")
    for text, name in NAMES:
        assert find_run(text, tmp_path).name == name
    by_its_link = find_run(str(tmp_path / "fit/latest"), tmp_path / "nothing")
    assert by_its_link.path.name == "v0003"
    for text, sentence in UNKNOWN:
        with refuses(sentence):
            find_run(text, tmp_path)
    assert find_runs(tmp_path / "fit/v0001/run.json") == []


def test_point_of_a_run_can_be_read_like_a_run(tmp_path, make_points):
    make_points(tmp_path, 3.0, 1.0, None)
    with refuses("run of 3 points; ... The best is fit/v0001/1."):
        find_run("fit/latest", tmp_path, one=True)
    whole = find_run("fit/latest", tmp_path)
    best = find_run("fit/1/1", tmp_path, one=True)
    assert whole.status == "FAILED"
    assert [point.status for point in whole.points] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert whole.points[2].manifest.reason == "it diverged"
    assert best.config == {"a": 1, "target": {"kind": "named"}}
    assert best.columns("summary") == {"seed": [0], "test_rmse": [1.0]}
    assert best.overrides == ["a=1"]
    assert whole.best.name == best.name
    for read, absent in ((whole.checkpoint, "no checkpoint"), (whole.table, "no table")):
        with pytest.raises(KanrunError, match=absent):
            read("../run")
    (tmp_path / "fit/v0001/run.json").write_text("point\n")
    assert not Run(whole.path).has_points
