"""Continual learning: five peaks, one per phase, and how much of each is forgotten.

Reproduces the KAN paper's section 3.4 (arXiv 2404.19756, Figure 3.4): a [1, 1] KAN learns sum
exp(-300 (x - c)^2) peak by peak and forgets nothing, an MLP forgets. `parts` says what is run:

- `learners`: the paper's figure, one row per learner, with replay and EWC as baselines and KAN
  defaults as ablations;
- `intervals`: the KAN on finer grids, to see the order of its error;
- `overlap`: phases that reach into each other; `depth`: deeper KANs of the same parameters, and
  what keeps them from forgetting.

It differs from the paper in that it measures forgetting (the paper shows pictures), and in that
every learner has the same parameters, solver, steps a phase and number of trials, the best of which
counts. Solver state is reset in every phase. MLPs differ in depth from trial to trial; EWC goes
through its strengths for each; KANs differ in their random start alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kanrun.config import ContinualConfig, KANConfig
from kanrun.errors import UsageError
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Record

if TYPE_CHECKING:
    from kanrun.experiments.continual.learners import Learner

    from kanrun.figures import Figures
    from kanrun.study.experiment import Claims, Tables


def cells(cfg: ContinualConfig) -> list[dict[str, Any]]:
    """Return the cells of every part; cells of later parts are trained once."""
    from kanrun.experiments.continual.learners import learners_of, with_inputs

    cfg = with_inputs(cfg)
    learners = learners_of(cfg) if "learners" in cfg.parts else {}
    found: dict[str, list[dict[str, Any]]] = {
        "learners": [{"learner": name, "trials": cfg.trials} for name in learners],
        "intervals": [{"hidden": [], "memory": "none", "intervals": g} for g in cfg.intervals],
        "overlap": [
            {"learner": name, "overlap": overlap}
            for overlap in cfg.overlaps
            for name in cfg.overlap_learners
        ],
        # A single layer is there only to be compared with: it needs no memory.
        "depth": [
            {"hidden": list(hidden), "memory": memory}
            for hidden in cfg.shapes
            for memory in (cfg.memories if hidden else ["none"])
        ],
    }
    return [
        {"part": part, "overlap": cfg.overlap, "trials": 1, **cell}
        for part in cfg.parts
        for cell in found[part]
    ]


def check(cfg: ContinualConfig) -> None:
    """Build everything that a run would build, without training."""
    from kanrun.experiments.continual.learners import (
        check_sequence,
        make_sequence,
        with_inputs,
    )

    from kanrun.study.build import make_plan

    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"model={cfg.model.kind}: continual takes the KAN from `model`; MLPs are `learners`."
        )
    cfg = with_inputs(cfg)
    if cfg.target is None:
        check_sequence(cfg)
    sequence = make_sequence(cfg, cfg.overlap, cfg.seed)
    for cell in cells(cfg):
        make_plan(_learner(cfg, cell).model, cfg.solver, sequence.problem)


def _learner(cfg: ContinualConfig, cell: Mapping[str, Any]) -> Learner:
    """Return the learner of a cell: one of the list by its name, or a KAN of a shape."""
    from kanrun.experiments.continual.learners import learner_of_shape, learners_of

    if "learner" not in cell:
        return learner_of_shape(cfg, cell["hidden"], cell["memory"], cell.get("intervals"))
    named = learners_of(cfg)
    if cell["learner"] not in named:
        raise UsageError(
            f"overlap_learners names {cell['learner']!r}, which is none of {', '.join(named)}."
        )
    return named[cell["learner"]]


def run(cfg: ContinualConfig, cell: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """Train all trials of one learner: yield a row each, and the tables of the best."""
    from kanrun.experiments.continual import training
    from kanrun.experiments.continual.learners import make_sequence, with_inputs

    from kanrun.study.saved import slider_checkpoint

    cfg = with_inputs(cfg)
    sequence, learner = make_sequence(cfg, cell["overlap"], seed), _learner(cfg, cell)
    place = {"part": cell["part"], "learner": learner.name, "memory": learner.memory}
    place["overlap"] = cell["overlap"]
    tried = []
    for number in range(cell["trials"]):
        if number and time_limit_reached():
            break
        tried.append(training.train_sequence(learner, cfg, sequence, number, seed))
        yield tried[-1].row("metrics", place)
    best = min(tried, key=lambda trial: trial.selected)
    yield from training.matrix_rows(place, best)
    if cell["part"] == "learners":
        yield training.functions(learner, sequence, best)
        yield training.data(sequence)
        if seed == cfg.seed:
            networks = {f"after phase {i}": network for i, network in enumerate(best.networks, 1)}
            title = f"The network of {learner.name}"
            yield from slider_checkpoint(sequence.problem, networks, "phase", title, seed)
    row = training.summary(place, learner, cfg, sequence, tried)
    yield row
    if seed == cfg.seed and row.values["determined"]:
        yield training.capacity(row)


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from kanrun.experiments.continual.plots import figures_of

    yield from figures_of(tables)


def claims(tables: Tables) -> Claims:
    """Return the claims of each part that was run; of a table none."""
    from kanrun.experiments.continual.claim_checks import claims_of

    summary = tables.get("summary")
    return [] if summary is None or summary["file"].notna().any() else list(claims_of(summary))
