"""Reduce the number of variables of a search.

A reduction writes y as a factor times a function of fewer variables, such as the relevant inputs,
products of powers, or a single product or sum. Some reductions are found on a subset of the points,
such as those with positive values; they are then applied to all points.

Find fewer variables from symmetries of a function: scalings, translations and norms.

A Gaussian process is fitted to the points, or to their logarithms, because its derivatives reveal
symmetries. The function is invariant under the scaling x_i -> s^(v_i) x_i, y -> s^w y if
sum_i v_i x_i dy/dx_i = w y at all points, that is, if (v, -w) is in the null space of the rows
(x_1 dy/dx_1, ..., y). This is dimensional analysis (Buckingham, Physical Review 4, 1914, 345) with
dimensions that are inferred from the points. Variables such as u + v, u - v, u^2 + v^2 and
1/u + 1/v are found in the same way. The points are then expressed exactly in the new variables, and
a new fit decides whether the reduction is right.
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
from kanrun.engine.symbolic.smooth_fit import ACCURATE, NO_FIT, GaussianProcessFit, smooth_fit
from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.engine.tables.reports import importance_table
from kanrun.errors import UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.points import Points

#: Largest denominator of an exponent of a power law.
_DENOMINATOR = 6
#: Largest roughness of y along a single product or sum (see `single_index`).
_ROUGH = 0.2


#: If there are at least this many independent inputs, the search uses only the relevant ones.
MANY = 10
#: Settings of the table model that measures the importance.
_POLICY = TablePolicy(folds=0)


@dataclass(frozen=True)
class Reduction:
    """A change of variables y = factor(x) * v(u(x)), where u has fewer components than x.

    Expressions in u are written with the symbols x0, x1, ..., like expressions in x.

    Attributes:
        inputs: Number of the inputs x.
        variables: The components of u, as expressions in x.
        factor: The factor, as an expression in x.
    """

    inputs: int
    variables: tuple[sympy.Expr, ...]
    factor: sympy.Expr = sympy.S.One

    @classmethod
    def none(cls, inputs: int) -> Reduction:
        return cls(inputs, tuple(input_symbols(inputs)))

    @property
    def is_choice(self) -> bool:
        """Whether each reduced variable is itself an input, and the output keeps its factor 1."""
        return self.factor == 1 and all(each.is_Symbol for each in self.variables)

    def groups(self, x: Array) -> Array:
        """Return u (N, variables) at x (N, inputs)."""
        columns = [to_numpy(each, input_names(self.inputs))(x) for each in self.variables]
        return np.stack(columns, axis=1) if columns else np.zeros((len(x), 0))

    def factors(self, x: Array) -> Array:
        """Return the factor (N,) at x (N, inputs)."""
        return to_numpy(self.factor, input_names(self.inputs))(x)

    def data(self, data: SearchData) -> SearchData:
        """Replace the points (x, y) by (u, v); values are nan or inf where they are not defined."""
        with np.errstate(all="ignore"):
            return replace(
                data,
                x=self.groups(data.x),
                y=data.y / self.factors(data.x),
                validation_x=self.groups(data.validation_x),
                validation_y=data.validation_y / self.factors(data.validation_x),
            )

    def restored(self, expression: sympy.Expr) -> sympy.Expr:
        """Convert v, an expression in u, to y, an expression in x."""
        return self.factor * self.inserted(expression)

    def then(self, step: Reduction) -> Reduction:
        """Return this reduction followed by `step`, a reduction of its variables."""
        variables = tuple(self.inserted(each) for each in step.variables)
        return replace(self, variables=variables, factor=self.restored(step.factor))

    def inserted(self, expression: sympy.Expr) -> sympy.Expr:
        """Insert the definition of u: convert an expression in u to an expression in x."""
        symbols = input_symbols(len(self.variables))
        return expression.xreplace(dict(zip(symbols, self.variables, strict=True)))


def independent_inputs(data: SearchData) -> Reduction:
    """Return the reduction to inputs that are neither constant nor linear combinations of others.

    An input is left out if the inputs before it determine it. For example, the last of several
    mutually exclusive indicators is left out.
    """
    # An input is left out if the part of it that the other inputs do not determine is below this
    # fraction of its norm.
    dependent = 1e-9
    x = data.all_points.x
    inputs = data.x.shape[1]
    count_work(2 * COSTS.product * x.size * inputs)
    kept = list[int]()
    least = dependent * np.linalg.norm(x, axis=0)
    basis = np.zeros((len(x), inputs + 1))
    basis[:, 0] = len(x) ** -0.5
    for j in range(inputs):
        rest = x[:, j]
        before = basis[:, : len(kept) + 1]
        for _ in range(2):  # the second projection removes the rounding errors of the first
            rest = rest - before @ (before.T @ rest)
        if (size := float(np.linalg.norm(rest))) > least[j]:
            kept.append(j)
            basis[:, len(kept)] = rest / size
    symbols = input_symbols(inputs)
    return Reduction(inputs, tuple(symbols[j] for j in kept))


def relevant_inputs(data: SearchData) -> Reduction:
    """Return the reduction to the relevant inputs.

    If there are at least `MANY` independent inputs, only those with a large permutation importance
    in the table model are kept; otherwise all independent inputs are.
    """
    # Units of work to fit the table model that measures the importance, per row and input.
    input_work = 6e-5
    # Units of work (see `budget`) to fit the table model that measures the importance, per row.
    work = 8e-4
    # Largest number of rows on which the importance is measured.
    rows = 500
    # An input is relevant if its permutation importance is at least this fraction of the largest
    # one. With 16 inputs and noise of 15% of the variance, irrelevant inputs reach 0.03.
    matters = 0.05
    # Largest number of relevant inputs that are used; the physics formulas in collections of known
    # formulas have up to 9 inputs.
    most = 9
    independent = independent_inputs(data)
    symbols = input_symbols(data.x.shape[1])
    kept = [symbols.index(each) for each in independent.variables]
    if len(kept) >= MANY:
        points = Points(data.all_points.x[:rows, kept], data.all_points.y[:rows, None])
        count_work(len(points) * (work + input_work * len(kept)))
        model = fit_table(points, None, _POLICY)
        table = importance_table(model, points, {str(j): [i] for i, j in enumerate(kept)}, 0)
        importance = table["permutation_importance"]
        kept = sorted(map(int, table["input"][importance >= matters * importance[0]][:most]))
    return Reduction(data.x.shape[1], tuple(symbols[j] for j in kept))


def dimensionless(data: SearchData, dimensions: Array) -> Reduction:
    """Return the reduction to dimensionless groups, with a factor that has the units of the output.

    Args:
        data: Points of the search.
        dimensions: Exponents of the base units of each input and, in the last row, of the output,
            shape (inputs + 1, base units).

    Raises:
        UsageError: If no product of powers of the inputs has the units of the output.
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
    return in_groups(data.x, rows) or Reduction.none(data.x.shape[1])


def power_law(data: SearchData) -> sympy.Expr | None:
    """Fit the power law c prod x_i^(a_i) by least squares on logarithms.

    Each exponent is rounded to the simplest fraction that its standard error allows. The result is
    None if an input is not positive at a point, the output changes its sign or is zero, the
    exponents are not determined, or all of them are 0.
    """
    # If an exponent is within this distance of a fraction, it is rounded even if its standard error
    # is smaller.
    known = 1e-8
    # An exponent of a power law may be rounded within this many standard errors.
    deviations = 2.5
    if not (data.is_positive and data.has_one_sign):
        return None
    x = data.all_points.x
    y = data.all_points.y
    sign = float(np.sign(y[0]))
    design = np.column_stack([np.log(x), np.ones(len(y))])
    solved, _, rank, _ = np.linalg.lstsq(design, np.log(sign * y), rcond=None)
    if rank < design.shape[1] or len(y) <= rank:
        return None
    rest = np.log(sign * y) - design @ solved
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / (len(y) - rank))
    law = sympy.Integer(1)
    inputs = x.shape[1]
    for each, value, error in zip(input_symbols(inputs), solved.tolist(), errors, strict=False):
        window = max(deviations * float(error), known)
        exponent = sympy.Float(value, DIGITS)
        for denominator in range(_DENOMINATOR, 0, -1):
            nearest = sympy.Rational(round(value * denominator), denominator)
            exponent = nearest if abs(float(nearest) - value) <= window else exponent
        law *= each**exponent
    if not law.free_symbols:
        return None
    shape = to_numpy(law, input_names(inputs))(x)
    return sympy.Float(float(shape @ y / (shape @ shape)), DIGITS) * law


def single_index(data: SearchData, *, alone: bool = True) -> tuple[float, Reduction] | None:
    """Find one product of powers, or one sum of multiples, of inputs along which y is least rough.

    Exponents and multiples are small integers. Points are sorted by the product or sum. The
    roughness is the median distance of y from the line through its two neighbours, divided by the
    median step between neighbours. It is small if y depends on this variable only, even if y varies
    fast, and about 1 if other inputs matter.

    Args:
        data: Points of the search.
        alone: Whether y must depend on this variable only, with a roughness of at most `_ROUGH`.
            Otherwise, the inputs that are not in the product or sum remain variables, and the
            roughness is relative to the median of |y|.

    Returns:
        The roughness, and the reduction to the product or sum. None if nothing can be tried or,
        with `alone`, if the smallest roughness is above `_ROUGH`.
    """
    # Largest number of products or sums of inputs that are tried as the only variable on which y
    # depends.
    indices = 4000
    x = data.x
    y = data.y
    inputs = data.x.shape[1]
    symbols = input_symbols(data.x.shape[1])
    largest = next((k for k in (3, 2, 1) if (2 * k + 1) ** inputs <= indices), 0)
    every = itertools.product(range(-largest, largest + 1), repeat=inputs)
    weights = [w for w in every if next((n for n in w if n), 0) > 0 and np.gcd.reduce(w) == 1]
    found: list[tuple[float, bool, tuple[int, ...]]] = []
    for product in (True, False) if x.all() else (False,):
        values = np.log(np.abs(x)) if product else x
        count_work(COSTS.term_value * len(weights) * x.size)
        for each in weights:
            index = values @ np.array(each)
            u = index[order := np.argsort(index)]
            v = y[order]
            wide = np.where(u[2:] > u[:-2], u[2:] - u[:-2], 1.0)
            rest = v[1:-1] - v[:-2] - (v[2:] - v[:-2]) * (u[1:-1] - u[:-2]) / wide
            steps = float(np.median(np.abs(np.diff(v) if alone else y)))
            found.append((float(np.median(np.abs(rest))) / max(steps, TINY), not product, each))
    rough, is_sum, chosen = min(found, default=(np.inf, True, ()))
    if not chosen or (alone and rough > _ROUGH):
        return None
    terms = [w * u if is_sum else u**w for u, w in zip(symbols, chosen, strict=True)]
    others = [u for u, w in zip(symbols, chosen, strict=True) if not (w or alone)]
    return rough, Reduction(inputs, ((sympy.Add if is_sum else sympy.Mul)(*terms), *others))


def of_one_sign(data: SearchData) -> SearchData:
    """Return points at which every column that spans decades has a single sign.

    If inputs or outputs span decades and have both signs, points are grouped by these signs. Of the
    groups that have at least half as many points as the largest group, the one with the smallest
    standard deviation of log |y| is returned. If this group has too few points, all points are
    returned.
    """
    # Smallest number of training points that `of_one_sign` may leave.
    enough = 80
    columns = np.column_stack([data.x, data.y])
    wide = np.array([column.min() <= 0 and _spans_decades(column) for column in columns.T])
    if not wide.any():
        return data
    signs, group, counts = np.unique(
        np.sign(columns[:, wide]), axis=0, return_inverse=True, return_counts=True
    )
    size = np.log(np.maximum(np.abs(data.y), TINY))
    ranges = [np.std(size[group.ravel() == i]) for i in range(len(signs))]
    large = counts >= counts.max() / 2
    most = signs[np.where(large & signs.all(axis=1), ranges, np.inf).argmin()]

    def kept(x: Array, y: Array) -> tuple[Array, Array]:
        rows = (np.sign(np.column_stack([x, y])[:, wide]) == most).all(axis=1)
        return x[rows], y[rows]

    (x, y) = kept(data.x, data.y)
    (held_x, held_y) = kept(data.validation_x, data.validation_y)
    if len(y) < enough or len(held_y) < enough / 10:
        return data
    return replace(data, x=x, y=y, validation_x=held_x, validation_y=held_y)


def power_factor(data: SearchData, every: SearchData) -> Reduction | None:
    """Return a reduction whose factor is a product of powers of inputs that span decades, or None.

    The exponents are those of a least-squares fit to log |y|, rounded to multiples of 1/2, or to
    integers if the input is not positive at all points of `every`. The result is None if no input
    spans decades, an output is 0, an exponent is too large, or all exponents are 0.
    """
    # Largest absolute value of an exponent in the product that `power_factor` takes out of y.
    largest_power = 6.5
    inputs = data.x.shape[1]
    wide = [i for i in range(inputs) if _spans_decades(data.x[:, i]) and data.x[:, i].all()]
    if not (wide and data.y.all()):
        return None
    design = np.column_stack([np.log(np.abs(data.x[:, wide])), np.ones(len(data.y))])
    solved = np.linalg.lstsq(design, np.log(np.abs(data.y)), rcond=None)[0][:-1]
    parts = np.where((every.x[:, wide] > 0).all(axis=0), 2, 1)
    powers = zip(wide, np.round(solved * parts).tolist(), parts.tolist(), strict=True)
    symbols = input_symbols(inputs)
    factor = sympy.Mul(*(symbols[i] ** sympy.Rational(int(n), d) for i, n, d in powers))
    small = np.abs(solved).max() <= largest_power
    return Reduction(inputs, tuple(symbols), factor) if small and factor != 1 else None


def _spans_decades(column: Array) -> bool:
    # A column spans decades if an upper quantile of its absolute values is many times a lower one
    # (`decades`). The lower quantile has this probability, the upper one its complement.
    # Smallest ratio of the two quantiles for a column to span decades. If the logarithms of the
    # values are uniform, this means that they cover 1.7 decades; uniform values of both signs never
    # reach it.
    decades = 20.0
    tail = 0.1
    low, high = np.quantile(np.abs(column), (tail, 1 - tail))
    return bool(high > decades * low)


def in_groups(x: Array, vectors: Sequence[Array]) -> Reduction | None:
    """Return the reduction to groups that are invariant under scalings, or None if there is none.

    As many inputs as there are scalings are chosen as pivots: inputs that are far from zero and
    lead to small, integer exponents. Each group is another input divided by a product of powers of
    the pivots.

    Args:
        x: Inputs, shape (N, inputs).
        vectors: Scalings, each of shape (inputs + 1,): the exponents of the inputs and, last, minus
            the exponent of the output.
    """
    # Reward for a pivot whose values vary little: this number times the ratio of the smallest to
    # the largest absolute value.
    pivot_gain = 0.1
    # Penalty for a fractional exponent when the pivots of groups are chosen (see `in_groups`).
    fraction_cost = 3.0
    # Largest denominator of an exponent in a dimensionless group.
    largest = 12
    # Determinants and exponents count as zero if they are smaller than this.
    singular = 1e-8
    weights = np.array(vectors)
    inputs = x.shape[1]
    symbols = input_symbols(inputs)
    away = np.abs(x).min(0) / np.maximum(np.abs(x).max(0), TINY)
    mixed = np.asarray((x <= 0).any(axis=0))
    steps: list[tuple[float, int, Reduction]] = []
    for pivots in map(list, itertools.combinations(range(inputs), len(weights) or inputs + 1)):
        matrix = weights[:, pivots]
        others = [j for j in range(inputs) if j not in pivots]
        if abs(np.linalg.det(matrix)) < singular or (away[pivots] == 0).any():
            continue
        exponents = np.linalg.solve(matrix, weights[:, [*others, inputs]])
        fractions = np.abs(exponents - np.round(exponents)).sum(axis=1)
        if (fractions[mixed[pivots]] > singular).any():
            continue
        cost = np.abs(exponents).sum() + fraction_cost * fractions.sum()
        cost -= pivot_gain * away[pivots].sum()
        powers = []
        for column in exponents.T.tolist():
            rational = [sympy.Rational(e).limit_denominator(largest) for e in column]
            powers.append(
                sympy.Mul(*(symbols[i] ** e for i, e in zip(pivots, rational, strict=True)))
            )
        groups = tuple(symbols[j] / power for j, power in zip(others, powers, strict=False))
        steps.append((float(cost), len(steps), Reduction(inputs, groups, 1 / powers[-1])))
    return min(steps, key=lambda step: step[:2])[2] if steps else None


#: Largest factor by which the error may grow when the number of variables is reduced.
_ERROR_GROWTH = 1.5
#: An input has no effect if its strength, the RMS change of the smooth fit that it causes, is below
#: this fraction of the largest strength of an input.
_IDLE = 1e-4
#: An eigenvalue of a scaled moment matrix (see `_null_vector`) counts as zero if its square root is
#: at most this.
_TOLERANCE = 0.03
#: Smallest number of points from which derivatives are used to find symmetries.
_SLOPES = 80
#: Largest factor by which a null vector is multiplied to make its entries integers.
_DENOMINATOR_SYMMETRY = 6


def reduce_variables(data: SearchData) -> Reduction:
    """Return a reduction of the number of variables, which is found step by step.

    If no reduction is found, or if it is not finite at all points, the result is `Reduction.none`.
    """
    reduction = _reduction_of(data)
    inner = reduction.data(data)
    is_finite = np.isfinite(inner.x).all() and np.isfinite(inner.y).all()
    return reduction if is_finite else Reduction.none(data.x.shape[1])


def _reduction_of(data: SearchData) -> Reduction:
    """Return a reduction that was found on a subset of the points.

    The factor or the variables of the reduction may be undefined at other points.
    """
    # An output counts as constant if its RMS deviation, relative to the standard deviation of y, is
    # at most this.
    constant = 1e-9
    reduction = Reduction.none(data.x.shape[1])
    if data.x.shape[1] == 1:
        return reduction
    every = data
    data = of_one_sign(data)
    factor = power_factor(data, every)
    starts = (reduction, factor) if factor else (reduction,)
    found = _least_rough(starts, (every, data) if data is not every else (data,))
    if found is not None:
        return found
    reduction, here, fit = _smooth_start(data, factor)
    # Standard deviation of the noise of y, if that is the same for all points.
    size = 0.0 if fit.logarithmic or reduction.factor != 1 else fit.noise * data.y_std
    while here.x.shape[1] > 0 and fit.error < NO_FIT:
        for step in _proposals(here, fit):
            then = step.data(here)
            columns = [then.x, then.y[:, None], then.validation_x, then.validation_y[:, None]]
            if not all(np.isfinite(each).all() for each in columns):
                continue
            if not step.variables:
                shape = here.y / then.y
                rest = here.y - shape * float(shape @ here.y / (shape @ shape))
                allowed = max(constant, _ERROR_GROWTH * fit.error) * here.y_std
                if float(np.sqrt(np.mean(rest**2))) <= allowed:
                    return reduction.then(step)
                continue
            new = smooth_fit(then)
            whole = reduction.then(step)
            noise = size * float(np.sqrt(np.mean(whole.factors(data.x) ** -2.0))) / then.y_std
            in_y = _error_in_y(here, step, then, new)
            if _is_as_good(fit.error, new.error, in_y, 0.0 if new.logarithmic else noise):
                reduction = whole
                here = then
                fit = new
                break
        else:
            break
    return reduction


def _smooth_start(
    data: SearchData, factor: Reduction | None
) -> tuple[Reduction, SearchData, GaussianProcessFit]:
    """Return a first reduction, the points in its variables, and a smooth fit to these points.

    `factor` is taken out of y if that makes the fit more accurate. If y varies too fast for a
    smooth fit in all variables, a single product or sum of some of them is tried (see
    `single_index`).
    """
    step = Reduction.none(data.x.shape[1])
    fit = smooth_fit(data)
    if factor and (new := smooth_fit(factor.data(data))).error < fit.error:
        step = factor
        fit = new
    here = step.data(data)
    starts = (Reduction.none(data.x.shape[1]), factor or step)
    if fit.error >= NO_FIT and (joined := _least_rough(starts, (data,), alone=False)):
        step = joined
        here = joined.data(data)
        fit = smooth_fit(here)
    return step, here, fit


def _least_rough(
    starts: Sequence[Reduction], points: Sequence[SearchData], *, alone: bool = True
) -> Reduction | None:
    """Return the product or sum along which y is least rough (see `single_index`), or None.

    Args:
        starts: Reductions after which the product or sum is searched.
        points: Sets of points to try.
        alone: See `single_index`.
    """
    found: list[tuple[float, Reduction]] = []
    for step, data in itertools.product(starts, points):
        inner = step.data(data)
        if np.isfinite(inner.y).all() and (index := single_index(inner, alone=alone)) is not None:
            found.append((index[0], step.then(index[1])))
    return min(found, key=lambda entry: entry[0], default=(0.0, None))[1]


def _is_as_good(before: float, after: float, in_y: float, noise: float) -> bool:
    """Return whether a fit in fewer variables is as good as the previous fit.

    The new fit predicts v = y / factor. Its relative error alone may mislead, because a few large
    values of v can hide errors of all others. Therefore the error of y is compared as well.

    Args:
        before: Relative error of the fit in more variables.
        after: Relative error of the new fit of v.
        in_y: Relative error of y that follows from the new fit of v.
        noise: Relative error of v that the noise of y causes; large if the factor is small.
    """
    allowed = max(_ERROR_GROWTH * before, ACCURATE)
    if after <= allowed and before < _TOLERANCE:
        return True
    return after <= max(allowed, _ERROR_GROWTH * noise) and in_y <= allowed


def _error_in_y(
    data: SearchData, step: Reduction, then: SearchData, fit: GaussianProcessFit
) -> float:
    """Return the relative validation error of y = factor * v, where v is predicted by a fit."""
    factor = step.factors(data.validation_x)
    v = np.exp(fit.predicted) * np.sign(then.y[0]) if fit.logarithmic else fit.predicted
    return data.error(lambda _: factor * v)


def _proposals(data: SearchData, fit: GaussianProcessFit) -> list[Reduction]:
    """Return the reductions to try next, the most certain first.

    If some inputs have no effect, leaving them out is the only proposal. Otherwise, the proposals
    use scalings of one or two inputs, pairs of inputs that can be combined, all scalings together,
    and single scalings, in this order.
    """
    # Largest number of scalings that are tried alone.
    scalings = 3
    # Largest number of reductions that join two inputs to one variable and are tried.
    pairs = 4
    # Typical ratio of the relative error of derivatives to the relative error of the fit.
    slope_error = 3.5
    # Derivatives are less accurate than the fit, in particular near the boundary of the points, so
    # only points near the centre are used.
    tolerance = max(_TOLERANCE, slope_error * fit.error)
    centred = np.abs(data.x - data.x.mean(0)) / np.maximum(np.ptp(data.x, axis=0), TINY)
    inner = np.argsort(centred.max(axis=1), kind="stable")[: max(len(data.x) // 2, _SLOPES)]
    x = data.x[inner]
    slopes = fit.gradient(x)
    inputs = x.shape[1]
    # The strength of a positive input is measured by changes of its logarithm.
    size = x * np.log(x).std(0) if data.is_positive else x.std(0)
    strength = np.sqrt(np.mean((slopes * size) ** 2, axis=0))
    idle = strength < max(_IDLE, slope_error * fit.error) * strength.max()
    if idle.any():
        return [Reduction(inputs, tuple(np.array(input_symbols(inputs))[~idle]))]
    last = np.ones(len(x)) if fit.logarithmic else data.y[inner]
    found = _scalings(np.column_stack([x * slopes, last]), tolerance)
    counts = [int(np.count_nonzero(v[:-1])) for v in found]
    few = [v for v, n in zip(found, counts, strict=True) if n == 1 or (n == 2 and v[-1] == 0)]
    steps = [in_groups(data.x, few), in_groups(data.x, few[:1])]
    steps += _joined_pairs(x, slopes, tolerance)[:pairs]
    steps += [in_groups(data.x, each) for each in (found, *([v] for v in found[:scalings]))]
    return list(dict.fromkeys(step for step in steps if step is not None))


def _null_vector(moments: Array, tolerance: float) -> tuple[float, Array] | None:
    """Return an integer vector in the null space of a moment matrix, with its residual.

    `moments` (n, n) is scaled to a unit diagonal. The eigenvector of the smallest eigenvalue is
    multiplied by a small factor and rounded to integers.

    Returns:
        The residual, which is the larger of the eigenvalue and the Rayleigh quotient of the integer
        vector, and the vector (n,). None if the residual is not small, or if the entries are not
        nearly fractions with a common small denominator.
    """
    # Largest distance of an entry of a null vector from the fraction to which it is rounded.
    rational = 0.04
    sizes = np.sqrt(np.diag(moments))
    if not (np.isfinite(sizes).all() and sizes.all()):
        return None
    values, vectors = np.linalg.eigh(moments / np.outer(sizes, sizes))
    if values[0] > tolerance**2:
        return None
    vector = vectors[:, 0] / sizes
    vector = vector / vector[np.abs(vector).argmax()]
    for denominator in range(1, _DENOMINATOR_SYMMETRY + 1):
        whole = np.round(vector * denominator)
        if np.abs(vector * denominator - whole).max() < max(rational, tolerance / 2) * denominator:
            whole *= np.sign(whole[np.flatnonzero(whole)[0]])
            off = float(whole @ moments @ whole / np.sum((whole * sizes) ** 2))
            return (max(off, float(values[0])), whole) if off <= tolerance**2 else None
    return None


def _scalings(rows: Array, tolerance: float) -> list[Array]:
    """Return linearly independent integer vectors (inputs + 1,) in the null space of `rows`.

    Vectors with few nonzero entries come first. `rows` has the shape (N, inputs + 1).
    """
    moments = rows.T @ rows / len(rows)
    inputs = rows.shape[1] - 1
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


def _joined_pairs(x: Array, slopes: Array, tolerance: float) -> list[Reduction]:
    """Return reductions that join two inputs u and v, the most certain first.

    The new variable is a u + b v, a u^2 + b v^2 or a / u + b / v with integers a and b.
    """
    symbols = input_symbols(x.shape[1])
    ranked = list[tuple[float, int, Reduction]]()
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
