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

from typing import Any

import numpy as np
import pandas as pd

from kanrun.errors import UsageError
from kanrun.model.settings import KANConfig
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Records, Row
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.recipe import Training, claims_by
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    maximum,
    median,
    value_range,
)

from . import sequences, training
from .config import ContinualConfig
from .learners import cells_of, learner_of

#: Largest accepted forgetting of a [1, 1] KAN, in units of the peaks' height. It is a quarter of
#: the KAN's error.
MAX_KAN_FORGETTING = 1e-6
#: Smallest value that counts as forgetting, in units of the peaks' height, for KANs and MLPs.
MIN_FORGETTING = {"kan": 1e-2, "mlp": 1e-1}
#: Largest accepted ratio of the KAN's RMSE to that of the best spline on the same grid.
NEAR_BEST = 1.02
#: Height of the Gaussian peaks that are learned. Larger errors count as this height: a network
#: with such an error at a peak has forgotten it completely.
HEIGHT = 1.0
#: Columns of the summary in which training with a memory of earlier phases is compared with the
#: same training without it.
MEASURES = {
    "worst_forgetting": "forgetting",
    "rmse": "RMSE on everything",
    "learned": "mean error of a phase when it is new",
}
#: For each memory, the largest accepted ratios of MEASURES with the memory to those without.
BOUNDS: dict[Any, tuple[float, ...]] = {
    "replay": (0.1, 0.1, 10.0),
    "rehearse": (0.1, 0.1, 3.0),
    "information": (0.4, 0.5, 5.0),
}
#: Memories with which MLPs do not forget.
KEEPS_MLP = ("replay", "rehearse")
#: Smallest RMSE on all evaluation points that is claimed for MLPs with memories not in KEEPS_MLP.
#: It is half the lowest measured value.
MIN_UNKEPT_ERROR = 0.05
#: Largest accepted forgetting of overlapping phases, in units of the best spline's error. It is not
#: zero, because the best fits to two overlapping phases differ by about this error.
OVERLAPPING = 10.0
#: Largest accepted difference between a fitted order of convergence and its theoretical value, -(k
#: + 1) (de Boor, A Practical Guide to Splines, ch. XII).
ORDER = 0.3
RUNS = "trainings"  # Noun in claims. Several trainings may share a seed, so "seeds" would be wrong.


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


def claims_of(summary: pd.DataFrame) -> Claims:
    """Yield the claims of every part that was run.

    There are no claims about forgetting a single phase. If no phase covers some interval of the
    grid, nothing is claimed about the error on all evaluation points, and there is no best spline.
    """
    several = bool((summary["phases"] > 1).any())
    for part, rows in summary.groupby("part", sort=False):
        if part == "overlap":
            yield from _overlap(rows) if several else ()
            continue
        yield from _order(rows) if part == "intervals" else _near_best(rows)
        for name, some in rows.groupby("learner", sort=False) if several else ():
            yield from (*_forgetting(str(name), some), *_kept(str(name), some, rows))


def _near_best(rows: pd.DataFrame) -> Claims:
    known = rows[rows.groupby("learner")["best_spline_rmse"].transform("count") > 0]
    best = known.groupby("learner")["best_spline_rmse"].transform(maximum)
    known = known.assign(best=best.map("{:.3g}".format), bound=NEAR_BEST * best)
    sentence = "{learner}: RMSE on everything after the last phase (best spline {best})"
    yield from claims_by(known, sentence, "rmse", "bound")


def _order(rows: pd.DataFrame) -> Claims:
    known = rows.groupby("intervals").filter(lambda grid: grid["best_spline_rmse"].notna().any())
    if known["intervals"].nunique() > 1:
        theory = -(known["degree"].iloc[0] + 1)
        reach, slopes = _slopes(known, "rmse")
        sentence = f"the KAN's error on everything falls as G^{theory:g}, {reach} (exponent)"
        yield claim_near(sentence, slopes, theory, ORDER)


def _slopes(rows: pd.DataFrame, column: str) -> tuple[str, pd.Series]:
    """Return the range of intervals G in words, and the power of G fitted to `column` per seed."""
    fits = exponents(rows, ["seed"], column)
    return f"G = {fits['low'].min():g} to {fits['high'].max():g}", fits["exponent"]


def _forgetting(name: str, some: pd.DataFrame, where: str = "") -> Claims:
    """Claim that a local KAN does not forget, or that another learner without memory forgets."""
    worst = some["worst_forgetting"]
    role, memory = some[["role", "memory"]].iloc[0]
    where = f"{where} (worst phase)"
    if role == "local kan":
        sentence = f"{name}: no phase is forgotten{where}"
        yield claim_at_most(sentence, worst, MAX_KAN_FORGETTING, of=RUNS)
    elif memory == "none":
        yield claim_at_least(f"{name}: forgets{where}", worst, MIN_FORGETTING[role], of=RUNS)


def _kept(name: str, some: pd.DataFrame, rows: pd.DataFrame) -> Claims:
    """Claim that a memory prevents forgetting, and still lets networks learn new phases.

    Training runs with the memory are compared with training runs of the same network and seed
    without it, if these forgot something. Errors above the height of the peaks count as this
    height. NaN is kept, so that the claims fail.
    """
    role, memory, network = some[["role", "memory", "network"]].iloc[0]
    bare = rows[(rows["memory"] == "none") & (rows["network"] == network)]
    bare = bare[~(bare["worst_forgetting"] < MIN_FORGETTING["kan"])].set_index("seed")
    if memory == "none" or not len(bare):
        return
    if role == "mlp" and memory not in KEEPS_MLP:
        # If the memory is strong, the network cannot learn new phases; if it is weak, it forgets.
        sentence = f"{name}: does not both keep and learn the phases (RMSE on everything)"
        yield claim_at_least(sentence, some["rmse"], MIN_UNKEPT_ERROR, of=RUNS)
        return
    shares = some.set_index("seed")[list(MEASURES)] / bare[list(MEASURES)].clip(upper=HEIGHT)
    for (column, what), bound in zip(MEASURES.items(), BOUNDS[memory], strict=True):
        sentence = f"{name}: {what} over that without memory"
        yield claim_at_most(sentence, shares.loc[bare.index, column], bound, of=RUNS)


def _overlap(rows: pd.DataFrame) -> Claims:
    """Claim what is forgotten, separately for phases that overlap and for those that do not."""
    for name, learner in rows.groupby("learner", sort=False):
        for apart, some in learner.groupby(learner["overlap"] <= 0, sort=False):
            reach = "do not overlap" if apart else f"overlap by up to {some['overlap'].max():g}"
            shares = some["worst_forgetting"] / some["best_spline_rmse"].astype(float)
            if apart or shares.isna().any():
                yield from _forgetting(str(name), some, f" with phases that {reach}")
                continue
            sentence = f"{name}: forgetting over the best spline's error with phases that {reach}"
            yield claim_at_most(sentence, shares, OVERLAPPING, of=RUNS)
    plain = rows[(rows["role"] == "local kan") & (rows["memory"] == "none")]
    most = plain[(plain["overlap"] > 0) & (plain["overlap"] == plain["overlap"].max())]
    if most["intervals"].nunique() > 1:
        # If a phase ends inside the peak of another phase, its data determine the last basis
        # functions only in part. The network's error there is about that of the best spline, so on
        # finer grids forgetting decreases as fast as the spline's error.
        reach, slopes = _slopes(most, "worst_forgetting")
        sentence = (
            f"what overlapping phases forget falls at least as the spline's error, {reach} "
            "(exponent)"
        )
        bound = ORDER - (int(most["degree"].iloc[0]) + 1)
        yield claim_at_most(sentence, median(slopes), bound, value_range(slopes))
