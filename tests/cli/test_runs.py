"""`kanrun runs`: listing, comparing, repeating and removing runs."""

import io
import math
import os
import re
import shutil
from pathlib import Path

import pytest

from kanrun.cli.commands import runs_beginning


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made") / "outputs"


@pytest.fixture
def outputs(kanrun, made):
    """Return an outputs folder with two runs and a run of two points, which are made once."""
    if made.exists():
        shutil.copytree(made, "outputs", symlinks=True)
    else:
        for words in ("model.degree=2", "model.degree=4 n_seeds=2", "-m seed=0,1"):
            kanrun(f"fit -q {words}")
        shutil.copytree("outputs", made, symlinks=True)
    return Path("outputs")


def test_runs_are_listed_and_shown(kanrun, outputs):
    kanrun("fit -q model.degree=7", code=1)
    names = [entry["name"] for entry in kanrun("runs list --json").json]
    assert names == [f"fit/v000{number}" for number in (4, 3, 2, 1)]  # points are of one run
    assert kanrun("runs list").out.splitlines()[1].split()[0:6:5] == ["fit/v0004", "FAILED"]
    shown = kanrun("runs show fit/v0001")
    assert not shown.err
    assert "model.degree=2" in shown.out
    assert "DOES NOT HOLD  the error is small: measured 0.5, bound: at most 0.1" in shown.out
    assert kanrun("runs show --json").json["status"] == "FAILED"
    assert kanrun("runs show fit/3 --json").json["points"] == ["fit/v0003/0", "fit/v0003/1"]
    assert re.search(r"^0 +\* .*\n1 +COMPLETED", kanrun("runs show fit/3").out, re.MULTILINE)


def test_tags_and_note_are_recorded_found_and_listed(kanrun, outputs):
    folder = kanrun("fit -q 'tags=[good,final]' 'note=a, b  and (c)'").folder
    shown = kanrun("runs show good").out
    assert f"{folder}: COMPLETED" in shown
    assert "tags: good, final\n" in shown
    assert "note: a, b and (c)\n" in shown
    (row,) = kanrun("runs list --json", "--where", "'final' in tags").json
    expected = ("fit/v0004", ["good", "final"], "a, b and (c)")
    assert (row["name"], row["tags"], row["note"]) == expected
    assert "good, final" in kanrun("runs list").out
    assert runs_beginning("go", outputs) == ["good"]
    assert "the same numbers" in kanrun("runs rerun good -q").err


@pytest.mark.parametrize("words", ["query 'SELECT 1'", "tag fit/1 a", "note fit/1 a", "diff 1 2"])
def test_removed_commands_are_refused(kanrun, words):
    command = words.partition(" ")[0]
    said = kanrun(f"runs {words}", code=2).err
    assert said == f"kanrun: No such command '{command}' (see kanrun runs --help).\n"


def test_completion_knows_runs_and_their_points(outputs):
    assert runs_beginning("fi", outputs) == ["fit/latest", "fit/v0003", "fit/v0002", "fit/v0001"]
    assert runs_beginning("fit/v0003/", outputs) == ["fit/v0003/0", "fit/v0003/1"]
    assert runs_beginning("la", outputs) == ["latest"]


def test_compare_shows_settings_that_differ(kanrun, outputs):
    found = kanrun("runs compare fit/1 fit/2 --json").json
    assert found["settings"] == {"n_seeds": [1, 2], "model.degree": [2, 4]}
    assert found["results"]["degree"] == [2.0, 4.0]
    shown = kanrun("runs compare fit/1 fit/2").out.splitlines()
    assert ["model.degree", "2", "4"] in [line.split() for line in shown]
    kanrun("runs compare fit/1", code=2)


def test_rerun_repeats_a_run_or_one_of_its_points_and_compares_numbers(kanrun, outputs, fit):
    for words, said in (
        ("fit/1", "the same numbers as fit/v0001: all 3 columns"),
        ("fit/3", "the same numbers as fit/v0003: all 4 columns"),
        ("fit/3/1", "the same numbers as fit/v0003/1: all 3 columns"),
    ):
        assert said in kanrun(f"runs rerun {words} -q").err
    assert fit.configs[0].model.degree == 2
    assert fit.seeds == [0, 0, 1, 1]
    assert "same numbers" not in kanrun("runs rerun fit/3 model.degree=5 -q").err
    assert [cfg.model.degree for cfg in fit.configs[-2:]] == [5, 5]


def test_rerun_names_numbers_that_differ(kanrun, outputs, fit):
    fit.error = math.nan
    differs = kanrun("runs rerun fit/1 -q", code=1)
    assert "test_rmse differs from fit/v0001: 0.5 then, nan now" in differs.err
    assert "the same numbers" in kanrun("runs rerun latest -q").err
    fit.stop_at = 0  # an interrupted run is not compared
    assert "numbers" not in kanrun("runs rerun fit/1 -q", code=130).err


def test_removing_asks_and_stays_inside_outputs(kanrun, outputs, monkeypatch):
    for answer in ("n\n", ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        refused = kanrun("runs remove fit/1", code=2)
        assert refused.err.splitlines()[-1] == "kanrun: nothing was deleted."
        assert "Abort" not in refused.err
    outside = Path("elsewhere/fit/v0001").absolute()
    outside.parent.mkdir(parents=True)
    os.rename(outputs / "fit/v0002", outside)
    link = outputs / "fit/v0009"
    link.symlink_to(outside)
    for place in (outside, link):
        kanrun(f"runs remove {place} --yes", code=2)
    assert (outside / "run.json").exists()
    link.unlink()
    (alone,) = kanrun("runs remove fit/3/1 --yes", code=2).err.splitlines()
    assert "is a point of a run, which is removed as a whole" in alone

    def there():
        return {str(path) for path in Path.cwd().rglob("*")}

    before = there()
    assert kanrun("runs remove fit/3 fit/v0003 --yes").out == "deleted outputs/fit/v0003\n"
    assert before - there() == {one for one in before if "outputs/fit/v0003" in one}
    assert kanrun("fit -q").folder.name == "v0004"  # numbers are not reused


def test_the_list_as_csv_and_by_condition(kanrun, outputs):
    found = kanrun("runs list --where 'model.degree == 4' --columns name,model.degree --csv").out
    assert found == "name,model.degree\nfit/v0002,4\n"
    kanrun("fit -q note==1+1")
    for safe, cell in ((), "=1+1"), (("--spreadsheet-safe",), "'=1+1"):
        listed = kanrun("runs list --columns note --csv", *safe).out
        assert listed.splitlines()[1] == cell
    refused = kanrun("runs list --where 'test_rmse <'", code=2)
    assert refused.err.count("\n") == 1


def test_a_run_of_points_ends_with_a_table_and_a_figure_over_the_swept_keys(kanrun):
    done = kanrun("fit -m model.degree=2,3 seed=0,1")
    assert "the best point, fit/v0001/0" in done.err
    header = next(line for line in done.err.splitlines() if " status " in line)
    assert sorted(header.split()[:4]) == ["model.degree", "point", "seed", "status"]
    assert sorted(path.name for path in (done.folder / "figures").iterdir()) == ["points.png"]
    assert "overrides: model.degree=2,3 seed=0,1\n" in kanrun("runs show fit/1").out
    assert "overrides: model.degree=3 seed=1\n" in kanrun("runs show fit/1/3").out
    compared = kanrun("runs compare fit/1 fit/1/3 --json")
    assert "fit/v0001 has 4 points; fit/v0001/0, the best, is taken" in compared.err


def test_a_dry_run_says_what_would_run_and_writes_nothing(kanrun, fit):
    said = kanrun("fit --dry-run n_seeds=3").out
    assert said.startswith("3 trainings: 1 cell x 3 seeds\n")
    assert not Path("outputs").exists()
    kanrun("fit -q model.degree=2")
    said = kanrun("fit --dry-run -m seed=0,1").out
    assert said.startswith("2 trainings: 2 points x 1 cell x 1 seed\n")
    assert fit.seeds == [0]
    assert sorted(path.name for path in Path("outputs/fit").iterdir()) == ["latest", "v0001"]
