"""Fewer variables by scalings, translations and norms that a function does not change under.

A smooth fit of the points has derivatives. A scaling x_i -> s^(v_i) x_i, y -> s^w y leaves y
unchanged where sum_i v_i x_i dy/dx_i = w y everywhere, so that the rows (x_i dy/dx_i, y) have (v,
-w) in their null space: dimensional analysis (Buckingham, Physical Review 4, 1914, 345) that reads
the dimensions off the points. In the same way u + v, u - v, u^2 + v^2 and 1/u + 1/v are found by
their derivatives. The points themselves are then expressed in the groups, exactly, and the fit of
fewer variables decides whether that was right.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.search_problem import SymmetryPolicy
from kanrun.engine.symbolic.smooth_fit import GaussianProcessFit, smooth_fit
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy, variable

#: The largest number that a null vector may have to be multiplied by for whole entries, and the
#: error of these.
_DENOMINATOR, _RATIONAL = 6, 0.04
#: A determinant and an exponent that are zero, and values that are so small relative to the largest
#: that they are no divisors.
_SINGULAR, _NEAR_ZERO = 1e-8, 1e-3
#: Accuracy to which an exponent is known at best.
_KNOWN = 1e-8
#: The largest denominator of an exponent in a group.
_LARGEST = 12


@dataclass(frozen=True)
class Reduction:
    """The law y = factor(x) * v(u(x)) in fewer variables.

    `variables` u and `factor` are expressions in x0, x1, ..., `inputs` of them.
    """

    inputs: int
    variables: tuple[sympy.Expr, ...]
    factor: sympy.Expr = sympy.S.One

    @classmethod
    def none(cls, inputs: int) -> Reduction:
        return cls(inputs, tuple(variable(f"x{i}") for i in range(inputs)))

    @property
    def changes(self) -> bool:
        """Whether the variables differ from the inputs."""
        return self != Reduction.none(self.inputs)

    @property
    def names(self) -> list[str]:
        return [f"x{i}" for i in range(self.inputs)]

    def groups(self, x: Array) -> Array:
        """Return u (N, variables) at x (N, inputs)."""
        columns = [to_numpy(each, self.names)(x) for each in self.variables]
        return np.stack(columns, axis=1) if columns else np.zeros((len(x), 0))

    def data(self, data: SearchData) -> SearchData:
        """Return the points in u and v."""
        factor = to_numpy(self.factor, self.names)
        return replace(
            data,
            x=self.groups(data.x),
            y=data.y / factor(data.x),
            validation_x=self.groups(data.validation_x),
            validation_y=data.validation_y / factor(data.validation_x),
        )

    def restored(self, expression: sympy.Expr) -> sympy.Expr:
        """Return y as an expression in x, for v as one in u, which are called x0, x1, ... there."""
        swap = {variable(f"x{i}"): each for i, each in enumerate(self.variables)}
        return self.factor * expression.xreplace(swap)

    def then(self, step: Reduction) -> Reduction:
        """Return this reduction followed by `step` on its variables."""
        swap = {variable(f"x{i}"): each for i, each in enumerate(self.variables)}
        variables = tuple(each.xreplace(swap) for each in step.variables)
        return replace(self, variables=variables, factor=self.factor * step.factor.xreplace(swap))


def dimensionless(data: SearchData, dimensions: Array) -> Reduction:
    """Return groups without units.

    `dimensions` are the exponents of the base units of the inputs and, last, the output, (inputs +
    1, bases). Raises UsageError if no product of powers of the inputs has the output's units.
    """
    weights = np.array(dimensions, dtype=np.float64).T
    weights[:, -1] *= -1
    rows: list[Array] = []
    for row in weights:
        if np.linalg.matrix_rank(np.array([*rows, row])) > len(rows):
            rows.append(row)
    if np.linalg.matrix_rank(weights[:, :-1]) < len(rows):
        raise UsageError(
            "target.units: no product of powers of the inputs has the units of the output."
        )
    return _in_groups(data.x, rows) or Reduction.none(data.x.shape[1])


def power_law(data: SearchData, policy: SymmetryPolicy) -> sympy.Expr | None:
    """Return c prod x_i^(a_i) by least squares on logarithms, or None.

    Each exponent is the simplest that its standard error allows. There is no law if an input or the
    output has both signs or is zero.
    """
    x, y = data.all_points.x, data.all_points.y
    sign = float(np.sign(y[0]))
    if not ((x > 0).all() and (sign * y > 0).all()):
        return None
    design = np.column_stack([np.log(x), np.ones(len(y))])
    solved, _, rank, _ = np.linalg.lstsq(design, np.log(sign * y), rcond=None)
    if rank < design.shape[1] or len(y) <= rank:
        return None
    rest = np.log(sign * y) - design @ solved
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / (len(y) - rank))
    law = sympy.Integer(1)
    for i, value in enumerate(solved[:-1].tolist()):
        window, exponent = max(policy.deviations * float(errors[i]), _KNOWN), sympy.Float(value, 17)
        for denominator in range(_DENOMINATOR, 0, -1):
            nearest = sympy.Rational(round(value * denominator), denominator)
            exponent = nearest if abs(float(nearest) - value) <= window else exponent
        law *= variable(f"x{i}") ** exponent
    if not law.free_symbols:
        return None
    shape = to_numpy(law, [f"x{i}" for i in range(x.shape[1])])(x)
    return sympy.Float(float(shape @ y / (shape @ shape)), 17) * law


def _single_index(data: SearchData, policy: SymmetryPolicy) -> Reduction | None:
    """Return one product of powers or sum of the inputs of which y is a function alone, or None.

    The function may vary fast: in the order of that product or sum y hardly changes from point to
    point. Sums have signs.
    """
    x, y = data.x, data.y
    inputs = x.shape[1]
    names = [variable(f"x{i}") for i in range(inputs)]
    best: tuple[float, sympy.Expr, Array] | None = None
    for values, product in ((np.log(np.where(x > 0, x, np.nan)), True), (x, False)):
        largest = next((k for k in (3, 2, 1) if (2 * k + 1) ** inputs <= policy.indices), 0)
        if not np.isfinite(values).all() or largest == 0:
            continue
        count_work(COSTS.grid_value * (2 * largest + 1) ** inputs * len(y) / 2)
        for weights in itertools.product(range(-largest, largest + 1), repeat=inputs):
            if weights[0] <= 0 or np.gcd.reduce(weights) != 1 or not all(weights):
                continue
            index = values @ np.array(weights)
            jumps = float(np.mean(np.diff(y[np.argsort(index)]) ** 2) / (2 * np.var(y)))
            if best is None or jumps < best[0]:
                parts = zip(names, weights, strict=True)
                terms = [name**w if product else w * name for name, w in parts]
                best = jumps, (sympy.Mul if product else sympy.Add)(*terms), index
    if best is None or best[0] > policy.rough or _roughness(best[2], y) > policy.rough:
        return None
    return Reduction(inputs, (best[1],))


def _roughness(index: Array, y: Array) -> float:
    """Return what lines between neighbours leave of y at each point, relative to its steps.

    It is small for a function of the index, about 1 if other things matter too.
    """
    order = np.argsort(index)
    u, y = index[order], y[order]
    wide = np.where(u[2:] > u[:-2], u[2:] - u[:-2], 1.0)
    rest = y[1:-1] - y[:-2] - (y[2:] - y[:-2]) * (u[1:-1] - u[:-2]) / wide
    return float(np.median(np.abs(rest)) / max(np.median(np.abs(np.diff(y))), 1e-300))


def reduce_variables(data: SearchData, policy: SymmetryPolicy) -> Reduction:
    """Return fewer variables, in as many rounds as help; `Reduction.none` if nothing is found."""
    reduction = Reduction.none(data.x.shape[1])
    if data.x.shape[1] == 1:
        return reduction
    if (step := _single_index(data, policy)) is not None:
        return step
    here, fit = data, smooth_fit(data, policy)
    while here.x.shape[1] > 0 and fit.error < policy.no_fit:
        for step in _proposals(here, fit, policy):
            then = step.data(here)
            columns = [then.x, then.y[:, None], then.validation_x, then.validation_y[:, None]]
            if not all(np.isfinite(each).all() for each in columns):
                continue
            if not step.variables:
                shape = here.y / then.y
                rest = here.y - shape * float(shape @ here.y / (shape @ shape))
                allowed = max(policy.constant, policy.error_growth * fit.error) * here.y_std
                if float(np.sqrt(np.mean(rest**2))) <= allowed:
                    return reduction.then(step)
                continue
            new = smooth_fit(then, policy)
            if new.error <= max(policy.error_growth * fit.error, policy.accurate):
                reduction, here, fit = reduction.then(step), then, new
                break
        else:
            break
    return reduction


def _proposals(
    data: SearchData, fit: GaussianProcessFit, policy: SymmetryPolicy
) -> list[Reduction]:
    """Return steps to try, the surest first.

    If inputs are idle, they are left out first. Else these are all scalings of few inputs, pairs of
    inputs that act together, and all scalings at once or one by one.
    """
    # Slopes are at least as inaccurate as the fit, and most inaccurate at the edge of its points.
    tolerance = max(policy.tolerance, policy.slope_error * fit.error)
    centred = np.abs(data.x - data.x.mean(0)) / np.maximum(np.ptp(data.x, axis=0), 1e-300)
    inner = np.argsort(centred.max(axis=1), kind="stable")[: max(len(data.x) // 2, policy.slopes)]
    x = data.x[inner]
    slopes, inputs = fit.gradient(x), x.shape[1]
    strength = np.sqrt(np.mean((slopes * x.std(0)) ** 2, axis=0))
    idle = strength < max(policy.idle, policy.slope_error * fit.error) * strength.max()
    if idle.any():
        kept = tuple(variable(f"x{i}") for i in range(inputs) if not idle[i])
        return [Reduction(inputs, kept)]
    last = np.ones(len(x)) if fit.logarithmic else data.y[inner]
    found = _scalings(np.column_stack([x * slopes, last]), tolerance)
    counts = [int(np.count_nonzero(v[:-1])) for v in found]
    few = [v for v, n in zip(found, counts, strict=True) if n == 1 or (n == 2 and v[-1] == 0)]
    steps = [_in_groups(data.x, few), _in_groups(data.x, few[:1])]
    steps += _joined_pairs(x, slopes, tolerance)[: policy.pairs]
    steps += [_in_groups(data.x, found), *(_in_groups(data.x, [each]) for each in found[:3])]
    return list(dict.fromkeys(step for step in steps if step is not None))


def _null_vector(moments: Array, tolerance: float) -> tuple[float, Array] | None:
    """Return the smallest eigenvalue of scaled `moments` (n, n) and its vector of whole numbers.

    None if the eigenvalue is not small, or if no multiple of the vector has small whole entries.
    """
    sizes = np.sqrt(np.diag(moments))
    if not (np.isfinite(sizes).all() and sizes.all()):
        return None
    values, vectors = np.linalg.eigh(moments / np.outer(sizes, sizes))
    if values[0] > tolerance**2:
        return None
    vector = vectors[:, 0] / sizes
    vector = vector / vector[np.abs(vector).argmax()]
    for denominator in range(1, _DENOMINATOR + 1):
        whole = np.round(vector * denominator)
        if np.abs(vector * denominator - whole).max() < max(_RATIONAL, tolerance / 2) * denominator:
            whole *= np.sign(whole[np.flatnonzero(whole)[0]])
            off = float(whole @ moments @ whole / np.sum((whole * sizes) ** 2))
            return (max(off, float(values[0])), whole) if off <= tolerance**2 else None
    return None


def _scalings(rows: Array, tolerance: float) -> list[Array]:
    """Return independent vectors (inputs + 1,) of small whole numbers in the null space of `rows`.

    Those with few entries come first.
    """
    moments, inputs = rows.T @ rows / len(rows), rows.shape[1] - 1
    found: list[Array] = []
    for count in range(1, inputs + 1):
        ranked = []
        for subset in itertools.combinations(range(inputs), count):
            for inside in ([*subset, inputs], list(subset)):
                null = _null_vector(moments[np.ix_(inside, inside)], tolerance)
                if null is not None and all(null[1][:count]):
                    vector = np.zeros(inputs + 1)
                    vector[inside] = null[1]
                    ranked.append((null[0], tuple(vector)))
        for _, entries in sorted(ranked):
            vector = np.array(entries)
            if np.linalg.matrix_rank(np.array([*found, vector])) > len(found):
                found.append(vector)
    return found


def _in_groups(x: Array, vectors: Sequence[Array]) -> Reduction | None:
    """Return the step to groups that the scalings leave unchanged, or None if there is none.

    The groups are expressed by the variables that suit best: positive, of small range, with small
    exponents.
    """
    weights, inputs = np.array(vectors), x.shape[1]
    away = np.abs(x).min(0) / np.maximum(np.abs(x).max(0), 1e-300)
    mixed = np.asarray((x <= 0).any(axis=0))
    steps: list[tuple[float, int, Reduction]] = []
    for pivots in map(list, itertools.combinations(range(inputs), len(weights) or inputs + 1)):
        matrix, others = weights[:, pivots], [j for j in range(inputs) if j not in pivots]
        if abs(np.linalg.det(matrix)) < _SINGULAR or (away[pivots] < _NEAR_ZERO).any():
            continue
        exponents = np.linalg.solve(matrix, weights[:, [*others, inputs]])
        fractions = np.abs(exponents - np.round(exponents)).sum(axis=1)
        if (fractions[mixed[pivots]] > _SINGULAR).any():
            continue
        cost = np.abs(exponents).sum() + 3 * fractions.sum() - 0.1 * away[pivots].sum()
        powers = [
            sympy.Mul(
                *(
                    variable(f"x{i}") ** sympy.Rational(float(e)).limit_denominator(_LARGEST)
                    for i, e in zip(pivots, column, strict=True)
                )
            )
            for column in exponents.T
        ]
        groups = tuple(variable(f"x{j}") / power for j, power in zip(others, powers, strict=False))
        steps.append((float(cost), len(steps), Reduction(inputs, groups, 1 / powers[-1])))
    return min(steps, key=lambda step: step[:2])[2] if steps else None


def _joined_pairs(x: Array, slopes: Array, tolerance: float) -> list[Reduction]:
    """Return steps that join u and v as a u + b v, a u^2 + b v^2 or a / u + b / v, surest first.

    Both a and b are small whole numbers.
    """
    inputs, ranked = x.shape[1], list[tuple[float, int, Reduction]]()
    with np.errstate(all="ignore"):
        forms = ((1, slopes), (2, slopes / (2 * x)), (-1, -slopes * x**2))
    for power, rates in forms:
        for i, j in itertools.combinations(range(inputs), 2):
            pair = rates[:, [j, i]] * (1, -1)
            null = _null_vector(pair.T @ pair / len(x), tolerance)
            if null is not None and null[1].all():
                a, b = (int(each) for each in null[1])
                joined = a * variable(f"x{i}") ** power + b * variable(f"x{j}") ** power
                rest = [variable(f"x{k}") for k in range(inputs) if k not in (i, j)]
                ranked.append((null[0], len(ranked), Reduction(inputs, (joined, *rest))))
    return [step for *_, step in sorted(ranked, key=lambda entry: entry[:2])]
