"""Grid extension: a KAN trained on finer and finer grids, each starting from the one before.

Reproduces the KAN paper's section 2.4 (arXiv 2404.19756, Figure 2.3) on exp(sin(pi x0) + x1^2): the
staircase of the loss, the error against the number of grid intervals G, and the training time.
`parts` says what is run:

- `schedules`: each schedule of the configuration with warm starts; its best grid is chosen on
  validation points;
- `scratch`: grids of the first schedule alone, with the same solver, starts and steps;
- `order`: the same schedule for several degrees without the penalty, to see the theory's G^-(k +
  1);
- `overfit`: few points, exact and noisy, with the penalty that validation chooses, and with neither
  of the two.

It differs from the paper in the solver (second order) and in the smoothness penalty, whose weight
validation chooses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import ExtendGridConfig
from kanrun.runs.records import Note, Record, Row

if TYPE_CHECKING:
    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: ExtendGridConfig) -> list[dict[str, Any]]:
    """Return the cells of every part, as differences from the configuration."""
    return [{"part": part, **cell} for part in cfg.parts for cell in _cells_of(cfg, part)]


def _cells_of(cfg: ExtendGridConfig, part: str) -> list[dict[str, Any]]:
    from kanrun.experiments.extend_grid.extension import penalises, schedule_of

    def along(*intervals: int) -> dict[str, Any]:
        return {"schedule": {"kind": "list", "intervals": list(intervals)}}

    if part == "schedules":
        pairs = itertools.product(cfg.shapes, cfg.schedules)
        return [{"hidden": hidden, "schedule": entry} for hidden, entry in pairs]
    if part == "scratch":
        grids = cfg.scratch_intervals or schedule_of(cfg.schedules[0]).grids
        return [{"hidden": hidden, **along(g)} for hidden in cfg.shapes for g in grids]
    if part == "order":
        # Widths that compete do not try the penalty on every grid.
        shared = {"hidden": min(cfg.shapes, key=sum), "n_train": cfg.order_points}
        return [{"degree": k, **shared, **along(*cfg.order_intervals)} for k in cfg.degrees]
    whole = {"n_train": cfg.overfit_points, **along(*cfg.overfit_intervals)}
    # Without a penalty, nothing but the training error may choose a network.
    bare = {**whole, "penalised": False, "validation_fraction": 0.0}
    both = [whole, bare] if penalises(cfg.solver) else [bare]
    noisy = [{**cell, "noise": cfg.overfit_noise} for cell in both] if cfg.overfit_noise else []
    return [*both, {**bare, **along(cfg.overfit_intervals[-1])}, *noisy]


def check(cfg: ExtendGridConfig) -> None:
    """Build everything that a run would build, without training."""
    from kanrun.experiments.extend_grid import extension as study

    from kanrun.study.build import make_plan

    study.check_settings(cfg)
    problem = study.problem_of(cfg, {}, cfg.seed)
    for cell in cells(cfg):
        one = study.extension(cfg, cell, problem.inputs, problem.outputs)
        make_plan(one.cfg.model, one.cfg.solver, problem)
    for sampled in {str(study.sampling_of(cfg, cell)): cell for cell in cells(cfg)}.values():
        study.problem_of(cfg, sampled, cfg.seed)


def run(cfg: ExtendGridConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train along one schedule: yield rows of each step, then of the stages and the summary."""
    from kanrun.experiments.extend_grid import extension as study

    from kanrun.engine.training import train
    from kanrun.study.build import factory, make_plan
    from kanrun.study.evaluation import follow
    from kanrun.study.resources import generator
    from kanrun.study.saved import slider_checkpoint

    problem = study.problem_of(cfg, cell, seed)
    one = study.extension(cfg, cell, problem.inputs, problem.outputs)
    if one.left_out:
        yield Note(
            f"max_parameters={cfg.max_parameters} leaves out the grids {one.left_out}",
            warning=True,
        )
    plan, _ = make_plan(one.cfg.model, one.cfg.solver, problem)
    create, plan = factory(one.cfg.model, problem, plan.solver), one.schedule.applied(plan)
    if one.marks["start"] == "scratch":
        trained = study.from_scratch(create, problem, plan, seed)
    else:
        events = train(create, problem.data, plan, generator(seed, "training"))
        trained = yield from follow(events, one.step_rows)
    yield from study.stage_rows(one, problem, trained)
    yield from study.published_rows(one, problem, trained)
    yield Row("summary", study.summary(one, problem, trained))
    if cell["part"] == "schedules" and seed == cfg.seed:
        grids = {f"{stage.intervals} intervals": stage.network for stage in trained.stages}
        title = f"The KAN {one.marks['shape']} along {one.marks['schedule']}"
        yield from slider_checkpoint(problem, grids, "grid", title, seed)


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from kanrun.experiments.extend_grid.plots import draw_parts

    yield from draw_parts(tables)


def claims(tables: Tables) -> Claims:
    """Return claims on exactness, order, what the penalty prevents, and what warm starts save."""
    from kanrun.experiments.extend_grid.claim_checks import claims_of

    return list(claims_of(tables["stages"]))
