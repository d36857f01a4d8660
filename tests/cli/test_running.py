"""Runs by the real command: folders, standard output, exit codes, and records."""

import csv
import gc
import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml
from cases import cases
from run_files import change_record, record_of


def test_a_run_leaves_a_folder_and_names_it(kanrun, fit):
    result = kanrun("fit model.degree=2 seed=4")
    assert result.folder == Path("outputs/fit/v0001")
    assert "a library prints" in result.err
    assert (result.folder / "run.log").exists()
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert (config["model"]["degree"], config["seed"]) == (2, 4)
    record = record_of(result.folder)
    assert record["status"] == "COMPLETED"
    assert record["points"][0]["overrides"] == ["model.degree=2", "seed=4"]
    assert fit.configs[0].model.degree == 2
    assert type(fit.configs[0].target).__name__ == "NamedTarget"


def test_garbage_collection_begins_with_the_run(kanrun):
    gc.disable()  # `kanrun.__main__` does the same
    try:
        kanrun("runs list")
        assert not gc.isenabled()
        kanrun("fit -q")
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_quiet_run_prints_nothing_of_its_own(kanrun):
    result = kanrun("fit -q")
    assert result.err.splitlines() == ["a library prints to standard output"]


def test_folders_of_outputs_may_have_any_characters(kanrun, tmp_path, monkeypatch):
    name = "a 'b' (c), d=$e {f} \\"
    kanrun("fit -q --outputs", name)
    assert (tmp_path / name / "fit" / "v0001" / "config.yaml").exists()
    kanrun("fit -q --outputs a${b}", code=2)
    assert not (tmp_path / "a${b}").exists()
    monkeypatch.setenv("KANRUN_OUTPUTS", "elsewhere")
    assert kanrun("fit -q").folder == Path("elsewhere/fit/v0001")


@pytest.mark.parametrize(
    "words, code, status, said",
    cases("""
        model.degree=7 | 1 | FAILED | kanrun: the loss is not finite at step 3
        model.degree=8 | 1 | FAILED | kanrun: ZeroDivisionError: a bug
        model.degree=9 | 130 | INTERRUPTED | ''
        --strict | 1 | COMPLETED | the error is small
    """),
)
def test_status_and_exit_code_follow_the_end_of_a_run(kanrun, words, code, status, said):
    result = kanrun(f"fit -q {words}", code=code)
    record = record_of(result.folder)
    assert record["status"] == status
    assert said in result.err.splitlines()[-1]
    assert "Traceback" not in result.err  # the traceback is recorded, not printed
    assert ("Traceback" in (record["trace"] or "")) == (status == "FAILED")


def test_interrupted_run_is_resumed_from_its_seed(kanrun, fit, interrupted):
    line = "fit -q n_seeds=3 +note=kept target=expression target.formula=sqrt(x0)"
    folder = interrupted(line, 2)
    assert kanrun("runs resume latest -q").folder == folder
    assert fit.seeds == [0, 1, 2, 2]
    assert (fit.configs[-1].note, fit.configs[-1].target) == ("kept", fit.configs[0].target)
    assert record_of(folder)["status"] == "COMPLETED"
    assert record_of(folder)["points"][0]["overrides"][0] == "n_seeds=3"
    again = kanrun("runs resume fit/v0001")
    assert again.folder == folder
    assert "nothing left to do" in again.err
    assert fit.seeds == [0, 1, 2, 2]


def rows(folder):
    """Point and seed of each row of the summary."""
    with (folder / "summary.csv").open(newline="") as file:
        return [(row["point"], row["seed"]) for row in csv.DictReader(file)]


def test_resume_of_several_points_runs_what_ended_early_and_what_never_began(kanrun, fit, tmp_path):
    fit.stop_at = 2
    words = "-m seed=0,1 model.degree=3,7 n_seeds=3 target.formula=sqrt(x0)"
    stopped = kanrun(f"fit -q {words} target=expression", code=130)
    assert "`kanrun runs resume outputs/fit/v0001` continues" in stopped.err
    shown = kanrun("runs show fit/v0001").out
    assert "2 of 12 trainings are finished and kept, 10 restart" in shown
    fit.stop_at = None
    fit.seeds[:] = []
    result = kanrun(
        "runs resume outputs/fit/v0001 -q", code=1
    )  # degree 7 fails; the other points run
    assert result.folder.resolve() == (tmp_path / stopped.folder).resolve()
    assert fit.seeds == [2, 0, 1, 2, 1, 2, 3, 1, 2, 3]
    assert fit.configs[-1].target.formula == "sqrt(x0)"
    kept = [("0", "0"), ("0", "1"), ("0", "2"), ("2", "1"), ("2", "2"), ("2", "3")]
    assert rows(result.folder) == kept
    points = [kanrun(f"runs show fit/v0001/{n} --json").out for n in range(4)]
    assert [json.loads(each)["status"] for each in points] == ["COMPLETED", "FAILED"] * 2
    assert json.loads(points[2])["overrides"][:2] == ["seed=1", "model.degree=3"]


def test_a_run_of_several_points_is_interrupted_again_and_goes_on_elsewhere(
    kanrun, fit, interrupted
):
    folder = interrupted("fit -q -m seed=0,1,2")
    for path in folder.glob("config*.yaml"):
        local = path.read_text().replace("kind: serial", "kind: local")
        path.write_text(local)
    listed = [run["status"] for run in kanrun("runs list --json").json]
    assert listed == ["INTERRUPTED"]
    alone = kanrun("runs resume fit/v0001/1", code=2)
    assert "is a point of a run, which is resumed as a whole" in alone.err
    fit.stop_at = 1
    again = kanrun("runs resume fit/v0001 -q --executor serial", code=130)
    assert "`kanrun runs resume outputs/fit/v0001 --executor serial` continues" in again.err
    assert rows(folder) == [("0", "0")]
    assert record_of(folder)["executor"]["kind"] == "serial"
    fit.stop_at = None
    kanrun("runs resume fit/v0001 -q --executor serial")
    assert fit.seeds == [0, 0, 1, 1, 2]


def test_resume_of_several_points_that_are_complete_or_damaged(kanrun, fit):
    folder = kanrun("fit -q -m seed=0,1").folder
    again = kanrun("runs resume latest")
    assert again.folder == folder
    assert "nothing left to do" in again.err
    kanrun("runs resume latest -q --strict", code=1)
    first, second = record_of(folder)["points"]
    for points, said in (
        ([], "has no points"),
        ([first, second | {"number": 5}], "does not describe points"),
        ([first, second | {"base": 7}], "does not describe points"),
        ({}, "does not hold what is expected"),
    ):
        change_record(folder, status="INTERRUPTED", points=points)
        (line,) = kanrun("runs resume fit/v0001", code=None).err.splitlines()
        assert said in line
    assert fit.seeds == [0, 1]


def test_resume_of_a_run_that_another_host_did_not_end(kanrun, interrupted):
    folder = interrupted("fit -q")
    change_record(folder, status="RUNNING", host="node17", pid=1)
    refused = kanrun("runs resume latest -q", code=2)
    assert not refused.out
    (line,) = refused.err.splitlines()
    assert "was started on the host node17 (process 1)" in line
    assert line.endswith("If it has ended, add --force.")
    assert record_of(folder)["resumed"] == []
    kanrun("runs resume latest -q --force")
    record = record_of(folder)
    assert (record["status"], record["host"] != "node17") == ("COMPLETED", True)


def test_resume_follows_no_link_out_of_the_folder(kanrun, interrupted, tmp_path):
    log = interrupted("fit -q") / "run.log"
    log.unlink(missing_ok=True)
    log.symlink_to(tmp_path / "elsewhere.txt")
    result = kanrun("runs resume latest -q", code=2)
    assert not result.out
    assert "run.log is a link" in result.err
    assert not (tmp_path / "elsewhere.txt").exists()


def test_resume_from_a_broken_configuration(kanrun, interrupted):
    folder = interrupted("fit -q")
    (whole,) = record_of(folder)["bases"]
    for bases in (
        [whole | {"model": whole["model"] | {"degree": "x"}}],
        [whole | {"model": whole["model"] | {"kind": "os.system"}}],
        [[1]],
        "a",
    ):
        change_record(folder, bases=bases)
        (line,) = kanrun("runs resume latest -q", code=None).err.splitlines()
        assert "run.json" in line or "os.system" in line
    assert record_of(folder)["status"] == "INTERRUPTED"


def test_sweep_runs_every_point_and_writes_a_summary(kanrun, fit):
    result = kanrun("fit -m model.degree=2,4 seed=1")
    assert [cfg.model.degree for cfg in fit.configs] == [2, 4]
    with (result.folder / "summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["point"], row["model.degree"], row["degree"]) for row in table] == [
        ("0", "2", "2"),
        ("1", "4", "4"),
    ]
    assert "seed=1" not in table[0]
    assert sorted(path.name for path in result.folder.iterdir() if path.suffix == ".yaml")


def test_a_failed_point_does_not_end_the_others(kanrun):
    result = kanrun("fit -q -m model.degree=7,8,2", code=1)
    record = record_of(result.folder)
    assert record["status"] == "FAILED"
    reason = "2 of 3 points failed; the first, point 0 (model.degree=7): the loss is not finite"
    assert record["reason"].startswith(reason)
    assert [failure["point"] for failure in record["failures"]] == [0, 1]
    assert f"kanrun: {record['reason']}" in result.err.splitlines()
    assert "point 0 (model.degree=7) failed: the loss is not finite at step 3" in result.err
    assert "point 1 (model.degree=8) failed: ZeroDivisionError: a bug" in result.err


@pytest.mark.parametrize("word", ["tags=[a],[b]", "max_cpu_seconds=1,2", "executor=serial,local"])
def test_settings_of_the_whole_run_cannot_be_swept(refused, word):
    assert "is a setting of the whole run" in refused("fit -m", word)


def test_a_signal_while_a_run_begins_is_recorded(kanrun, monkeypatch):
    monkeypatch.setattr(
        "kanrun.runs.folder.repository", lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    result = kanrun("fit -q -m seed=0,1", code=143)
    assert "still running" not in result.err
    assert record_of(result.folder)["status"] == "INTERRUPTED"


def test_a_table_takes_all_rows_unless_told(kanrun, fit, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    line = "fit -q target=table target.path=a.csv target.inputs=[a] target.outputs=[b]"
    kanrun(line)
    kanrun(line, "sampling.n_test=50")
    kanrun("fit -q")
    sizes = [(cfg.sampling.n_train, cfg.sampling.n_test) for cfg in fit.configs]
    assert sizes == [(None, None), (None, 50), (None, 1000)]


def test_users_files_add_choices_to_groups(kanrun, fit, tmp_path):
    (tmp_path / "mine" / "target").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "fit").mkdir(parents=True)
    wave = "defaults: [expression, _self_]\nformula: sin(x0)\n"
    (tmp_path / "mine" / "target" / "wave.yaml").write_text(wave)
    (tmp_path / "mine" / "target" / "plain.yaml").write_text("kind: expression\nformula: cos(x0)\n")
    (tmp_path / "mine" / "target" / "typo.yaml").write_text("kind: expression\nformla: cos(x0)\n")
    (tmp_path / "mine" / "study" / "fit" / "deep.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /target: wave\nmodel: {hidden: [2, 2]}\n"
    )
    kanrun("fit -q --config-dir mine target=wave")
    kanrun("fit -q --config-dir mine target=plain")
    kanrun("fit -q --config-dir mine study=deep -m seed=0,1")
    assert [cfg.target.formula for cfg in fit.configs] == [
        "sin(x0)",
        "cos(x0)",
        "sin(x0)",
        "sin(x0)",
    ]
    assert fit.configs[-1].model.hidden == [2, 2]
    refused = kanrun("fit -q --config-dir mine target=typo", code=2)
    assert "formla" in refused.err


def test_a_stored_configuration_runs_again(kanrun, fit):
    folder = kanrun("fit -q model.degree=2").folder
    result = kanrun(f"fit -q --config-path {folder} --config-name config seed=7")
    assert result.folder.name == "v0002"
    assert (fit.configs[1].model.degree, fit.configs[1].seed) == (2, 7)
    assert type(fit.configs[1].model).__name__ == "KANConfig"
    nameless = kanrun(f"fit -q --config-path {folder}", code=2)
    assert "config" in nameless.err


def test_command_restores_arguments_environment_and_logging(kanrun):
    from hydra.core.global_hydra import GlobalHydra

    def state():
        root = logging.getLogger()
        return list(sys.argv), dict(os.environ), list(root.handlers), root.level

    before = state()
    kanrun("fit -q -m seed=0,1")
    kanrun("fit model.degree=abc", code=2)
    assert state() == before
    assert not GlobalHydra.instance().is_initialized()
