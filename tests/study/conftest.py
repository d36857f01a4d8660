import sys
from pathlib import Path

import pandas
import pytest

# Worker processes inherit the path, and import the toy experiment by its name.
sys.path.append(str(Path(__file__).parent / "toys"))

import toy_experiment

from kanrun.config import check
from kanrun.runs import Run


@pytest.fixture
def run_toy(tmp_path):
    """Return a function that runs the toy experiment and returns the outcome and the run.

    Settings are given by name, and `points` as the further settings of each point.
    """

    def run(points=({},), **settings):
        settings.setdefault("marks", str(tmp_path))
        configs = [toy_experiment.ToyConfig(**(settings | own)) for own in points]
        for cfg in configs:
            check(cfg)
        outcome = toy_experiment.play(tmp_path / "outputs", *configs, quiet=False)
        return outcome, run.latest()

    run.latest = lambda: Run(sorted((tmp_path / "outputs" / "toy").glob("v*"))[-1])
    return run


@pytest.fixture
def same_tables():
    """Return a check that two runs have equal tables, except for times and process numbers."""

    def check_tables(a, b):
        assert list(a.tables) == list(b.tables)
        for name in a.tables:
            left, right = (
                run.table(name).drop(columns=["seconds", "pid"], errors="ignore") for run in (a, b)
            )
            pandas.testing.assert_frame_equal(left, right, check_exact=True)

    return check_tables
