"""Continual learning: five peaks, one a phase; what of the earlier ones is left when the next is learned?

Reproduces the KAN paper's section 3.4 (arXiv 2404.19756, Figure 3.4): a [1, 1] KAN learns sum exp(-300 (x - c)^2) peak
by peak and forgets nothing, an MLP forgets. `parts` says what is run:

- `learners`: the paper's figure, one row a learner, with replay and EWC as baselines, the KAN's defaults as ablations;
- `intervals`: the KAN on finer grids, to see the order of its error;
- `overlap`: phases that reach into each other; `depth`: deeper KANs of the same parameters, and what keeps them.

It differs from the paper in that it measures forgetting (the paper shows pictures), and in that every learner has the
same parameters, solver, steps a phase and number of trials, the best of which counts. Solver state starts afresh in
every phase. MLPs differ in depth from trial to trial; EWC goes through its strengths for each; KANs differ in their
random start alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from kanrun.experiments.continual import findings as judge
from kanrun.experiments.continual import plots as drawn
from kanrun.experiments.continual.course import Course, check_course, make_course
from kanrun.experiments.continual.forgetting import measure_forgetting
from kanrun.experiments.continual.learners import Learner, learners_of, of_shape, twin_of
from kanrun.experiments.continual.summary import marks, summary
from kanrun.experiments.continual.training import Trial, go_through
from matplotlib.figure import Figure

from kanrun.config import ContinualConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record, Row, Table
from kanrun.study.models import check_model
from kanrun.study.plans import make_plan

Cells = list[dict[str, Any]]


def learners(cfg: ContinualConfig) -> Cells:
    return [{"learner": learner.name, "trials": cfg.trials} for learner in learners_of(cfg)]


def intervals(cfg: ContinualConfig) -> Cells:
    return [{"hidden": [], "memory": "none", "intervals": g} for g in cfg.intervals]


def overlap(cfg: ContinualConfig) -> Cells:
    return [{"learner": name, "overlap": share} for share in cfg.overlaps for name in cfg.compared]


def depth(cfg: ContinualConfig) -> Cells:
    kept = {True: cfg.memories, False: cfg.memories[:1]}  # one layer alone is there to be compared with
    return [{"hidden": list(hidden), "memory": memory} for hidden in cfg.shapes for memory in kept[len(hidden) > 0]]


PARTS: dict[str, Callable[[ContinualConfig], Cells]] = {
    "learners": learners, "intervals": intervals, "overlap": overlap, "depth": depth,
}  # fmt: skip


def cells(cfg: ContinualConfig) -> Cells:
    """The cells of every part that is asked for; those beside the first part are trained once, not `trials` times."""
    return [
        {"part": part, "overlap": cfg.overlap, "trials": 1, **cell} for part in cfg.parts for cell in PARTS[part](cfg)
    ]


def check(cfg: ContinualConfig) -> None:
    """Build everything that a run would build, without training."""
    if not cfg.parts or not set(cfg.parts) <= set(PARTS):
        raise UsageError(f"parts={cfg.parts} must name some of {', '.join(PARTS)}.")
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(f"model={cfg.model.kind}: continual takes the KAN from `model`; MLPs are among `learners`.")
    if cfg.trials < 1:
        raise UsageError(f"trials={cfg.trials} must be at least 1.")
    check_course(cfg)
    course = make_course(cfg, cfg.overlap, cfg.seed)
    for learner in (learner_of(cfg, cell) for cell in cells(cfg)):
        make_plan(learner.model, cfg.solver, course.problem)


def learner_of(cfg: ContinualConfig, cell: Mapping[str, Any]) -> Learner:
    """The learner of a cell: one of the list by its name, or a KAN of a shape."""
    if "learner" in cell:
        named = {learner.name: learner for learner in learners_of(cfg)}
        if cell["learner"] not in named:
            raise UsageError(f"compared names {cell['learner']!r}, which is none of {', '.join(named)}.")
        return named[cell["learner"]]
    learner = of_shape(cfg, cell["hidden"], cell["memory"])
    if "intervals" not in cell:
        return learner
    model = replace(learner.model, intervals=cell["intervals"])
    check_model(model, cfg.dimension)
    return replace(learner, model=model, name=f"KAN, G = {cell['intervals']}")


def run(cfg: ContinualConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """All trials of one learner: a row each, and matrix, functions and summary of the best."""
    course, learner = make_course(cfg, cell["overlap"], seed), learner_of(cfg, cell)
    place, tried = marks(cell, learner), []
    for number in range(cell["trials"]):
        trial = go_through(learner, cfg, course, number, seed)
        tried.append(trial)
        found = measure_forgetting(trial.matrix)
        shape = "-".join(map(str, trial.network.shape))
        yield Row("metrics", {**place, "trial": number, "shape": shape, "rmse": trial.rmse, **vars(found),
                              "steps": trial.steps, "seconds": trial.seconds})  # fmt: skip
    best = min(tried, key=lambda trial: trial.selected)
    yield from matrix_rows(place, best)
    if cell["part"] == "learners":
        yield functions(learner, course, best)
        yield from data(course)
    twin = twin_of(learner, learners_of(cfg)) if "learner" in cell else None
    yield summary(place, learner, twin, course, best, tried)


def matrix_rows(place: Mapping[str, Any], best: Trial) -> Iterator[Row]:
    for after, errors in enumerate(best.matrix, 1):
        for on, error in enumerate(errors, 1):
            yield Row("matrix", {**place, "after": after, "on": on, "error": float(error)})


def functions(learner: Learner, course: Course, best: Trial) -> Table:
    """What was known after each phase, beside the truth, on all evaluation points."""
    phases, points = best.functions.shape
    x = course.everything.x.double().cpu().numpy()
    columns = {
        "learner": np.full(phases * points, learner.name),
        "kind": np.full(phases * points, learner.model.kind),
        "after": np.repeat(np.arange(1, phases + 1), points),
        **{f"x{i}": np.tile(x[:, i], phases) for i in range(x.shape[1])},
        "truth": np.tile(course.everything.y[:, 0].double().cpu().numpy(), phases),
        "output": best.functions.ravel(),
    }
    return Table("functions", columns)


def data(course: Course) -> Iterator[Record]:
    """Where each phase lies and what it shows: some of its points, the first and the last corner among them."""
    for number, phase in enumerate(course.phases, 1):
        some = np.unique(np.linspace(0, len(phase) - 1, 50).round().astype(int))
        x, y = phase.x.double().cpu().numpy()[some], phase.y[:, 0].double().cpu().numpy()[some]
        for point, value in zip(x, y, strict=True):
            places = {f"x{i}": float(coordinate) for i, coordinate in enumerate(point)}
            yield Row("data", {"phase": number, **places, "y": float(value)})


def figures(tables: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """What each part that was run shows."""
    yield from drawn.figures(tables)


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    return list(judge.claims(tables["summary"])) if "summary" in tables else []
