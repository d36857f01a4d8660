"""What another package adds with one file (an experiment: one folder) works like what kanrun brings.

The package is what `kanrun init` writes, installed without its dependencies into a folder of its own, which a child
process has on its path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kanrun.cli.app import main

#: Runs `kanrun` on its arguments, and says in the last line of stderr whether torch was loaded.
COMMAND = """
import sys
from kanrun.cli.app import main
code = main(sys.argv[1:])
print("torch loaded" if "torch" in sys.modules else "no torch", file=sys.stderr)
sys.exit(code)
"""
QUICK = ["sampling.train=300", "sampling.test=200", "-q"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outside")
    assert main(["init", str(place / "source"), "--name", "kanrun-outside"]) == 0
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(place / "site")]
    done = subprocess.run(
        [sys.executable, *install, str(place / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place / "site"


def python(site: Path, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def kanrun(site: Path, place: Path, *words: str) -> Path:
    """Run a command that must succeed; return the folder of its run."""
    done = python(site, place, "-c", COMMAND, *words)
    assert done.returncode == 0, done.stderr
    return place / "outputs" / words[0] / "v0001"


def summary(run: Path) -> pd.Series:
    return pd.read_csv(run / "summary.csv").iloc[0]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--help"], 0, "noise-levels"),
        (["fit", "--help"], 0, "chebyshev"),
        (["noise-levels", "--help"], 0, "Train on points with more and more noise."),
        (["fit", "model=chebyshev", "model.degre=3"], 2, "did you mean model.degree?"),
        (["fit", "model=chebyshev", "model.degree=99"], 2, "model.degree=99 must be"),
        (["fit", "target=ring"], 2, "did you mean rings"),
        (["fit", "solver=momentum", "solver.momentum=1"], 2, "solver.momentum=1"),
        (["noise-levels", "levels=[-1]"], 2, "levels"),
    ],
)
def test_help_and_refusals_load_no_torch(
    site: Path, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    done = python(site, tmp_path, "-c", COMMAND, *words)
    assert done.returncode == code, done.stderr
    assert sentence in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "no torch"
    assert not (tmp_path / "outputs").exists()


def test_a_model_trains_is_saved_and_predicts(site: Path, tmp_path: Path) -> None:
    run = kanrun(site, tmp_path, "fit", "model=chebyshev", "target=exp_sin_square", "solver.steps=60", *QUICK)
    row = summary(run)
    assert (row["model"], row["shape"], row["solver"]) == ("chebyshev", "2-3-1", "lm")
    assert row["parameters"] == (2 * 3 + 3 * 1) * 5
    assert row["test_rmse"] < 0.1
    told = pd.read_csv(run / "tables" / "predictions.csv")
    told[["input:x0", "input:x1"]].set_axis(["x0", "x1"], axis=1).to_csv(tmp_path / "new.csv", index=False)
    kanrun(site, tmp_path, "predict", "fit/latest", "--input", "new.csv", "--output", "out.csv")
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")["y"], told["prediction:y"], rtol=1e-12)
    pd.DataFrame({"x0": [5.0], "x1": [0.0]}).to_csv(tmp_path / "far.csv", index=False)
    done = python(site, tmp_path, "-c", COMMAND, "predict", "fit/latest", "--input", "far.csv", "--output", "far2.csv")
    assert "the edge functions keep their values at the ends: nothing was learned there" in done.stderr


@pytest.mark.parametrize(
    "model",
    [
        ["model=mlp", "model.hidden=[8]", "solver.learning_rate=0.02"],
        ["model.hidden=[2]", "model.intervals=[3,6]", "solver.learning_rate=0.005"],
    ],
)
def test_a_solver_trains_the_models_of_kanrun(site: Path, tmp_path: Path, model: list[str]) -> None:
    words = ["solver=momentum", "target=product", *model, *QUICK]
    run = kanrun(site, tmp_path, "fit", *words)
    assert summary(run)["solver"] == "momentum"
    losses = pd.read_csv(run / "metrics.csv")["train_rmse"]
    assert len(losses) >= 50  # the number of steps that the solver declares, on each grid
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]


def test_a_target_kind_is_sampled_and_named(site: Path, tmp_path: Path) -> None:
    run = kanrun(site, tmp_path, "fit", "target=rings", "target.frequency=3", "model.intervals=[3]", *QUICK)
    assert summary(run)["target"] == "rings"
    told = pd.read_csv(run / "tables" / "predictions.csv")
    np.testing.assert_allclose(told["truth:y"], np.sin(3 * np.hypot(told["input:x0"], told["input:x1"])), rtol=1e-12)


def test_an_experiment_runs_with_figures_and_claims(site: Path, tmp_path: Path) -> None:
    run = kanrun(site, tmp_path, "noise-levels", "seeds=2", "solver.steps=20", "executor=local", *QUICK)
    table = pd.read_csv(run / "summary.csv")
    assert list(table["noise"]) == [0, 0, 0.1, 0.1]
    assert (run / "figures" / "noise.png").is_file()
    told = json.loads((run / "run.json").read_text())
    assert told["status"] == "COMPLETED"
    assert [claim["sentence"] for claim in told["claims"]] == [
        "the largest noise gives a larger error than the smallest"
    ]
