"""Sweeps whose jobs run in other processes, by Hydra's launcher plugins."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from kanrun.errors import UsageError
from kanrun.launch.refusals import LAUNCHERS, check_slurm
from kanrun.runs import Run

# Python runs a sitecustomize.py on its path in every process, workers included.
FAKE = """
import sys, types

fake = types.ModuleType("kanrun.experiments.fit")

def run(cfg, cell, seed):
    from kanrun.errors import TrainingFailed
    from kanrun.runs.records import Row
    print("a library prints to standard output")
    if cfg.model.degree == 7:
        raise TrainingFailed("the loss is not finite at step 3")
    yield Row("summary", {"seed": seed, "degree": cfg.model.degree})

fake.run = run
fake.cells = lambda cfg: [{}]
fake.figures = lambda tables: iter(())
fake.claims = lambda tables: []
sys.modules[fake.__name__] = fake
"""


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "name"), [("joblib", "joblib"), ("submitit", "submitit_local")])
def test_a_launcher(tmp_path: Path, plugin: str, name: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(FAKE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path")}
    code = "import sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = ["fit", "-q", "-m", f"hydra/launcher={name}", "model.degree=3,4,7"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "outputs/fit/v0001\n"), done.stderr
    folder = tmp_path / done.stdout.strip()
    status = [json.loads((folder / job / "run.json").read_text())["status"] for job in "012"]
    assert status == ["COMPLETED", "COMPLETED", "FAILED"]
    assert "kanrun: job 2 (model.degree=7): the loss is not finite at step 3" in done.stderr
    with (folder / "summary.csv").open(newline="") as file:
        assert [row["model.degree"] for row in csv.DictReader(file)] == ["3", "4"]


def test_slurm_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = {name: target for target, name in LAUNCHERS.items()}
    monkeypatch.setenv("PATH", str(tmp_path))
    check_slurm(OmegaConf.create({"_target_": places["submitit_local"]}))
    with pytest.raises(UsageError, match="whose srun is not found here"):
        check_slurm(OmegaConf.create({"_target_": places["submitit_slurm"]}))
    (tmp_path / "srun").touch(mode=0o755)
    check_slurm(OmegaConf.create({"_target_": places["submitit_slurm"]}))


@pytest.mark.slow
def test_a_sweep_whose_launcher_is_killed_is_resumed_to_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    code = "import sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = [
        "fit",
        "-q",
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "seed=range(6)",
        "solver=adam",
        "solver.steps=150",
        "target=runge",
        "model.intervals=[5]",
    ]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        [*command, "--outputs", "whole"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [*command, "--outputs", "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    whole, killed = (Run(tmp_path / name / "fit" / "v0001") for name in ("whole", "killed"))
    until = time.monotonic() + 300
    while not list(killed.path.glob("*/summary.csv")) and time.monotonic() < until:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left  # its workers end by themselves
    begun = len(list(killed.path.glob("*/run.json")))
    again = [sys.executable, "-c", code, "runs", "resume", str(killed.path), "-q"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for before, after in zip(whole.jobs, killed.jobs, strict=True):
        errors = [list(run.table("summary")["test_rmse"]) for run in (before, after)]
        assert errors[0] == errors[1]
    print(
        f"\nlauncher killed when {begun} of 6 jobs had begun: all 6 have the numbers of an undisturbed sweep"
    )
