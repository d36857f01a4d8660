"""A training's steps and stages as rows of tables, alike in every experiment that trains along grids."""

from __future__ import annotations

from kanrun.engine.networks import count_parameters
from kanrun.engine.training import Errors, Stage, Step
from kanrun.runs.records import Value


def step_row(step: Step) -> dict[str, Value]:
    """Where the step was, the errors after it, and the seconds of training so far."""
    place: dict[str, Value] = {"stage": step.stage, "step": step.step, "intervals": step.intervals}
    return {**place, **_errors(step.errors), "seconds": step.seconds}


def stage_row(stage: Stage) -> dict[str, Value]:
    """The grid, its errors, and how the network came there: `error_before` and `error_after` the change of grid."""
    return {
        "stage": stage.stage,
        "intervals": stage.intervals,
        "parameters": count_parameters(stage.network),
        **_errors(stage.errors),
        "penalty": stage.smoothing.weight,
        "carried_by": stage.reached.how,
        "function_change": stage.reached.change,
        "error_before": stage.reached.before,
        "error_after": stage.reached.after,
        "steps": stage.steps,
        "seconds": stage.seconds,
    }


def _errors(errors: Errors) -> dict[str, Value]:
    return {"train_rmse": errors.train, "validation_rmse": errors.validation, "test_rmse": errors.test}
