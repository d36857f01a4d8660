"""Numbers of a run do not depend on hash seed, executor, clock or units."""

import functools
import os

import numpy as np
import pandas as pd
import pytest
from processes import python
from run_files import finished, numbers_of

from kanrun.runs import find_runs

CALLS = {
    "kan": "fit n_seeds=2 sampling.n_train=200",
    "adam": "fit target=runge solver=adam solver.steps=50 n_seeds=2",
    "table": "fit target=bundled target.name=diabetes n_seeds=2",
    "continual": "continual n_seeds=2",
    "formula": "interpret target.formula=exp(-x)*sin(3*y) budget=5 n_seeds=2",
    "equation": "solve equation=pendulum n_seeds=2",
}
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: Program text that makes all clocks run 100 times as fast.
FAST = """
import time
for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
    real = getattr(time, name)
    setattr(time, name, lambda real=real, start=real(): start + 100 * (real() - start))
"""
#: Environment, further arguments, and first lines of the program.
WAYS = {
    "another hash seed": ({"PYTHONHASHSEED": "7"}, "", ""),
    "two threads of the libraries": (dict.fromkeys(LIBRARIES, "2"), "", ""),
    "two workers": ({}, " n_jobs=2", ""),
    "a fast clock": ({}, "", FAST),
}


def tables_of(line, outputs, environment, before=""):
    """Return every table of a run as exact text, without times and process numbers."""
    code = f"{before}\nimport sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = [*line.split(), "-q", "--outputs", outputs]
    python("-c", code, *words, env={**os.environ, **environment})
    (run,) = find_runs(outputs)
    others = {"baselines"}  # models of other libraries
    return {name: numbers_of(run.table(name)) for name in set(run.tables) - others}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_nothing_around_a_run_changes_its_numbers(call, tmp_path):
    one = {"PYTHONHASHSEED": "0", **dict.fromkeys(LIBRARIES, "1")}
    expected = tables_of(CALLS[call], tmp_path / "first", one)
    for number, (way, (environment, words, before)) in enumerate(WAYS.items()):
        if before and call == "formula":  # the search under a fast clock has its own test
            continue
        place = tmp_path / str(number)
        found = tables_of(CALLS[call] + words, place, {**one, **environment}, before)
        differing = [name for name in expected if found[name] != expected[name]]
        assert not differing, f"{way}: other numbers in {differing}"


MODELS = {
    "kan": "model=kan model.hidden=[1] model.intervals=[5] solver.n_starts=2",
    "auto": "model=auto",
}
MANY = [
    pytest.param(model, precision, 10.0**x, 10.0**y, marks=pytest.mark.slow)
    for model, precision, powers in (
        ("kan", "float64", (-300, -150, 150, 300)),
        ("kan", "float32", (-300, -30, 30, 300)),
        ("auto", "float64", (-300, -40, 40, 300)),
    )
    for x in powers
    for y in powers
]


def relative_error(folder, model, precision, x_unit, y_unit):
    """Fit 300 rows of a smooth function; return the test RMSE divided by `y_unit`, and R2."""
    x = np.random.default_rng(0).uniform(0, 1, 300)
    pd.DataFrame({"x": x * x_unit, "y": (1 + np.sin(3 * x) / 2) * y_unit}).to_csv(
        folder / "t.csv", index=False
    )
    words = f"target.outputs=y sampling.n_test=60 precision={precision} {MODELS[model]}"
    run = finished(f"fit target.path={folder}/t.csv {words}", folder / "outputs")
    summary = pd.read_csv(run / "summary.csv")
    return float(summary.test_rmse[0]) / y_unit, float(summary.r2[0])


#: Units near the limits of float64. For `auto` the unit is a power of two, because others change
#: the last digits of exact points, and the search for the kernel then ends elsewhere.
ENDS = [
    (model, "float64", 1 / unit, unit)
    for model, unit in (("kan", 1e-300), ("kan", 1e300), ("auto", 2.0**-996))
]


@pytest.fixture(scope="module")
def in_unit_1(tmp_path_factory):
    """Return a function that returns `relative_error` for data with the units 1."""
    place = tmp_path_factory.mktemp("unit")
    return functools.cache(lambda *model: relative_error(place, *model, 1, 1))


@pytest.mark.parametrize("model, precision, x_unit, y_unit", [*ENDS, *MANY])
def test_accuracy_does_not_depend_on_units(model, precision, x_unit, y_unit, tmp_path, in_unit_1):
    error, r2 = relative_error(tmp_path, model, precision, x_unit, y_unit)
    assert error == pytest.approx(in_unit_1(model, precision)[0], rel=1e-5)
    assert 0 < error < 1e-4
    assert 0.9999 < r2 < 1
