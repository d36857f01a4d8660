"""Formulas of few variables from a dictionary of small expressions: all pairs and some triples of them at once.

y, or 1/y, y^2, log |y|, ..., is sought as a e_1 + b e_2 + c over all pairs of entries e, as a quotient of two such
sums, and as a product of powers of two. Least squares over all pairs needs only the entries' correlations, so that a
million pairs take a second. Entries are grown from the variables by functions, products and sums; what is found is
refitted to all points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, X, combination
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.dictionary import Dictionary
from kanrun.engine.symbolic.pairs import nearest_pairs
from kanrun.engine.symbolic.search_problem import ExpressionPairsPolicy
from kanrun.formulas import to_numpy, variable

#: Share of the variance that rounding leaves: of pairs that leave no more the simplest wins.
_EXACT = 1e-11


Build = Callable[..., sympy.Expr]
Compute = Callable[[Array], Array]

#: Functions of one entry: the candidate that it needs, values, expression, complexity, and whether it is tried on sums
#: and products too.
_FUNCTIONS: tuple[tuple[str, Compute, Build, float, bool], ...] = (
    ("x^2", np.square, lambda e: e**2, 1.0, True),
    ("x^3", lambda u: u**3, lambda e: e**3, 1.5, False),
    ("x^4", lambda u: u**4, lambda e: e**4, 2.0, False),
    ("1/x", lambda u: 1 / u, lambda e: 1 / e, 1.0, True),
    ("1/x^2", lambda u: 1 / u**2, lambda e: e**-2, 2.0, False),
    ("sqrt", np.sqrt, sympy.sqrt, 1.0, True),
    ("1/sqrt", lambda u: 1 / np.sqrt(u), lambda e: 1 / sympy.sqrt(e), 2.0, True),
    ("exp", np.exp, sympy.exp, 1.0, True),
    ("exp", lambda u: np.exp(-u), lambda e: sympy.exp(-e), 1.5, True),
    ("gaussian", lambda u: np.exp(-u * u), lambda e: sympy.exp(-(e**2)), 2.0, True),
    ("gaussian", lambda u: np.exp(-u * u / 2), lambda e: sympy.exp(-(e**2) / 2), 2.5, True),
    ("log", np.log, sympy.log, 1.0, True),
    ("sin", np.sin, sympy.sin, 1.0, True),
    ("cos", np.cos, sympy.cos, 1.0, True),
    ("sin", lambda u: np.sin(u / 2), lambda e: sympy.sin(e / 2), 2.0, True),
    ("cos", lambda u: np.cos(u / 2), lambda e: sympy.cos(e / 2), 2.5, False),
    ("sin", lambda u: np.sin(2 * u), lambda e: sympy.sin(2 * e), 2.0, False),
    ("sin", lambda u: np.sin(np.pi * u), lambda e: sympy.sin(sympy.pi * e), 2.0, True),
    ("cos", lambda u: np.cos(np.pi * u), lambda e: sympy.cos(sympy.pi * e), 2.0, False),
    ("sin", lambda u: np.sin(2 * np.pi * u), lambda e: sympy.sin(2 * sympy.pi * e), 2.5, True),
    ("tan", np.tan, sympy.tan, 2.0, False),
    ("tanh", np.tanh, sympy.tanh, 1.5, True),
    ("arctan", np.arctan, sympy.atan, 1.5, False),
    ("arcsin", np.arcsin, sympy.asin, 2.0, False),
    ("", lambda u: 1 + u, lambda e: 1 + e, 1.0, True),
    ("", lambda u: u - 1, lambda e: e - 1, 1.0, True),
    ("x^2", lambda u: 1 + u * u, lambda e: 1 + e**2, 1.5, True),
    ("x^2", lambda u: 1 - u * u, lambda e: 1 - e**2, 1.5, True),
    ("1/x", lambda u: 1 / (1 + u), lambda e: 1 / (1 + e), 1.8, True),
    ("1/x", lambda u: 1 / (u - 1), lambda e: 1 / (e - 1), 1.8, True),
    ("1/x", lambda u: 1 / (1 + u * u), lambda e: 1 / (1 + e**2), 2.2, False),
    ("sqrt", lambda u: np.sqrt(1 + u * u), lambda e: sympy.sqrt(1 + e**2), 2.2, False),
    ("sqrt", lambda u: np.sqrt(1 - u * u), lambda e: sympy.sqrt(1 - e**2), 2.2, False),
    ("sqrt", lambda u: np.sqrt(1 + u), lambda e: sympy.sqrt(1 + e), 2.0, True),
    ("sqrt", lambda u: np.sqrt(1 - u), lambda e: sympy.sqrt(1 - e), 2.0, True),
    ("log", lambda u: np.log(1 + u), lambda e: sympy.log(1 + e), 2.0, True),
    ("exp", lambda u: np.exp(u) - 1, lambda e: sympy.exp(e) - 1, 2.0, False),
)


@dataclass(frozen=True)
class Sought:
    """What is sought in place of y: `values` of it, as a `function` of `sign` * y, and `outer`, which undoes it."""

    values: Array
    function: Compute = np.asarray
    outer: sympy.Expr = X
    sign: int = 1

    def transform(self, y: Array) -> Array:
        return self.function(self.sign * y)

    def inverse(self, expression: sympy.Expr) -> sympy.Expr:
        """y as an expression in that of what is sought."""
        return self.sign * self.outer.xreplace({X: expression})


#: The candidate that gives y from what is sought in its place, how that comes from y, and the largest |y| for which
#: it does without a jump or an overflow.
_OUTPUTS: tuple[tuple[str, Compute, float], ...] = (
    ("1/x", lambda y: 1 / y, np.inf),
    ("sqrt", np.square, np.inf),
    ("exp", np.log, np.inf),
    ("1/sqrt", lambda y: 1 / y**2, np.inf),
    ("x^2", np.sqrt, np.inf),
    ("1/x^2", lambda y: 1 / np.sqrt(y), np.inf),
    ("log", np.exp, 20.0),
    ("arcsin", np.sin, np.pi / 2),
    ("arctan", np.tan, np.pi / 2),
    ("tanh", np.arctanh, 1.0),
    ("sin", np.arcsin, 1.0),
)
#: Of these the ones that exist for y of one sign only, which -y has where y is negative.
_ONE_SIGN = ("1/x", "sqrt", "exp", "1/sqrt", "x^2", "1/x^2")


def outputs(y: Array, allowed: set[str]) -> list[Sought]:
    """y itself, and the functions of y that are defined and do not blow it up."""
    found = [Sought(y)]
    for name, function, largest in _OUTPUTS:
        sign = -1 if name in _ONE_SIGN and y[0] < 0 else 1
        if (
            name not in allowed
            or np.abs(y).max() > largest
            or (name in _ONE_SIGN and (sign * y <= 0).any())
        ):
            continue
        with np.errstate(all="ignore"):
            values = function(sign * y)
        if np.isfinite(values).all() and np.ptp(values) >= _FLAT * np.abs(values).max():
            found.append(Sought(values, function, TABLE[name].expression, sign))
    return found


#: The range of values that is none beside their size.
_FLAT = 1e-12


def _grown(u: Array, allowed: set[str], policy: ExpressionPairsPolicy) -> Dictionary:
    """Variables, functions of them, products and sums of two of these, and functions of those; what joins two variables
    comes before functions of functions of one."""
    inputs = u.shape[1]
    builds = [partial(variable, f"x{i}") for i in range(inputs)]
    first = _sound(Dictionary.of(len(u), [(u.T, [1.0] * inputs, [""] * inputs, builds)]), policy)
    every = first + _applied(first, allowed, policy, everywhere=False)
    factors = every.simplest(policy.factors, shifted=False)
    every = every + _applied(factors, allowed, policy) + _combined(factors, factors, policy)
    inner = every.chosen(np.flatnonzero(every.sizes > 1)).simplest(policy.inner, shifted=False)
    every = every + _applied(inner, allowed, policy)
    return every + _combined(every.simplest(policy.thirds, shifted=False), first, policy)


def _applied(
    entries: Dictionary,
    allowed: set[str],
    policy: ExpressionPairsPolicy,
    *,
    everywhere: bool = True,
) -> Dictionary:
    """The functions of the entries: those that are tried on sums and products too, or all."""
    parts = []
    for needs, compute, form, cost, on_all in _FUNCTIONS:
        if (on_all or not everywhere) and needs in allowed:
            with np.errstate(all="ignore"):
                values = compute(entries.values)
            builds = [partial(_called, form, build) for build in entries.builds]
            parts.append((values, entries.sizes + cost, entries.families, builds))
    return _sound(Dictionary.of(entries.values.shape[1], parts), policy)


def _called(form: Build, *builds: Callable[[], sympy.Expr]) -> sympy.Expr:
    return form(*(build() for build in builds))


_BINARY: tuple[tuple[Callable[[Array, Array], Array], Build], ...] = (
    (np.multiply, lambda a, b: a * b),
    (np.divide, lambda a, b: a / b),
    (lambda a, b: b / a, lambda a, b: b / a),
    (np.add, lambda a, b: a + b),
    (np.subtract, lambda a, b: a - b),
)


def _combined(entries: Dictionary, others: Dictionary, policy: ExpressionPairsPolicy) -> Dictionary:
    """Products, quotients, sums and differences of each of the entries and each of the others, both ways round once."""
    i, j = np.indices((len(entries.sizes), len(others.sizes))).reshape(2, -1)
    i, j = (i[j <= i], j[j <= i]) if entries is others else (i, j)
    joined = np.where(np.maximum(entries.sizes[i], others.sizes[j]) > 1, 0.5, -0.5)
    parts = []
    for compute, form in _BINARY:
        with np.errstate(all="ignore"):
            values = compute(entries.values[i], others.values[j])
        builds = [
            partial(_called, form, entries.builds[a], others.builds[b])
            for a, b in zip(i, j, strict=True)
        ]
        parts.append((values, entries.sizes[i] + others.sizes[j] + joined, [""] * len(i), builds))
    return _sound(Dictionary.of(entries.values.shape[1], parts), policy)


def _sound(entries: Dictionary, policy: ExpressionPairsPolicy) -> Dictionary:
    """The entries that are finite, not constant and not huge."""
    with np.errstate(all="ignore"):
        top = np.abs(entries.values).max(axis=1)
        good = np.isfinite(top) & (top > 1 / policy.largest**2) & (top < policy.largest)
        return entries.chosen(
            np.flatnonzero(good & (np.ptp(entries.values, axis=1) >= policy.flat * top))
        )


def pair_formulas(
    data: SearchData, candidates: Sequence[Candidate], policy: ExpressionPairsPolicy
) -> Iterator[tuple[sympy.Expr, float]]:
    """The first exact formula of y with its relative error on all points, else the few nearest ones."""
    allowed = {"", *(candidate.name for candidate in candidates)}
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    u, y = data.x[pick], data.y[pick]
    entries = _grown(u, allowed, policy).simplest(policy.plain, shifted=False)
    found: list[tuple[float, sympy.Expr]] = []
    for guesses in _guesses(entries, y, allowed, policy):
        fitted = [_fitted(guess, data) for guess in guesses]
        exact = [entry for entry in fitted if entry[1] <= policy.exact]
        if exact:
            yield min(exact, key=lambda entry: _plainness(entry[0]))
            return
        found += [(error, expression) for expression, error in fitted]
    for error, expression in sorted(found, key=lambda entry: entry[0])[: policy.returned]:
        yield expression, error


def _plainness(expression: sympy.Expr) -> float:
    """Operations; roots of single variables count more, as they take for granted what sign these have."""
    roots = [
        power
        for power in expression.atoms(sympy.Pow)
        if not power.exp.is_Integer and not power.base.is_Add
    ]
    return float(sympy.count_ops(expression)) + 6.0 * len(
        [power for power in roots if power.free_symbols]
    )


@dataclass(frozen=True)
class _Guess:
    """What is `sought` of y over `weight` as a linear combination of entries; those in `times` stand there times what
    is sought."""

    sought: Sought
    terms: tuple[sympy.Expr, ...]
    times: tuple[sympy.Expr, ...] = ()
    weight: sympy.Expr = sympy.S.One


def _guesses(
    entries: Dictionary, y: Array, allowed: set[str], policy: ExpressionPairsPolicy
) -> Iterator[list[_Guess]]:
    """Guesses of one kind after the other."""
    one, plain, builds, values = (
        np.ones((1, len(y))),
        entries.values,
        entries.builds,
        entries.values[: policy.entries],
    )

    def near(t: Array, first: Array = values, second: Array | None = None) -> list[tuple[int, int]]:
        pairs = nearest_pairs(t, first, one, policy.kept, others=second, floor=_EXACT)
        return [(i, j) for left, i, j in pairs if left < policy.promising]

    few = values[: policy.quotients]
    for place, sought in enumerate(outputs(y, allowed)):
        t = sought.values
        yield [
            _Guess(sought, (builds[i](), builds[j]()))
            for i, j in near(t, values if place else plain)
        ]
        triples = _best_triples(values[: policy.triples], t, policy)
        yield [_Guess(sought, tuple(builds[i]() for i in chosen)) for chosen in triples]
        if place < _QUOTIENTS:
            yield [_Guess(sought, (builds[i](),), (builds[j](),)) for i, j in near(t, few, few * t)]
    for sought in outputs(y, {"exp"} & allowed)[1:]:  # products of powers
        signs = np.sign(values[:, 0])
        same = np.flatnonzero((np.sign(values) == signs[:, None]).all(axis=1))
        pairs = near(sought.values, np.log(np.abs(values[same])))
        logs = [
            [sympy.log(int(signs[same[k]]) * builds[same[k]]()) for k in pair] for pair in pairs
        ]
        yield [_Guess(sought, tuple(two)) for two in logs]
    for k in range(min(policy.weights, len(values))):
        for place, sought in enumerate(outputs(y / values[k], allowed)):
            pairs = near(sought.values, few if place else values)
            yield [_Guess(sought, (builds[i](), builds[j]()), weight=builds[k]()) for i, j in pairs]


#: Of the functions of y the first so many are sought as quotients.
_QUOTIENTS = 3


def _best_triples(
    values: Array, t: Array, policy: ExpressionPairsPolicy
) -> list[tuple[int, int, int]]:
    """The two triples of entries that leave the least of t: pairs beside each of them."""
    one, found = np.ones(len(t)), []
    for i in range(len(values) - 2):
        for left, j, k in nearest_pairs(t, values[i + 1 :], np.stack([one, values[i]]), 1):
            found.append((left * _left(values[i], t), (i, i + 1 + j, i + 1 + k)))
    return [chosen for left, chosen in sorted(found)[:2] if left < policy.promising]


def _left(entry: Array, t: Array) -> float:
    """The share of the variance of t that a line in the entry leaves."""
    return 1 - float(np.corrcoef(entry, t)[0, 1]) ** 2


def _fitted(guess: _Guess, data: SearchData) -> tuple[sympy.Expr, float]:
    """The guess with its coefficients by least squares on all points, and its relative error on them."""
    names, x, y = [f"x{i}" for i in range(data.x.shape[1])], data.all_points.x, data.all_points.y
    count_work(COSTS.guess)
    with np.errstate(all="ignore"):
        weight = to_numpy(guess.weight, names)(x) if guess.weight.free_symbols else 1.0
        t = guess.sought.transform(y / weight)
        columns = [to_numpy(term, names)(x) for term in (*guess.terms, *guess.times)]
        columns = [
            column * t if k >= len(guess.terms) else column for k, column in enumerate(columns)
        ]
        design = np.stack([*columns, np.ones_like(t)], axis=1)
        if not (np.isfinite(design).all() and np.isfinite(t).all()):
            return sympy.Integer(0), np.inf
        solved = _least_squares(design, t)
    cut = len(guess.terms)
    top = combination(solved[[*range(cut), -1]], [*guess.terms, sympy.S.One])
    below = 1 - combination(solved[cut:-1], guess.times)
    expression = guess.weight * guess.sought.inverse(top / below)
    with np.errstate(all="ignore"):
        residual = (
            to_numpy(expression, names)(x) - y
            if expression.free_symbols
            else np.full(len(y), np.inf)
        )
    error = float(np.sqrt(np.mean(residual**2))) / data.y_std
    return expression, error if np.isfinite(error) else np.inf


def _least_squares(design: Array, t: Array) -> Array:
    """Coefficients (columns,), without what is rounding beside the rest."""
    size = np.linalg.norm(design, axis=0)
    solved: Array = np.linalg.lstsq(design / size, t, rcond=None)[0]
    small = np.abs(solved) < 1e-9 * np.linalg.norm(t)
    if small.any() and not small.all():
        solved = np.zeros_like(solved)
        solved[~small] = np.linalg.lstsq((design / size)[:, ~small], t, rcond=None)[0]
    scaled: Array = solved / size
    return scaled
