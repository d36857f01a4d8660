"""Formulas of several inputs, each found by one sparse regression over many terms at once.

Terms of a quotient of polynomials are monomials, and monomials times -y. Other formulas are sums of
pairs and triples of small expressions, and quotients of two of them, for y and functions of y, with
a weight or not. Last comes a quadratic polynomial with one function of a bilinear form, as in
x0 x1 + tanh(x0 - x1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, combination, power
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.dictionary import PRODUCT, Build, Dictionary, expand_dictionary
from kanrun.engine.symbolic.expression_graphs import graph_of_expression
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import (
    OutputTransform,
    TermSum,
    few_terms,
    nearest_sums,
    nearest_terms,
    nearest_triples,
    output_transforms,
    solve_terms,
)
from kanrun.engine.symbolic.search_problem import DictionaryPolicy, QuotientPolicy, RidgePolicy
from kanrun.formulas import to_numpy, variable

Powers = tuple[int, ...]

#: Largest difference, relative to y, between y and the root of a quotient whose numbers were taken
#: for fractions.
_ROOT_ERROR = 1e-6


def rational_function(data: SearchData, policy: QuotientPolicy) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms, or the square root of one, or None.

    It reproduces y on all points to rounding.
    """
    x, y = data.all_points.x, data.all_points.y
    if (plain := quotient_of_polynomials(x, y, policy)) is not None:
        return plain
    squared = quotient_of_polynomials(x, y**2, policy)
    return None if squared is None else _root(squared, x, y)


def quotient_of_polynomials(
    x: Array, y: Array, policy: QuotientPolicy, known: float = 0.0
) -> sympy.Expr | None:
    """Return a quotient of polynomials with few terms for y (N,) at x (N, inputs), or None.

    `known` is the error of y relative to its size.

    P / Q = y is linear in the coefficients, P - y (Q - 1) = y about the middle of the points, where
    Q is not 0. Degrees rise until least squares suddenly leaves nothing, not bit by bit as where a
    quotient approximates. Then monomials in the inputs themselves are eliminated as long as nothing
    is left.
    """
    inputs, ranges, size = x.shape[1], np.ptp(x, axis=0), float(np.abs(y).max())
    max_terms, allowed = min(len(y) // 3, policy.monomials), max(policy.nothing, known) * size
    if not ranges.all():
        return None
    centred = (x - x.mean(0)) / ranges * 2
    found: tuple[int, list[Powers], list[Powers]] | None = None
    for q in range(policy.below + 1):
        below = _powers(inputs, q)[1:]
        counts = [len(below) + math.comb(inputs + p, p) for p in range(policy.degree + 1)]
        counts = [count for count in counts if count <= max_terms]
        if not counts:
            break
        above = _powers(inputs, len(counts) - 1)
        columns = _columns(centred, y, above, below)
        count_work(COSTS.least_squares * columns.size * columns.shape[1])
        basis, before = np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[0], size
        for count in counts:
            left = float(np.sqrt(np.mean((y - basis[:, :count] @ (basis[:, :count].T @ y)) ** 2)))
            sudden = left <= allowed and left < policy.sudden * before
            if sudden and (found is None or count < found[0]):
                found = count, above[: count - len(below)], below
            before = left
    expression = _sparse_quotient(x, y, found[1], found[2], policy, allowed) if found else None
    return expression if expression is not None and expression.free_symbols else None


def _sparse_quotient(
    x: Array,
    t: Array,
    above: list[Powers],
    below: list[Powers],
    policy: QuotientPolicy,
    allowed: float,
) -> sympy.Expr | None:
    """Return the quotient with as few of these monomials as it needs, or None.

    The denominator has a constant and the monomials `below`; its largest coefficient in the null
    vector of all columns is set to 1.
    """
    scale, below = np.abs(x).max(0), [above[0], *below]
    columns = _columns(x / scale, t, above, below)
    null = np.linalg.svd(np.linalg.qr(columns / np.linalg.norm(columns, axis=0))[1])[2][-1]
    one = int(np.argmax(np.abs(null[: len(below)])))
    solved = few_terms(np.delete(columns, one, axis=1), -columns[:, one], allowed)
    if solved is None or np.count_nonzero(solved) > policy.terms:
        return None
    every, cut = [*below, *above], len(below)
    natural = np.insert(solved, one, 1.0) / np.prod(scale ** np.array(every), axis=1)
    natural = natural / next(c for c in natural if c)
    terms = [sympy.Mul(*(variable(f"x{i}") ** k for i, k in enumerate(powers))) for powers in every]
    return combination(natural[cut:], terms[cut:]) / combination(natural[:cut], terms[:cut])


def _root(quotient: sympy.Expr, x: Array, y: Array) -> sympy.Expr | None:
    """Return the square root of a quotient of polynomials with the signs of y, or None.

    Squared factors are taken out of the root, so that it can change its sign.
    """
    exact = quotient.xreplace(
        {c: sympy.Rational(c).limit_denominator(10**6) for c in quotient.atoms(sympy.Float)}
    )
    constant, factors = sympy.factor_list(sympy.fraction(sympy.cancel(exact))[0])
    below_constant, below = sympy.factor_list(sympy.fraction(sympy.cancel(exact))[1])
    outside, inside = sympy.Integer(1), constant / below_constant
    for factor, times in [*factors, *((factor, -times) for factor, times in below)]:
        outside *= factor ** int(times / 2)
        inside *= factor ** (times - 2 * int(times / 2))
    root = outside * sympy.sqrt(inside) if outside.free_symbols else sympy.sqrt(quotient)
    if not root.free_symbols:
        return None
    value = to_numpy(root, [f"x{i}" for i in range(x.shape[1])])(x)
    root, value = (root, value) if value @ y > 0 else (-root, -value)
    return root if float(np.abs(value - y).max()) <= _ROOT_ERROR * float(np.abs(y).max()) else None


def _columns(x: Array, t: Array, above: Sequence[Powers], below: Sequence[Powers]) -> Array:
    """Return the monomials `below` times -t, then those `above`, (N, monomials)."""
    every = np.stack([np.prod(x ** np.array(each), axis=1) for each in (*below, *above)], axis=1)
    every[:, : len(below)] *= -t[:, None]
    return every


def _powers(inputs: int, degree: int) -> list[Powers]:
    """Return the exponents of all monomials up to a degree, by their degree."""
    every = itertools.product(range(degree + 1), repeat=inputs)
    return sorted((powers for powers in every if sum(powers) <= degree), key=sum)


#: Relative error of a ridge formula that is exact.
_FITTED = 1e-8
#: Fraction of the variance that rounding leaves: of pairs that leave no more the simplest is best.
_EXACT = 1e-11
#: Number of the first functions of y that are regressed as quotients.
_QUOTIENTS = 3


def pair_formulas(
    data: SearchData, candidates: Sequence[Candidate], policy: DictionaryPolicy
) -> Iterator[sympy.Expr]:
    """Yield formulas of y from a dictionary of small expressions, exact ones first.

    Those that reproduce some of the points come as they are found, the plainest of each kind first;
    then the few nearest ones.
    """
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    entries = expand_dictionary(data.x[pick], candidates, policy)
    names = {candidate.name for candidate in candidates}
    found: list[TermSum] = []
    for sums in _kinds(entries, data.y[pick], names, policy):
        near = [each for left, each in sums if left < policy.promising]
        exact = [each.expression() for each in near if each.error <= policy.exact]
        yield from sorted(exact, key=_plainness)
        found += near
    nearest = sorted(found, key=lambda each: each.error)
    yield from (each.expression() for each in nearest[: policy.returned])


def _kinds(
    entries: Dictionary, y: Array, names: set[str], policy: DictionaryPolicy
) -> Iterator[Iterator[tuple[float, TermSum]] | list[tuple[float, TermSum]]]:
    """Yield the nearest sums of one kind after the other."""
    simple, few = (entries.chosen(range(min(n, len(entries)))) for n in (policy.simple, policy.few))
    near = partial(nearest_sums, kept=policy.kept, floor=_EXACT)
    for place, target in enumerate(output_transforms(y, names)):
        yield near(target, simple if place else entries)
        yield nearest_triples(target, few.chosen(range(min(policy.triples, len(few)))), 2)
        if place < _QUOTIENTS:
            yield near(target, few, quotients=True)
    logarithms = simple.functions(TABLE["log"], np.array([(1.0, 0.0), (-1.0, 0.0)]))
    for target in output_transforms(y, {"exp"} & names)[1:]:  # products of powers
        yield near(target, logarithms)
    for k in range(min(policy.weights, len(entries))):
        weight = entries.values[k], entries.builds[k]
        for place, target in enumerate(output_transforms(y, names, weight)):
            yield near(target, few if place else simple)


def _plainness(expression: sympy.Expr) -> float:
    """Return the number of operations.

    Roots of single variables count more, as they assume the sign of these.
    """
    roots = [
        each
        for each in expression.atoms(sympy.Pow)
        if not each.exp.is_Integer and not each.base.is_Add and each.free_symbols
    ]
    return float(sympy.count_ops(expression)) + 6.0 * len(roots)


#: Constants b of f(u + b) and slopes of the form u, whose monomials lie in [-1, 1], for each
#: function. If only the ratio of slopes and constant counts, the range of u is scaled to [0, 1].
_SLOPES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
_SCALED = (0.01, 0.1, 0.5, 2.0), (-1.0, -0.5, 0.0, 0.5, 1.0), True
_SATURATING = (0.0, -1.0, 1.0, -2.0, 2.0), _SLOPES, False
_FORMS: dict[str, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "sin": ((0.0, np.pi / 2), tuple(0.75 * k for k in range(-12, 13)), False),
    "exp": ((0.0,), _SLOPES, False),
    "tanh": _SATURATING,
    "gaussian": _SATURATING,
    "sqrt": _SCALED,
    "log": _SCALED,
    "1/x": _SCALED,
    "abs": ((-0.25, -0.5, -0.75), *_SCALED[1:]),
}


def ridge_formulas(
    data: SearchData, candidates: Sequence[Candidate], policy: RidgePolicy
) -> Iterator[sympy.Expr]:
    """Yield quadratic polynomials with a factor times a function of a bilinear form, best first.

    On a grid of the form's constants everything else is linear. The nearest formulas get all
    constants fitted to some of the points.
    """
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    x, y, names = data.x[pick], data.y[pick], {candidate.name for candidate in candidates}
    inputs = Dictionary.of_inputs(x)
    monomials = inputs + inputs.combined(inputs, PRODUCT, distinct=True)
    quadratic = monomials + inputs.functions(power(2), np.array([(1.0, 0.0)]))
    basis, target = np.column_stack([np.ones(len(y)), *quadratic.values]), OutputTransform(y)
    factors, found = _factors(inputs, names), list[TermSum]()
    for name in (each for each in _FORMS if each in names):
        constants, slopes, scaled = _FORMS[name]
        forms = linear_forms(monomials, slopes, policy.max_forms, scaled=scaled)
        terms = forms.functions(TABLE[name], np.array([(1.0, b) for b in constants]))
        for k in (None, *range(len(factors))):
            values = terms.values if k is None else terms.values * factors.values[k]
            nearest = nearest_terms(y, values, basis, policy.kept, terms.sizes)
            for i in (i for left, i in nearest if left < policy.promising):
                term = terms.chosen([i])
                term = term if k is None else term.combined(factors.chosen([k]), PRODUCT)
                found.append(solve_terms(target, quadratic + term))
    yield from _refitted(sorted(found, key=lambda each: each.error)[: policy.tried], x, y, policy)


def _refitted(sums: list[TermSum], x: Array, y: Array, policy: RidgePolicy) -> Iterator[sympy.Expr]:
    """Yield the best of the sums with all constants fitted; none is tried after an exact one."""
    found: list[tuple[float, int, Graph]] = []
    settings = RefitSettings(steps=policy.steps)
    for place, each in enumerate(sums):
        fitted = refit(graph_of_expression(each.expression(), x.shape[1]), x, y, settings)
        found.append((fitted.rmse, place, fitted.graph))
        if fitted.rmse < _FITTED * float(np.std(y)):
            break
    for rmse, _, graph in sorted(found, key=lambda each: each[:2])[: policy.returned]:
        if np.isfinite(rmse):
            yield to_expression(graph, [f"x{i}" for i in range(x.shape[1])])


def linear_forms(
    monomials: Dictionary, steps: Sequence[float], max_forms: int, *, scaled: bool
) -> Dictionary:
    """Return sums of two and of three monomials, scaled to [-1, 1], with slopes from `steps`.

    For three of them the steps are thinned to at most `max_forms` sums. With `scaled` the range of
    each sum is [0, 1].
    """
    low, high = monomials.values.min(axis=1), monomials.values.max(axis=1)
    middle, half = (low + high) / 2, (high - low) / 2
    found = []
    for count in range(2, min(3, len(monomials)) + 1):
        every, subsets = np.array(steps), math.comb(len(monomials), count)
        while count > 2 and subsets * len(every) ** count > max_forms:
            every = every[len(every) // 2 % 2 :: 2]  # keeps the zero in the middle
        grid = np.array(list(itertools.product(every[every != 0], repeat=count)))
        for chosen in itertools.combinations(range(len(monomials)), count):
            found.append(np.zeros((len(grid), len(monomials))))
            found[-1][:, chosen] = grid
    slopes = np.concatenate(found)
    values = slopes @ ((monomials.values - middle[:, None]) / half[:, None])
    start, width = (values.min(1), np.ptp(values, axis=1)) if scaled else (0 * values[:, 0], 1.0)
    values = ((values.T - start) / width).T
    slopes = (slopes.T / width).T / half
    constants = -start / width - slopes @ middle
    builds = [
        partial(_form, row, constant, monomials.builds)
        for row, constant in zip(slopes, constants.tolist(), strict=True)
    ]
    sizes = np.count_nonzero(slopes, axis=1).astype(np.float64)
    return Dictionary(values, sizes, ("",) * len(builds), tuple(builds))


def _form(slopes: Array, constant: float, builds: Sequence[Build]) -> sympy.Expr:
    return combination([*slopes, constant], [*(build() for build in builds), sympy.S.One])


def _factors(inputs: Dictionary, names: set[str]) -> Dictionary:
    """Return factors of the function: an input, its inverse, and exponentials of it."""
    parts = [inputs]
    if "1/x" in names:
        parts.append(inputs.functions(TABLE["1/x"], np.array([(1.0, 0.0)])))
    for i, half in enumerate(np.ptp(inputs.values, axis=1) / 2 if "exp" in names else ()):
        rates = np.array([(rate / half, 0.0) for rate in _RATES])
        parts.append(inputs.chosen([i]).functions(TABLE["exp"], rates))
    return Dictionary.joined(parts, inputs.values.shape[1])


#: Rates of the exponential factors, for inputs scaled to [-1, 1].
_RATES = (-1.5, -0.5, 0.5, 1.5)
