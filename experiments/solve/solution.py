"""Solutions of equations: the network and solver that are chosen, the errors, and the verdict.

A small residual alone proves nothing: the points may miss a narrow front, and an equation with too
few conditions has many solutions. The change of the solution from the previous grid is better
evidence. Residuals are compared with limits relative to the largest term of the equation; errors
and changes are compared with limits relative to the solution.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from html import escape
from itertools import pairwise
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from kanrun.experiments.solve.checks import (
    check_memory,
    condition_warnings,
    contradiction_sentence,
    missing_conditions,
)
from kanrun.experiments.solve.plots import PUBLISHED
from kanrun.experiments.solve.problem import (
    Comparison,
    SolveProblem,
    make_solve_problem,
)
from numpy.typing import ArrayLike
from pandas import DataFrame, Series

from kanrun.config import check
from kanrun.config.rules import typed
from kanrun.engine.equations import (
    SEEN_WIDTH,
    SEEN_WIDTH_IN_TWO,
    Ansatz,
    Array,
    EquationPolicy,
    EquationStage,
    EvolutionSystem,
    Field,
    Grids,
    Method,
    OutputForm,
    Solution,
    System,
    Windows,
    arguments_at,
    breakpoints_of,
    evolution_system,
    is_direct,
)
from kanrun.engine.equations import solve as solve_system
from kanrun.engine.equations.space import DEGREE as SPLINE_DEGREE
from kanrun.engine.equations.system import low_discrepancy
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.errors import UsageError
from kanrun.model.model import Model
from kanrun.model.trained import to_checkpoint
from kanrun.points import Scaling
from kanrun.runs import Claim
from kanrun.runs.files import Checkpoint
from kanrun.runs.records import Table
from kanrun.study.resources import generator
from kanrun.study.suite import claim_at_least, claim_at_most, value_range

from .config import EquationConfig, NetworkConfig, SolveConfig


class NetworkChoice(NamedTuple):
    """Network that solves a system.

    Attributes:
        label: Name of the network in tables and figures.
        method: Settings of the solver.
    """

    label: str
    method: Method


def policy_of(cfg: SolveConfig) -> EquationPolicy:
    """Return the solver's default numbers of points and steps, with the budget of `cfg`."""
    return EquationPolicy(budget=cfg.budget)


def network_choice(cfg: SolveConfig, system: System) -> NetworkChoice:
    """Return the network of the setting `network` and its solver.

    If no setting of the network is given, and a solver that estimates its error applies, this
    solver is chosen.

    Raises:
        UsageError: If the degree is too small for the equation, or the problem too large.
    """
    given = cfg.network
    if given == NetworkConfig() and (direct := _direct(cfg, system)) is not None:
        return direct
    inputs = len(system.box)
    terms = 1 if inputs == 1 else 8
    form = OutputForm(
        len(cfg.equation.unknowns),
        given.terms or terms,
        given.factors or inputs,
        separated=inputs > 1 and not given.hidden and given.factors is None,
    )
    shape = [inputs, *given.hidden, form.outputs]
    widths = "-".join(map(str, shape))
    usual = 5
    order = system.order
    degree = given.degree or max(usual, order + 2)
    if degree <= order:
        raise UsageError(
            f"network.degree={degree} is too small for an equation of order {order}. "
            f"Splines need a degree of at least {order + 1}, better {order + 3}."
        )
    label = f"KAN {widths}" + f" ({form.terms} products)" * (form.factors > 1)
    label += f", k = {degree}" * (degree != usual)
    planned = cfg.equation.intervals
    intervals = tuple(planned or (5, 10, 20, 40))
    spec = EdgeSpec(degree=degree, base="zero")
    domain = torch.tensor([[-1.0, 1.0]] * inputs, dtype=torch.float64)
    kan = partial(KAN.create, shape, intervals[0], spec, domain=domain, initialisation="spline")
    edges = form.outputs if form.separated else sum(a * b for a, b in pairwise(shape))
    check_memory(system, policy_of(cfg), edges * (intervals[-1] + degree))
    return NetworkChoice(label, Ansatz(kan, form, intervals, planned is None, given.terms is None))


def _direct(cfg: SolveConfig, system: System) -> NetworkChoice | None:
    """Return the KAN of a solver that estimates its error, or None if no such solver applies.

    Slabs of time are preferred to tensor products of splines. They cannot be used if the settings
    contain planned grids (`equation.intervals`) or parameter continuation.
    """
    given = cfg.equation
    count = len(system.vocabulary.unknowns)
    variables = len(system.box)
    whole = given.intervals or given.continuation
    shape = f"1-{count}"
    terms = SPLINE_DEGREE + 1
    method: EvolutionSystem | Grids
    if not whole and (evolution := evolution_system(system)) is not None:
        method = evolution
        several = f"2-{2 * count * terms} ({terms} products)"
    elif is_direct(system):
        method = Grids(tuple(given.intervals or (8,)), given.intervals is None)
        several = "2-2r (r products)"
        unknowns = count * (method.intervals[-1] + SPLINE_DEGREE) ** variables
        check_memory(system, policy_of(cfg), unknowns)
    else:
        return None
    return NetworkChoice(f"KAN {several if variables == 2 else shape}, k = {SPLINE_DEGREE}", method)


#: Largest relative change of the solution from the second last to the last grid, or largest
#: estimated error, for the verdict `solved`.
SOLVED_CHANGE = 2e-3


def maximum(values: Iterable[float | None]) -> float | None:
    """Return the largest of the values that are not None; None if there are none."""
    return max((each for each in values if each is not None), default=None)


def residual_rms(solution: Solution) -> float:
    """Return the root mean square residual of a solution, relative to the equation's terms.

    If the solver estimated the error, the mean is taken over all windows of time, because short
    windows after jumps of the initial values may have large residuals in spite of small errors.
    Otherwise, the residual of the worst window is returned.
    """
    found = np.array([stage.equation.rms for stage in solution.last])
    if solution.estimate is None:
        return float(found.max())
    lengths = np.array([float(stage.solution.box[-1].diff()) for stage in solution.last])
    return float(np.sqrt(np.square(found) @ lengths / lengths.sum()))


def verdict(solution: Solution, system: System, error: float | None) -> tuple[str, str]:
    """Judge how reliable a solution is.

    Args:
        solution: Solution to judge.
        system: System of which it is a solution.
        error: Relative error against a known solution, or None. A large error makes the verdict
            worse; a small one does not improve it.

    Returns:
        `solved`, `doubtful` or `failed`; and the reason as a sentence.
    """
    failed = 0.1
    last = solution.last
    names = system.vocabulary.variables
    change = maximum(e.change for e in last)
    worst = max((e.equation for e in last), key=attrgetter("rms"))
    residual = residual_rms(solution)
    conditions = max(stage.conditions.rms for stage in last)
    place = ", ".join(f"{name}={at:.3g}" for name, at in zip(names, worst.place, strict=True))
    changed = f"the last grid changed the solution by {change or 0:.1e}"
    if solution.estimate is not None:
        changed = f"the estimated error is {solution.estimate:.1e}"
    left = (
        f"the residual at new points is {residual:.1e} (largest at {place}) and that of the "
        f"conditions {conditions:.1e}"
    )
    left += "" if error is None else f"; the error against the known solution is {error:.1e}"
    reason = f"{'there was only one grid' if change is None else changed}, {left}"
    if solution.contradiction is not None:
        return "failed", contradiction_sentence(solution.contradiction, names)
    if solution.unseen is not None:
        reason += (
            f"; features as narrow as {SEEN_WIDTH:.0e} of the range in one variable and "
            f"{SEEN_WIDTH_IN_TWO:.0e} in two were looked for"
        )
    if solution.solved_until < (end := float(system.box[-1, 1])):
        until = f"it was solved up to {solution.solved_until:.6g} of {end:.6g} only"
        return "failed", f"{until} ({solution.doubt or solution.stopped}); {left}"
    # Near incompatible conditions, and in evolution equations of high order, the residual stays
    # large although the error is small. If the error is estimated, only the unseen residual counts.
    local = solution.estimate is not None and bool(system.is_evolution or system.corners)
    counted = max(0.0 if local else residual, solution.unseen or 0.0)
    values = [each for each in (counted, conditions, change, error) if each is not None]
    if not np.isfinite(values).all() or max(values) >= failed:
        differ = f"the last two solutions differ by {change:.1e}, " if change else ""
        return "failed", differ * (not (change or 0.0) < failed) + left
    if solution.stopped and solution.tolerance is None:
        return "doubtful", f"{solution.stopped}; {reason}"
    if (doubt := solution.doubt or _doubt(solution, system)) is not None:
        return "doubtful", f"{doubt}; {reason}"
    if solution.tolerance is not None and not (solution.estimate or 0.0) <= solution.tolerance:
        why = f" ({solution.stopped})" if solution.stopped else ""
        return "doubtful", f"the tolerance {solution.tolerance:.0e} is not met{why}; {reason}"
    small = max(counted, conditions) <= 1e-2
    right = error is None or error <= 1e-2
    settled = change is not None and change <= SOLVED_CHANGE
    fits = small and right and settled and residual < failed
    return "solved" if fits else "doubtful", reason


def _doubt(solution: Solution, system: System) -> str | None:
    """Return why a solution with small residuals may be wrong, or None if there is no reason.

    The reasons are that other functions satisfy the equation as well, that the solution does not
    fit the observations, or that the observations do not determine the unknown parameters.
    """
    sensitivity = maximum(stage.sensitivity for stage in solution.last) or 0.0
    missing = missing_conditions(system)
    if sensitivity == inf:
        return "conjugate gradients could not find out whether other functions fit as well"
    # Equations with missing conditions are often underdetermined.
    if not sensitivity <= (500 if missing else 1e4):
        return (
            "the equation and its conditions are underdetermined: other functions satisfy them as "
            f"well (sensitivity {sensitivity:.1e})"
        )
    # Coarse grids may fit the observations more closely.
    if any(e.data > max(2 * e.least_data, SOLVED_CHANGE) for e in solution.last):
        data = ", ".join(
            f"{e.data:.1e} of its size, on another grid {e.least_data:.1e}" for e in solution.last
        )
        return f"the solution differs from the observations by {data}"
    # Beyond this, small errors of the solution can shift the parameters.
    if (inflation := max(stage.inflation for stage in solution.last)) > 20:
        return (
            "the data barely identify the unknown parameters (their correlation inflates a "
            f"standard error {inflation:.0f} times)"
        )
    return None


def error_points(problem: SolveProblem, seed: int) -> Array:
    """Return the points at which errors of a problem are measured.

    If there is a recorded solution, its points are used. Otherwise, points are spread over the box.
    The result has the shape (points, variables).
    """
    if problem.recorded is not None:
        return problem.recorded[0]
    return low_discrepancy(problem.system.box, 10_000, seed).numpy()


def errors(
    known: Comparison | None, network: Field | Windows, points: Array
) -> dict[str, float | None]:
    """Measure the errors of a solution against a known one.

    Returns:
        Relative L2 error `l2`, relative H1 error `h1` (with first derivatives), mean squared error
        `mse` and largest absolute error `max_error`. Errors that cannot be computed are None.
    """
    found: dict[str, float | None] = {"l2": None, "h1": None, "mse": None, "max_error": None}
    if known is None or not len(points):
        return found
    at = torch.as_tensor(points)
    truth = known.values(points)
    with torch.no_grad():
        difference = network(at).numpy() - truth

    def mean_square(values: Array) -> float:
        return float(np.mean(np.sum(values**2, axis=1)))

    square = mean_square(difference)
    size = mean_square(truth)
    found |= {"mse": square / truth.shape[1], "max_error": float(np.abs(difference).max())}
    if not truth.any():  # Relative errors are not defined if the known solution is zero.
        return found
    found["l2"] = float(np.sqrt(square / size))
    if known.slopes is not None:
        units = np.eye(points.shape[1], dtype=int).tolist()
        slopes = known.slopes(points)
        computed = network.derivatives(at, units).numpy().reshape(slopes.shape)
        square += mean_square(computed - slopes)
        found["h1"] = float(np.sqrt(square / (size + mean_square(slopes))))
    return found


def claims_of(summary: DataFrame) -> Iterator[Claim]:
    """Yield the claims about the table `summary` of several seeds."""
    network, equation = summary[["network", "equation"]].iloc[0]
    sentence = f"{network} solves {equation}: fraction of seeds with the verdict solved"
    fraction = float((summary["verdict"] == "solved").mean())
    change = summary["grid_change"].dropna()
    spread = f"change from the last grid {value_range(change)}" if len(change) > 1 else None
    yield claim_at_least(sentence, fraction, 1, spread)
    if len(ratios := error_ratios(summary)):
        sentence = (
            "the verdict solved is honest: true error over the estimated one, or over the last "
            "grid's change (plus rounding)"
        )
        yield claim_at_most(sentence, ratios, 10, of="solutions")
    true = summary.filter(regex="_true$").dropna(axis=1, how="all").iloc[0]
    for label, value in true.items():
        name = str(label).removesuffix("_true")
        found = summary[name]
        away = (found - value).abs() / summary[f"{name}_error"]
        allowed = 2
        fraction = float((away <= allowed).mean())
        spread = f"{found.min():.5g} .. {found.max():.5g}, true {value:.5g}"
        sentence = f"{name} is found within {allowed} standard errors: fraction of seeds"
        yield claim_at_least(sentence, fraction, 0.8, spread)


def error_ratios(summary: DataFrame) -> Series:
    """Return the true errors of solved equations, divided by the estimates.

    Without an estimate, the change from the last grid takes its place. The accuracy of the known
    solution, which depends on its kind (see `Comparison.what`), is added to the estimate.
    """
    solved = summary[summary["verdict"] == "solved"].dropna(subset=["l2", "grid_change"])
    expected = solved["estimate"].astype(float).fillna(solved["grid_change"])
    accuracy = {"exact": 1e-13, "numerical": 1e-10, "recorded": 1e-7}
    return solved["l2"] / (expected + solved["reference"].map(accuracy).astype(float))


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

    def checkpoint(self) -> Checkpoint:
        """Return the solution as a checkpoint."""
        return to_checkpoint(f"{self.problem.name}-seed{self.seed}", self.model)

    def tables(self) -> Iterator[Table]:
        """Yield three tables.

        `solution` has the unknowns on a regular grid, their true values (if known everywhere) and
        the residuals. With three variables, the last variable is fixed at the middle of its range.
        `points` has `EquationStage.points`. `knots` has the breakpoints of each variable and
        window; it is left out for networks without grids.
        """
        box = self.problem.system.box.numpy()
        vocabulary = self.problem.system.vocabulary
        names = vocabulary.variables
        axes = [np.linspace(low, high, {1: 401, 2: 81, 3: 61}[len(box)]) for low, high in box]
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
        yield Table("solution", columns)
        inside = np.concatenate([stage.points.numpy() for stage in self.solution.last])
        yield Table("points", dict(zip(names, inside.T, strict=True)))
        knots = [
            (number, variable, at)
            for number, stage in enumerate(self.solution.last)
            if (ends := breakpoints_of(stage.solution)) is not None
            for variable, row in zip(names, ends.T.tolist(), strict=True)
            for at in row
        ]
        if knots:
            window, variables, at = map(np.array, zip(*knots, strict=True))
            yield Table("knots", {"window": window, "variable": variables, "at": at})

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
    problem: SolveProblem, stage: EquationStage, points: Array
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
        **errors(
            problem.comparison,
            stage.solution,
            points[((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=1)],
        ),
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
    outcome, reason = verdict(solution, problem.system, measured["l2"])
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
        network: Settings of the network by name, such as {"hidden": [5]}, as in the setting
            `network` of `kanrun solve`. By default, a suitable KAN is chosen.
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
    cfg = SolveConfig(
        seed=seed,
        equation=given,
        network=typed(NetworkConfig, network or {}, "network."),
        tolerance=tolerance,
        budget=budget,
    )
    check(cfg)
    return solved(cfg)


def solved(cfg: SolveConfig) -> SolvedEquation:
    """Solve the equation of checked settings."""
    problem = make_solve_problem(cfg, cfg.seed)
    choice = network_choice(cfg, problem.system)
    found = solutions(cfg, problem.compared_for(choice.method), choice, cfg.seed)
    return next(each for each in found if isinstance(each, SolvedEquation))
