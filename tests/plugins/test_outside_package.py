"""Components of another package work like built-in ones.

The package is the example of docs/tutorials/experiment.md. It is installed without dependencies
into a folder, which child processes have on their path.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from cases import cases
from processes import python
from run_files import change_record, finished

from kanrun.cli.app import main
from kanrun.runs import Run

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "experiment.md"
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
        (place / "source" / name).write_text(block, encoding="utf-8")
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
    f"noise-levels n_seeds=2 solver.steps=5 model.hidden=[2] model.intervals=[3] {SEARCHLESS}",
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


def test_a_target_kind_is_sampled_and_named(run):
    assert run(1).table("summary")["target"].tolist() == ["rings"]
    told = run(1).table("predictions")
    expected = np.sin(3 * np.hypot(told["input:x0"], told["input:x1"]))
    np.testing.assert_allclose(told["truth:y"], expected, rtol=1e-12)


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
