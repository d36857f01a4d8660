"""Formulas that are a quadratic polynomial and a function of a bilinear form, times a factor: x0 x1 + tanh(x0 - x1).

On a grid of the form's constants everything else is linear: all of the grid is compared with y at once, and the best
places are where the fit of all constants begins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import sympy

from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, X, combination, number
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.expression_graphs import graph_of_expression
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.pairs import covered
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import RidgePolicy
from kanrun.formulas import variable

#: The functions, with the shifts of the form that are tried beside its slopes; and those of which only the ratio of
#: slopes and shift counts, with the smallest value of the form over its range, or the place of its zero.
_FUNCTIONS: dict[str, tuple[float, ...]] = {
    "sin": (0.0, np.pi / 2),
    "exp": (0.0,),
    "tanh": (0.0, -1.0, 1.0, -2.0, 2.0),
    "gaussian": (0.0, -1.0, 1.0, -2.0, 2.0),
    "sqrt": (0.01, 0.1, 0.5, 2.0),
    "log": (0.01, 0.1, 0.5, 2.0),
    "1/x": (0.01, 0.1, 0.5, 2.0),
    "abs": (-0.25, -0.5, -0.75),
}
_SCALED = ("sqrt", "log", "1/x", "abs")


def ridge_formulas(
    data: SearchData, candidates: Sequence[Candidate], policy: RidgePolicy
) -> Iterator[sympy.Expr]:
    """The nearest such formulas of y, all constants fitted to some of the points, best first."""
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    x, y, names = data.x[pick], data.y[pick], {candidate.name for candidate in candidates}
    symbols = [variable(f"x{i}") for i in range(x.shape[1])]
    pairs = list(itertools.combinations(range(len(symbols)), 2))
    terms = [*symbols, *(symbols[i] * symbols[j] for i, j in pairs)]
    values = np.stack([*x.T, *(x[:, i] * x[:, j] for i, j in pairs)])
    squares = [sympy.S.One, *terms, *(symbol**2 for symbol in symbols)]
    polynomial = np.stack([np.ones(len(y)), *values, *(x**2).T], axis=1)
    q, total = (
        np.linalg.qr(polynomial / np.linalg.norm(polynomial, axis=0))[0],
        float(np.sum((y - y.mean()) ** 2)),
    )
    rest = float(np.sum((y - q @ (q.T @ y)) ** 2))
    middle, half = (values.max(1) + values.min(1)) / 2, np.ptp(values, axis=1) / 2
    scaled = [
        (term - number(m)) / number(h)
        for term, m, h in zip(terms, middle.tolist(), half.tolist(), strict=True)
    ]
    started: list[tuple[float, int, sympy.Expr]] = []
    for name in (each for each in _FUNCTIONS if each in names):
        slopes, shifts, argument = _forms(name, ((values.T - middle) / half).T, policy)
        with np.errstate(all="ignore"):
            columns = TABLE[name].value(argument)
        for factor, weights in _factors(x, names):
            left = (rest - covered(y, columns * weights, q)[0]) / total
            for index in np.argsort(left)[: policy.kept]:
                if left[index] < policy.promising:
                    form = sympy.expand(
                        sympy.Add(
                            *(
                                number(float(a)) * e
                                for a, e in zip(slopes[index], scaled, strict=True)
                            )
                        )
                    )
                    inner = TABLE[name].expression.xreplace(
                        {X: form + number(float(shifts[index]))}
                    )
                    design = np.column_stack([polynomial, columns[index] * weights])
                    sizes = np.linalg.norm(design, axis=0)
                    c = np.linalg.lstsq(design / sizes, y, rcond=None)[0] / sizes
                    started.append(
                        (
                            float(left[index]),
                            len(started),
                            combination(c, [*squares, factor * inner]),
                        )
                    )
    yield from _fitted(
        [expression for *_, expression in sorted(started, key=lambda each: each[:2])], x, y, policy
    )


def _fitted(
    expressions: list[sympy.Expr], x: Array, y: Array, policy: RidgePolicy
) -> Iterator[sympy.Expr]:
    """The best of the first expressions with all constants fitted, up to an exact one."""
    found: list[tuple[float, int, sympy.Expr]] = []
    for place, expression in enumerate(expressions[: policy.tried]):
        settings = RefitSettings(steps=policy.steps, damping=policy.damping)
        fitted = refit(graph_of_expression(expression, x.shape[1]), x, y, settings)
        found.append(
            (fitted.rmse, place, to_expression(fitted.graph, [f"x{i}" for i in range(x.shape[1])]))
        )
        if fitted.rmse < policy.exact * float(np.std(y)):
            break
    for rmse, _, expression in sorted(found, key=lambda each: each[:2])[: policy.returned]:
        if np.isfinite(rmse):
            yield expression


def _forms(name: str, monomials: Array, policy: RidgePolicy) -> tuple[Array, Array, Array]:
    """Sums of two and of three of the monomials (K, N), which lie in [-1, 1], over the grid of the function: slopes
    (forms, K), shifts (forms,), and values (forms, N); of three the grid is thinned to at most `most` forms."""
    scaled = name in _SCALED
    every = np.array(policy.ratios if scaled else policy.waves if name == "sin" else policy.slopes)
    found = []
    for count in range(2, min(3, len(monomials)) + 1):
        steps = every
        while count > 2 and math.comb(len(monomials), count) * len(steps) ** count > policy.most:
            steps = steps[len(steps) // 2 % 2 :: 2]  # zero, in the middle, stays
        grid = np.array(list(itertools.product(steps[steps != 0], repeat=count)))
        grid = grid[
            (np.abs(grid).sum(1) <= policy.widest) & ((grid[:, 0] > 0) | (name == "exp") | scaled)
        ]
        for chosen in itertools.combinations(range(len(monomials)), count):
            found.append(np.zeros((len(grid), len(monomials))))
            found[-1][:, chosen] = grid
    slopes = np.concatenate(found)
    forms = slopes @ monomials
    low, width = (
        (forms.min(1), np.ptp(forms, axis=1))
        if scaled
        else (np.zeros(len(forms)), np.ones(len(forms)))
    )
    slopes = np.tile(slopes / width[:, None], (len(_FUNCTIONS[name]), 1))
    shifts = np.repeat(_FUNCTIONS[name], len(forms)) - np.tile(low / width, len(_FUNCTIONS[name]))
    return slopes, shifts, slopes @ monomials + shifts[:, None]


def _factors(x: Array, names: set[str]) -> Iterator[tuple[sympy.Expr, Array]]:
    """Factors of the function: 1, an input, its inverse, and exponentials of it."""
    yield sympy.S.One, np.ones(len(x))
    for i, h in enumerate((np.ptp(x, axis=0) / 2).tolist()):
        symbol, values = variable(f"x{i}"), x[:, i]
        yield symbol, values
        if (values > 0).all() and "1/x" in names:
            yield 1 / symbol, 1 / values
        for rate in (-1.5, -0.5, 0.5, 1.5) if "exp" in names else ():
            yield sympy.exp(number(rate / h) * symbol), np.exp(rate / h * values)
