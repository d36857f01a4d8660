"""The rows of a trained sequence: trials, matrix, functions, data, and the summary of each learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from kanrun.experiments.continual.forgetting import measure_forgetting
from kanrun.experiments.continual.learners import Learner
from kanrun.experiments.continual.task_sequence import TaskSequence
from kanrun.experiments.continual.training import LearnerTrial, best_spline

from kanrun.config import KANConfig
from kanrun.engine.networks import Network
from kanrun.runs.records import Record, Row, Table, Value


def marks(cell: Mapping[str, Any], learner: Learner) -> dict[str, Value]:
    """What tells the rows of a cell apart in every table."""
    return {
        "part": cell["part"],
        "learner": learner.name,
        "memory": learner.memory,
        "overlap": cell["overlap"],
    }


def role(network: Network) -> str:
    """What claims take a learner for: an MLP, the KAN of one edge, or one where inputs share functions."""
    if not network.edge_layers:
        return "mlp"
    return "kan" if network.shape == (1, 1) else "deep kan"


def moving(learner: Learner) -> str | None:
    """What moves in a KAN beside its coefficients; None for nothing."""
    model = learner.model
    if not isinstance(model, KANConfig):
        return None
    moves = [("trainable scales", not model.frozen_scales), ("grid updates", model.update_grid)]
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
    network, found = best.network, measure_forgetting(best.matrix)
    return Row(
        "summary",
        {
            **place,
            "role": role(network),
            "moving": moving(learner),
            "twin": twin,
            "shape": "-".join(map(str, network.shape)),
            "layers": len(network.shape) - 1,
            "intervals": network.intervals,
            "degree": network.edge_layers[0].spec.degree if network.edge_layers else None,
            "parameters": network.count(),
            "phases": len(sequence.phases),
            "stored": best.stored,
            "learned": found.learned,
            "average_error": found.average_error,
            "forgetting": found.forgetting,
            "worst_forgetting": found.worst_forgetting,
            "worst_since_learned": found.worst_since_learned,
            "backward_transfer": found.backward_transfer,
            "between_rmse": best.between,
            "rmse": best.rmse,
            "best_spline_rmse": best_spline(network, sequence) if learner.plain else None,
            "trial": best.number,
            "steps": best.steps,
            "seconds": sum(trial.seconds for trial in tried),
        },
    )


def trial_row(place: Mapping[str, Value], trial: LearnerTrial) -> Row:
    """The measures of one trial."""
    shape, found = "-".join(map(str, trial.network.shape)), vars(measure_forgetting(trial.matrix))
    values = {"trial": trial.number, "shape": shape, "rmse": trial.rmse, **found, "steps": trial.steps}
    return Row("metrics", {**place, **values, "seconds": trial.seconds})


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
