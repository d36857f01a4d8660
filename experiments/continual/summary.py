"""How much was forgotten, and the rows of a trained sequence: trials, matrix, functions, data, summary of each learner.

The measures are of the matrix R[i, j], the error on phase j's data after phase i. They are published for accuracies;
for errors their signs turn. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840, eq. 2);
- forgetting of phase j: R[T, j] - min of R[i, j] over i = 1 .. T, so never negative (Chaudhry et al., arXiv 1801.10112,
  eq. 3, leaves out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3): negative is forgetting.

The lowest error of a phase may be one from before it was learned, where earlier phases spoiled what it started from;
R[T, j] - R[j, j] is what was lost since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from kanrun.experiments.continual.learners import Learner
from kanrun.experiments.continual.task_sequence import TaskSequence
from kanrun.experiments.continual.training import LearnerTrial, best_spline
from numpy.typing import NDArray

from kanrun.config import KANConfig
from kanrun.runs.records import Record, Row, Table, Value


def measure_forgetting(matrix: Float[NDArray[np.float64], "phases phases"]) -> dict[str, float]:
    """All measures of one matrix; a single phase has nothing to forget.

    `learned` is the mean of R[j, j]: how well each phase was learned when it was there. `forgetting` is the mean over
    the phases before the last, `worst_forgetting` the largest of them, `worst_since_learned` the largest R[T, j] -
    R[j, j].
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


def moving(learner: Learner) -> str | None:
    """What moves in a KAN beside its coefficients; None for nothing."""
    model = learner.model
    if not isinstance(model, KANConfig):
        return None
    moves = [("trainable scales", not model.freeze_scales), ("grid updates", model.update_grid)]
    return ", ".join(name for name, is_so in moves if is_so) or None


def summary(
    place: Mapping[str, Value],
    learner: Learner,
    twin: str | None,
    sequence: TaskSequence,
    best: LearnerTrial,
    tried: Sequence[LearnerTrial],
) -> Row:
    """One row per learner: the best trial's measures, the seconds of all; `twin` is the same one without a memory."""
    network = best.network
    role = (
        ("kan" if network.shape == (1, 1) else "deep kan") if network.edge_layers else "mlp"
    )  # for claims
    values: dict[str, Value] = {
        "role": role,
        "trained_extras": moving(learner),
        "no_memory_learner": twin,
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
    """The measures of one trial."""
    values: dict[str, Value] = {
        "trial": trial.number,
        "shape": "-".join(map(str, trial.network.shape)),
        "rmse": trial.rmse,
    }
    measured = {**measure_forgetting(trial.matrix), "steps": trial.steps, "seconds": trial.seconds}
    return Row("metrics", {**place, **values, **measured})


def matrix_rows(place: Mapping[str, Any], best: LearnerTrial) -> Iterator[Row]:
    for after, errors in enumerate(best.matrix, 1):
        for on, error in enumerate(errors, 1):
            yield Row("matrix", {**place, "after": after, "on": on, "error": float(error)})


def functions(learner: Learner, sequence: TaskSequence, best: LearnerTrial) -> Table:
    """What was known after each phase, beside the truth, on all evaluation points."""
    phases, points = best.functions.shape
    x = sequence.everything.x.double().cpu().numpy()
    columns = {
        "learner": np.full(phases * points, learner.name),
        "kind": np.full(phases * points, learner.model.kind),
        "after": np.repeat(np.arange(1, phases + 1), points),
        **{f"x{i}": np.tile(x[:, i], phases) for i in range(x.shape[1])},
        "truth": np.tile(sequence.everything.y[:, 0].double().cpu().numpy(), phases),
        "output": best.functions.ravel(),
    }
    return Table("functions", columns)


def data(sequence: TaskSequence) -> Iterator[Record]:
    """Where each phase lies and what it shows: some of its points, the first and the last corner among them."""
    for number, phase in enumerate(sequence.phases, 1):
        some = np.unique(np.linspace(0, len(phase) - 1, 50).round().astype(int))
        x, y = phase.x.double().cpu().numpy()[some], phase.y[:, 0].double().cpu().numpy()[some]
        for point, value in zip(x, y, strict=True):
            places = {f"x{i}": float(coordinate) for i, coordinate in enumerate(point)}
            yield Row("data", {"phase": number, **places, "y": float(value)})
