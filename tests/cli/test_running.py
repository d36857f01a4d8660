"""Runs by the real command: folders, standard output, exit codes, and records."""

import gc
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
    quiet = kanrun("fit -q")
    assert quiet.err.splitlines() == ["a library prints to standard output"]


def test_garbage_collection_begins_with_the_run(kanrun):
    gc.disable()  # `kanrun.__main__` does the same
    try:
        assert not kanrun("runs list").out
        assert not gc.isenabled()
        kanrun("fit -q")
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


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


def test_an_interrupted_run_goes_on_where_it_stopped(kanrun, fit):
    fit.stop_at = 2
    words = "-m seed=0,1 model.degree=3,7 n_seeds=3 +note=kept target.formula=sqrt(x0)"
    stopped = kanrun(f"fit -q {words}", code=130)
    assert "`kanrun runs resume outputs/fit/v0001` continues" in stopped.err
    shown = kanrun("runs show fit/v0001").out
    assert "2 of 12 trainings are finished and kept, 10 restart" in shown
    assert [run["status"] for run in kanrun("runs list --json").json] == ["INTERRUPTED"]
    alone = kanrun("runs resume fit/v0001/1", code=2)
    assert "is a point of a run, which is resumed as a whole" in alone.err
    again = kanrun("runs resume fit/v0001 -q --n-jobs 1", code=130)
    assert "`kanrun runs resume outputs/fit/v0001 --n-jobs 1` continues" in again.err
    fit.stop_at = None
    done = kanrun("runs resume outputs/fit/v0001 -q", code=1)  # degree 7 fails; others run
    assert done.folder.samefile(stopped.folder)
    assert fit.seeds == [0, 1, 2, 2, 2, 0, 1, 2, 1, 2, 3, 1, 2, 3]
    assert (fit.configs[-1].note, fit.configs[-1].target.formula) == ("kept", "sqrt(x0)")
    kept = done.run.table("summary")[["point", "seed", "model.degree", "degree"]]
    assert kept.to_numpy().tolist() == [
        [point, point // 2 + n, 3, 3] for point in (0, 2) for n in range(3)
    ]
    reason = "2 of 4 points failed; the first, point 1 (seed=0, model.degree=7), seed 0: the loss"
    assert f"kanrun: {reason}" in done.err
    assert "point 3 (seed=1, model.degree=7), seed 3 failed: the loss is not finite" in done.err
    record = record_of(done.folder)
    assert (record["status"], record["reason"].startswith(reason)) == ("FAILED", True)
    points = [kanrun(f"runs show fit/v0001/{n} --json").json for n in range(4)]
    assert [point["status"] for point in points] == ["COMPLETED", "FAILED"] * 2
    assert points[2]["overrides"][1:3] == ["seed=1", "model.degree=3"]


def test_a_run_that_is_complete_or_damaged_is_not_resumed(kanrun, fit):
    folder = kanrun("fit -q -m seed=0,1").folder
    again = kanrun("runs resume latest")
    assert again.folder == folder
    assert "nothing left to do" in again.err
    kanrun("runs resume latest -q --strict", code=1)
    record = record_of(folder)
    first, second = record["points"]
    (base,) = record["bases"]
    for change, said in (
        ({"points": []}, "has no points"),
        ({"points": [first, second | {"number": 5}]}, "does not describe points"),
        ({"points": [first, second | {"base": 7}]}, "does not describe points"),
        ({"bases": [base | {"model": base["model"] | {"degree": "x"}}]}, "run.json"),
        ({"bases": [base | {"model": base["model"] | {"kind": "os.system"}}]}, "os.system"),
    ):
        change_record(folder, **(record | {"status": "INTERRUPTED"} | change))
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
    assert record["status"] == "COMPLETED"
    assert record["host"] != "node17"


def test_a_signal_while_a_run_begins_is_recorded(kanrun, monkeypatch):
    monkeypatch.setattr(
        "kanrun.runs.folder.repository", lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    result = kanrun("fit -q -m seed=0,1", code=143)
    assert "still running" not in result.err
    assert record_of(result.folder)["status"] == "INTERRUPTED"


def test_a_table_takes_all_rows_unless_told(kanrun, fit, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    table = "target=table target.path=a.csv target.inputs=[a] target.outputs=[b]"
    for words in (table, f"{table} sampling.n_test=50", ""):
        kanrun(f"fit -q {words}")
    sizes = [(cfg.sampling.n_train, cfg.sampling.n_test) for cfg in fit.configs]
    assert sizes == [(None, None), (None, 50), (None, 1000)]


def test_users_files_add_choices_to_groups(kanrun, fit, tmp_path):
    for name, text in {
        "target/wave": "defaults: [expression, _self_]\nformula: sin(x0)",
        "target/plain": "kind: expression\nformula: cos(x0)",
        "target/typo": "kind: expression\nformla: cos(x0)",
        "study/fit/deep": "# @package _global_\ndefaults:\n  - override /target: wave\n"
        "model: {hidden: [2, 2]}",
    }.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in ("target=wave", "target=plain", "study=deep -m seed=0,1"):
        kanrun(f"fit -q --config-dir mine {words}")
    formulas = [cfg.target.formula for cfg in fit.configs]
    assert formulas == ["sin(x0)", "cos(x0)", "sin(x0)", "sin(x0)"]
    assert fit.configs[-1].model.hidden == [2, 2]
    assert "formla" in kanrun("fit -q --config-dir mine target=typo", code=2).err


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
