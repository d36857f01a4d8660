"""Continual learning: five peaks, one per phase, and how much of each is forgotten.

Reproduces the KAN paper's section 3.4 (arXiv 2404.19756, Figure 3.4): a [1, 1] KAN learns sum
exp(-300 (x - c)^2) peak by peak and forgets nothing, whereas an MLP forgets. The setting `parts`
selects what is run:

- `learners`: the paper's figure, one row per learner, with replay and EWC (elastic weight
  consolidation) as baselines, and with KANs whose scales are trained or whose grid follows the data
  as ablations;
- `intervals`: the KAN on finer grids, to measure the order of convergence of its error;
- `overlap`: phases whose data overlap;
- `depth`: deeper KANs with about as many parameters, and memories that keep them from forgetting.

There are two differences. The paper shows pictures; here, forgetting is measured. All learners have
about the same number of parameters, the same solver, the same number of steps per phase, and the
same number of trials, of which the best counts. The solver is reset in every phase. The trials of
an MLP differ in its depth, those of EWC in its strength, and those of KANs only in the random
start.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kanrun.errors import UsageError
from kanrun.model.settings import KANConfig
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.recipe import Training
from kanrun.study.suite import median

from . import sequences, training
from .config import ContinualConfig
from .forgetting_claims import claims_of
from .learners import cells_of, learner_of


def cells(cfg: ContinualConfig) -> list[Cell]:
    """Return one cell for each learner of each part."""
    return cells_of(sequences.with_target(cfg))


def check(cfg: ContinualConfig) -> None:
    """Build everything that a run would build, without training."""
    cfg = sequences.with_target(cfg)
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"model={cfg.model.kind}: continual takes the KAN from `model`; MLPs are `learners`."
        )
    sequence = sequences.make_sequence(cfg, cfg.overlap, cfg.seed)
    for cell in cells_of(cfg):
        Training.of(learner_of(cfg, cell["learner"]).model, cfg.solver, sequence.problem)


def run(cfg: ContinualConfig, cell: Cell, seed: int) -> Records:
    """Train all trials of one learner. Yield a row for each, and the tables of the best trial.

    The best trial is the one with the lowest final error. In the summary, `learned` is nevertheless
    the median over all trials: if a network forgets, its final error says little about how well it
    had learned each phase, and its errors on new phases differ 20-fold between trials.
    """
    cfg = sequences.with_target(cfg)
    sequence = sequences.make_sequence(cfg, cell["overlap"], seed)
    learner = learner_of(cfg, cell["learner"])
    place = {"part": cell["part"], "learner": learner.name, "memory": learner.memory}
    place |= {"network": cell["network"], "overlap": cell["overlap"]}
    tried = []
    for number in range(cell["trials"]):
        if number and time_limit_reached():
            break
        tried.append(training.train_sequence(learner, cfg, sequence, number, seed))
        yield Row("metrics", {**place, **tried[-1].columns})
    best = min(tried, key=lambda trial: trial.selected)
    for (i, j), error in np.ndenumerate(best.matrix):
        yield Row("matrix", {**place, "after": i + 1, "on": j + 1, "error": float(error)})
    if cell["part"] == "learners":
        yield training.functions(learner, sequence, best)
        yield training.data(sequence)
    trials = pd.DataFrame([trial.columns for trial in tried])
    over_trials = {"seconds": trials["seconds"].sum(), "learned": median(trials["learned"])}
    yield Row("summary", {**place, **training.summary(learner, sequence, best), **over_trials})


def figures(tables: Tables) -> Figures:
    """Yield the figures of each part that was run."""
    from .plots import figures_of

    yield from figures_of(tables)


def claims(tables: Tables) -> Claims:
    """Return the claims of each part that was run. There are claims only about learning peaks."""
    summary = tables.get("summary")
    if summary is None or summary["file"].notna().any():
        return []
    return claims_of(summary)
