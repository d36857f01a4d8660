"""Components of another package work like built-in ones.

The package is the example of docs/tutorials/experiment.md, with a second module that declares a
model, a solver and a candidate function. It is installed without dependencies into a folder, which
child processes have on their path.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import cases
from processes import python
from run_files import change_record, finished

from kanrun.cli.app import main
from kanrun.runs import Run

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "experiment.md"
ADDITIONS = '''
from dataclasses import dataclass
from typing import Annotated

from kanrun.config import Count, Positive, candidate, model, solver
from kanrun.model.settings import ModelConfig, SolverConfig

candidate("logistic_slope", "exp(x0)/(1+exp(x0))^2")


@model
@dataclass
class WavesConfig(ModelConfig):
    """A sum of waves of fixed frequencies."""

    count: Annotated[Count, "number of waves"] = 3
    kind: str = "waves"

    @staticmethod
    def network():
        import torch
        from kanrun.engine.networks import Network

        class Waves(Network):
            kind = "waves"
            extrapolation_note = "the waves continue"

            def __init__(self, shape, count):
                super().__init__()
                self.ends = tuple(shape)
                self.waves = count
                size = (shape[0] * count, shape[-1])
                self.heights = torch.nn.Parameter(torch.zeros(size, dtype=torch.float64))

            @property
            def shape(self):
                return self.ends

            def describe(self):
                return {"kind": self.kind, "shape": list(self.shape), "count": self.waves}

            @classmethod
            def from_description(cls, description):
                return cls(description["shape"], description["count"])

            def forward(self, x):
                steps = torch.arange(1, self.waves + 1, dtype=x.dtype)
                return (x[..., None] * steps).sin().flatten(-2) @ self.heights

        return Waves

    def create(self, problem, generator):
        return self.network()(problem.shape_of(self), self.count)


@solver
@dataclass
class DescentConfig(SolverConfig):
    """Gradient descent."""

    rate: Annotated[Positive, "step length"] = 0.01
    kind: str = "descent"

    def create(self, network, objective, plan, generator):
        return Descent(network, objective, self.rate)


class Descent:
    tolerance = plateau_tolerance = 0.0
    truncated = converged = False
    loss = float("nan")

    def __init__(self, network, objective, rate):
        self.network, self.objective, self.rate = network, objective, rate
        self.rows = len(objective.samples)

    def step(self):
        import torch

        parameters = list(self.network.trained().values())
        samples = self.objective.samples
        loss = ((self.network(samples.x) - samples.y) / self.objective.size).square().mean()
        with torch.no_grad():
            for one, slope in zip(parameters, torch.autograd.grad(loss, parameters)):
                one -= self.rate * slope
        self.loss = float(loss.detach())
        return self.loss

    def state(self):
        return {}

    def restore(self, state):
        pass
'''
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
    text = PAGE.read_text(encoding="utf-8")
    (place / "source").mkdir()
    for language, name in {"python": "noise_levels.py", "toml": "pyproject.toml"}.items():
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        block = block.replace('= "noise_levels"', '= "noise_levels"\nadditions = "additions"')
        block = block.replace('["noise_levels"]', '["noise_levels", "additions"]')
        (place / "source" / name).write_text(block, encoding="utf-8")
    (place / "source" / "additions.py").write_text(ADDITIONS)
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
    fit --help | 0 | rings
    noise-levels --help | 0 | Train on points with increasing noise.
    fit --cfg job target=rings target.frequency=5 | 0 | frequency: 5
    fit target=ring | 2 | did you mean rings
    fit target=rings target.frequncy=3 | 2 | did you mean target.frequency?
    fit --cfg job model=waves model.count=5 | 0 | count: 5
    fit model=wavs | 2 | did you mean waves?
    fit solver=descent solver.rate=0 | 2 | solver.rate=0
    noise-levels levels=[-1] | 2 | levels
    init my_kans | 2 | init
""")


def test_help_and_refusals_load_no_torch(site, tmp_path):
    told = kanrun(site, tmp_path, *(words for words, _, _ in LIGHT))
    for (words, code, sentence), (got, said, torch) in zip(LIGHT, told, strict=True):
        assert (got, torch) == (code, False), (words, said)
        assert sentence in said, words
    assert not (tmp_path / "outputs").exists()


#: Settings without searches, which are slow.
SEARCHLESS = "solver.n_starts=1 solver.smoothness_weight=1e-12"
FITS = [
    "fit figures=none target=rings target.frequency=3 model.hidden=[2] model.intervals=[3] "
    f"{SEARCHLESS}",
    "fit figures=none target.formula=sin(x0)+sin(3*x1) model=waves",
    "fit figures=none target=product model.hidden=[2] model.intervals=[3] solver=descent",
    f"noise-levels n_seeds=2 solver.steps=5 model.hidden=[2] model.intervals=[3] {SEARCHLESS}",
]


INTERPRET = "interpret from_run=fit/v0003 budget=2 figures=none candidates=[logistic_slope,x] -q"


@pytest.fixture(scope="module")
def place(site, tmp_path_factory):
    """Return a folder with the runs of all command lines in `FITS`, in this order."""
    place = tmp_path_factory.mktemp("runs")
    lines = [*(f"{line} {QUICK}" for line in FITS), INTERPRET]
    for code, said, _ in kanrun(site, place, *lines):
        assert code == 0, said
    return place


@pytest.fixture
def run(place):
    """Return a function that returns the run of a command with this number."""
    return lambda number, command="fit": Run(place / "outputs" / command / f"v{number:04}")


def test_a_target_kind_is_sampled_and_named(run):
    assert run(1).table("summary")["target"].tolist() == ["rings"]
    told = run(1).table("predictions")
    expected = np.sin(3 * np.hypot(told["input:x0"], told["input:x1"]))
    np.testing.assert_allclose(told["truth:y"], expected, rtol=1e-12)


def test_a_model_and_a_solver_train(site, place, run):
    assert run(2).table("summary")["model"].tolist() == ["waves"]
    assert run(2).table("summary")["test_rmse"][0] < 1e-12
    told = run(2).table("predictions")
    told.rename(columns=lambda name: name.removeprefix("input:")).to_csv(place / "new.csv")
    ((code, said, _),) = kanrun(site, place, "predict fit/v0002 new.csv --output new.out.csv")
    assert code == 0, said
    predicted = pd.read_csv(place / "new.out.csv")["y"]
    np.testing.assert_allclose(predicted, told["prediction:y"], rtol=1e-12)
    assert run(3).table("summary")["solver"].tolist() == ["descent"]
    losses = run(3).table("metrics")["train_rmse"]
    assert losses.iloc[-1] < 0.5 * losses.iloc[0]


def test_a_candidate_is_compared_with_edges(run):
    assert "logistic_slope" in set(run(1, "interpret").table("candidates")["candidate"])


def test_an_experiment_runs_with_figures_and_claims(run):
    done = run(1, "noise-levels")
    assert done.table("summary")["noise"].tolist() == [0, 0, 0.1, 0.1]
    assert (done.path / "figures" / "noise.png").is_file()
    assert done.status == "COMPLETED"
    (claim,) = done.manifest.claims
    assert claim.sentence == "the largest noise gives a larger error than the smallest"


def test_an_interrupted_run_asks_for_its_plugins(tmp_path, capsys):
    run = finished("curves parts=[identities] figures=none", tmp_path)
    change_record(run, status="INTERRUPTED", versions={"plug-in waves.rings": "waves 1.0"})
    assert main(["runs", "resume", str(run)]) == 2
    assert "used the plug-in waves.rings, which is not installed" in capsys.readouterr().err
