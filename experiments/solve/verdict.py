"""Verdict on a solution, and the claims of `kanrun solve` about its recorded summary.

A small residual alone proves nothing: a front may slip between the points, and an equation with too
few conditions has many solutions. The change of the solution from the previous grid tells most.
Bounds are relative to the size of the equation's terms or of the solution.
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
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.equations import RowFunction
from kanrun.runs import Claim
from kanrun.study.suite import claim_at_least, claim_at_most, median, value_range

#: Largest change of the solution from the last grid but one to the last.
SOLVED_CHANGE = 2e-3
#: Largest root mean square residual at new points, and of the conditions between their points.
SOLVED_RESIDUAL = 1e-2
#: The same for networks without grids, whose change does not show what they cannot represent.
UNREFINED_RESIDUAL = 1e-4
#: At or above this value of either, nothing of the solution is to be trusted.
FAILED = 0.1
#: Largest sensitivity (see `EquationStage`) of a determined equation. It was at most 300 for the
#: well-posed of 38 equations, and 1e5 or more for those with a condition too few. A larger value
#: accepts underdetermined equations; a smaller one rejects determined ones.
MAX_SENSITIVITY = 1e4
#: The same limit if an unknown has fewer conditions in a variable than the equation's order, which
#: is why it is stricter.
MAX_SENSITIVITY_IF_MISSING = 500.0
#: Largest relative error against a known solution. Errors never raise a verdict.
SOLVED_ERROR = 1e-2
#: Factor between the last difference from the observations and the smallest on any grid (the first
#: grids follow the observations more closely) above which the equation does not describe them.
MISFIT = 2.0
#: Inflation of a standard error above which the observations do not identify the parameters: errors
#: of the solution then separate them. It was 1.2 for D and k of a reaction, 47 for two parameters
#: with the same effect.
MAX_INFLATION = 20.0

#: The true error may be this many times the change from the last grid, which estimates it.
HONEST = 10.0
#: Below this, change and error are rounding: an exact formula has sixteen digits, of which a
#: solution in 1e3 numbers by normal equations keeps thirteen; references are integrated to 1e-10 to
#: 1e-13.
ROUNDING = {"exact": 1e-13, "numerical": 1e-10, "recorded": 1e-7}
#: Points at which errors are measured.
ERROR_POINTS = 10_000
#: Points in each place where the solution is narrow, and the widths within which they lie.
NEAR_POINTS = 2_000
NEAR = 10.0
#: Largest distance of an unknown parameter from its true value, in standard errors, at which it
#: counts as found. A larger value makes the claim easier to meet.
STANDARD_ERRORS = 2.0
#: Smallest fraction of seeds for which unknown parameters are claimed to be found. A larger value
#: makes the claim harder to meet.
MIN_FRACTION = 0.8


def maximum(values: Iterable[float | None]) -> float | None:
    """Return the largest value that is not None, or None."""
    return max((each for each in values if each is not None), default=None)


def residual_rms(solution: Solution) -> float:
    """Return the residual of the worst window, or that of all where the error is estimated.

    Short windows next to jumps of the initial values have large residuals and small errors.
    """
    found = np.array([stage.equation.rms for stage in solution.last])
    if solution.estimate is None:
        return float(found.max())
    lengths = np.array([float(stage.solution.box[-1].diff()) for stage in solution.last])
    return float(np.sqrt(np.square(found) @ lengths / lengths.sum()))


def verdict(solution: Solution, system: System, error: float | None) -> tuple[str, str]:
    """Return `solved`, `doubtful` or `failed`, and the reason; the worst window decides.

    `error` is the relative error against a known solution, which may lower the verdict.
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
    # The raw residual stays large next to contradicting conditions, and in evolution equations of
    # high order, where the error is small: only what no window represents counts.
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
    """Return why a solution of small residuals may not be the only one, or not that of the data."""
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
    """Points (points, variables) at which errors are measured, and their weights (points,)."""

    at: Array
    weights: Array

    def inside(self, box: Array) -> ErrorPoints:
        """Return the points within a box (variables, 2)."""
        low, high = box.T
        kept = ((self.at >= low) & (self.at <= high)).all(axis=1)
        return ErrorPoints(self.at[kept], self.weights[kept])


def error_points(problem: SolveProblem, seed: int) -> ErrorPoints:
    """Return points all over the box and, if the solution is narrow, more of them there.

    A weight is one over the density of the points, so that weighted means are those over the box.
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
    """Return relative L2 and H1 errors, mean squared and largest error at points."""
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
    if not truth.any():  # No error is relative to zero.
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
    """Yield the claims about the first network, or about all networks and bounds of a suite."""
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
