"""Formulas that are a quadratic polynomial and a function of a bilinear form, times a factor: x0 x1 + tanh(x0 - x1).

On a grid of the form's constants everything else is linear: all of the grid is compared with y at once, and the best
places are where the fit of all constants begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, X
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.expression_graphs import graph_of_expression
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.pairs import few_terms
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import RidgePolicy
from kanrun.formulas import variable

#: The functions, with the shifts of the form that are tried beside its slopes; and those of which only the ratio of
#: slopes and shift counts, with the smallest value of the form over its range, or the place of its zero.
_FUNCTIONS: dict[str, tuple[float, ...]] = {
    "sin": (0.0,), "exp": (0.0,), "tanh": (0.0, -1.0, 1.0, -2.0, 2.0), "gaussian": (0.0, -1.0, 1.0, -2.0, 2.0),
    "sqrt": (0.01, 0.1, 0.5, 2.0), "log": (0.01, 0.1, 0.5, 2.0), "1/x": (0.01, 0.1, 0.5, 2.0),
    "abs": (-0.25, -0.5, -0.75),
}  # fmt: skip
_SCALED = ("sqrt", "log", "1/x", "abs")
#: What rounding leaves of a form, relative to its size.
_ROUNDING = 1e-9


def ridge_formulas(data: SearchData, candidates: Sequence[Candidate], policy: RidgePolicy) -> Iterator[sympy.Expr]:
    """The nearest such formulas of y, all constants fitted to some of the points, best first."""
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    x, y = data.x[pick], data.y[pick]
    inputs, names = x.shape[1], {candidate.name for candidate in candidates}
    half = np.ptp(x, axis=0) / 2
    z = (x - x.min(0)) / half - 1
    mixed = [z[:, i] * z[:, j] for i, j in itertools.combinations(range(inputs), 2)]
    bilinear = np.stack([*z.T, *mixed], axis=1)
    monomials = np.stack([*x.T, *(x[:, i] * x[:, j] for i, j in itertools.combinations(range(inputs), 2))])
    monomials = 2 * (monomials - monomials.min(1, keepdims=True)) / np.ptp(monomials, axis=1, keepdims=True) - 1
    basis = np.stack([np.ones(len(y)), *bilinear.T, *(z**2).T], axis=1)
    q = np.linalg.qr(basis)[0]
    rest = y - q @ (q.T @ y)
    started: list[tuple[float, int, sympy.Expr]] = []
    for name in (each for each in _FUNCTIONS if each in names):
        forms = _forms(name, bilinear, monomials, inputs, policy)
        columns = np.stack([TABLE[name].value(forms), *([np.cos(forms)] if name == "sin" else [])])
        for weight, values in _weights(x, half, names):
            left = _left(columns * values, q, rest) / float(np.sum((y - y.mean()) ** 2))
            for index in np.argsort(left)[: policy.kept]:
                if left[index] < policy.promising:
                    parts = columns[:, index] * values
                    expression = _expression(name, forms[index], weight, parts, x, y)
                    started.append((float(left[index]), len(started), expression))
    found: list[tuple[float, int, sympy.Expr]] = []
    for number, (_, _, expression) in enumerate(sorted(started, key=lambda each: each[:2])[: policy.tried]):
        settings = RefitSettings(steps=policy.steps, damping=policy.damping)
        fitted = refit(graph_of_expression(expression, inputs), x, y, settings)
        found.append((fitted.rmse, number, to_expression(fitted.graph, [f"x{i}" for i in range(inputs)])))
        if fitted.rmse < policy.exact * data.spread:
            break
    for rmse, _, expression in sorted(found, key=lambda each: each[:2])[: policy.returned]:
        if np.isfinite(rmse):
            yield expression


def _forms(name: str, bilinear: Array, monomials: Array, inputs: int, policy: RidgePolicy) -> Array:
    """Forms a_i z_i + d z_i z_j + c over the grid of the function, (forms, N), at most one product in each; where that
    has to be thinned, also forms of two of the inputs' monomials on the whole of it."""
    scaled = name in _SCALED
    steps = every = np.array(policy.ratios if scaled else policy.waves if name == "sin" else policy.slopes)
    while len(steps) ** (inputs + 1) * (bilinear.shape[1] - inputs) > policy.most:
        steps = steps[len(steps) // 2 % 2 :: 2]  # zero, in the middle, stays
    grid = [np.zeros((0, bilinear.shape[1]))]
    for k in range(inputs, bilinear.shape[1]):
        grid.append(np.zeros((len(steps) ** (inputs + 1), bilinear.shape[1])))
        grid[-1][:, [*range(inputs), k]] = list(itertools.product(steps, repeat=inputs + 1))
    slopes = np.unique(np.concatenate(grid), axis=0)
    first = slopes[np.arange(len(slopes)), np.argmax(slopes != 0, axis=1)]
    size = np.abs(slopes).sum(1)
    slopes = slopes[
        (np.count_nonzero(slopes, axis=1) > 1) & (size <= policy.widest) & ((first > 0) | (name == "exp") | scaled)
    ]
    forms = slopes @ bilinear.T
    if len(steps) < len(every):
        pairs = [(a, b) for a, b in itertools.product(every[every != 0], repeat=2) if abs(a) + abs(b) <= policy.widest]
        chosen = np.array([pair for pair in pairs if pair[0] > 0 or name == "exp"])
        forms = np.concatenate([forms, *(chosen @ both for both in itertools.combinations(monomials, 2))])
    if scaled:
        forms = (forms - forms.min(1, keepdims=True)) / np.ptp(forms, axis=1, keepdims=True)
    return np.concatenate([forms + shift for shift in _FUNCTIONS[name]])


def _weights(x: Array, half: Array, names: set[str]) -> Iterator[tuple[sympy.Expr, Array]]:
    """Factors of the function: 1, an input, its inverse, and exponentials of it."""
    yield sympy.S.One, np.ones(len(x))
    for i, h in enumerate(half.tolist()):
        symbol, values = variable(f"x{i}"), x[:, i]
        yield symbol, values
        if (values > 0).all() and "1/x" in names:
            yield 1 / symbol, 1 / values
        for rate in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0) if "exp" in names else ():
            yield sympy.exp(sympy.Float(rate / h, 17) * symbol), np.exp(rate / h * (values - values.mean()))


def _left(columns: Array, q: Array, rest: Array) -> Array:
    """What of `rest` (N,), which is orthogonal to q (N, K), is left beside one or two columns (columns, M, N), (M,)."""
    count_work(COSTS.grid_value * columns.size)
    with np.errstate(all="ignore"):
        first, *more = columns - (columns @ q) @ q.T
        first = first / np.linalg.norm(first, axis=1, keepdims=True)
        explained = (first @ rest) ** 2
        for each in more:
            second = each - np.einsum("mn,mn->m", first, each)[:, None] * first
            explained += (second @ rest) ** 2 / np.einsum("mn,mn->m", second, second)
    return np.asarray(np.nan_to_num(rest @ rest - explained, nan=np.inf))


def _expression(name: str, form: Array, weight: sympy.Expr, columns: Array, x: Array, y: Array) -> sympy.Expr:
    """The polynomial and the function of the form in the inputs themselves, by linear least squares."""
    symbols = [variable(f"x{i}") for i in range(x.shape[1])]
    pairs = list(itertools.combinations(range(len(symbols)), 2))
    monomials = [sympy.S.One, *symbols, *(symbols[i] * symbols[j] for i, j in pairs)]
    values = np.stack([np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)], axis=1)
    slopes = few_terms(values, form, _ROUNDING * float(np.abs(form).max()))
    assert slopes is not None, "a form is a combination of these monomials"
    inner = sympy.Add(*(sympy.Float(float(c), 17) * e for c, e in zip(slopes, monomials, strict=True) if c))
    design = np.concatenate([values, x**2, columns.T], axis=1)
    sizes = np.linalg.norm(design, axis=0)
    solved = np.linalg.lstsq(design / sizes, y, rcond=None)[0] / sizes
    terms = [*monomials, *(symbol**2 for symbol in symbols)]
    polynomial = sympy.Add(*(sympy.Float(float(c), 17) * e for c, e in zip(solved, terms, strict=False)))
    factor = float(solved[len(terms)])
    if name == "sin":
        phase = float(np.arctan2(solved[-1], solved[-2]))
        factor, inner = float(np.hypot(solved[-1], solved[-2])), inner + sympy.Float(phase, 17)
    return polynomial + sympy.Float(factor, 17) * weight * TABLE[name].expression.subs(X, inner)
