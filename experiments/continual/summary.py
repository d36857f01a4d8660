"""The rows of a course's summary: who learned, how much was forgotten, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanrun.experiments.continual.course import Course
from kanrun.experiments.continual.forgetting import measure_forgetting
from kanrun.experiments.continual.learners import Learner
from kanrun.experiments.continual.training import Trial, best_spline

from kanrun.config import KANConfig
from kanrun.engine.networks import KAN, Network, count_parameters
from kanrun.runs.records import Row, Value


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
    if not isinstance(network, KAN):
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
    place: Mapping[str, Value], learner: Learner, twin: str | None, course: Course, best: Trial, tried: Sequence[Trial]
) -> Row:  # fmt: skip
    """One row a learner: the best trial's measures, the seconds of all; `twin` is the same one without a memory."""
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
            "intervals": network.intervals if isinstance(network, KAN) else None,
            "degree": network.layer(0).spec.degree if isinstance(network, KAN) else None,
            "parameters": count_parameters(network),
            "phases": len(course.phases),
            "stored": best.stored,
            "learned": found.learned,
            "average_error": found.average_error,
            "forgetting": found.forgetting,
            "worst_forgetting": found.worst_forgetting,
            "worst_since_learned": found.worst_since_learned,
            "backward_transfer": found.backward_transfer,
            "between_rmse": best.between,
            "rmse": best.rmse,
            "best_spline_rmse": best_spline(network, course) if learner.plain else None,
            "trial": best.number,
            "steps": best.steps,
            "seconds": sum(trial.seconds for trial in tried),
        },
    )
