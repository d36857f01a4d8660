"""How the test error grows with the noise of the training points.

With enough points the error of a least squares fit is proportional to the noise, down to what the model can represent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kanrun.runs import Claim
    from kanrun.runs.records import Record
    from kanrun_outside.noise_levels.settings import NoiseLevelsConfig


def cells(cfg: NoiseLevelsConfig) -> list[dict[str, Any]]:
    """One cell per level."""
    return [{"noise": level} for level in cfg.levels]


def run(cfg: NoiseLevelsConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train on one level; one row."""
    from kanrun.engine.training import train
    from kanrun.runs.records import Row
    from kanrun.study.build import factory, make_plan
    from kanrun.study.problem import make_problem
    from kanrun.study.resources import generator
    from kanrun.study.training_records import follow

    problem = make_problem(cfg, cfg.target, replace(cfg.sampling, noise=cell["noise"]), seed)
    plan, _ = make_plan(cfg.model, cfg.solver, problem)
    events = train(factory(cfg.model, problem, plan.solver), problem.data, plan, generator(seed, "training"))
    trained = yield from follow(events, lambda event: ())
    yield Row("summary", {"noise": cell["noise"], "model": cfg.model.kind, "test_rmse": trained.errors.test})


def figures(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Test error against noise."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot(tables["summary"]["noise"], tables["summary"]["test_rmse"], "o")
    axes.set(xlabel="noise", ylabel="test RMSE")
    yield "noise", figure


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """More noise, more error."""
    from kanrun.runs import Claim

    by_level = tables["summary"].groupby("noise")["test_rmse"].median()
    worst = float(by_level.iloc[-1] / by_level.iloc[0])
    return [Claim("the largest noise gives a larger error than the smallest", worst, "> 1", worst > 1)]
