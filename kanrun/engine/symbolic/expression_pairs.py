"""Formulas of few variables from a dictionary of small expressions: all pairs and some triples of them at once.

y, or 1/y, y^2, log |y|, ..., is sought as a e_1 + b e_2 + c over all pairs of entries e, as a quotient of two such
sums, and as a product of powers of two. Least squares over all pairs needs only the entries' correlations, so that a
million pairs take a second. Entries are grown from the variables by functions, products and sums; what is found is
refitted to all points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array, Candidate
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.pairs import nearest_pairs
from kanrun.engine.symbolic.search_problem import ExpressionPairsPolicy
from kanrun.formulas import to_numpy, variable

#: Work of fitting a guess to all points.
_GUESS = 2e-3
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
)  # fmt: skip

#: What is sought in place of y: the candidate that it needs, the values, and y as an expression in it.
OUTPUTS: tuple[tuple[str, Compute, Build], ...] = (
    ("", lambda y: y, lambda e: e),
    ("1/x", lambda y: 1 / y, lambda e: 1 / e),
    ("sqrt", np.square, sympy.sqrt),
    ("exp", np.log, sympy.exp),
    ("1/sqrt", lambda y: 1 / y**2, lambda e: 1 / sympy.sqrt(e)),
    ("x^2", np.sqrt, lambda e: e**2),
    ("log", np.exp, sympy.log),
    ("arcsin", np.sin, sympy.asin),
    ("arctan", np.tan, sympy.atan),
    ("tanh", np.arctanh, sympy.tanh),
    ("sin", np.arcsin, sympy.sin),
)


@dataclass
class _Entries:
    """Values (n,) at the points, how to build each expression, and complexities; of functions those `allowed`."""

    allowed: set[str]
    values: list[Array] = field(default_factory=list)
    builds: list[Callable[[], sympy.Expr]] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    seen: dict[bytes, int] = field(default_factory=dict)

    def add(self, values: Array, build: Callable[[], sympy.Expr], size: float, largest: float) -> None:
        """Keep it unless it is not finite, constant, huge or there already, up to a factor, in a form as simple."""
        top = float(np.abs(values).max(initial=0.0)) if np.isfinite(values).all() else np.inf
        if not 1e-12 < top < largest or float(np.ptp(values)) < 1e-9 * top:
            return
        key = np.round(values / top, 9).tobytes()
        negative = np.round(-values / top, 9).tobytes()
        count_work(COSTS.expression)
        index = self.seen.get(key, self.seen.get(negative))
        if index is None:
            self.seen[key] = len(self.values)
            self.values.append(values)
            self.builds.append(build)
            self.sizes.append(size)
        elif size < self.sizes[index]:
            self.values[index], self.builds[index], self.sizes[index] = values, build, size


def _grown(u: Array, allowed: set[str], policy: ExpressionPairsPolicy) -> _Entries:
    """Variables, functions of them, products and sums of two of these, and functions of those; what joins two variables
    comes before functions of functions of one."""
    entries, largest = _Entries(allowed), policy.largest
    with np.errstate(all="ignore"):
        for i in range(u.shape[1]):
            entries.add(u[:, i], _variable(i), 1.0, largest)
        _apply(entries, range(len(entries.values)), False, policy)
        first = _smallest(entries, policy.factors)
        _apply(entries, first, True, policy)
        for a, i in enumerate(first):
            for j in first[: a + 1]:
                _combine(entries, i, j, policy)
        count = len(entries.values)
        inner = [i for i in _smallest(entries, count) if entries.sizes[i] > 1][: policy.inner]
        _apply(entries, inner, True, policy)
        for i in _smallest(entries, policy.thirds):
            for j in range(u.shape[1]):
                _combine(entries, i, j, policy)
    return entries


def _variable(i: int) -> Callable[[], sympy.Expr]:
    return lambda: variable(f"x{i}")


def _smallest(entries: _Entries, count: int) -> list[int]:
    return [int(i) for i in np.argsort(entries.sizes, kind="stable")[:count]]


def _apply(entries: _Entries, indices: Sequence[int], several: bool, policy: ExpressionPairsPolicy) -> None:
    for i in list(indices):
        values, build, size = entries.values[i], entries.builds[i], entries.sizes[i]
        for needs, compute, form, cost, everywhere in _FUNCTIONS:
            if (everywhere or not several) and needs in entries.allowed:
                entries.add(compute(values), _called(form, build), size + cost, policy.largest)


def _called(form: Build, *builds: Callable[[], sympy.Expr]) -> Callable[[], sympy.Expr]:
    return lambda: form(*(build() for build in builds))


_BINARY: tuple[tuple[Callable[[Array, Array], Array], Build], ...] = (
    (np.multiply, lambda a, b: a * b),
    (np.divide, lambda a, b: a / b),
    (lambda a, b: b / a, lambda a, b: b / a),
    (np.add, lambda a, b: a + b),
    (np.subtract, lambda a, b: a - b),
)


def _combine(entries: _Entries, i: int, j: int, policy: ExpressionPairsPolicy) -> None:
    size = entries.sizes[i] + entries.sizes[j] + (0.5 if max(entries.sizes[i], entries.sizes[j]) > 1 else -0.5)
    for compute, form in _BINARY:
        entries.add(compute(entries.values[i], entries.values[j]), _called(form, entries.builds[i], entries.builds[j]),
                    size, policy.largest)  # fmt: skip


def pair_formulas(
    data: SearchData, candidates: Sequence[Candidate], policy: ExpressionPairsPolicy
) -> Iterator[tuple[sympy.Expr, float]]:
    """The first exact formula of y with its relative error on all points, else the few nearest ones."""
    allowed = {"", *(candidate.name for candidate in candidates)}
    pick = np.linspace(0, len(data.y) - 1, min(policy.points, len(data.y))).astype(int)
    u, y = data.x[pick], data.y[pick]
    entries = _grown(u, allowed, policy)
    order = _smallest(entries, policy.plain)
    values = np.array([entries.values[i] for i in order])
    builds = [entries.builds[i] for i in order]
    found: list[tuple[float, sympy.Expr]] = []
    for guesses in _guesses(values, builds, y, allowed, policy):
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
    roots = [power for power in expression.atoms(sympy.Pow) if not power.exp.is_Integer and not power.base.is_Add]
    return float(sympy.count_ops(expression)) + 6.0 * len([power for power in roots if power.free_symbols])


@dataclass(frozen=True)
class _Guess:
    """The transformed output over `weight` as a linear combination of entries; `outer` gives y over weight, `quotient`
    are entries times it."""

    terms: tuple[sympy.Expr, ...]
    times: tuple[sympy.Expr, ...] = ()
    transform: Compute = lambda y: y
    outer: Build = lambda e: e
    logarithms: bool = False
    weight: sympy.Expr = sympy.S.One


def _guesses(
    values: Array, builds: list[Callable[[], sympy.Expr]], y: Array, allowed: set[str], policy: ExpressionPairsPolicy
) -> Iterator[list[_Guess]]:
    """Guesses of one kind after the other."""
    one, plain, values = np.ones((1, len(y))), values, values[: policy.entries]

    def near(t: Array, first: Array = values, second: Array | None = None) -> list[tuple[int, int]]:
        pairs = nearest_pairs(t, first, one, policy.kept, others=second, floor=_EXACT)
        return [(i, j) for left, i, j in pairs if left < policy.promising]

    for number, transform, outer, t in _outputs(y, allowed):
        yield [
            _Guess((builds[i](), builds[j]()), (), transform, outer) for i, j in near(t, values if number else plain)
        ]
        triples = _best_triples(values[: policy.triples], t, policy)
        yield [_Guess(tuple(builds[i]() for i in chosen), (), transform, outer) for chosen in triples]
        if number < 3:
            few = values[: policy.quotients]
            yield [_Guess((builds[i](),), (builds[j](),), transform, outer) for i, j in near(t, few, few * t)]
    signed = np.sign(y)
    if (signed == signed[0]).all():
        same = [i for i in range(len(values)) if (np.sign(values[i]) == np.sign(values[i, 0])).all()]
        pairs = near(np.log(np.abs(y)), np.log(np.abs(values[same])))
        both = [tuple(builds[same[k]]() for k in pair) for pair in pairs]
        yield [_Guess(two, (), lambda y: np.log(np.abs(y)), sympy.exp, logarithms=True) for two in both]
    for k in range(min(policy.weights, len(values))):
        weight, weighed = builds[k](), y / values[k]
        for number, transform, outer, t in _outputs(weighed, allowed):
            few = values[: policy.quotients] if number else values
            yield [_Guess((builds[i](), builds[j]()), (), transform, outer, weight=weight) for i, j in near(t, few)]


def _outputs(y: Array, allowed: set[str]) -> Iterator[tuple[int, Compute, Build, Array]]:
    """The transforms of y that are defined and do not blow it up: number, itself, what undoes it, its values."""
    for number, (needs, transform, outer) in enumerate(OUTPUTS):
        with np.errstate(all="ignore"):
            t = transform(y)
        usable = np.isfinite(t).all() and np.ptp(t) >= 1e-12 * np.abs(t).max(initial=1e-300)
        large = number in (6, 7, 8) and np.abs(y).max() > (20 if number == 6 else np.pi / 2)
        if needs in allowed and usable and not large:
            yield number, transform, outer, t


def _best_triples(values: Array, t: Array, policy: ExpressionPairsPolicy) -> list[tuple[int, int, int]]:
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
    names, x, y = [f"x{i}" for i in range(data.x.shape[1])], data.together.x, data.together.y
    count_work(_GUESS)
    with np.errstate(all="ignore"):
        weight = to_numpy(guess.weight, names)(x) if guess.weight.free_symbols else 1.0
        t = guess.transform(y / weight)
        columns = [to_numpy(term, names)(x) for term in (*guess.terms, *guess.times)]
        if guess.logarithms:
            columns = [np.log(np.abs(column)) for column in columns]
        columns = [column * t if k >= len(guess.terms) else column for k, column in enumerate(columns)]
        design = np.stack([*columns, np.ones_like(t)], axis=1)
        if not (np.isfinite(design).all() and np.isfinite(t).all()):
            return sympy.Integer(0), np.inf
        solved = _least_squares(design, t)
    numbers = [sympy.Float(float(c), 17) if c else sympy.Integer(0) for c in solved]
    if guess.logarithms:
        powers = zip(guess.terms, solved[:-1], strict=True)
        expression = sympy.Mul(*(_absolute(e, data) ** _exponent(float(c)) for e, c in powers))
        expression *= sympy.Float(float(np.sign(y[0]) * np.exp(solved[-1])), 17)
    else:
        cut = len(guess.terms)
        top = sympy.Add(*(c * e for c, e in zip(numbers[:cut], guess.terms, strict=True))) + numbers[-1]
        below = 1 - sympy.Add(*(c * e for c, e in zip(numbers[cut:-1], guess.times, strict=True)))
        expression = guess.weight * guess.outer(top / below)
    with np.errstate(all="ignore"):
        residual = to_numpy(expression, names)(x) - y if expression.free_symbols else np.full(len(y), np.inf)
        if guess.outer is sympy.sqrt and (y < 0).all():
            expression, residual = -expression, -to_numpy(expression, names)(x) - y
    error = float(np.sqrt(np.mean(residual**2))) / data.spread
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


def _exponent(value: float) -> sympy.Expr:
    near = sympy.Rational(value).limit_denominator(6)
    return near if abs(float(near) - value) < 1e-7 else sympy.Float(value, 17)


def _absolute(expression: sympy.Expr, data: SearchData) -> sympy.Expr:
    """The entry, or its negative where that is positive on the points."""
    names = [f"x{i}" for i in range(data.x.shape[1])]
    return -expression if float(np.median(to_numpy(expression, names)(data.x))) < 0 else expression
