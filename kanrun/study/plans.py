"""A solver's configuration to the engine's plan, with the sentence that says what was chosen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from kanrun.config import AdamSolver, AutoSolver, KANConfig, LMSolver, check
from kanrun.engine.networks.counting import Size, kan_parameters
from kanrun.engine.training import FEW_STARTS, STARTS, WIDE, AdamOptions, Plan, Task, Work, choose_solver
from kanrun.errors import UsageError
from kanrun.study.models import AUTO_COEFFICIENTS, check_model, edge_spec, intervals_of, network_shape
from kanrun.study.problem import Problem

#: Second-order steps of an MLP without a lower validation error before it stops: nothing else prevents overfitting.
PATIENCE = 20
#: The smoothness penalty of classifiers: on second differences, of this weight.
CLASSIFICATION_ORDER, CLASSIFICATION_WEIGHT = 2, 1e-3
#: That of LBFGS in regression, on differences of order m = degree + 2: G^(1 - 2m), at which the roughest spline on so
#: many intervals pays about as much as it can gain. What data leave open is smooth; errors of 1e-7 are not held back.
REGRESSION_INTERVALS = 215


def make_plan(model: Any, solver: Any, problem: Problem) -> tuple[Plan, str]:
    """The plan for training `model` on `problem`, and why its solver was chosen.

    Raises UsageError for settings that break a rule, and for a solver that does not fit the problem.
    """
    check_model(model, problem.inputs)
    check(solver, "solver.")
    if isinstance(solver, LMSolver):
        _check_lm(problem)
    if getattr(solver, "sparsity", 0.0) and not isinstance(model, KANConfig):
        raise UsageError(
            f"solver.sparsity={solver.sparsity} weighs edges of a KAN, which model={model.kind} has none of."
        )
    shape = network_shape(model, problem.inputs, problem.outputs)
    name, why = solver.kind, f"{solver.kind}: asked for."
    if isinstance(solver, AutoSolver):
        name, why = choose_solver(_work(model, shape, problem), problem.data.task)
        if name == "lm" and problem.domain.element_size() < 8:
            name, why = "lbfgs", "lbfgs: second-order steps need float64."
    automatic = getattr(model, "intervals", None) == "auto"
    plan = Plan(
        solver=name,
        intervals=intervals_of(model),
        steps=solver.steps,
        starts=solver.starts or _starts(model, shape, name),
        weight=_weight(solver, name, problem.data.task, getattr(model, "degree", 0)),
        order=CLASSIFICATION_ORDER if problem.data.task == "classification" else None,
        narrow=getattr(solver, "select_width", False),
        update_grid=getattr(model, "update_grid", False),
        adapt=1.0 - getattr(model, "grid_eps", 1.0),
        local=getattr(solver, "freeze_unseen", False),
        sparsity=getattr(solver, "sparsity", 0.0),
        magnitude=getattr(solver, "magnitude", "rms"),
        history=getattr(solver, "history", 30),
        patience=getattr(solver, "patience", None) or (PATIENCE if name == "lm" and model.kind == "mlp" else None),
        stop_early=automatic,
        most_unknowns=AUTO_COEFFICIENTS + _edges(shape) if automatic else None,
        adam=_adam(solver),
    )
    return plan, why


def _starts(model: Any, shape: tuple[int, ...], solver: str) -> int:
    """How many starts are worth their time: one where the model is linear in its unknowns, few for wide networks."""
    if solver != "lm" or (len(shape) == 2 and isinstance(model, KANConfig)):
        return 1
    return FEW_STARTS if _edges(shape) > WIDE else STARTS


def _edges(shape: tuple[int, ...]) -> int:
    return sum(a * b for a, b in pairwise(shape))


def _adam(solver: Any) -> AdamOptions:
    if not isinstance(solver, AdamSolver):
        return AdamOptions(batch=1024)
    return AdamOptions(
        learning_rate=solver.learning_rate,
        schedule=solver.schedule,
        batch=solver.batch,
        weight_decay=solver.weight_decay,
    )


def _weight(solver: Any, name: str, task: Task, degree: int) -> float | None:
    """The penalty's weight, None where validation chooses it (Levenberg-Marquardt).

    LBFGS takes a small one that its metric knows of; Adam, which knows of none, would be slowed down by it.
    Classes that can be separated have no finite minimum of cross-entropy: a penalty on curvature gives them one.
    """
    given = getattr(solver, "penalty", "auto")
    if given != "auto":
        return float(given)
    if name == "lm":
        return None
    if task == "classification":
        return CLASSIFICATION_WEIGHT
    return REGRESSION_INTERVALS ** -(2.0 * degree + 3) if name == "lbfgs" else 0.0


def _work(model: Any, shape: tuple[int, ...], problem: Problem) -> Work:
    edges, rows = _edges(shape), len(problem.data.train) * problem.outputs
    if not isinstance(model, KANConfig):
        return Work(rows, size := edges + sum(shape[1:]), size, edges)
    sizes = (Size(shape, intervals_of(model)[at], model.degree) for at in (-1, 0))
    last, first = (kan_parameters(size, edge_spec(model, "lm")) for size in sizes)
    most = AUTO_COEFFICIENTS + edges
    return Work(
        rows, max(min(last, most), first) if model.intervals == "auto" else last, first, edges * (model.degree + 2)
    )


def _check_lm(problem: Problem) -> None:
    if problem.data.task == "classification":
        raise UsageError("solver=lm minimises squares, not cross-entropy; use solver=auto, lbfgs or adam for classes.")
    if problem.domain.element_size() < 8:
        raise UsageError("solver=lm works in float64; use precision=float64, or solver=lbfgs or adam for float32.")
