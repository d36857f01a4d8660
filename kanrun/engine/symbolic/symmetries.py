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
from kanrun.engine.symbolic.candidates import DIGITS, TINY, Array, input_names, input_symbols
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.smooth_fit import (
    ACCURATE,
    NO_FIT,
    GaussianProcessFit,
    has_one_sign,
    is_positive,
    smooth_fit,
)
from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.engine.tables.effects import importance_table
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy
from kanrun.points import Points

#: The factor by which the error of a fit may grow in fewer variables.
_ERROR_GROWTH = 1.5
#: Strength of an input without effect, relative to the strongest one; root of a small eigenvalue;
#: relative deviation of a constant; a determinant and an exponent that are zero.
_IDLE, _TOLERANCE, _CONSTANT, _SINGULAR = 1e-4, 0.03, 1e-9, 1e-8
#: Minimum number of points at which slopes are read, and their error relative to that of the fit.
_SLOPES, _SLOPE_ERROR = 80, 3.5
#: Pairs of inputs and single scalings that are tried.
_PAIRS, _SCALINGS = 4, 3
#: Standard errors within which exponents of a power law are rounded, and their accuracy at best.
_DEVIATIONS, _KNOWN = 2.5, 1e-8
#: Maximum number of products or sums of which y may be a function alone, and the roughness of y
#: along one, relative to that in no order.
_INDICES, _ROUGH = 4000, 0.2
#: The largest number that a null vector may have to be multiplied by for whole entries, and the
#: error of these.
_DENOMINATOR, _RATIONAL = 6, 0.04
#: The largest denominator of an exponent in a group, and the costs of groups: of fractional
#: exponents, and of pivots by their smallest value relative to their largest.
_LARGEST, _FRACTION_COST, _PIVOT_GAIN = 12, 3.0, 0.1

#: Number of inputs from which on only those that matter are searched, and how many these are at
#: most: the formulas of physics in the score cards have up to 9 inputs.
_MANY, _MOST = 10, 8
#: Increase of the error if an input is permuted, relative to the largest of all inputs, from which
#: it matters: of 16 inputs with noise of 15% of the variance, idle ones have up to 0.03.
_MATTERS = 0.05
#: Rows on which the importance is measured, and its work.
_ROWS, _WORK = 1000, 2.0
#: Relative part of an input that others do not determine, below which it is left out.
_DEPENDENT = 1e-9


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
        return cls(inputs, tuple(input_symbols(inputs)))

    @property
    def changes(self) -> bool:
        """Whether the variables differ from the inputs."""
        return self != Reduction.none(self.inputs)

    def groups(self, x: Array) -> Array:
        """Return u (N, variables) at x (N, inputs)."""
        columns = [to_numpy(each, input_names(self.inputs))(x) for each in self.variables]
        return np.stack(columns, axis=1) if columns else np.zeros((len(x), 0))

    def data(self, data: SearchData) -> SearchData:
        """Return the points in u and v."""
        factor = to_numpy(self.factor, input_names(self.inputs))
        return replace(
            data,
            x=self.groups(data.x),
            y=data.y / factor(data.x),
            validation_x=self.groups(data.validation_x),
            validation_y=data.validation_y / factor(data.validation_x),
        )

    def restored(self, expression: sympy.Expr) -> sympy.Expr:
        """Return y as an expression in x, for v as one in u, which are called x0, x1, ... there."""
        return self.factor * self._inserted(expression)

    def then(self, step: Reduction) -> Reduction:
        """Return this reduction followed by `step` on its variables."""
        variables = tuple(self._inserted(each) for each in step.variables)
        return replace(self, variables=variables, factor=self.restored(step.factor))

    def _inserted(self, expression: sympy.Expr) -> sympy.Expr:
        symbols = input_symbols(len(self.variables))
        return expression.xreplace(dict(zip(symbols, self.variables, strict=True)))


def relevant_inputs(data: SearchData) -> Reduction:
    """Return the inputs that matter, unchanged, as the variables of a search.

    Constant inputs and those that are sums of others before them, such as the last of several
    exclusive indicators, are left out. Of many, the most important ones by the model of tables are
    kept.
    """
    x, inputs = data.all_points.x, data.x.shape[1]
    kept, basis = list[int](), np.ones((len(x), 1)) / np.sqrt(len(x))
    for j, column in enumerate((x - x.mean(0)).T):
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > _DEPENDENT * np.linalg.norm(x[:, j]):
            kept.append(j)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    if len(kept) >= _MANY:
        count_work(_WORK)
        points = Points(x[:_ROWS, kept], data.all_points.y[:_ROWS, None])
        model = fit_table(points, None, TablePolicy(folds=0))
        table = importance_table(model, points, {str(j): [i] for i, j in enumerate(kept)}, 0)
        importance = table["permutation_importance"]
        kept = sorted(map(int, table["input"][importance >= _MATTERS * importance[0]][:_MOST]))
    symbols = input_symbols(inputs)
    return Reduction(inputs, tuple(symbols[j] for j in kept))


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


def power_law(data: SearchData) -> sympy.Expr | None:
    """Return c prod x_i^(a_i) by least squares on logarithms, or None.

    Each exponent is the simplest that its standard error allows. There is no law if an input or the
    output has both signs or is zero.
    """
    if not (is_positive(data) and has_one_sign(data)):
        return None
    x, y = data.all_points.x, data.all_points.y
    sign = float(np.sign(y[0]))
    design = np.column_stack([np.log(x), np.ones(len(y))])
    solved, _, rank, _ = np.linalg.lstsq(design, np.log(sign * y), rcond=None)
    if rank < design.shape[1] or len(y) <= rank:
        return None
    rest = np.log(sign * y) - design @ solved
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / (len(y) - rank))
    law, inputs = sympy.Integer(1), x.shape[1]
    for each, value, error in zip(input_symbols(inputs), solved.tolist(), errors, strict=False):
        window, exponent = max(_DEVIATIONS * float(error), _KNOWN), sympy.Float(value, DIGITS)
        for denominator in range(_DENOMINATOR, 0, -1):
            nearest = sympy.Rational(round(value * denominator), denominator)
            exponent = nearest if abs(float(nearest) - value) <= window else exponent
        law *= each**exponent
    if not law.free_symbols:
        return None
    shape = to_numpy(law, input_names(inputs))(x)
    return sympy.Float(float(shape @ y / (shape @ shape)), DIGITS) * law


def _single_index(data: SearchData) -> Reduction | None:
    """Return one product of powers or sum of the inputs of which y is a function alone, or None.

    The function may vary fast: in the order of that product or sum, lines between neighbours leave
    little of y, relative to its steps. If other things matter too, they leave about as much. Sums
    have signs.
    """
    x, y, inputs, symbols = data.x, data.y, data.x.shape[1], input_symbols(data.x.shape[1])
    largest = next((k for k in (3, 2, 1) if (2 * k + 1) ** inputs <= _INDICES), 0)
    every = itertools.product(range(-largest, largest + 1), repeat=inputs)
    weights = [w for w in every if w[0] > 0 and all(w) and np.gcd.reduce(w) == 1]
    found: list[tuple[float, bool, tuple[int, ...]]] = []
    for product in (True, False) if is_positive(data) else (False,):
        values = np.log(x) if product else x
        count_work(COSTS.grid_value * len(weights) * x.size)
        for each in weights:
            index = values @ np.array(each)
            u, v = index[order := np.argsort(index)], y[order]
            wide = np.where(u[2:] > u[:-2], u[2:] - u[:-2], 1.0)
            rest = v[1:-1] - v[:-2] - (v[2:] - v[:-2]) * (u[1:-1] - u[:-2]) / wide
            steps = max(float(np.median(np.abs(np.diff(v)))), TINY)
            found.append((float(np.median(np.abs(rest))) / steps, not product, each))
    rough, is_sum, chosen = min(found, default=(np.inf, True, ()))
    if rough > _ROUGH:
        return None
    terms = [w * u if is_sum else u**w for u, w in zip(symbols, chosen, strict=True)]
    return Reduction(inputs, ((sympy.Add if is_sum else sympy.Mul)(*terms),))


def reduce_variables(data: SearchData) -> Reduction:
    """Return fewer variables, in as many rounds as help; `Reduction.none` if nothing is found."""
    reduction = Reduction.none(data.x.shape[1])
    if data.x.shape[1] == 1:
        return reduction
    if (step := _single_index(data)) is not None:
        return step
    here, fit = data, smooth_fit(data)
    while here.x.shape[1] > 0 and fit.error < NO_FIT:
        for step in _proposals(here, fit):
            then = step.data(here)
            columns = [then.x, then.y[:, None], then.validation_x, then.validation_y[:, None]]
            if not all(np.isfinite(each).all() for each in columns):
                continue
            if not step.variables:
                shape = here.y / then.y
                rest = here.y - shape * float(shape @ here.y / (shape @ shape))
                allowed = max(_CONSTANT, _ERROR_GROWTH * fit.error) * here.y_std
                if float(np.sqrt(np.mean(rest**2))) <= allowed:
                    return reduction.then(step)
                continue
            new = smooth_fit(then)
            error = new.error if fit.error < _TOLERANCE else _error_in_y(here, step, then, new)
            if error <= max(_ERROR_GROWTH * fit.error, ACCURATE):
                reduction, here, fit = reduction.then(step), then, new
                break
        else:
            break
    return reduction


def _error_in_y(
    data: SearchData, step: Reduction, then: SearchData, fit: GaussianProcessFit
) -> float:
    """Return the larger of the errors of a fit after a step, relative to v and to y.

    With noise, few points of large y / factor can hide that all others are wrong.
    """
    factor = to_numpy(step.factor, input_names(step.inputs))(data.validation_x)
    v = np.exp(fit.predicted) * np.sign(then.y[0]) if fit.logarithmic else fit.predicted
    error = np.sqrt(np.mean((factor * v - data.validation_y) ** 2)) / data.y_std
    return max(fit.error, float(error) if np.isfinite(error) else np.inf)


def _proposals(data: SearchData, fit: GaussianProcessFit) -> list[Reduction]:
    """Return steps to try, the surest first.

    If inputs are idle, they are left out first. Else these are all scalings of few inputs, pairs of
    inputs that act together, and all scalings at once or one by one.
    """
    # Slopes are at least as inaccurate as the fit, and most inaccurate at the edge of its points.
    tolerance = max(_TOLERANCE, _SLOPE_ERROR * fit.error)
    centred = np.abs(data.x - data.x.mean(0)) / np.maximum(np.ptp(data.x, axis=0), TINY)
    inner = np.argsort(centred.max(axis=1), kind="stable")[: max(len(data.x) // 2, _SLOPES)]
    x = data.x[inner]
    slopes, inputs = fit.gradient(x), x.shape[1]
    # Over decades, changes of the logarithm count.
    size = x * np.log(x).std(0) if is_positive(data) else x.std(0)
    strength = np.sqrt(np.mean((slopes * size) ** 2, axis=0))
    idle = strength < max(_IDLE, _SLOPE_ERROR * fit.error) * strength.max()
    if idle.any():
        return [Reduction(inputs, tuple(np.array(input_symbols(inputs))[~idle]))]
    last = np.ones(len(x)) if fit.logarithmic else data.y[inner]
    found = _scalings(np.column_stack([x * slopes, last]), tolerance)
    counts = [int(np.count_nonzero(v[:-1])) for v in found]
    few = [v for v, n in zip(found, counts, strict=True) if n == 1 or (n == 2 and v[-1] == 0)]
    steps = [_in_groups(data.x, few), _in_groups(data.x, few[:1])]
    steps += _joined_pairs(x, slopes, tolerance)[:_PAIRS]
    steps += [_in_groups(data.x, each) for each in (found, *([v] for v in found[:_SCALINGS]))]
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
    symbols = input_symbols(inputs)
    away = np.abs(x).min(0) / np.maximum(np.abs(x).max(0), TINY)
    mixed = np.asarray((x <= 0).any(axis=0))
    steps: list[tuple[float, int, Reduction]] = []
    for pivots in map(list, itertools.combinations(range(inputs), len(weights) or inputs + 1)):
        matrix, others = weights[:, pivots], [j for j in range(inputs) if j not in pivots]
        if abs(np.linalg.det(matrix)) < _SINGULAR or (away[pivots] == 0).any():
            continue
        exponents = np.linalg.solve(matrix, weights[:, [*others, inputs]])
        fractions = np.abs(exponents - np.round(exponents)).sum(axis=1)
        if (fractions[mixed[pivots]] > _SINGULAR).any():
            continue
        cost = np.abs(exponents).sum() + _FRACTION_COST * fractions.sum()
        cost -= _PIVOT_GAIN * away[pivots].sum()
        powers = []
        for column in exponents.T.tolist():
            rational = [sympy.Rational(e).limit_denominator(_LARGEST) for e in column]
            powers.append(
                sympy.Mul(*(symbols[i] ** e for i, e in zip(pivots, rational, strict=True)))
            )
        groups = tuple(symbols[j] / power for j, power in zip(others, powers, strict=False))
        steps.append((float(cost), len(steps), Reduction(inputs, groups, 1 / powers[-1])))
    return min(steps, key=lambda step: step[:2])[2] if steps else None


def _joined_pairs(x: Array, slopes: Array, tolerance: float) -> list[Reduction]:
    """Return steps to a u + b v, a u^2 + b v^2 or a / u + b / v for whole a and b, surest first."""
    symbols, ranked = input_symbols(x.shape[1]), list[tuple[float, int, Reduction]]()
    with np.errstate(all="ignore"):
        forms = ((1, slopes), (2, slopes / (2 * x)), (-1, -slopes * x**2))
    for power, rates in forms:
        for i, j in itertools.combinations(range(len(symbols)), 2):
            pair = rates[:, [j, i]] * (1, -1)
            null = _null_vector(pair.T @ pair / len(x), tolerance)
            if null is not None and null[1].all():
                a, b = (int(each) for each in null[1])
                joined = a * symbols[i] ** power + b * symbols[j] ** power
                rest = [each for k, each in enumerate(symbols) if k not in (i, j)]
                ranked.append((null[0], len(ranked), Reduction(len(symbols), (joined, *rest))))
    return [step for *_, step in sorted(ranked, key=lambda entry: entry[:2])]
