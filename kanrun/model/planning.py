"""Preparation of a training run from settings: learning problem, untrained networks, and plan.

A learning problem consists of a dataset in the user's units and the tensors that the engine trains
on. The plan says how to train: which solver, on which grids, and from how many random starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from kanrun.config.registry import SOLVERS
from kanrun.config.rules import check
from kanrun.engine.networks import Network
from kanrun.engine.networks.kan import KANSize, kan_parameters
from kanrun.engine.training import (
    GrowthPolicy,
    Plan,
    Samples,
    Task,
    TrainingData,
    affords_starts,
    check_solver,
    choose_solver,
)
from kanrun.errors import UsageError
from kanrun.model.settings import AutoSolver, GradientConfig, KANConfig
from kanrun.points import Array, PiecewiseScaling, Points, Scaling
from kanrun.targets.datasets import Dataset

PRECISIONS: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class LearningProblem:
    """Points to learn, in two forms.

    Attributes:
        dataset: The points in the user's units.
        data: The same points as scaled tensors, for the engine.
        domain: Scaled range of the first grid, shape (inputs, 2).
    """

    dataset: Dataset
    data: TrainingData
    domain: Tensor

    @property
    def inputs(self) -> int:
        return len(self.dataset.target.inputs)

    @property
    def outputs(self) -> int:
        """Number of network outputs: the number of outputs of the target, or of classes."""
        return len(self.dataset.classes or self.dataset.target.outputs)

    def shape_of(self, model: Any) -> tuple[int, ...]:
        """Return the shape of the model's network for this problem: (inputs, *hidden, outputs)."""
        return (self.inputs, *model.widths, self.outputs)


def with_scalings(
    problem: LearningProblem,
    inputs: Scaling | PiecewiseScaling,
    outputs: Scaling | PiecewiseScaling | None,
) -> LearningProblem:
    """Return the problem with these scalings; if `outputs` is None, the output scaling is kept."""
    outputs = outputs or problem.dataset.output_scaling
    return _changed(problem, input_scaling=inputs, output_scaling=outputs)


def joined(problem: LearningProblem, points: Points, *, only: bool = False) -> LearningProblem:
    """Return the problem with `points` added to the training points; if `only`, in their place."""
    return _changed(problem, train=points if only else problem.dataset.train.join(points))


def _changed(problem: LearningProblem, **changes: Any) -> LearningProblem:
    dataset = replace(problem.dataset, **changes)
    return problem_on(dataset, problem.domain.dtype, problem.domain.device)


def problem_on(dataset: Dataset, dtype: torch.dtype, device: torch.device) -> LearningProblem:
    """Return the learning problem of `dataset`, with tensors of this type on this device."""

    def tensor(array: Array) -> Tensor:
        return torch.tensor(array, dtype=dtype, device=device)

    def samples(points: Points | None) -> Samples | None:
        if points is None:
            return None
        y = points.y if dataset.classes else dataset.output_scaling.apply(points.y)
        weights = None if points.weights is None else tensor(points.weights)
        return Samples(tensor(dataset.input_scaling.apply(points.x)), tensor(y), weights)

    train = samples(dataset.train)
    assert train is not None
    # In float64, because float32 cannot represent every unit.
    units = torch.tensor(dataset.output_scaling.scale, dtype=torch.float64)
    task: Task = "classification" if dataset.classes else "regression"
    data = TrainingData(train, samples(dataset.validation), samples(dataset.test), units, task)
    domain = tensor(dataset.input_scaling.apply(dataset.target.domain.T).T)
    # A constant input gets a range of length 1, so that its grid has a positive length.
    flat = (domain[:, 1] <= domain[:, 0])[:, None]
    domain = torch.where(flat, domain + domain.new_tensor([-0.5, 0.5]), domain)
    return LearningProblem(dataset, data, domain)


Create = Callable[[Generator], Network]

#: Largest number of spline coefficients for which `model.intervals=auto` chooses a grid.
AUTO_COEFFICIENTS = 2000
#: Number of random starts of second-order solvers, unless the network is wide.
STARTS = 8
#: Limits of a growing shape for each `model.budget`: the largest number of nodes in the first
#: hidden layer, and the number of candidates for each width.
BUDGETS = {"fast": (3, 4), "normal": (6, STARTS), "thorough": (12, 16)}


def factory(model: Any, problem: LearningProblem, solver: str = "lm") -> Create:
    """Return a function that creates an untrained network for `solver` from a random generator.

    `model.initialisation=auto` means `spline` for second-order solvers, so that the weights of the
    base function are zero at first, and `paper` for other solvers.
    """
    second_order = SOLVERS[solver].second_order
    if isinstance(model, KANConfig) and model.initialisation == "auto":
        model = replace(model, initialisation="spline" if second_order else "paper")
    create = partial(model.create, problem)
    return (lambda generator: create(generator).for_second_order()) if second_order else create


def check_model(model: Any, inputs: int) -> None:
    """Raise UsageError if a setting of `model` is invalid or the model cannot take `inputs` inputs.

    Models that are only for tables are rejected too.
    """
    check(model, "model.")
    if model.tables_only:
        raise UsageError(
            f"model={model.kind} is for tables, and for kanrun fit alone. Use model=kan or mlp "
            "here."
        )
    if model.inputs is not None and inputs != model.inputs:
        raise UsageError(
            f"model={model.kind} is a curve of one input, and the target has {inputs}. Use "
            "model=kan or mlp."
        )


def make_plan(model: Any, solver: Any, problem: LearningProblem) -> tuple[Plan, str]:
    """Return the plan for training `model` on `problem`, and a sentence that justifies the solver.

    Raises UsageError if a setting is invalid or the solver does not support the problem.
    """
    classification_order = 2  # order of the differences in the smoothness penalty of classifiers
    # Number of second-order steps without a lower validation error after which the training of a
    # network without grids stops.
    patience = 20
    check_model(model, problem.inputs)
    check(solver, "solver.")
    grids = model if isinstance(model, KANConfig) else None
    refines = grids is not None and grids.refines
    intervals = model.schedule
    task = problem.data.task
    gradient = solver if isinstance(solver, GradientConfig) else GradientConfig()
    if gradient.sparsity and not intervals:
        raise UsageError(
            f"solver.sparsity={gradient.sparsity} weighs edges of a KAN, and model={model.kind} "
            "has none."
        )
    name, why, settings = _solver(model, solver, problem)
    second_order = SOLVERS[name].second_order
    closed_form = model.closed_form
    edges = _edges(problem.shape_of(model))
    unsmoothed = second_order and not intervals and not closed_form
    grows = isinstance(model, KANConfig) and (
        second_order or _classifier_grows(model, solver, name, problem)
    )
    starts = _starts(model, solver, edges, second_order or grows)
    plan = Plan(
        name,
        intervals,
        steps=0 if closed_form else solver.steps,
        starts=starts,
        weight=0.0 if closed_form else _weight(solver, name, task, grids.degree if grids else 0),
        order=classification_order if task == "classification" else None,
        growth=_growth(model, solver, problem, starts) if grows else None,
        update_grid=grids is not None and grids.update_grid,
        grid_eps=grids.grid_eps if grids else 1.0,
        freeze_unseen=solver.freeze_unseen,
        stop_early=refines,
        max_unknowns=AUTO_COEFFICIENTS + edges if refines else None,
        patience=gradient.patience or (patience if unsmoothed else None),
        insert_knots=grows and second_order and model.grows,
        settings=settings,
    )
    return plan, why


def _classifier_grows(model: KANConfig, solver: Any, name: str, problem: LearningProblem) -> bool:
    """Return whether a classifier's shape grows, by least squares fits to indicators of classes.

    It grows if `model.hidden` and the solver are `auto`, unless `name` (the solver chosen) is
    `adam`, the precision is not float64, or the network is too large for several starts.
    """
    automatic = model.grows and isinstance(solver, AutoSolver)
    if problem.data.task != "classification" or name == "adam" or not automatic:
        return False
    first = parameters_of(model, problem, "lm", model.schedule[:1])
    return problem.domain.dtype == torch.float64 and affords_starts(first)


def _growth(
    model: KANConfig, solver: Any, problem: LearningProblem, starts: int
) -> GrowthPolicy | None:
    """Return the limits within which the shape grows, or None if the shape is fixed.

    With `hidden=auto` the limits follow from the budget, otherwise from the shape that is set.
    Raises UsageError if `hidden=auto` is combined with multiplication nodes, which growth does not
    support.
    """
    outputs = problem.outputs
    if model.multiplication_nodes:
        if model.grows:
            raise UsageError(
                f"model.multiplication_nodes={model.multiplication_nodes} needs a given shape. "
                "Set model.hidden, such as [5]."
            )
        return None
    if model.grows:
        nodes, _ = BUDGETS[model.budget]
        return GrowthPolicy((problem.inputs, nodes, outputs, outputs))
    shape = problem.shape_of(model)
    contains = max(shape[1:-1], default=1) > 1 and min(shape[1:-1]) >= outputs
    chooses = solver.select_width and starts > 1
    return GrowthPolicy(shape, given=True) if contains and chooses else None


def _edges(shape: tuple[int, ...]) -> int:
    return sum(before * after for before, after in pairwise(shape))


def _solver(model: Any, solver: Any, problem: LearningProblem) -> tuple[str, str, Any]:
    """Return the name of the solver, a sentence with the reason, and the solver's settings.

    `solver=auto` is resolved. Raises UsageError if the solver does not support the problem.
    """
    adam_batch = 1024  # number of samples in a step of Adam, if `solver=auto` chooses Adam
    name = solver.kind
    why = f"{solver.kind}: chosen by solver={solver.kind}."
    settings = solver
    task = problem.data.task
    dtype = problem.domain.dtype
    if isinstance(solver, AutoSolver):
        grids = model.schedule
        rows = len(problem.data.train) * problem.outputs
        last = parameters_of(model, problem, name, grids[-1:])
        first = parameters_of(model, problem, name, grids[:1])
        edge_unknowns = last
        if isinstance(model, KANConfig):
            edges = _edges(problem.shape_of(model))
            edge_unknowns = edges * (model.degree + 2)
            if model.refines:
                last = max(min(last, AUTO_COEFFICIENTS + edges), first)
        double = dtype == torch.float64
        name, why = choose_solver(rows, last, first, edge_unknowns, task, double=double)
        settings = SOLVERS[name](**({"batch_size": adam_batch} if name == "adam" else {}))
    check_solver(name, task, dtype)
    scales_move = isinstance(model, KANConfig) and not model.freeze_scales
    moving = not SOLVERS[name].second_order and scales_move
    if solver.freeze_unseen and moving:
        why += (
            " solver.freeze_unseen freezes coefficients and w_b; w_s moves the function unless "
            "model.freeze_scales=true."
        )
    return name, why, settings


def _starts(model: Any, solver: Any, edges: int, second_order: bool) -> int:
    """Return the number of random starts, or the number of candidates per width if the shape grows.

    It is 1 for models fitted by linear least squares. Unless `solver.n_starts` is set, it is also 1
    for first-order solvers and for KANs without hidden layers.
    """
    wide = 50  # largest number of edges of a network that gets STARTS random starts
    few_starts = 3  # number of random starts for networks with more edges
    if model.closed_form:
        return 1
    if isinstance(model, KANConfig) and model.grows and second_order:
        return int(solver.n_starts or BUDGETS[model.budget][1])
    several = second_order and (model.widths or not model.schedule)
    return int(solver.n_starts or ((few_starts if edges > wide else STARTS) if several else 1))


def describe_training(model: Any, plan: Plan, problem: LearningProblem) -> str:
    """Describe how `model` is trained, such as "Levenberg-Marquardt, 495 parameters, 4 grids"."""
    if plan.growth and not plan.growth.given:
        return f"a KAN that grows to at most {plan.growth.largest[1]} nodes (hidden=auto)"
    kind = SOLVERS[plan.solver]
    up_to = "up to " if plan.stop_early else ""
    solver = "Least squares" if model.closed_form else kind.label or plan.solver
    parameters = parameters_of(model, problem, plan.solver, plan.intervals[-1:])
    parameters = min(parameters, plan.max_unknowns or parameters)
    grids = f", {up_to}{len(plan.intervals)} grids" if len(plan.intervals) > 1 else ""
    starts = f", {plan.starts} starts" if plan.starts > 1 else ""
    return f"{solver}, {up_to}{parameters} parameters{grids}{starts}"


def parameters_of(
    model: Any, problem: LearningProblem, solver: str, intervals: tuple[int, ...]
) -> int:
    """Return the number of trained parameters of the model's network on the grid `intervals[0]`.

    For a KAN, the number is computed without creating the network.
    """
    if not isinstance(model, KANConfig):
        return factory(model, problem, solver)(Generator()).count()
    shape = problem.shape_of(model)
    size = KANSize(shape, intervals[0], model.degree, tuple(model.multiplication_nodes))
    return kan_parameters(size, model.edges(second_order=SOLVERS[solver].second_order))


def _weight(solver: Any, name: str, task: Task, degree: int) -> float | None:
    """Return the weight of the smoothness penalty; None if validation chooses it.

    Unless the weight is set, validation chooses it for second-order solvers. For regression, LBFGS
    gets a small weight, which its preconditioner takes into account, and Adam gets weight 0,
    because a penalty would slow Adam down. For classification, both get a larger weight, because
    the cross-entropy of separable classes has no finite minimum without a penalty.
    """
    classification_weight = 1e-3  # default weight of the smoothness penalty of classifiers
    if solver.smoothness_weight != "auto":
        return float(solver.smoothness_weight)
    if SOLVERS[name].second_order:
        return None
    if task == "classification":
        return classification_weight
    return lbfgs_weight(degree) if SOLVERS[name].curvature else 0.0


def lbfgs_weight(degree: int) -> float:
    """Return the weight of LBFGS's smoothness penalty for splines of this degree.

    It is G^(1 - 2m), where m = degree + 2 and G is the number of intervals for which the formula
    gives 1e-21 for degree 3. On a grid of G intervals, the penalty of the roughest spline
    then equals its possible gain, so undetermined coefficients stay smooth and errors of 1e-7
    remain reachable.
    """
    return float(1e-21 ** ((2 * degree + 3) / 9))
