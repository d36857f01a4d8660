"""Fixtures that run the command line in this process with a fake, fast experiment `fit`."""

import sys
import types

import pytest

from kanrun.errors import TrainingFailed, UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Row

#: What a training of the fake experiment does, by the degree of its model.
FAILURES = {
    7: TrainingFailed("the loss is not finite at step 3"),
    8: ZeroDivisionError("a bug"),
    9: KeyboardInterrupt(),
}


@pytest.fixture
def fit(monkeypatch):
    """Replace the experiment `fit`; return its configurations, seeds, error, and last seed."""
    monkeypatch.delenv("KANRUN_DEBUG", raising=False)
    fake = types.SimpleNamespace(configs=[], seeds=[], stop_at=None, error=0.5)
    module = types.ModuleType("kanrun.experiments.fit")

    def check(cfg):
        if cfg.model.kind == "kan" and cfg.model.degree < 0:
            raise UsageError(f"model.degree={cfg.model.degree} must be at least 0")

    def run(cfg, cell, seed):
        fake.configs.append(cfg)
        fake.seeds.append(seed)
        if seed == fake.stop_at:
            raise KeyboardInterrupt
        print("a library prints to standard output")
        degree = getattr(cfg.model, "degree", 3)
        if degree in FAILURES:
            raise FAILURES[degree]
        yield Row("metrics", {"seed": seed, "step": 0, "train_rmse": 1.0})
        yield Row("summary", {"seed": seed, "degree": degree, "test_rmse": fake.error})

    module.check = check
    module.cells = lambda cfg: [{}]
    module.run = run
    module.figures = lambda tables: iter(())
    module.claims = lambda tables: [Claim("the error is small", 0.5, "at most 0.1", False)]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.fixture
def kanrun(fit, command):
    """Run a command line over the fake experiment."""
    return command


@pytest.fixture
def interrupted(kanrun, fit):
    """Return the folder of a run that was interrupted at a seed."""

    def call(line, seed=0):
        fit.stop_at = seed
        folder = kanrun(line, code=130).folder
        fit.stop_at = None
        return folder

    return call


@pytest.fixture
def refused(fit, refused):
    return refused
