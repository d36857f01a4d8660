"""Fixtures that run the command line in this process with a fake, fast experiment `fit`."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest

from kanrun.errors import TrainingFailed, UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Row


@dataclass
class FakeFit:
    """Fake experiment that records its configurations and seeds.

    With `model.degree` 7 it fails, with 8 it has a bug, and with 9 it is interrupted.
    """

    configs: list[Any] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    stop_at: int | None = None  # seed at which a run is interrupted


@pytest.fixture
def fit(monkeypatch):
    """Replace the experiment `fit`."""
    monkeypatch.delenv("KANRUN_DEBUG", raising=False)
    fake = FakeFit()
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
        if degree == 7:
            raise TrainingFailed("the loss is not finite at step 3")
        if degree == 8:
            raise ZeroDivisionError("a bug")
        if degree == 9:
            raise KeyboardInterrupt
        yield Row("metrics", {"seed": seed, "step": 0, "train_rmse": 1.0})
        yield Row("summary", {"seed": seed, "degree": degree, "test_rmse": 0.5})

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
