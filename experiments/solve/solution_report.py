"""Solutions with their verdicts and errors: what a run records and `kanrun.solve` returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import torch
from kanrun.experiments.solve.checks import condition_warnings
from kanrun.experiments.solve.plots import PUBLISHED
from kanrun.experiments.solve.problem import SolveProblem, make_solve_problem
from kanrun.experiments.solve.settings import NetworkChoice, network_choices, policy_of
from kanrun.experiments.solve.verdict import (
    ErrorPoints,
    error_points,
    errors,
    maximum,
    residual_rms,
    verdict,
)
from numpy.typing import ArrayLike
from pandas import DataFrame

from kanrun.config import check
from kanrun.engine.equations import (
    Ansatz,
    Array,
    EquationStage,
    Solution,
    arguments_at,
    breakpoints_of,
)
from kanrun.engine.equations import solve as solve_system
from kanrun.errors import UsageError
from kanrun.model.model import Model
from kanrun.model.trained import to_checkpoint
from kanrun.points import Scaling
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Table
from kanrun.study.resources import generator

from .config import EquationConfig, SolveConfig

#: Number of points along each variable in the table of a solution, by the number of variables. In
#: three variables, the table contains only a plane through the middle of the box.
RESOLUTION = {1: 401, 2: 81, 3: 61}


@dataclass(frozen=True)
class SolvedEquation:
    """Solution of a differential equation, with a verdict on how reliable it is.

    A solution can be called like a function of points; it returns the values of the unknowns.

    Attributes:
        problem: The problem that was solved.
        network: Name of the network, such as `KAN 2-5-1`.
        solution: The solution as the solver returned it.
        errors: Errors against a known solution: relative L2 error `l2`, relative H1 error `h1`,
            mean squared error `mse` and largest absolute error `max_error`. Errors that cannot be
            computed are None.
        verdict: `solved`, `doubtful` or `failed`.
        reason: Reason for the verdict, in one sentence.
        seconds: CPU time of the solver in seconds.
        seed: Seed of random initial guesses and points.
    """

    problem: SolveProblem
    network: str
    solution: Solution
    errors: Mapping[str, float | None]
    verdict: str
    reason: str
    seconds: float
    seed: int

    def __repr__(self) -> str:
        return (
            f"SolvedEquation({self.problem.name} by {self.network}: {self.verdict}, {self.reason})"
        )

    def _repr_html_(self) -> str:
        facts = DataFrame.from_dict(self.summary(), orient="index").to_html(header=False, border=0)
        return f"<p><b>{escape(self.verdict)}</b>: {escape(self.reason)}</p>{facts}"

    @cached_property
    def model(self) -> Model:
        """The solution as a `kanrun.Model`, in the user's units."""
        system = self.problem.system
        network = self.solution.network
        names = system.vocabulary.variables, system.vocabulary.unknowns
        scale, unscale = (Scaling.identity(len(each)) for each in names)
        box: Array = system.box.numpy()
        return Model(network, *names, box, scale, unscale, classes=None, seed=self.seed)

    def __call__(self, x: ArrayLike) -> Array:
        """Evaluate the unknowns at points.

        Args:
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            The unknowns, shape (points, unknowns).
        """
        return self.model(self._points(x))

    def derivative(self, name: str, x: ArrayLike) -> Array:
        """Compute a derivative at points.

        Args:
            name: Derivative, such as `u_xx`.
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            Values of the derivative, shape (points,).

        Raises:
            UsageError: If `name` is not a derivative of an unknown, or `x` has another shape.
        """
        return self.model.derivative(name, self._points(x))

    def residual(self, x: ArrayLike) -> Array:
        """Compute the residual, left side minus right side, of every equation at points.

        Args:
            x: Points, shape (points, variables), or (points,) for one variable.

        Returns:
            Residuals, shape (points, equations).
        """
        at = torch.as_tensor(self._points(x))
        network = self.solution.network
        equations = self.problem.system.equations
        constants = self.solution.last[-1].constants
        rows = (arguments_at(each, network, constants, at) for each in equations)
        return np.stack([e.residual(r) for e, r in zip(equations, rows, strict=True)], axis=1)

    @property
    def constants(self) -> dict[str, float]:
        """Estimated values of the unknown parameters by name."""
        names = self.problem.system.vocabulary.constants
        values = self.solution.last[-1].constants
        return dict(zip(names, values.tolist(), strict=True))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors of the unknown parameters; NaN without observations."""
        values = self.solution.last[-1].standard_errors.tolist()
        return dict(zip(self.constants, values, strict=True))

    def summary(self) -> dict[str, Any]:
        """Return the row of the table `summary`: verdict, errors, residuals, sizes, parameters."""
        last = self.solution.last
        found = dict[str, float]()
        truth = self.problem.truth
        for name, value in self.constants.items():
            found |= {name: value, f"{name}_error": self.standard_errors[name]}
            found |= {f"{name}_true": truth[name]} if name in truth else {}
        return {
            "equation": self.problem.name,
            "network": self.network,
            "verdict": self.verdict,
            "reference": self.problem.comparison.what if self.problem.comparison else "",
            **self.errors,
            "residual_rms": residual_rms(self.solution),
            "conditions_rms": max(each.conditions.rms for each in last),
            "grid_change": maximum(each.change for each in last),
            "estimate": None if self.verdict == "failed" else self.solution.estimate,
            "sensitivity": maximum(each.sensitivity for each in last),
            "terms": last[-1].solution.form.terms,
            "unknowns": sum(each.unknowns for each in last),
            "intervals": last[-1].intervals,
            "windows": len(last),
            "solved_until": self.solution.solved_until,
            **found,
            "seconds": self.seconds,
            "published": min(known)[0] if (known := PUBLISHED.get(self.problem.name)) else None,
        }

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the solution as a checkpoint, whose file name contains `name`."""
        return to_checkpoint(f"{self.problem.name}-{name}-seed{self.seed}", self.model)

    def tables(self, name: str) -> Iterator[Table]:
        """Yield three tables, whose names end in `name`.

        `solution` has the unknowns on a regular grid, their true values (if known everywhere) and
        the residuals. With three variables, the last variable is fixed at the middle of its range.
        `points` has `EquationStage.points`. `knots` has the breakpoints of each variable and
        window; it is left out for networks without grids.
        """
        box = self.problem.system.box.numpy()
        vocabulary = self.problem.system.vocabulary
        names = vocabulary.variables
        axes = [np.linspace(low, high, RESOLUTION[len(box)]) for low, high in box]
        if len(box) == 3:
            axes[2] = box[2:].mean(1)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(box))
        values = self(points)
        residual = self.residual(points)
        comparison = self.problem.comparison
        columns = dict(zip(names, points.T, strict=True))
        for i, unknown in enumerate(vocabulary.unknowns):
            columns[unknown] = values[:, i]
            if comparison is not None and comparison.what != "recorded":
                columns[f"{unknown}_true"] = comparison.values(points)[:, i]
        columns |= {f"residual_{i}": each for i, each in enumerate(residual.T)}
        yield Table(f"solution_{name}", columns)
        inside = np.concatenate([stage.points.numpy() for stage in self.solution.last])
        yield Table(f"points_{name}", dict(zip(names, inside.T, strict=True)))
        knots = [
            (number, variable, at)
            for number, stage in enumerate(self.solution.last)
            if (ends := breakpoints_of(stage.solution)) is not None
            for variable, row in zip(names, ends.T.tolist(), strict=True)
            for at in row
        ]
        if knots:
            window, variables, at = map(np.array, zip(*knots, strict=True))
            yield Table(f"knots_{name}", {"window": window, "variable": variables, "at": at})

    def _points(self, x: ArrayLike) -> Array:
        points = np.asarray(x, dtype=np.float64)
        variables = len(self.problem.system.box)
        points = points[:, None] if points.ndim == 1 and variables == 1 else points
        if points.ndim != 2 or points.shape[1] != variables:
            raise UsageError(
                f"Points must have the shape (points, {variables}), not {points.shape}."
            )
        return points


def stage_row(
    problem: SolveProblem, stage: EquationStage, points: ErrorPoints
) -> dict[str, float | int | None]:
    """Return the row of metrics.csv for one grid or window of time.

    Errors are measured only at the `points` that lie in the window.
    """
    box = stage.solution.box.numpy()
    return {
        "window": stage.window,
        "until": float(box[-1, 1]),
        "intervals": stage.intervals,
        "unknowns": stage.unknowns,
        "steps": stage.steps,
        "objective": stage.objective,
        "residual_rms": stage.equation.rms,
        "residual_max": stage.equation.largest,
        "conditions_rms": stage.conditions.rms,
        "grid_change": stage.change,
        **errors(problem.comparison, stage.solution, points.inside(box)),
        "seconds": stage.seconds,
        **dict(zip(problem.system.vocabulary.constants, stage.constants.tolist(), strict=True)),
    }


def solutions(
    cfg: SolveConfig, problem: SolveProblem, choice: NetworkChoice, seed: int
) -> Iterator[EquationStage | SolvedEquation]:
    """Solve a problem with one network; yield the record of every grid, then the solution.

    The systems with the constants of `equation.continuation` are solved first; each solution is the
    initial guess for the next system.
    """
    known = problem.comparison
    method = choice.method
    start = None
    drawn = generator(seed, "training")
    began = time.process_time()
    fixed = replace(method, grows=False) if isinstance(method, Ansatz) else method
    for system in (*problem.easier, problem.system):
        chosen = method if system is problem.system else fixed
        solution = yield from solve_system(
            system, chosen, policy_of(cfg), drawn, tolerance=cfg.tolerance, first=start
        )
        start = solution.last[-1].solution
    seconds = time.process_time() - began
    measured = errors(known, solution.network, error_points(problem, seed))
    error = measured["l2"] if cfg.needles is None else None
    outcome, reason = verdict(solution, problem.system, error)
    if outcome != "solved" and (remarks := condition_warnings(problem.system)):
        reason += f"; {remarks[0]}"
    yield SolvedEquation(problem, choice.label, solution, measured, outcome, reason, seconds, seed)


def solve(  # noqa: PLR0913 (keywords of a public function)
    formula: str | Sequence[str],
    variables: Mapping[str, Sequence[float | str]],
    conditions: Mapping[str, Any] | Sequence[str] = (),
    *,
    unknowns: Sequence[str] = ("u",),
    constants: Mapping[str, float | str] | None = None,
    exact: str | Sequence[str] | None = None,
    continuation: Mapping[str, Sequence[float]] | None = None,
    unknown_parameters: Mapping[str, float] | None = None,
    data: str | Mapping[str, Sequence[float]] | None = None,
    network: Mapping[str, Any] | None = None,
    intervals: Sequence[int] | None = None,
    tolerance: float = 1e-6,
    budget: float = 60.0,
    seed: int = 0,
) -> SolvedEquation:
    """Solve a differential equation and report how reliable the solution is.

    Args:
        formula: Equation such as `u_t = u_xx`; for a system, a list with one equation per unknown.
        variables: Range (low, high) of each variable by name; if there is time, it comes last.
        conditions: Sentences such as `u = 0 at x=0, x=1` or `u_x periodic in x`, or a dictionary of
            conditions by name, as in the setting `equation.conditions` of `kanrun solve`.
        unknowns: Names of the unknown functions.
        constants: Values of constants by name, for use in all formulas.
        exact: Formula of the solution, if it is known, from which errors are measured; for a
            system, a list with one formula per unknown.
        continuation: Values of constants by name, for parameter continuation: the equation is first
            solved with these values in turn, and each solution is the initial guess for the next.
        unknown_parameters: Initial guesses, by name, of parameters to be estimated from `data`.
        data: Observations: the name of a file, or columns by name. The columns are the variables
            and the observed unknowns.
        network: Network, such as {"kind": "kan", "hidden": [5]}, in the form of an entry of
            the setting `networks` of `kanrun solve`. By default, a suitable KAN is chosen.
        intervals: Number of intervals per variable of each grid, coarsest first; by default, grids
            are refined as long as that helps.
        tolerance: Wanted relative L2 error, for solvers that estimate their error. Such a solver is
            the default for equations in at most two variables without unknown parameters or data.
        budget: Largest amount of work, in approximate seconds of one core.
        seed: Seed of random initial guesses and points.

    Returns:
        The solution, with a verdict on how reliable it is.

    Raises:
        UsageError: If the equation, a condition or the data are not valid.
        TrainingFailed: If the equation cannot be solved at all, for example because the residual is
            not finite at any initial guess.

    Examples:
        >>> from kanrun import solve
        >>> decay = solve("u_x = -u", {"x": (0, 1)}, ["u = 1 at x=0"], intervals=[4])
        >>> decay([[1.0]]).round(4)
        array([[0.3679]])
        >>> decay.derivative("u_x", [[0.0]]).round(3)
        array([-1.])
    """
    given = EquationConfig(
        variables=variables,
        unknowns=list(unknowns),
        constants=constants,
        continuation=continuation,
        formula=formula,
        conditions=conditions,
        exact=exact,
        unknown_parameters=unknown_parameters,
        data=data,
        intervals=None if intervals is None else list(intervals),
    )
    networks = [dict(network or {"kind": "kan"})]
    cfg = SolveConfig(
        seed=seed,
        equation=given,
        networks=networks,
        tolerance=tolerance,
        budget=budget,
    )
    check(cfg)
    problem = make_solve_problem(cfg, seed)
    (choice,) = network_choices(cfg, problem.system)
    problem = problem.compared_for(choice.method)
    return next(
        each for each in solutions(cfg, problem, choice, seed) if isinstance(each, SolvedEquation)
    )
