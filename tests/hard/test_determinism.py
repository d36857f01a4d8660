"""Determinism: the same numbers for any hash seed, number of library threads and executor."""

import os

import pytest
from processes import python

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
WAYS = {
    "another hash seed": ({"PYTHONHASHSEED": "7"}, ""),
    "two threads of the libraries": (dict.fromkeys(LIBRARIES, "2"), ""),
    "two workers": ({}, " executor=local executor.workers=2"),
}


def tables_of(line, outputs, environment):
    """Every table of the run as text, to the last digit, without times and processes."""
    code = "import sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = [*line.split(), "-q", "--outputs", outputs]
    python("-c", code, *words, env={**os.environ, **environment})
    (run,) = find_runs(outputs)
    frames = {name: run.table(name) for name in run.tables}
    return {
        name: frame[[c for c in frame if "seconds" not in str(c)]].to_csv(index=False)
        for name, frame in frames.items()
        if name != "baselines"  # other libraries' models
    }


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_nothing_around_a_run_changes_its_numbers(call, tmp_path):
    one = {"PYTHONHASHSEED": "0", **dict.fromkeys(LIBRARIES, "1")}
    expected = tables_of(CALLS[call], tmp_path / "first", one)
    for number, (way, (environment, words)) in enumerate(WAYS.items()):
        found = tables_of(CALLS[call] + words, tmp_path / str(number), {**one, **environment})
        differing = [name for name in expected if found[name] != expected[name]]
        assert not differing, f"{way}: other numbers in {differing}"
