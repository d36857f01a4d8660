"""Verdict on a solution, and the claims of `kanrun solve` about its results.

A small residual alone proves nothing: the points may miss a narrow front, and an equation with too
few conditions has many solutions. The change of the solution from the previous grid is better
evidence. Residuals are compared with limits relative to the largest term of the equation; errors
and changes are compared with limits relative to the solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from kanrun.experiments.solve.checks import contradiction_sentence, missing_conditions
from kanrun.experiments.solve.problem import Comparison, SolveProblem
from pandas import DataFrame

from kanrun.engine.equations import (
    SEEN_WIDTH,
    SEEN_WIDTH_IN_TWO,
    Array,
    Field,
    Solution,
    System,
    Windows,
)
from kanrun.engine.equations.system import low_discrepancy
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.equations import RowFunction
from kanrun.formulas.parsing import variable
from kanrun.runs import Claim
from kanrun.study.suite import claim_at_least, claim_at_most, median, value_range

#: Largest relative change of the solution from the second last to the last grid, or largest
#: estimated error, for the verdict `solved`.
SOLVED_CHANGE = 2e-3
#: Largest root mean square residual, of equations or conditions, for the verdict `solved`.
SOLVED_RESIDUAL = 1e-2
#: Largest root mean square residual of networks without grids for the verdict `solved`. It is
#: stricter, because the change between training runs does not show what a network cannot represent.
UNREFINED_RESIDUAL = 1e-4
#: The verdict is `failed` if a residual, the change or the error is at least this large.
FAILED = 0.1
#: Largest sensitivity (see `EquationStage`) at which an equation counts as determined by its
#: conditions. A larger value accepts underdetermined equations; a smaller one rejects determined
#: ones.
MAX_SENSITIVITY = 1e4
#: Largest sensitivity if there are fewer conditions in a variable than the order of the equation.
#: It is stricter, because such equations are often underdetermined.
MAX_SENSITIVITY_IF_MISSING = 500.0
#: Largest relative error against a known solution for the verdict `solved`. A small error never
#: improves a verdict.
SOLVED_ERROR = 1e-2
#: If the difference from the observations exceeds the smallest difference on any grid by this
#: factor, the verdict says that the solution differs from the observations. (Coarse grids may fit
#: the observations more closely.)
MISFIT = 2.0
#: Largest inflation of a standard error by the other parameters (see `standard_errors`) at which
#: the observations identify the parameters. A larger value accepts parameters that small errors of
#: the solution can shift.
MAX_INFLATION = 20.0

#: Largest ratio of the true error to the estimated one, or to the change from the last grid, at
#: which the verdict `solved` is honest.
HONEST = 10.0
#: Relative accuracy of known solutions by their kind (see `Comparison.what`). It is added to the
#: estimated error before the true error is divided by the sum.
ROUNDING = {"exact": 1e-13, "numerical": 1e-10, "recorded": 1e-7}
#: Number of points, distributed over the whole box, at which errors are measured.
ERROR_POINTS = 10_000
#: Number of additional points near each narrow feature.
NEAR_POINTS = 2_000
#: Largest distance of the additional points from a narrow feature, in widths of the feature.
NEAR = 10.0
#: Largest difference between an estimated parameter and its true value, in standard errors, at
#: which the parameter counts as found. A larger value makes the claim easier to meet.
STANDARD_ERRORS = 2.0
#: Smallest fraction of seeds for which unknown parameters are claimed to be found. A larger value
#: makes the claim harder to meet.
MIN_FRACTION = 0.8


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
    if not np.isfinite(values).all() or max(values) >= FAILED:
        differ = f"the last two solutions differ by {change:.1e}, " if change else ""
        return "failed", differ * (not (change or 0.0) < FAILED) + left
    if solution.stopped and solution.tolerance is None:
        return "doubtful", f"{solution.stopped}; {reason}"
    if (doubt := solution.doubt or _doubt(solution, system)) is not None:
        return "doubtful", f"{doubt}; {reason}"
    if solution.tolerance is not None and not (solution.estimate or 0.0) <= solution.tolerance:
        why = f" ({solution.stopped})" if solution.stopped else ""
        return "doubtful", f"the tolerance {solution.tolerance:.0e} is not met{why}; {reason}"
    refined = all(stage.intervals is not None for stage in last)
    small = max(counted, conditions) <= (SOLVED_RESIDUAL if refined else UNREFINED_RESIDUAL)
    right = error is None or error <= SOLVED_ERROR
    settled = change is not None and change <= SOLVED_CHANGE
    fits = small and right and settled and residual < FAILED
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
    if not sensitivity <= (MAX_SENSITIVITY_IF_MISSING if missing else MAX_SENSITIVITY):
        return (
            "the equation and its conditions are underdetermined: other functions satisfy them as "
            f"well (sensitivity {sensitivity:.1e})"
        )
    if any(e.data > max(MISFIT * e.least_data, SOLVED_CHANGE) for e in solution.last):
        data = ", ".join(
            f"{e.data:.1e} of its size, on another grid {e.least_data:.1e}" for e in solution.last
        )
        return f"the solution differs from the observations by {data}"
    if (inflation := max(stage.inflation for stage in solution.last)) > MAX_INFLATION:
        return (
            "the data barely identify the unknown parameters (their correlation inflates a "
            f"standard error {inflation:.0f} times)"
        )
    return None


class ErrorPoints(NamedTuple):
    """Points at which errors are measured.

    Attributes:
        at: Points, shape (points, variables).
        weights: Weights of the points in means, shape (points,); they need not sum to 1.
    """

    at: Array
    weights: Array

    def inside(self, box: Array) -> ErrorPoints:
        """Return the points inside `box`, shape (variables, 2), with their weights."""
        low, high = box.T
        kept = ((self.at >= low) & (self.at <= high)).all(axis=1)
        return ErrorPoints(self.at[kept], self.weights[kept])


def error_points(problem: SolveProblem, seed: int) -> ErrorPoints:
    """Return the points at which errors of a problem are measured.

    If there is a recorded solution, its points are used. Otherwise, points are spread over the box,
    with additional points near the narrow features in `problem.near`. Their weights are inversely
    proportional to the density of the points, so that weighted means are means over the box.
    """
    if problem.recorded is not None:
        return ErrorPoints(problem.recorded[0], np.ones(len(problem.recorded[0])))
    box = problem.system.box
    names = problem.system.vocabulary.variables
    parts = [low_discrepancy(box, ERROR_POINTS, seed).numpy()]
    places = list[tuple[RowFunction, float]]()
    for formula in problem.near:
        number = next(i for i, name in enumerate(names) if formula.has(variable(name)))
        slope = float(formula.diff(variable(names[number])))
        place = to_numpy(formula, names)
        points = low_discrepancy(box, NEAR_POINTS, seed).numpy()
        points[:, number] += (np.linspace(-NEAR, NEAR, NEAR_POINTS) - place(points)) / slope
        parts.append(points)
        density = NEAR_POINTS * abs(slope) * float(box[number].diff()) / (2 * NEAR)
        places.append((place, density))
    every = np.concatenate(parts)
    densities = np.full(len(every), float(ERROR_POINTS))
    for formula_at, density in places:
        densities += density * (np.abs(formula_at(every)) <= NEAR)
    return ErrorPoints(every, 1 / densities).inside(box.numpy())


def errors(
    known: Comparison | None, network: Field | Windows, points: ErrorPoints
) -> dict[str, float | None]:
    """Measure the errors of a solution against a known one.

    Returns:
        Relative L2 error `l2`, relative H1 error `h1` (with first derivatives), mean squared error
        `mse` and largest absolute error `max_error`. Errors that cannot be computed are None.
    """
    found: dict[str, float | None] = {"l2": None, "h1": None, "mse": None, "max_error": None}
    if known is None or not len(points.at):
        return found
    at = torch.as_tensor(points.at)
    truth = known.values(points.at)
    with torch.no_grad():
        difference = network(at).numpy() - truth

    def mean_square(values: Array) -> float:
        return float(np.average(np.sum(values**2, axis=1), weights=points.weights))

    square = mean_square(difference)
    size = mean_square(truth)
    found |= {"mse": square / truth.shape[1], "max_error": float(np.abs(difference).max())}
    if not truth.any():  # Relative errors are not defined if the known solution is zero.
        return found
    found["l2"] = float(np.sqrt(square / size))
    if known.slopes is not None:
        units = np.eye(points.at.shape[1], dtype=int).tolist()
        slopes = known.slopes(points.at)
        computed = network.derivatives(at, units).numpy().reshape(slopes.shape)
        square += mean_square(computed - slopes)
        found["h1"] = float(np.sqrt(square / (size + mean_square(slopes))))
    return found


def claims_of(summary: DataFrame) -> Iterator[Claim]:
    """Yield the claims about the table `summary`.

    If there is a single equation, the claims are about the first network. For a suite, they are
    about all equations and networks for which the suite has bounds.
    """
    bounds = [name for name in map(str, summary) if name.endswith("_bound")]
    bounds = [name for name in bounds if summary[name].notna().any()]
    first = summary["network"].iloc[0]
    single = summary["equation"].nunique() == 1 and not bounds
    if single:
        rows = summary[summary["network"] == first]
        sentence = (
            f"{first} solves {rows['equation'].iloc[0]}: fraction of seeds with the verdict solved"
        )
        fraction = float((rows["verdict"] == "solved").mean())
        change = rows["grid_change"].dropna()
        spread = f"change from the last grid {value_range(change)}" if len(change) > 1 else None
        yield claim_at_least(sentence, fraction, 1, spread)
    solved = summary[summary["verdict"] == "solved"].dropna(subset=["l2", "grid_change"])
    if len(solved):
        expected = solved["estimate"].astype(float).fillna(solved["grid_change"])
        ratios = solved["l2"] / (expected + solved["reference"].map(ROUNDING))
        sentence = (
            "the verdict solved is honest: true error over the estimated one, or over the last "
            "grid's change (plus rounding)"
        )
        yield claim_at_most(sentence, ratios, HONEST, of="solutions")
    for (equation, network), rows in summary.groupby(["equation", "network"], sort=False):
        for name in (each for each in bounds if rows[each].notna().any()):
            column = name.removesuffix("_bound")
            sentence = f"{equation}, {network}: median {column}"
            spread = value_range(rows[column])
            yield claim_at_most(sentence, median(rows[column]), float(rows[name].iloc[0]), spread)
        true = rows.filter(regex="_true$").dropna(axis=1, how="all").iloc[0]
        for label, value in true.items() if not single or network == first else ():
            name = str(label).removesuffix("_true")
            found = rows[name]
            away = (rows[name] - value).abs() / rows[f"{name}_error"]
            fraction = float((away <= STANDARD_ERRORS).mean())
            spread = f"{found.min():.5g} .. {found.max():.5g}, true {value:.5g}"
            sentence = f"{name} is found within {STANDARD_ERRORS:g} standard errors"
            yield claim_at_least(f"{sentence}: fraction of seeds", fraction, MIN_FRACTION, spread)
