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

The measures are computed from the matrix R[i, j], the error on phase j's data after phase i. They
were published for accuracies; for errors, their signs are reversed. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840,
  eq. 2);
- forgetting of phase j: R[T, j] minus the smallest R[i, j] over i = 1 .. T, which is never negative
  (Chaudhry et al., arXiv 1801.10112, eq. 3, leave out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3); negative values
  mean forgetting.

The lowest error on a phase may have occurred before the phase was learned, if earlier phases left
the network in a bad state. R[T, j] - R[j, j] is what was lost since phase j was learned.
"""

from __future__ import annotations

import functools
from copy import deepcopy
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import make_lsq_spline

from kanrun.config import SOLVERS
from kanrun.engine.networks import Network
from kanrun.engine.splines import find_interval, sample_points
from kanrun.engine.training import (
    Objective,
    Samples,
    SmoothnessPenalty,
    Solver,
    TrainingData,
)
from kanrun.engine.training import predict as outputs
from kanrun.errors import TrainingFailed, UsageError
from kanrun.model.settings import KANConfig
from kanrun.model.trained import in_numpy
from kanrun.monitoring import time_limit_reached
from kanrun.points import Array
from kanrun.runs.records import Records, Row, Table
from kanrun.study import Cell, Claims, Figures, Tables
from kanrun.study.recipe import Training, claims_by
from kanrun.study.resources import generator
from kanrun.study.suite import (
    claim_at_least,
    claim_at_most,
    claim_near,
    exponents,
    maximum,
    median,
    value_range,
)

from .config import ContinualConfig
from .learners import (
    Learner,
    Memory,
    TaskSequence,
    cells_of,
    evenly_chosen,
    learner_of,
    make_sequence,
    with_target,
)


@dataclass(frozen=True)
class LearnerTrial:
    """One pass through all phases.

    Attributes:
        number: Number of the trial.
        networks: Network after each phase.
        matrix: `matrix[i, j]` is the RMSE on phase j's data after phase i, shape (phases, phases).
        rmse: RMSE at the evaluation points after the last phase.
        memory: The memory after the last phase.
        steps: Number of solver steps in all phases.
        seconds: Wall-clock seconds of training.
    """

    number: int
    networks: tuple[Network, ...]
    matrix: Array
    rmse: float
    memory: Memory
    steps: int
    seconds: float

    @property
    def selected(self) -> float:
        """RMSE on the data of all phases after the last phase. The best trial has the lowest."""
        return float(np.sqrt(np.mean(self.matrix[-1] ** 2)))

    @property
    def columns(self) -> dict[str, Any]:
        """The measures of the trial, by column name."""
        return {
            "trial": self.number,
            "shape": self.networks[-1].shape_text,
            "rmse": self.rmse,
            **measure_forgetting(self.matrix),
            "steps": self.steps,
            "seconds": self.seconds,
        }


def train_sequence(
    learner: Learner, cfg: ContinualConfig, sequence: TaskSequence, trial: int, seed: int
) -> LearnerTrial:
    """Train one trial of a learner on all phases, one after the other.

    Raises TrainingFailed if an error becomes NaN or infinite.
    """
    start = perf_counter()
    named = f"{learner.name}, trial {trial}"
    everything = sequence.everything
    draws = generator(seed, named)
    training = Training.of(learner.settings(cfg, trial), cfg.solver, sequence.problem)
    network = training.create(draws)
    most = training.plan.steps or SOLVERS[training.plan.solver].steps
    plan = replace(training.plan, steps=most)
    penalty = SmoothnessPenalty(plan.weight or 0.0)
    memory = learner.memory_of(trial)
    matrix = []
    networks = []
    steps = 0
    # Margin by which a grid that follows the data extends beyond them, as a fraction of their
    # range.
    margin = 0.02
    for number, phase in enumerate(sequence.phases, 1):
        if plan.update_grid:
            moved = network.regrid(phase.x, grid_eps=plan.grid_eps, margin=margin, inputs="follow")
            network = moved.network
        plain = Objective.of(TrainingData(phase), plan, penalty)
        objective = memory.objective(network, plain)
        solver: Solver = plan.settings.create(network, objective, plan, draws)
        steps += _solved(solver, most, f"{named}, phase {number}")
        memory.learned(network, phase)
        matrix.append([_rmse(outputs(network, seen.x) - seen.y) for seen in sequence.phases])
        if not np.isfinite(matrix[-1]).all():
            raise TrainingFailed(f"{named}: an error after phase {number} is not finite.")
        networks.append(deepcopy(network))
    rmse = _rmse(outputs(network, everything.x) - everything.y)
    seconds = perf_counter() - start
    errors = np.array(matrix)
    return LearnerTrial(trial, tuple(networks), errors, rmse, memory, steps, seconds)


def _solved(solver: Solver, most: int, where: str) -> int:
    """Take up to `most` steps and return their number.

    Stop earlier if the solver has converged, or if the time limit is reached.
    """
    step = 0
    while step < most and not solver.converged and not (step and time_limit_reached()):
        step += 1
        try:
            solver.step()
        except TrainingFailed as error:
            raise TrainingFailed(f"{where}, step {step}: {error}") from error
    return step


def _rmse(errors: torch.Tensor) -> float:
    return float(errors.square().mean().sqrt())


def measure_forgetting(matrix: Float[Array, "phases phases"]) -> dict[str, float]:
    """Return all measures of `matrix`, the matrix R; with a single phase, nothing is forgotten.

    `learned` is the mean of R[j, j], the error on each phase just after it was learned.
    `forgetting` is the mean, and `worst_forgetting` the maximum, of the forgetting of all phases
    but the last. `worst_since_learned` is the largest R[T, j] - R[j, j].
    """
    last = matrix[-1]
    learned = matrix.diagonal()
    lost = (last - matrix.min(axis=0))[:-1]
    back = (learned - last)[:-1]
    if not lost.size:
        lost = back = np.zeros(1)
    return {
        "learned": float(learned.mean()),
        "average_error": float(last.mean()),
        "forgetting": float(lost.mean()),
        "worst_forgetting": float(lost.max()),
        "worst_since_learned": float(-back.min()),
        "backward_transfer": float(back.mean()),
    }


def best_spline(network: Network, sequence: TaskSequence) -> float | None:
    """Return the RMSE at the evaluation points of the best spline on the grid of a [1, 1] KAN.

    The spline is a least squares fit to the function, so no training run can be much better,
    whatever the order of the data. Return None if some interval of the grid contains no point of
    any phase, or if the target is a table.
    """
    function = sequence.problem.dataset.target.function
    if function is None:
        return None
    grid = network.edge_layers[0].grid
    seen = find_interval(torch.cat([phase.x for phase in sequence.phases]), grid)
    if len(seen.unique()) < grid.intervals:
        return None
    knots = in_numpy(grid.knots[0])
    # Number of points in each interval to which the best spline is fitted.
    per_interval = 20
    x = in_numpy(sample_points(grid, per_interval))
    best = make_lsq_spline(x[:, 0], function(x), knots, grid.degree)
    everything = sequence.everything
    errors = best(in_numpy(everything.x)[:, 0]) - in_numpy(everything.y)
    return float(np.sqrt(np.mean(errors**2)))


def summary(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> dict[str, Any]:
    """Return the summary columns of a learner: its network and the measures of its best trial."""
    network = best.networks[-1]
    is_local = network.shape == (1, 1) and learner.is_local
    known = learner.memory == "none" and is_local
    target = sequence.problem.dataset.target
    return {
        **best.columns,
        "file": None if sequence.of_peaks else target.name,
        "role": "local kan" if is_local else learner.model.kind,
        "intervals": network.intervals,
        "degree": network.edge_layers[0].spec.degree if network.edge_layers else None,
        "parameters": network.count(),
        "phases": len(sequence.phases),
        "stored": sum(tensor.numel() for tensor in best.memory.kept),
        "relative_error": best.rmse / float(sequence.everything.y.std()),
        "best_spline_rmse": best_spline(network, sequence) if known else None,
    }


def functions(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> Table:
    """Return a table of the predictions after each phase and the true values.

    It has one row per phase and evaluation point.
    """
    everything = sequence.everything
    phases = len(best.networks)
    known = torch.cat([outputs(network, everything.x) for network in best.networks])
    every = Samples(*(part.repeat(phases, 1) for part in (everything.x, everything.y)))
    columns = {
        "learner": np.full(len(known), learner.name),
        "kind": np.full(len(known), learner.model.kind),
        "after": np.repeat(np.arange(1, phases + 1), len(everything)),
        **_columns(every, "truth"),
        "output": in_numpy(known[:, 0]),
    }
    return Table("functions", columns)


def data(sequence: TaskSequence) -> Table:
    """Return a table of at most 50 points of each phase, for figures."""
    # Largest number of points of a phase in the table `data`.
    points = 50
    parts = [evenly_chosen(phase, points) for phase in sequence.phases]
    numbers = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    return Table("data", {"phase": numbers, **_columns(functools.reduce(Samples.join, parts), "y")})


def _columns(samples: Samples, output: str) -> dict[str, NDArray[Any]]:
    x = in_numpy(samples.x)
    y = in_numpy(samples.y[:, 0])
    return {**{f"x{i}": column for i, column in enumerate(x.T)}, output: y}


#: Smallest value that counts as forgetting, in units of the peaks' height, for KANs and MLPs.
MIN_FORGETTING = {"kan": 1e-2, "mlp": 1e-1}
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
#: Largest accepted forgetting of overlapping phases, in units of the best spline's error. It is not
#: zero, because the best fits to two overlapping phases differ by about this error.
OVERLAPPING = 10.0
#: Largest accepted difference between a fitted order of convergence and its theoretical value, -(k
#: + 1) (de Boor, A Practical Guide to Splines, ch. XII).
ORDER = 0.3
#: Noun in claims. Several trainings may share a seed, so "seeds" would be wrong.
RUNS = "trainings"


def cells(cfg: ContinualConfig) -> list[Cell]:
    """Return one cell for each learner of each part."""
    return cells_of(with_target(cfg))


def check(cfg: ContinualConfig) -> None:
    """Build everything that a run would build, without training."""
    cfg = with_target(cfg)
    if not isinstance(cfg.model, KANConfig):
        raise UsageError(
            f"model={cfg.model.kind}: continual takes the KAN from `model`; MLPs are `learners`."
        )
    sequence = make_sequence(cfg, cfg.overlap, cfg.seed)
    for cell in cells_of(cfg):
        Training.of(learner_of(cfg, cell["learner"]).model, cfg.solver, sequence.problem)


def run(cfg: ContinualConfig, cell: Cell, seed: int) -> Records:
    """Train all trials of one learner. Yield a row for each, and the tables of the best trial.

    The best trial is the one with the lowest final error. In the summary, `learned` is nevertheless
    the median over all trials: if a network forgets, its final error says little about how well it
    had learned each phase, and its errors on new phases differ 20-fold between trials.
    """
    cfg = with_target(cfg)
    sequence = make_sequence(cfg, cell["overlap"], seed)
    learner = learner_of(cfg, cell["learner"])
    place = {"part": cell["part"], "learner": learner.name, "memory": learner.memory}
    place |= {"network": cell["network"], "overlap": cell["overlap"]}
    tried = []
    for number in range(cell["trials"]):
        if number and time_limit_reached():
            break
        tried.append(train_sequence(learner, cfg, sequence, number, seed))
        yield Row("metrics", {**place, **tried[-1].columns})
    best = min(tried, key=lambda trial: trial.selected)
    for (i, j), error in np.ndenumerate(best.matrix):
        yield Row("matrix", {**place, "after": i + 1, "on": j + 1, "error": float(error)})
    if cell["part"] == "learners":
        yield functions(learner, sequence, best)
        yield data(sequence)
    trials = pd.DataFrame([trial.columns for trial in tried])
    over_trials = {"seconds": trials["seconds"].sum(), "learned": median(trials["learned"])}
    yield Row("summary", {**place, **summary(learner, sequence, best), **over_trials})


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
    # Largest accepted ratio of the KAN's RMSE to that of the best spline on the same grid.
    near_best = 1.02
    known = known.assign(best=best.map("{:.3g}".format), bound=near_best * best)
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
    # Largest accepted forgetting of a [1, 1] KAN, in units of the peaks' height. It is a quarter of
    # the KAN's error.
    most = 1e-6
    if role == "local kan":
        sentence = f"{name}: no phase is forgotten{where}"
        yield claim_at_most(sentence, worst, most, of=RUNS)
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
    # Smallest RMSE on all evaluation points that is claimed for MLPs with memories not in
    # KEEPS_MLP. It is half the lowest measured value.
    least = 0.05
    if role == "mlp" and memory not in KEEPS_MLP:
        # If the memory is strong, the network cannot learn new phases; if it is weak, it forgets.
        sentence = f"{name}: does not both keep and learn the phases (RMSE on everything)"
        yield claim_at_least(sentence, some["rmse"], least, of=RUNS)
        return
    # Height of the Gaussian peaks that are learned. Larger errors count as this height: a network
    # with such an error at a peak has forgotten it completely.
    height = 1.0
    shares = some.set_index("seed")[list(MEASURES)] / bare[list(MEASURES)].clip(upper=height)
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
