"""The maintainers' benchmarks: their names, their problems, and the module that they share."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import norm

from kanrun.formulas.parsing import parse

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = yaml.safe_load((FOLDER / "names.yaml").read_text())
SUITES = [name for name, (command, _) in NAMES.items() if command.startswith("formulas.py")]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def test_results_in_parallel_are_in_the_order_of_the_tasks(module):
    run = module("_running").run
    assert run([-3, 1, -2], abs, n_jobs=2) == run([-3, 1, -2], abs) == [3, 1, 2]


def test_names_are_listed_and_an_unknown_one_is_refused_in_one_sentence():
    call = [sys.executable, FOLDER]
    listed = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(NAMES)
    assert all((FOLDER / command.split()[0]).exists() for command, _ in NAMES.values())
    refused = subprocess.run([*call, "nguyem"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_the_table_that_is_printed_is_written(module, tmp_path, capsys):
    table = module("_running").write_table("small", [{"problem": "a", "rmse": 0.5}], tmp_path)
    assert pd.read_csv(tmp_path / "table.csv").equals(table)
    assert "rmse" in capsys.readouterr().out


@pytest.mark.parametrize("suite", SUITES)
def test_the_problems_of_a_suite_load(module, suite):
    formulas = module("formulas")
    cfg = formulas.composed(suite, ["budget=1"])
    names = [formulas.name_of(entry) for entry in cfg.suite]
    assert len(names) == len(set(names)) >= 11


def test_a_longer_form_is_not_accepted(module):
    accepted = [parse("x0/sqrt(1 - 0.25*x1**2)")]
    texts = ("2*x0/sqrt(4 - x1**2)", "x0*sqrt(1/((2 - x1)*(2 + x1)))")
    found = [module("formulas").in_accepted_form(parse(text), accepted) for text in texts]
    assert found == [True, False]


def test_normal_densities_and_their_quantiles_have_the_same_scores(module):
    tables = module("tables")
    mean, y = np.random.default_rng(0).standard_normal((2, 500))
    quantiles = mean[:, None] + 0.8 * norm.ppf(tables.LEVELS)
    one, other = tables.normal_scores(y, mean, 0.8), tables.quantile_scores(y, quantiles)
    assert other["crps"] == pytest.approx(one["crps"], rel=0.06)
    assert other["coverage"] == one["coverage"]
