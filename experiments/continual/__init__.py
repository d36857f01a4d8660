"""Continual learning: five peaks, one per phase, and how much of each is forgotten when the next is learned.

Reproduces the KAN paper's section 3.4 (arXiv 2404.19756, Figure 3.4): a [1, 1] KAN learns sum exp(-300 (x - c)^2) peak
by peak and forgets nothing, an MLP forgets. `parts` says what is run:

- `learners`: the paper's figure, one row per learner, with replay and EWC as baselines and KAN defaults as
  ablations;
- `intervals`: the KAN on finer grids, to see the order of its error;
- `overlap`: phases that reach into each other; `depth`: deeper KANs of the same parameters, and what keeps them.

It differs from the paper in that it measures forgetting (the paper shows pictures), and in that every learner has the
same parameters, solver, steps a phase and number of trials, the best of which counts. Solver state starts afresh in
every phase. MLPs differ in depth from trial to trial; EWC goes through its strengths for each; KANs differ in their
random start alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kanrun.config import ContinualConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.experiments.continual.learners import Learner

    from kanrun.study.experiment import Claims, Figures, Tables

Cells = list[dict[str, Any]]


def cells(cfg: ContinualConfig) -> Cells:
    """The cells of every part that is asked for; those beside the first part are trained once, not `trials` times."""
    return [
        {"part": part, "overlap": cfg.overlap, "trials": 1, **cell}
        for part in cfg.parts
        for cell in cells_of(cfg, part)
    ]


def cells_of(cfg: ContinualConfig, part: str) -> Cells:
    if part == "learners":
        from kanrun.experiments.continual.learners import learners_of

        return [{"learner": learner.name, "trials": cfg.trials} for learner in learners_of(cfg)]
    if part == "intervals":
        return [{"hidden": [], "memory": "none", "intervals": g} for g in cfg.intervals]
    if part == "overlap":
        return [
            {"learner": name, "overlap": share}
            for share in cfg.overlaps
            for name in cfg.overlap_learners
        ]
    kept = {
        True: cfg.memories,
        False: cfg.memories[:1],
    }  # one layer alone is there to be compared with
    return [
        {"hidden": list(hidden), "memory": memory}
        for hidden in cfg.shapes
        for memory in kept[len(hidden) > 0]
    ]


def check(cfg: ContinualConfig) -> None:
    """Build everything that a run would build, without training."""
    from kanrun.experiments.continual.task_sequence import check_sequence, make_sequence

    from kanrun.study.build import make_plan

    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"model={cfg.model.kind}: continual takes the KAN from `model`; MLPs are among `learners`."
        )
    check_sequence(cfg)
    sequence = make_sequence(cfg, cfg.overlap, cfg.seed)
    for learner in (learner_of(cfg, cell) for cell in cells(cfg)):
        make_plan(learner.model, cfg.solver, sequence.problem)


def learner_of(cfg: ContinualConfig, cell: Mapping[str, Any]) -> Learner:
    """The learner of a cell: one of the list by its name, or a KAN of a shape."""
    from kanrun.experiments.continual.learners import learners_of, of_shape

    from kanrun.study.build import check_model

    if "learner" in cell:
        named = {learner.name: learner for learner in learners_of(cfg)}
        if cell["learner"] not in named:
            raise UsageError(
                f"overlap_learners names {cell['learner']!r}, which is none of {', '.join(named)}."
            )
        return named[cell["learner"]]
    learner = of_shape(cfg, cell["hidden"], cell["memory"])
    if "intervals" not in cell:
        return learner
    model = replace(learner.model, intervals=cell["intervals"])
    check_model(model, cfg.dimension)
    return replace(learner, model=model, name=f"KAN, G = {cell['intervals']}")


def run(cfg: ContinualConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """All trials of one learner: a row each, and matrix, functions and summary of the best."""
    from kanrun.experiments.continual.learners import learners_of, twin_of
    from kanrun.experiments.continual.summary import (
        data,
        functions,
        matrix_rows,
        summary,
        trial_row,
    )
    from kanrun.experiments.continual.task_sequence import make_sequence
    from kanrun.experiments.continual.training import go_through

    from kanrun.study.checkpoints import slider_checkpoint

    sequence, learner = make_sequence(cfg, cell["overlap"], seed), learner_of(cfg, cell)
    place = {
        "part": cell["part"],
        "learner": learner.name,
        "memory": learner.memory,
        "overlap": cell["overlap"],
    }
    tried = []
    for number in range(cell["trials"]):
        if number and time_limit_reached():
            break
        trial = go_through(learner, cfg, sequence, number, seed)
        tried.append(trial)
        yield trial_row(place, trial)
    best = min(tried, key=lambda trial: trial.selected)
    yield from matrix_rows(place, best)
    if cell["part"] == "learners":
        yield functions(learner, sequence, best)
        yield from data(sequence)
        if seed == cfg.seed:
            phases = {
                f"after phase {number}": network for number, network in enumerate(best.networks, 1)
            }
            yield from slider_checkpoint(
                sequence.problem, phases, "phase", f"The network of {learner.name}", seed
            )
    twin = twin_of(learner, learners_of(cfg)) if "learner" in cell else None
    yield summary(place, learner, twin, sequence, best, tried)


def figures(tables: Tables) -> Figures:
    """What each part that was run shows."""
    from kanrun.experiments.continual.plots import figures_of

    yield from figures_of(tables)


def claims(tables: Tables) -> Claims:
    from kanrun.experiments.continual.claim_checks import claims_of

    return list(claims_of(tables["summary"])) if "summary" in tables else []
