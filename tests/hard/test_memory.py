"""Memory: runs that cannot fit are refused early, and the estimate is a lower bound."""

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from cases import cases
from kanrun.experiments.fit.config import FitConfig
from processes import python
from run_files import finished

from kanrun.config import SamplingConfig
from kanrun.model.settings import KANConfig
from kanrun.runs import Run
from kanrun.study.resources import estimate_memory


@pytest.mark.parametrize(
    "words, sentence",
    cases("""
        model.intervals=100000000 | GiB
        model.hidden=[5,1000000] | GiB
        model=mlp model.hidden=[1000000,100000] | GiB
        sampling.n_train=10000000000 | GiB
        threads=100000 | exceeds the limit
        target=runge model=bezier model.control_points=100000000 | from 2 to 1001
    """),
)
def test_too_large_a_run_is_refused_before_its_folder(words, sentence, refused):
    assert sentence in refused(f"fit {words}")


def test_force_runs_what_may_not_fit(command, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    line = "fit -q target=runge model=polynomial sampling.n_train=50 figures=none"
    said = command(line, code=2).err
    assert re.search(r"would take at least \S+ GiB of memory, .* or add --force", said)
    assert not (Path.cwd() / "outputs").exists()
    assert command(f"{line} --force").run.status == "COMPLETED"


#: Runs `kanrun`, and prints what it used.
PROGRAM = """
import resource
from kanrun.cli.app import main
assert main() == 0
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss, used.ru_utime)
"""


def used(line, folder):
    """Run a command line in a folder, and return the largest memory in MiB and the CPU seconds."""
    done = python("-c", PROGRAM, *line.split(), cwd=folder)
    memory, seconds = map(float, done.stdout.split()[-2:])
    return memory / (2**20 if sys.platform == "darwin" else 2**10), seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, hidden",
    [
        ("solver=adam solver.steps=3 model.hidden=[400,400]", [400, 400]),
        ("solver=lbfgs solver.steps=3", [5]),
    ],
)
def test_runs_take_more_than_the_estimate(words, hidden, tmp_path):
    peak, _ = used(f"fit -q sampling.n_train=200000 {words}", tmp_path)
    cfg = FitConfig(model=KANConfig(hidden=hidden), sampling=SamplingConfig(n_train=200_000))
    assert estimate_memory(cfg).memory / 2**20 < peak


CELLS = [f"{{sampling: {{n_test: {1000 + number}}}}}" for number in range(300)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainings",
    [["n_seeds=300"], ["-m", "seed=range(300)"], [f"suite=[{','.join(CELLS)}]"]],
    ids=["seeds", "points", "cells"],
)
def test_the_memory_of_a_long_study_is_flat(tmp_path, trainings):
    """Over 200 trainings, the memory of the program and of two workers grows by at most 5%."""
    code = "import sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = ["fit", "-q", "target=runge", "model.hidden=[]", "sampling.n_train=200", *trainings]
    command = [sys.executable, "-c", code, *words, "n_jobs=2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    summary = tmp_path / "outputs" / "fit" / "v0001" / "summary.csv"
    samples = []  # number of finished cells, and bytes of each process
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            held = {each.pid: each.memory_info().rss for each in (parent, *parent.children())}
            samples.append((summary.read_text().count("\n") - 1, held))
        time.sleep(0.25)
    assert process.returncode == 0
    early = [held for done, held in samples if 40 <= done < 100]
    late = [held for done, held in samples if 240 <= done < 300]

    def median(part, pid):
        return np.median([held[pid] for held in part if pid in held])

    kept = [pid for pid in early[0] if all(pid in held for held in early)]
    grown = {pid: median(late, pid) / median(early, pid) - 1 for pid in kept if pid in late[0]}
    assert len(grown) >= 3  # the program and its workers
    assert max(grown.values()) <= 0.05


@pytest.mark.slow
def test_predictions_hold_one_block_of_rows(tmp_path):
    """A million rows take at most 64 MiB more memory than a thousand."""
    finished("fit target=runge model=polynomial sampling.n_train=50 figures=none", tmp_path)
    peaks = []
    for rows in (1000, 1_000_000):
        x = np.random.default_rng(0).uniform(-1, 1, (rows, 3))
        np.savetxt(tmp_path / "x.csv", x, "%.6g", ",", header="x0,b,c", comments="")
        peaks.append(used("predict fit/v0001 x.csv -o y.csv --force --outputs .", tmp_path)[0])
    print(f"\n1,000 rows: {peaks[0]:.0f} MiB; 1,000,000 rows: {peaks[1]:.0f} MiB")
    assert peaks[1] - peaks[0] < 64


@pytest.mark.slow
def test_a_table_of_a_million_rows_is_fitted_within_four_gib(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1_000_000, 10))
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.3 * x[:, 3] ** 2 + 0.5 * draw.normal(size=len(x))
    names = ",".join([*(f"c{column}" for column in range(10)), "y"])
    rows = np.column_stack([x, y])
    np.savetxt(tmp_path / "rows.csv", rows, "%.6g", ",", header=names, comments="")
    line = "fit -q target.path=rows.csv target.outputs=y model.baselines=false"
    memory, seconds = used(line, tmp_path)
    error = Run(tmp_path / "outputs" / "fit" / "v0001").table("summary")["cv_rmse"].iloc[0]
    print(f"\n{memory / 1024:.2f} GiB, {seconds:.0f} CPU s, cv_rmse {error:.3f} (noise 0.5)")
    assert memory < 4 * 1024
    assert error < 0.55
