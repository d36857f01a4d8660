"""From the configuration to the engine: fresh networks of a model, and the plan by which a solver trains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Generator

from kanrun.config import (
    MODELS,
    SOLVERS,
    AdamSolver,
    AutoSolver,
    BezierConfig,
    BSplineConfig,
    KANConfig,
    LMSolver,
    MLPConfig,
    PolynomialConfig,
    check,
)
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.layers.settings import TrainedScales
from kanrun.engine.networks import KAN, MLP, Bezier, BSpline, Network, Polynomial
from kanrun.engine.networks.counting import Size, kan_parameters
from kanrun.engine.training import Plan, Task, TrainingPolicy, Work, choose_solver
from kanrun.errors import UsageError
from kanrun.study.problem import LearningProblem

Create = Callable[[Generator], Network]


@dataclass(frozen=True)
class PlanningPolicy:
    """The numbers that settings left to kanrun stand for."""

    intervals: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    """Grids of `model.intervals=auto`, as far as size allows and validation gains; each contains the one before."""
    coefficients: int = 2000
    """Largest number of coefficients of a grid of `model.intervals=auto`."""
    patience: int = 20
    """Second-order steps without a lower validation error until a model without a smoothness penalty stops."""
    classification_order: int = 2
    """Order of the differences that the smoothness penalty of classifiers weighs, and its weight."""
    classification_weight: float = 1e-3
    cubic_weight: float = 1e-21
    """Weight of LBFGS's smoothness penalty in regression, at degree 3; `lbfgs_weight` is that of other degrees."""
    starts: int = 6
    """Starts of Levenberg-Marquardt for networks of at most `wide` edges, and of wider ones."""
    few_starts: int = 3
    wide: int = 50
    adam_batch: int = 1024
    """Samples of one step of Adam where `solver=auto` chooses it."""

    def lbfgs_weight(self, degree: int) -> float:
        """G^(1 - 2m) on differences of order m = degree + 2, for the G at which degree 3 has `cubic_weight`.

        At G intervals the roughest spline pays about as much as it can gain: what the data leave open is smooth, and
        errors of 1e-7 are not held back.
        """
        return float(self.cubic_weight ** ((2 * degree + 3) / 9))


def refuse_unused(model: Any, instead: Mapping[str, str]) -> None:
    """Raise UsageError for a setting of the KAN that the experiment takes from elsewhere, which `instead` names."""
    usual = KANConfig()
    for name, place in instead.items():
        if isinstance(model, KANConfig) and getattr(model, name) != getattr(usual, name):
            raise UsageError(
                f"model.{name}={getattr(model, name)} is not used here; give it as {place}."
            )


def check_model(model: Any, inputs: int) -> None:
    """Raise UsageError for the first setting of `model` that breaks a rule, or if it does not take so many inputs."""
    if vars(model).get("hidden", ()) is None:
        raise UsageError(
            "model.hidden=null is for kanrun interpret, which searches the shape; give the widths here."
        )
    check(model, "model.")
    if MODELS[model.kind].tables_only:
        raise UsageError(
            f"model={model.kind} is for tables, and for kanrun fit alone; take model=kan or mlp here."
        )
    products, hidden = vars(model).get("multiplication_nodes", ()), vars(model).get("hidden", ())
    if products and (
        len(products) != len(hidden) or any(m > n for m, n in zip(products, hidden, strict=True))
    ):
        raise UsageError(
            f"model.multiplication_nodes={list(products)} must have a number for each layer of model.hidden={list(hidden)}, "
            "no larger than its nodes."
        )
    takes = MODELS[model.kind].inputs
    if takes is not None and inputs != takes:
        raise UsageError(
            f"model={model.kind} is a curve of one input, and the target has {inputs}; use model=kan or mlp."
        )


def network_shape(model: Any, inputs: int, outputs: int) -> tuple[int, ...]:
    """Widths of the network, inputs first."""
    return (inputs, *(vars(model).get("hidden") or ()), outputs)


def intervals_of(model: Any, policy: PlanningPolicy = PlanningPolicy()) -> tuple[int, ...]:
    """The grid schedule, empty for models without grids."""
    given = vars(model).get("intervals", ())
    if given == "auto":
        return policy.intervals
    return tuple(int(intervals) for intervals in ([given] if isinstance(given, int) else given))


def factory(model: Any, problem: LearningProblem, solver: str = "lm") -> Create:
    """A function from a generator to a fresh network for `problem`, to be trained by `solver`.

    `model.initialisation=auto` is `spline` for solver lm, which starts from splines alone, and `paper` for others.
    Raises UsageError as `check_model` does.
    """
    check_model(model, problem.inputs)
    if isinstance(model, KANConfig) and model.initialisation == "auto":
        model = replace(model, initialisation="spline" if solver == "lm" else "paper")
    create = partial(MODELS[model.kind].build(), model, problem)
    return (lambda generator: create(generator).for_second_order()) if solver == "lm" else create


def create_kan(model: KANConfig, problem: LearningProblem, generator: Generator) -> Network:
    return KAN.create(
        network_shape(model, problem.inputs, problem.outputs),
        intervals_of(model)[0],
        edge_spec(model, "adam"),
        domain=problem.domain,
        initialisation=model.initialisation,
        generator=generator,
        products=model.multiplication_nodes,
    )


def edge_spec(model: KANConfig, solver: str) -> EdgeSpec:
    """The edges of a KAN once `solver` trains it; `auto` counts as lm, as `KAN.for_second_order` says."""
    trained: TrainedScales = (
        "none" if model.freeze_scales else "base" if solver in ("lm", "auto") else "all"
    )
    return EdgeSpec(model.degree, model.base, model.edge_scaling, model.extrapolation, trained)  # type: ignore[arg-type]


def create_mlp(model: MLPConfig, problem: LearningProblem, generator: Generator) -> Network:
    shape = network_shape(model, problem.inputs, problem.outputs)
    network = MLP(shape, model.activation, dtype=problem.domain.dtype, generator=generator)
    return network.to(problem.domain.device)


def create_polynomial(model: PolynomialConfig, problem: LearningProblem, _: Generator) -> Network:
    return Polynomial(model.degree + 1, problem.outputs, problem.domain)


def create_bezier(model: BezierConfig, problem: LearningProblem, _: Generator) -> Network:
    return Bezier(model.control_points, problem.outputs, problem.domain)


def create_bspline(model: BSplineConfig, problem: LearningProblem, _: Generator) -> Network:
    return BSpline(model.control_points, problem.outputs, problem.domain, degree=model.degree)


def make_plan(
    model: Any, solver: Any, problem: LearningProblem, policy: PlanningPolicy = PlanningPolicy()
) -> tuple[Plan, str]:
    """The plan for training `model` on `problem`, and why its solver was chosen.

    A setting of the model or the solver that bears the name of a field of `Plan` becomes it.
    Raises UsageError for settings that break a rule, and for a solver that does not fit the problem.
    """
    check_model(model, problem.inputs)
    check(solver, "solver.")
    _check_solver(model, solver, problem)
    classifies = problem.data.task == "classification"
    intervals, shape = (
        intervals_of(model, policy),
        network_shape(model, problem.inputs, problem.outputs),
    )
    name, why = solver.kind, f"{solver.kind}: asked for."
    if isinstance(solver, AutoSolver):
        name, why = choose_solver(_work(model, shape, problem, policy), problem.data.task)
        if name == "lm" and problem.domain.element_size() < 8:
            name, why = "lbfgs", "lbfgs: second-order steps need float64."
    if vars(model).get("selection") == "evidence" and name != "lm":
        raise UsageError(
            f"model.selection=evidence is for solver=lm, and solver={name} trains here; leave it at validation."
        )
    known = {field.name for field in fields(Plan)}
    settings = {"update_grid": False, **vars(model), **vars(solver)}
    if settings.get("selection") == "evidence":
        settings["select_width"] = False  # whose choice needs points that are held out
    if settings.get("freeze_unseen") and name != "lm" and not settings.get("freeze_scales", True):
        why += " solver.freeze_unseen holds coefficients and w_b; w_s moves the function unless model.freeze_scales=true."
    given = {key: value for key, value in settings.items() if key in known}
    automatic = settings.get("intervals") == "auto"
    unsmoothed = not intervals and not MODELS[model.kind].closed_form
    return Plan(
        **{
            **given,
            "solver": name,
            "settings": solver,
            "intervals": intervals,
            "starts": solver.n_starts or _starts(intervals, shape, name, policy),
            "weight": _weight(settings, name, problem.data.task, policy),
            "order": policy.classification_order if classifies else None,
            "patience": settings.get("patience")
            or (policy.patience if name == "lm" and unsmoothed else None),
            "stop_early": automatic,
            "most_unknowns": policy.coefficients + _edges(shape) if automatic else None,
            "adam": solver
            if isinstance(solver, AdamSolver)
            else AdamSolver(batch_size=policy.adam_batch),
            "policy": _training_policy(solver),
        }
    ), why


def in_words(model: Any, plan: Plan, problem: LearningProblem) -> str:
    """A training in a few words, such as "Levenberg-Marquardt, 495 parameters, 4 grids", those of the last grid."""
    kind, up_to = SOLVERS[plan.solver], "up to " if plan.stop_early else ""
    solver = "Least squares" if MODELS[model.kind].closed_form else kind.label or plan.solver
    shape = network_shape(model, problem.inputs, problem.outputs)
    parameters = _parameters(model, plan, shape, problem)
    grids = f", {up_to}{len(plan.intervals)} grids" if len(plan.intervals) > 1 else ""
    starts = f", {plan.starts} starts" if plan.starts > 1 else ""
    return f"{solver}, {up_to}{parameters} parameters{grids}{starts}"


def _parameters(model: Any, plan: Plan, shape: tuple[int, ...], problem: LearningProblem) -> int:
    if not isinstance(model, KANConfig):
        return factory(model, problem, plan.solver)(Generator()).count()
    size = Size(shape, plan.intervals[-1], model.degree, tuple(model.multiplication_nodes))
    most = kan_parameters(size, edge_spec(model, plan.solver))
    return most if plan.most_unknowns is None else min(most, plan.most_unknowns)


def _check_solver(model: Any, solver: Any, problem: LearningProblem) -> None:
    if isinstance(solver, LMSolver) and problem.data.task == "classification":
        raise UsageError(
            "solver=lm minimises squares, not cross-entropy; use solver=auto, lbfgs or adam for classes."
        )
    if isinstance(solver, LMSolver) and problem.domain.element_size() < 8:
        raise UsageError(
            "solver=lm works in float64; use precision=float64, or solver=lbfgs or adam for float32."
        )
    if vars(solver).get("sparsity") and not intervals_of(model):
        raise UsageError(
            f"solver.sparsity={solver.sparsity} weighs edges of a KAN, which model={model.kind} has none of."
        )


def _starts(
    intervals: tuple[int, ...], shape: tuple[int, ...], solver: str, policy: PlanningPolicy
) -> int:
    """How many starts are worth their time: one where the model is linear in its unknowns, few for wide networks."""
    if solver != "lm" or (len(shape) == 2 and intervals):
        return 1
    return policy.few_starts if _edges(shape) > policy.wide else policy.starts


def _edges(shape: tuple[int, ...]) -> int:
    return sum(a * b for a, b in pairwise(shape))


def _training_policy(solver: Any) -> TrainingPolicy:
    """The constants of the training, with the solver's own settings among them."""
    policy = TrainingPolicy()
    if not isinstance(solver, LMSolver):
        return policy
    policy = replace(
        policy, grids=replace(policy.grids, hardly=solver.tolerance, stalled=solver.plateau_tolerance)
    )
    return policy if solver.damping is None else policy.damped(solver.damping)


def _weight(
    settings: Mapping[str, Any], name: str, task: Task, policy: PlanningPolicy
) -> float | None:
    """The penalty's weight, None where validation chooses it (Levenberg-Marquardt).

    LBFGS takes a small one that its metric includes; Adam, whose metric does not, would be slowed down by it.
    Classes that can be separated have no finite minimum of cross-entropy: a penalty on curvature gives them one.
    """
    given = settings.get("smoothness_weight", "auto")
    if given != "auto":
        return float(given)
    if name == "lm":
        return None
    if task == "classification":
        return policy.classification_weight
    return policy.lbfgs_weight(settings.get("degree", 0)) if name == "lbfgs" else 0.0


def _work(
    model: Any, shape: tuple[int, ...], problem: LearningProblem, policy: PlanningPolicy
) -> Work:
    edges, rows = _edges(shape), len(problem.data.train) * problem.outputs
    if not isinstance(model, KANConfig):
        size = factory(model, problem)(Generator()).count()
        return Work(rows, size, size, size)
    sizes = (
        Size(shape, intervals_of(model, policy)[at], model.degree, tuple(model.multiplication_nodes))
        for at in (-1, 0)
    )
    last, first = (kan_parameters(size, edge_spec(model, "lm")) for size in sizes)
    if model.intervals == "auto":
        last = max(min(last, policy.coefficients + edges), first)
    return Work(rows, last, first, edges * (model.degree + 2))
