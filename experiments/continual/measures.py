"""Measures of forgetting, and the tables of a trained sequence.

The measures are of the matrix R[i, j], the error on phase j's data after phase i. They are
published for accuracies; for errors their signs turn. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840,
  eq. 2);
- forgetting of phase j: R[T, j] - min of R[i, j] over i = 1 .. T, so never negative (Chaudhry et
  al., arXiv 1801.10112, eq. 3, leaves out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3): negative is
  forgetting.

The lowest error of a phase may be one from before it was learned, if earlier phases spoiled what it
started from; R[T, j] - R[j, j] is what was lost since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from kanrun.experiments.continual.learners import Learner, learners_of, without_memory
from kanrun.experiments.continual.task_sequence import TaskSequence
from kanrun.experiments.continual.training import LearnerTrial
from numpy.typing import NDArray
from scipy.interpolate import make_lsq_spline

from kanrun.config import ContinualConfig, KANConfig
from kanrun.engine.networks import Network
from kanrun.engine.splines import find_interval, sample_points
from kanrun.runs.records import Record, Row, Table, Value

#: Points of each phase that the table `data` holds, and points of each interval of the best spline.
DATA_POINTS, SPLINE_POINTS = 50, 20


def measure_forgetting(matrix: Float[NDArray[np.float64], "phases phases"]) -> dict[str, float]:
    """Return all measures of one matrix; a single phase has nothing to forget.

    `learned` is the mean of R[j, j]: how well each phase was learned when it was there.
    `forgetting` is the mean over the phases before the last, `worst_forgetting` the largest of
    them, `worst_since_learned` the largest R[T, j] - R[j, j].
    """
    last, own = matrix[-1], matrix.diagonal()
    lost, back = (last - matrix.min(axis=0))[:-1], (own - last)[:-1]
    if not lost.size:
        lost = back = np.zeros(1)
    return {
        "learned": float(own.mean()),
        "average_error": float(last.mean()),
        "forgetting": float(lost.mean()),
        "worst_forgetting": float(lost.max()),
        "worst_since_learned": float(-back.min()),
        "backward_transfer": float(back.mean()),
    }


def trained_extras(learner: Learner) -> str | None:
    """Return the trained parts of a KAN other than its coefficients; None if there are none."""
    model = learner.model
    if not isinstance(model, KANConfig):
        return None
    extras = {"trainable scales": not model.freeze_scales, "grid updates": model.update_grid}
    return ", ".join(name for name, is_so in extras.items() if is_so) or None


def best_spline(network: Network, sequence: TaskSequence) -> float | None:
    """Return the RMSE on everything of the best spline fit on the grid of a [1, 1] KAN.

    No training, on any order of the data, can do much better than this least squares fit. None for
    other networks, and if an interval of the grid holds no point of any phase.
    """
    if network.shape != (1, 1) or not network.edge_layers:
        return None
    grid, function = network.edge_layers[0].grid, sequence.problem.dataset.target.function
    seen = find_interval(torch.cat([phase.x for phase in sequence.phases]), grid)
    if len(seen.unique()) < grid.intervals:
        return None
    assert function is not None  # an invariant: a sequence's target is a formula
    knots, x = _numbers(grid.knots[0]), _numbers(sample_points(grid, SPLINE_POINTS))
    best = make_lsq_spline(x[:, 0], function(x), knots, grid.degree)
    everything = sequence.everything
    errors = best(_numbers(everything.x)[:, 0]) - _numbers(everything.y)
    return float(np.sqrt(np.mean(errors**2)))


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()


def summary(
    place: Mapping[str, Value],
    learner: Learner,
    cfg: ContinualConfig | None,
    sequence: TaskSequence,
    tried: Sequence[LearnerTrial],
) -> Row:
    """Return the row of a learner: the best trial's measures, and the seconds of all.

    `cfg` lists the learners among which the same one without a memory is looked for, if any.
    """
    best = min(tried, key=lambda trial: trial.selected)
    network = best.networks[-1]
    role = ("kan" if network.shape == (1, 1) else "deep kan") if network.edge_layers else "mlp"
    values: dict[str, Value] = {
        "role": role,
        "trained_extras": trained_extras(learner),
        "no_memory_learner": without_memory(learner, learners_of(cfg)) if cfg else None,
        "shape": "-".join(map(str, network.shape)),
        "layers": len(network.shape) - 1,
        "intervals": network.intervals,
        "degree": network.edge_layers[0].spec.degree if network.edge_layers else None,
        "parameters": network.count(),
        "phases": len(sequence.phases),
        "stored": best.stored,
        **measure_forgetting(best.matrix),
        "between_rmse": best.between,
        "rmse": best.rmse,
        "relative_error": best.rmse / float(sequence.everything.y.std()),
        "best_spline_rmse": best_spline(network, sequence) if learner.plain else None,
        "trial": best.number,
        "steps": best.steps,
        "seconds": sum(trial.seconds for trial in tried),
    }
    return Row("summary", {**place, **values})


def trial_row(place: Mapping[str, Value], trial: LearnerTrial) -> Row:
    """Return the measures of one trial."""
    shape = "-".join(map(str, trial.networks[-1].shape))
    values: dict[str, Value] = {"trial": trial.number, "shape": shape, "rmse": trial.rmse}
    measured = {**measure_forgetting(trial.matrix), "steps": trial.steps, "seconds": trial.seconds}
    return Row("metrics", {**place, **values, **measured})


def matrix_rows(place: Mapping[str, Any], best: LearnerTrial) -> Iterator[Row]:
    """Yield a row for each entry of R."""
    for (i, j), error in np.ndenumerate(best.matrix):
        yield Row("matrix", {**place, "after": i + 1, "on": j + 1, "error": float(error)})


def functions(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> Table:
    """Return predictions after each phase, and the true values, on all evaluation points."""
    phases, points = best.functions.shape
    x = _numbers(sequence.everything.x)
    columns = {
        "learner": np.full(phases * points, learner.name),
        "kind": np.full(phases * points, learner.model.kind),
        "after": np.repeat(np.arange(1, phases + 1), points),
        **{f"x{i}": np.tile(x[:, i], phases) for i in range(x.shape[1])},
        "truth": np.tile(_numbers(sequence.everything.y[:, 0]), phases),
        "output": best.functions.ravel(),
    }
    return Table("functions", columns)


def data(sequence: TaskSequence) -> Iterator[Record]:
    """Yield some points of each phase, the first and the last corner among them."""
    for number, phase in enumerate(sequence.phases, 1):
        some = np.unique(np.linspace(0, len(phase) - 1, DATA_POINTS).round().astype(int))
        for point, value in zip(
            _numbers(phase.x)[some], _numbers(phase.y[:, 0])[some], strict=True
        ):
            places = {f"x{i}": float(coordinate) for i, coordinate in enumerate(point)}
            yield Row("data", {"phase": number, **places, "y": float(value)})
