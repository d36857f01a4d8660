"""Components of another package work like built-in ones.

The package is the one that `kanrun init` writes. It is installed without dependencies into a
folder, which child processes have on their path.
"""

import json
import os

import numpy as np
import pandas as pd
import pytest
from cases import cases
from processes import python

from kanrun.cli.app import main
from kanrun.runs import Run

#: Runs `kanrun` on each argument list in `words.json`, and writes exit code, output, errors, and
#: whether torch is loaded.
COMMANDS = """
import contextlib, io, json, pathlib, sys
from kanrun.cli.app import main
from kanrun.runs import Run
told = []
for words in json.loads(pathlib.Path("words.json").read_text()):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    told.append([code, out.getvalue(), "torch" in sys.modules])
pathlib.Path("told.json").write_text(json.dumps(told))
"""
QUICK = "sampling.n_train=300 sampling.n_test=200 -q"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("outside")
    assert main(["init", str(place / "source"), "--name", "kanrun-outside"]) == 0
    words = f"-m pip install -q --no-deps --no-build-isolation --target {place}/site {place}/source"
    python(*words.split())
    return place / "site"


def kanrun(site, place, *lines):
    """Run command lines in one process that has the package on its path."""
    (place / "words.json").write_text(json.dumps([line.split() for line in lines]))
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    python("-c", COMMANDS, cwd=place, env=environment)
    return json.loads((place / "told.json").read_text())


#: Lines, their exit codes, and a part of what they print.
LIGHT = cases("""
    --help | 0 | noise-levels
    fit --help | 0 | bspline, chebyshev, kan
    noise-levels --help | 0 | Train on points with increasing noise.
    fit --cfg job model=chebyshev model.degree=5 | 0 | degree: 5
    fit model=chebishev | 2 | did you mean chebyshev?
    fit model=chebyshev model.degre=3 | 2 | did you mean model.degree?
    fit model=chebyshev model.degree=99 | 2 | a whole number from 1 to 30 (degree of the polynomi
    fit target=ring | 2 | did you mean rings
    fit solver=momentum solver.momentum=1 | 2 | solver.momentum=1
    noise-levels levels=[-1] | 2 | levels
""")


def test_help_and_refusals_load_no_torch(site, tmp_path):
    told = kanrun(site, tmp_path, *(words for words, _, _ in LIGHT))
    for (words, code, sentence), (got, said, torch) in zip(LIGHT, told, strict=True):
        assert (got, torch) == (code, False), (words, said)
        assert sentence in said, words
    assert not (tmp_path / "outputs").exists()


#: Settings without searches, which are slow.
SEARCHLESS = "solver.n_starts=1 solver.smoothness_weight=1e-12"
MOMENTUM = "fit figures=none solver=momentum target=product"
FITS = [
    f"fit figures=none model=chebyshev target=exp_sin_square solver.steps=60 {SEARCHLESS}",
    f"{MOMENTUM} model=mlp model.hidden=[8] solver.learning_rate=0.02",
    f"{MOMENTUM} model.hidden=[2] model.intervals=[3,6] solver.learning_rate=0.005",
    "fit figures=none target=rings target.frequency=3 model.hidden=[2] model.intervals=[3] "
    f"{SEARCHLESS}",
    f"noise-levels n_seeds=2 solver.steps=5 {SEARCHLESS}",
]


@pytest.fixture(scope="module")
def place(site, tmp_path_factory):
    """Return a folder with the runs of all command lines in `FITS`, in this order."""
    place = tmp_path_factory.mktemp("runs")
    for code, said, _ in kanrun(site, place, *(f"{line} {QUICK}" for line in FITS)):
        assert code == 0, said
    return place


@pytest.fixture
def run(place):
    """Return a function that returns the run of a command with this number."""
    return lambda number, command="fit": Run(place / "outputs" / command / f"v{number:04}")


def test_a_model_trains_is_saved_and_predicts(site, place, run):
    row = run(1).table("summary").iloc[0]
    assert (row["model"], row["shape"], row["solver"]) == ("chebyshev", "2-3-1", "lm")
    assert row["parameters"] == (2 * 3 + 3 * 1) * 5
    assert row["test_rmse"] < 0.1
    told = run(1).table("predictions")
    told.rename(columns=lambda name: name.removeprefix("input:")).to_csv(place / "new.csv")
    pd.DataFrame({"x0": [5.0], "x1": [0.0]}).to_csv(place / "far.csv")
    lines = (f"predict fit/v0001 {name}.csv --output {name}.out.csv" for name in ("new", "far"))
    near, far = kanrun(site, place, *lines)
    assert near[0] == far[0] == 0
    predicted = pd.read_csv(place / "new.out.csv")["y"]
    np.testing.assert_allclose(predicted, told["prediction:y"], rtol=1e-12)
    assert "the edge functions keep their values at the ends" in far[1]


@pytest.mark.parametrize("number", [2, 3])
def test_a_solver_trains_the_models_of_kanrun(run, number):
    assert run(number).table("summary")["solver"].tolist() == ["momentum"]
    losses = run(number).table("metrics")["train_rmse"]
    assert len(losses) >= 50  # the solver's default number of steps, on each grid
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]


def test_a_target_kind_is_sampled_and_named(run):
    assert run(4).table("summary")["target"].tolist() == ["rings"]
    told = run(4).table("predictions")
    expected = np.sin(3 * np.hypot(told["input:x0"], told["input:x1"]))
    np.testing.assert_allclose(told["truth:y"], expected, rtol=1e-12)


def test_an_experiment_runs_with_figures_and_claims(run):
    done = run(1, "noise-levels")
    assert done.table("summary")["noise"].tolist() == [0, 0, 0.1, 0.1]
    assert (done.path / "figures" / "noise.png").is_file()
    assert done.status == "COMPLETED"
    (claim,) = done.manifest.claims
    assert claim.sentence == "the largest noise gives a larger error than the smallest"
