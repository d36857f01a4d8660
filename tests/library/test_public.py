"""The public names: documentation, types for other programs, and light imports."""

import doctest
import os
import shutil
import sys
from pathlib import Path

import pytest
from processes import python
from run_files import finished

import kanrun

PROGRAM = """
from typing import assert_type

import numpy as np
import torch
from matplotlib.figure import Figure

import kanrun
from kanrun import KAN, MLP, KANClassifier, KANLayer, KANRegressor
from kanrun import KanrunError, Model, fit, interpret, load_run

kan = KAN([2, 5, 1], intervals=5, degree=3, domain=(-1.0, 1.0))
assert_type(kan.refine(20), KAN)
assert_type(kan.prune(torch.zeros(3, 2)), KAN)
assert_type(kan.edge(0, 0, 1)(0.5, derivative=2), torch.Tensor)
assert_type(kan.regularisation(torch.zeros(3, 2)), torch.Tensor)
module: torch.nn.Module = torch.nn.Sequential(KANLayer(2, 3), MLP([3, 1]))
model = fit(np.zeros((9, 2)), np.zeros(9), model="kan", hidden=[3])
assert_type(model, Model)
assert_type(model.score([[1.0]], [1.0]), float)
assert_type(model.plot(), Figure)
assert_type(Model.load("file"), Model)
assert_type(load_run("fit/latest").model(), Model)
regressor: KANRegressor = KANRegressor("additive", hidden=(3,)).fit([[1.0]], [1.0])
probabilities = KANClassifier().predict_proba([[1.0]])
found = interpret(np.zeros((30, 1)), np.zeros(30))
try:
    KAN([2])
except KanrunError:
    pass
"""


def test_public_names_are_listed_and_documented():
    assert [name for name in dir(kanrun) if not name.startswith("_")] == sorted(kanrun.__all__)
    for name in kanrun.__all__:
        assert getattr(kanrun, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'kan'"):
        _ = kanrun.kan


@pytest.mark.parametrize("name", kanrun.__all__)
def test_the_examples_of_the_reference_hold(name, tmp_path, monkeypatch):
    """The examples of `load_run` and `runs` need a run, which is made first."""
    monkeypatch.chdir(tmp_path)
    if name in ("load_run", "runs"):
        finished("fit figures=none target=runge model=polynomial", tmp_path / "outputs")
    thing = getattr(kanrun, name)
    found = doctest.DocTestFinder(recurse=False).find(
        thing, name, module=sys.modules[thing.__module__], globs={}
    )
    assert found[0].examples
    assert doctest.DocTestRunner().run(found[0]).failed == 0


@pytest.mark.slow
def test_types_pass_mypy_strict_in_a_program_outside(tmp_path):
    """The program imports kanrun as it is laid out in a wheel."""
    root = Path(__file__).parents[2]
    site = tmp_path / "site"
    shutil.copytree(root / "kanrun", site / "kanrun")
    shutil.copytree(root / "experiments", site / "kanrun" / "experiments")
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ("--strict", "--follow-imports=silent", "--cache-dir", "cache", "program.py")
    python("-m", "mypy", *words, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(site)})
