"""Fewer variables before any search: scalings, translations and norms that a function does not change under.

A smooth fit of the points has derivatives. A scaling x_i -> s^(v_i) x_i, y -> s^w y leaves y unchanged where
sum_i v_i x_i dy/dx_i = w y everywhere, so that the rows (x_i dy/dx_i, y) have (v, -w) in their null space: dimensional
analysis (Buckingham, Physical Review 4, 1914, 345) that reads the dimensions off the points. In the same way u + v,
u - v, u^2 + v^2 and 1/u + 1/v are found by their derivatives. The points themselves are then expressed in the groups,
exactly, and the fit of fewer variables decides whether that was right.
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
from kanrun.engine.symbolic.smooth_fit import SmoothFit, smooth_fit
from kanrun.errors import UsageError
from kanrun.formulas import to_numpy, variable

#: What a null vector may have to be multiplied by for whole entries.
_DENOMINATORS = (1, 2, 3, 4, 5, 6)
#: The largest denominator of an exponent in a group.
_LARGEST = 12


@dataclass(frozen=True)
class Reduction:
    """y = factor(x) * v(u(x)): `variables` u and `factor` are expressions in x0, x1, ..., `inputs` of them."""

    inputs: int
    variables: tuple[sympy.Expr, ...]
    factor: sympy.Expr = sympy.S.One

    @classmethod
    def none(cls, inputs: int) -> Reduction:
        return cls(inputs, tuple(variable(f"x{i}") for i in range(inputs)))

    @property
    def changes(self) -> bool:
        """Whether it says anything."""
        return self != Reduction.none(self.inputs)

    @property
    def names(self) -> list[str]:
        return [f"x{i}" for i in range(self.inputs)]

    def groups(self, x: Array) -> Array:
        """u (N, variables) at x (N, inputs)."""
        columns = [to_numpy(each, self.names)(x) for each in self.variables]
        return np.stack(columns, axis=1) if columns else np.zeros((len(x), 0))

    def data(self, data: SearchData) -> SearchData:
        """The points in u and v."""
        factor = to_numpy(self.factor, self.names)
        return SearchData(
            self.groups(data.x),
            data.y / factor(data.x),
            self.groups(data.validation_x),
            data.validation_y / factor(data.validation_x),
        )

    def restored(self, expression: sympy.Expr) -> sympy.Expr:
        """v as an expression in x0, x1, ... for u to y as one in x."""
        swap = {variable(f"x{i}"): each for i, each in enumerate(self.variables)}
        return self.factor * expression.xreplace(swap)

    def then(self, step: Reduction) -> Reduction:
        """This reduction, then `step` on its variables."""
        swap = {variable(f"x{i}"): each for i, each in enumerate(self.variables)}
        variables = tuple(each.xreplace(swap) for each in step.variables)
        return replace(self, variables=variables, factor=self.factor * step.factor.xreplace(swap))


def dimensionless(data: SearchData, dimensions: Array) -> Reduction:
    """Groups without units, by the exponents of the base units of the inputs and, last, the output (inputs + 1, bases).

    Raises UsageError where no product of powers of the inputs has the output's units.
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
    found = _in_groups(data.x, rows) if rows else None
    return found if found is not None else Reduction.none(data.x.shape[1])


def power_law(data: SearchData, policy: SymmetryPolicy) -> sympy.Expr | None:
    """c prod x_i^(a_i) by least squares on logarithms, the exponents the simplest that their standard errors allow;
    None where an input or the output has both signs or is zero."""
    x, y = data.all_points.x, data.all_points.y
    sign = float(np.sign(y[0]))
    if not ((x > 0).all() and (sign * y > 0).all()):
        return None
    design = np.column_stack([np.log(x), np.ones(len(y))])
    solved, _, rank, _ = np.linalg.lstsq(design, np.log(sign * y), rcond=None)
    if rank < design.shape[1] or len(y) <= rank:
        return None
    rest = np.log(sign * y) - design @ solved
    errors = np.sqrt(
        np.diag(np.linalg.inv(design.T @ design)) * float(rest @ rest) / (len(y) - rank)
    )
    powers = [
        _simplest(float(a), max(policy.deviations * float(e), 1e-8))
        for a, e in zip(solved, errors, strict=True)
    ]
    law = sympy.Mul(*(variable(f"x{i}") ** a for i, a in enumerate(powers[:-1])))
    if not law.free_symbols:
        return None
    shape = to_numpy(law, [f"x{i}" for i in range(x.shape[1])])(x)
    return sympy.Float(float(shape @ y / (shape @ shape)), 17) * law


def _simplest(value: float, window: float) -> sympy.Expr:
    """The fraction of smallest denominator within the window, or the number itself."""
    for denominator in _DENOMINATORS:
        if abs(round(value * denominator) / denominator - value) <= window:
            return sympy.Rational(round(value * denominator), denominator)
    return sympy.Float(value, 17)


def _single_index(data: SearchData, policy: SymmetryPolicy) -> Reduction | None:
    """One product of powers of the inputs, or one sum of them with signs, of which y is a function alone, however fast
    it varies: in the order of that, y hardly changes from point to point. None where there is none."""
    x, y = data.x, data.y
    inputs, most = x.shape[1], policy.single
    names = [variable(f"x{i}") for i in range(inputs)]
    best: tuple[float, sympy.Expr, Array] | None = None
    for values, build in ((np.log(np.where(x > 0, x, np.nan)), sympy.Mul), (x, sympy.Add)):
        largest = next((k for k in (3, 2, 1) if (2 * k + 1) ** inputs <= most), 0)
        if not np.isfinite(values).all() or largest == 0:
            continue
        count_work(COSTS.grid_value * (2 * largest + 1) ** inputs * len(y) / 2)
        for weights in itertools.product(range(-largest, largest + 1), repeat=inputs):
            if weights[0] <= 0 or np.gcd.reduce(weights) != 1 or not all(weights):
                continue
            index = values @ np.array(weights)
            jumps = float(np.sum(np.diff(y[np.argsort(index)]) ** 2)) / (
                2 * len(y) * float(np.var(y))
            )
            if best is None or jumps < best[0]:
                parts = zip(names, weights, strict=True)
                best = (
                    jumps,
                    build(*(n**w if build is sympy.Mul else w * n for n, w in parts)),
                    index,
                )
    if best is None or best[0] > policy.smooth or _rough(best[2], y) > policy.rough:
        return None
    return Reduction(inputs, (best[1],))


def _rough(index: Array, y: Array) -> float:
    """What lines between its neighbours leave of y at each point, relative to its steps from point to point: small for
    a function of the index, about 1 where other things matter too."""
    order = np.argsort(index)
    u, y = index[order], y[order]
    wide = np.where(u[2:] > u[:-2], u[2:] - u[:-2], 1.0)
    rest = y[1:-1] - y[:-2] - (y[2:] - y[:-2]) * (u[1:-1] - u[:-2]) / wide
    return float(np.median(np.abs(rest)) / max(np.median(np.abs(np.diff(y))), 1e-300))


def reduced(data: SearchData, policy: SymmetryPolicy) -> Reduction:
    """Fewer variables, in as many rounds as help; `Reduction.none` where nothing is found."""
    reduction = Reduction.none(data.x.shape[1])
    if data.x.shape[1] == 1:
        return reduction
    if (step := _single_index(data, policy)) is not None:
        return step
    here, fit = data, smooth_fit(data, policy)
    while here.x.shape[1] > 0 and fit.error < policy.hopeless:
        for step in _proposals(here, fit, policy):
            then = step.data(here)
            if not all(
                np.isfinite(each).all()
                for each in (then.x, then.y, then.validation_x, then.validation_y)
            ):
                continue
            if not step.variables:
                factor = here.y / then.y
                rest = here.y - factor * float(factor @ here.y / (factor @ factor))
                if (
                    float(np.sqrt(np.mean(rest**2)))
                    <= max(policy.constant, policy.kept * fit.error) * here.spread
                ):
                    return reduction.then(step)
                continue
            new = smooth_fit(then, policy)
            if new.error <= max(policy.kept * fit.error, policy.accurate):
                reduction, here, fit = reduction.then(step), then, new
                break
        else:
            break
    return reduction


def _proposals(data: SearchData, fit: SmoothFit, policy: SymmetryPolicy) -> list[Reduction]:
    """Steps to try, the surest first: all scalings at once, the surest scaling, then pairs that act together."""
    loose = policy.loosened * fit.error  # slopes are as wrong as the fit, and more
    policy = replace(
        policy, tolerance=max(policy.tolerance, loose), rational=max(policy.rational, 0.5 * loose)
    )
    inside = np.abs(data.x - data.x.mean(0)).max(0) * policy.inside > np.abs(
        data.x - data.x.mean(0)
    )
    rows = np.flatnonzero(inside.all(1))[
        : policy.points
    ]  # slopes of a fit are worst at the edge of its points
    rows = rows if len(rows) >= policy.fewest else np.arange(min(len(data.x), policy.points))
    x = data.x[rows]
    slopes = fit.gradient(x)
    names = [f"x{i}" for i in range(x.shape[1])]
    strength = np.sqrt(np.mean((slopes * x.std(0)) ** 2, axis=0))
    idle = [i for i in range(len(names)) if strength[i] < max(policy.idle, loose) * strength.max()]
    if idle:
        return [
            Reduction(len(names), tuple(variable(n) for i, n in enumerate(names) if i not in idle))
        ]
    last = np.ones(len(x)) if fit.logarithmic else data.y[rows]
    found = _scalings(np.column_stack([x * slopes, last]), policy)
    steps = []
    few = tuple(
        v
        for v in found
        if np.count_nonzero(v[:-1]) == 1 or (np.count_nonzero(v[:-1]) == 2 and v[-1] == 0)
    )

    def grouped(*choices: Sequence[tuple[float, ...]]) -> list[Reduction]:
        vectors = ([np.array(v) for v in chosen] for chosen in choices if chosen)
        return [step for each in vectors if (step := _in_groups(data.x, each)) is not None]

    steps = [
        *grouped(few, few[:1]),
        *_pairs(x, slopes, policy),
        *grouped(found, *((each,) for each in found[:3])),
    ]
    return list(dict.fromkeys(steps))


def _scalings(rows: Array, policy: SymmetryPolicy) -> list[tuple[float, ...]]:
    """Independent vectors (inputs + 1,) of small rational numbers in the null space of `rows`, few entries first."""
    moments = rows.T @ rows / len(rows)
    sizes = np.sqrt(np.diag(moments))
    if not sizes.all() or not np.isfinite(sizes).all():
        return []
    correlated = moments / np.outer(sizes, sizes)
    inputs = rows.shape[1] - 1
    found: list[tuple[float, ...]] = []
    for count in range(1, min(inputs, policy.support) + 1):
        ranked: list[tuple[float, tuple[float, ...]]] = []
        for subset in itertools.combinations(range(inputs), count):
            inside = [*subset, inputs]
            values, vectors = np.linalg.eigh(correlated[np.ix_(inside, inside)])
            for k in range(min(2, len(values))):
                if values[k] > policy.tolerance**2:
                    break
                small = _rational(vectors[:, k] / sizes[inside], policy)
                if small is not None and all(small[:-1]):
                    full = np.zeros(inputs + 1)
                    full[inside] = small
                    off = full @ moments @ full / np.sum((full * sizes) ** 2)
                    if off <= policy.tolerance**2:
                        ranked.append((float(off), tuple(float(entry) for entry in full)))
        for _, vector in sorted(ranked):
            if np.linalg.matrix_rank(np.array([*found, vector])) > len(found):
                found.append(vector)
    return found


def _rational(vector: Array, policy: SymmetryPolicy) -> Array | None:
    """A multiple of the vector whose entries are small whole numbers, or None."""
    vector = (
        vector / np.abs(vector[:-1]).max() * (1 if vector[np.abs(vector[:-1]).argmax()] > 0 else -1)
    )
    for denominator in _DENOMINATORS:
        near = np.round(vector * denominator)
        if np.abs(vector * denominator - near).max() < policy.rational * denominator:
            return near
    return None


def _in_groups(x: Array, vectors: Sequence[Array]) -> Reduction | None:
    """The step to groups that the scalings leave as they are, expressed by the variables that suit best: positive, of
    small range, with small exponents; None where no choice is allowed."""
    weights = np.array(vectors)
    count, inputs = len(weights), x.shape[1]
    away = np.abs(x).min(0) / np.maximum(np.abs(x).max(0), 1e-300)
    best: tuple[float, Reduction] | None = None
    for pivots in itertools.combinations(range(inputs), count):
        matrix = weights[:, pivots]
        if abs(np.linalg.det(matrix)) < 1e-9 or any(away[i] < 1e-3 for i in pivots):
            continue
        ends = np.column_stack([weights[:, :inputs], -weights[:, inputs]])
        exponents = np.asarray(np.linalg.solve(matrix, ends), dtype=np.float64)
        others = [j for j in range(inputs) if j not in pivots]
        used = exponents[:, [*others, inputs]]
        if not all(
            (x[:, i] > 0).all() or np.allclose(row, np.round(row))
            for i, row in zip(pivots, used, strict=True)
        ):
            continue
        cost = float(
            np.abs(used).sum()
            + 3 * np.abs(used - np.round(used)).sum()
            - 0.1 * sum(away[i] for i in pivots)
        )
        if best is None or cost < best[0]:
            best = cost, _step(inputs, pivots, others, exponents)
    return best[1] if best else None


def _step(inputs: int, pivots: Sequence[int], others: Sequence[int], exponents: Array) -> Reduction:
    def power(column: int, sign: int) -> sympy.Expr:
        parts = zip(pivots, exponents[:, column], strict=True)
        return sympy.Mul(
            *(
                variable(f"x{i}") ** (sign * sympy.Rational(float(e)).limit_denominator(_LARGEST))
                for i, e in parts
            )
        )

    variables = tuple(variable(f"x{j}") * power(j, -1) for j in others)
    return Reduction(inputs, variables, power(inputs, 1))


def _pairs(x: Array, slopes: Array, policy: SymmetryPolicy) -> list[Reduction]:
    """Steps that put u and v together as a u + b v, a u^2 + b v^2 or a / u + b / v, with small whole a and b."""
    inputs = x.shape[1]
    ranked: list[tuple[float, int, Reduction]] = []
    with np.errstate(all="ignore"):
        forms = ((1, slopes), (2, slopes / (2 * x)), (-1, -slopes * x**2))
    for power, rates in forms:
        if not np.isfinite(rates).all():
            continue
        for i, j in itertools.combinations(range(inputs), 2):
            moments = rates[:, [i, j]].T @ rates[:, [i, j]] / len(x)
            sizes = np.sqrt(np.diag(moments))
            if not sizes.all():
                continue
            value, vectors = np.linalg.eigh(moments / np.outer(sizes, sizes))
            if value[0] > policy.tolerance**2:
                continue
            a, b = (vectors[:, 0] / sizes).tolist()
            scaled = _rational(np.array([b, -a, 0.0]), policy)
            if scaled is None or not scaled[:2].all():
                continue
            first, second = variable(f"x{i}"), variable(f"x{j}")
            joined = int(scaled[0]) * first**power + int(scaled[1]) * second**power
            rest = [variable(f"x{k}") for k in range(inputs) if k not in (i, j)]
            ranked.append((float(value[0]), len(ranked), Reduction(inputs, (joined, *rest))))
    return [step for _, _, step in sorted(ranked, key=lambda entry: entry[:2])[: policy.pairs]]
