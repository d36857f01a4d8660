"""Train one model on one target, and show what it learned.

The default reproduces the setting of the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3): a [2, 5, 1] network on
exp(sin(pi x0) + x1^2), its grid extended while it learns. It differs from the paper in the solver (second order, with a
smoothness penalty chosen on held-out training points) and in where the result is taken: at the grid that validation
points chose, never the test points. A `suite` of the configuration makes it a study over targets and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kanrun.config import FitConfig
from kanrun.engine.networks import KAN, active_shape, count_parameters
from kanrun.engine.training import Done, Event, Pause, Plan, Stage, Step, Trained, train
from kanrun.figures import edges, loss_curve, network_diagram, predictions, residuals
from kanrun.runs import Claim
from kanrun.runs.records import Checkpoint, Note, Record, Row
from kanrun.study.evaluation import edge_table, linear_rmse, points_of, prediction_table, scores
from kanrun.study.models import Create, factory
from kanrun.study.plans import make_plan
from kanrun.study.problem import Problem, make_problem
from kanrun.study.saved import model_checkpoint
from kanrun.study.seeds import generator
from kanrun.study.suite import bound_claims, bound_rows, check_bounds, suite_cells, with_cell
from kanrun.study.training_records import done_from_checkpoint, done_to_checkpoint, follow, stage_row, step_row


def cells(cfg: FitConfig) -> list[dict[str, Any]]:
    """One cell, or the suite's."""
    return suite_cells(cfg.suite)


@dataclass(frozen=True)
class Fit:
    """What one training needs: its own configuration, the problem, the plan and why its solver, and fresh networks."""

    cfg: FitConfig
    problem: Problem
    plan: Plan
    why: str
    create: Create


def prepare(cfg: FitConfig, cell: Mapping[str, Any], seed: int) -> Fit:
    """Build everything that a training needs."""
    check_bounds(cell)
    cfg = with_cell(cfg, cell)
    problem = make_problem(cfg, cfg.target, cfg.sampling, seed)
    plan, why = make_plan(cfg.model, cfg.solver, problem)
    return Fit(cfg, problem, plan, why, factory(cfg.model, problem, plan.solver))


def run(
    cfg: FitConfig, cell: dict[str, Any], seed: int, resume: Checkpoint | None = None, prepared: Fit | None = None
) -> Iterator[Record]:
    """Train one network; one row per step as it trains, the rest at the end."""
    fit = prepared or prepare(cfg, cell, seed)
    done = done_from_checkpoint(resume, fit.problem.domain.device)
    if resume is None:
        yield from (Note(text, warning=True) for text in fit.problem.dataset.notes)
        if fit.cfg.model.kind in ("kan", "mlp"):
            yield Note(f"solver {fit.why}")
    events = train(fit.create, fit.problem.data, fit.plan, generator(seed, "training"), done)
    trained = yield from follow(events, _Recorded(done, resume))
    yield from _results(fit.cfg, cell, seed, fit.problem, trained, fit.plan.solver)


class _Recorded:
    """A row a step; after each grid its row; then, and at each pause, a checkpoint of all that was done so far."""

    def __init__(self, done: Done, resume: Checkpoint | None) -> None:
        self._stages = list(done.stages)
        self._lowest = resume.meta["lowest"] if resume and done.pause else None

    def __call__(self, event: Event) -> Iterator[Record]:
        if isinstance(event, Step):
            best = self._lowest is None or event.errors.selected < self._lowest
            self._lowest = event.errors.selected if best else self._lowest
            yield Row("metrics", {**step_row(event), "best": best})
            return
        if isinstance(event, Stage):
            self._stages.append(event)
            self._lowest = None
            yield Row("stages", stage_row(event))
        pause = event if isinstance(event, Pause) else None
        yield done_to_checkpoint(Done(self._stages, pause), {"lowest": self._lowest})


def _results(
    cfg: FitConfig, cell: Mapping[str, Any], seed: int, problem: Problem, trained: Trained, solver: str
) -> Iterator[Record]:
    network, dataset = trained.network, problem.dataset
    summary = {
        "target": dataset.target.name,
        "model": cfg.model.kind,
        "shape": "-".join(map(str, network.shape)),
        "train_points": points_of(dataset.train) + points_of(dataset.validation),
        "intervals": trained.chosen.intervals,
        "parameters": count_parameters(network),
        "train_rmse": trained.errors.train,
        "validation_rmse": trained.errors.validation,
        "test_rmse": trained.errors.test,
        **scores(network, problem),
        "solver": solver if cfg.model.kind in ("kan", "mlp") else "least squares",
        "seconds": trained.seconds,
    }
    if cfg.target.kind in ("table", "bundled") and (linear := linear_rmse(problem)) is not None:
        beaten = trained.errors.test is not None and trained.errors.test < linear
        verdict = "beats" if beaten else "does not beat"
        yield Note(f"the model {verdict} ordinary least squares, whose test RMSE is {linear:.4g}", warning=not beaten)
        summary["linear_rmse"] = linear
    if isinstance(network, KAN) and (kept := active_shape(network)) != network.shape:
        yield Note(f"validation kept the nodes {list(kept)} of {list(network.shape)} and pruned the others")
    yield Row("summary", summary)
    yield from bound_rows(cell, summary)
    yield prediction_table(network, problem)
    if (table := edge_table(network, problem)) is not None:
        yield table
    yield model_checkpoint(network, problem, summary, seed)


def figures(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Loss over steps, prediction against truth, residuals, and for KANs the edges and the network."""
    if "cell" in tables["summary"]:
        return
    classifies = "test_accuracy" in tables["summary"]
    yield "loss", loss_curve(tables["metrics"], "RMSE of the class probabilities" if classifies else "RMSE")
    yield "predictions", predictions(tables["predictions"])
    yield "residuals", residuals(tables["predictions"])
    if "edges" in tables:
        yield "edges", edges(tables["edges"])
        yield "network", network_diagram(tables["edges"])


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """The bounds that a suite's entries name, against the medians over seeds."""
    return bound_claims(tables)
