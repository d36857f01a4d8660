"""Propose expressions of growing size until the budget ends.

Four proposers work in rounds of growing effort. Polynomials come first, then quotients of
polynomials in the inputs and in small expressions of them. Expressions then grow by one function,
one term or one factor at a time, at any place, with open constants that are fitted to the points
after every change. Finally, small KANs are trained, from a single sum to two hidden layers and
products of sums, and their edges are named.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import (
    IDENTITY,
    Array,
    Candidate,
    X,
    combination,
    grid_values,
    input_names,
    input_symbols,
    number,
)
from kanrun.engine.symbolic.columns import covered
from kanrun.engine.symbolic.conversions import to_expression
from kanrun.engine.symbolic.dictionary import output_transforms, without_twins
from kanrun.engine.symbolic.graph import (
    IDENTITY_EDGE,
    Edge,
    Graph,
    Operation,
    Spline,
    Symbolic,
    fitted_grids,
)
from kanrun.engine.symbolic.problem import SearchData, SearchProblem
from kanrun.engine.symbolic.quotients import near_quotients
from kanrun.engine.symbolic.refit import QUICK, RefitSettings, extend, refit_on_grids
from kanrun.engine.symbolic.snapping import SNAP_THRESHOLD, eliminate, select
from kanrun.engine.symbolic.templates import take_two_values
from kanrun.formulas.conversion import to_numpy


class Growing:
    """Proposers of expressions for one set of variables, in rounds of growing effort."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        self.generator = np.random.default_rng(0)
        self.expressions = GrowingExpressions(problem, self.generator)
        self.quotients = quotients_in_functions(problem)

    def round(self, number: int) -> Iterator[sympy.Expr]:
        """Propose expressions; every round does twice the work of the last one."""
        if number == 0:
            yield from polynomials(self.problem.data)
        budget = Budget(4.0 * 2**number)
        for found in self.quotients:
            yield from found
            if budget.left <= 0:
                break
        yield from self.expressions.grown(4.0 * 2**number)
        yield from self.networks(number)

    def networks(self, number: int) -> Iterator[sympy.Expr]:
        """Train KANs of growing shape, and propose the formulas of those that are accurate."""
        data = self.problem.data
        inputs = data.x.shape[1]
        shapes = [(1,), (2,), (1, 1), (2, 1), (3, 2)][: 3 + number]
        for hidden, product in itertools.product(shapes, (False, True)):
            if product and hidden[-1] < 2:
                continue
            starts = (_network(data, hidden, product, self.generator) for _ in range(6 + number))
            settings = RefitSettings(12, penalty=1e-9, gain=QUICK)
            coarse = [refit_on_grids(each, data, settings, 2, margin=0.05) for each in starts]
            best = min(coarse, key=data.error)
            if data.error(best) > 4 * SNAP_THRESHOLD:
                continue
            trained = extend(best, data, (10, 20))
            if data.error(trained) > SNAP_THRESHOLD:
                continue
            network = extend(eliminate(trained, data), data, (10, 20))
            formula = select("network", network, self.problem).formula
            if formula is not None:
                yield to_expression(formula, input_names(inputs))


def _network(
    data: SearchData, hidden: Sequence[int], product: bool, generator: np.random.Generator
) -> Graph:
    """Return a KAN with these hidden widths and random splines, scaled to the size of y.

    With `product`, the last hidden nodes are multiplied.
    """
    size = int(generator.integers(6, 11))

    def bent() -> Spline:
        slope = generator.choice([-1.0, 1.0]) * generator.uniform(0.3, 1.0)
        line = slope * np.linspace(-1, 1, size)
        return Spline(-1.0, 1.0, line + 0.1 * generator.normal(size=size))

    inputs = data.x.shape[1]
    edges: list[Edge] = []
    operations: list[Operation] = []
    sources = range(inputs)
    for width in hidden:
        nodes = range(inputs + len(operations), inputs + len(operations) + width)
        edges += [Edge(i, node, bent()) for node in nodes for i in sources]
        operations += ["sum"] * width
        sources = nodes
    if product:
        edges += [Edge(i, sources[-1] + 1, IDENTITY_EDGE) for i in sources]
        operations.append("product")
        sources = range(sources[-1] + 1, sources[-1] + 2)
    edges += [Edge(i, sources[-1] + 1, bent()) for i in sources]
    graph = Graph(inputs, (*operations, "sum"), tuple(edges))
    graph = fitted_grids(graph, data.x, margin=0.1, keep=False)
    values, outs = graph.edge_outputs(data.x)
    factor = float(np.std(data.y)) / (float(np.std(values[graph.output])) or 1.0)
    into = graph.into(graph.output)
    for i in into:
        function = graph.edges[i].function
        mean = float(np.mean(data.y)) / len(into)
        moved = function.shifted(-float(np.mean(outs[i]))).scaled(factor).shifted(mean)
        graph = graph.with_function(i, moved)
    return graph


def polynomials(data: SearchData) -> Iterator[sympy.Expr]:
    """Propose the polynomial of lowest degree that reproduces the points, if there is one."""
    x = data.x
    middle = (x.max(axis=0) + x.min(axis=0)) / 2
    half = np.maximum(np.ptp(x, axis=0) / 2, np.finfo(float).tiny)
    inputs = x.shape[1]
    for degree in range(2, 16):
        if math.comb(degree + inputs, inputs) >= len(x) / 3:
            return
        chosen = (
            each
            for total in range(degree + 1)
            for each in itertools.combinations_with_replacement(range(inputs), total)
        )
        powers = [np.bincount(np.array(each, int), minlength=inputs) for each in chosen]
        scaled = (x - middle) / half
        columns = np.stack([np.prod(scaled**p, axis=1) for p in powers], axis=1)
        count_work(COSTS.solved(*columns.shape))
        solved = np.linalg.lstsq(columns, data.y, rcond=None)[0]
        if float(np.std(data.y - columns @ solved)) <= 1e-11 * data.y_std:
            symbols = input_symbols(inputs)
            plain = np.stack([np.prod(x**p, axis=1) for p in powers], axis=1)
            sizes = np.linalg.norm(plain, axis=0)
            solved = np.linalg.lstsq(plain / sizes, data.y, rcond=None)[0]
            keep = np.abs(solved) > 1e-9 * np.abs(solved).max()
            terms = [
                sympy.Mul(*(s**k for s, k in zip(symbols, p.tolist(), strict=True)))
                for p, kept in zip(powers, keep, strict=True)
                if kept
            ]
            plain = (plain / sizes)[:, keep]
            solved = np.linalg.lstsq(plain, data.y, rcond=None)[0] / sizes[keep]
            yield combination(solved, terms)
            return


def quotients_in_functions(problem: SearchProblem) -> Iterator[list[sympy.Expr]]:
    """Propose quotients of polynomials in the inputs and in one, two or three functions of them.

    Functions of y, such as log y, are written in this way too. The cosine and the sine of an angle
    count as one function. An empty list is yielded for functions that lead to nothing.
    """
    points = problem.data.all_points
    symbols = input_symbols(points.x.shape[1])
    names = input_names(len(symbols))
    allowed = {candidate.name for candidate in problem.candidates}
    functions = list(_functions(points.x, symbols, allowed))
    values = [np.column_stack([to_numpy(e, names)(points.x) for e in each]) for each in functions]
    plain, *others = output_transforms(points.y, allowed)
    if points.relative:
        others = []
    count = len(functions)
    tries = itertools.chain(
        (((k,), output) for k in range(count) for output in (plain, *others[: 3 if k < 9 else 0])),
        ((pair, plain) for pair in _sets(count, 2)),
        (((k,), output) for k in range(count) for output in others),
        ((pair, output) for pair in _sets(count, 2) for output in others),
        ((triple, plain) for triple in _sets(count, 3)),
    )
    for chosen, output in tries:
        waves = [k for k in chosen if len(functions[k]) > 1]
        if len(waves) > 1:
            continue
        order = [*(k for k in chosen if k not in waves), *waves]
        x = np.column_stack([points.x, *(values[k] for k in order)])
        size = np.full(len(x), np.abs(output.values).max())
        if points.relative:
            size = np.abs(output.values)
        found = near_quotients(x, output.values, size, bool(waves))
        variables = [*symbols, *(expression for k in order for expression in functions[k])]
        swap = dict(zip(input_symbols(x.shape[1]), variables, strict=True))
        yield [output.inverse(each.xreplace(swap)) for each in found]


def _functions(
    x: Array, symbols: Sequence[sympy.Symbol], allowed: set[str]
) -> Iterator[tuple[sympy.Expr, ...]]:
    """Yield functions of simple terms that are defined at x (N, inputs), simple ones first.

    They are functions of inputs, of their squares, cubes, halves and reciprocals, and of products,
    quotients, sums and differences of two inputs.
    """
    pairs = list(itertools.combinations(symbols, 2))
    terms = [*symbols, *(u * v for u, v in pairs)]
    terms += [sign * v + u for u, v in pairs for sign in (1, -1)]
    terms += [s**2 for s in symbols] + [s / 2 for s in symbols]
    terms += [ratio for u, v in pairs for ratio in (u / v, v / u)] + [s**3 for s in symbols]
    made: dict[str, Callable[[sympy.Expr], list[tuple[sympy.Expr, ...]]]] = {
        "exp": lambda u: [(sympy.exp(u),)],
        "cos": lambda u: [(sympy.cos(u), sympy.sin(u))],
        "sin": lambda u: [(sympy.sin(u),), (sympy.cos(u),)],
        "tanh": lambda u: [(sympy.tanh(u),)],
        "sqrt": lambda u: [(sympy.sqrt(u),), (sympy.sqrt(u + 1),)],
        "log": lambda u: [(sympy.log(u),), (sympy.log(u + 1),)],
    }
    names = input_names(len(symbols))
    for term in terms:
        for name, make in made.items():
            for each in make(term) if name in allowed else ():
                with np.errstate(all="ignore"):
                    values = to_numpy(sympy.Add(*each), names)(x)
                is_usable = np.isfinite(values).all() and np.abs(values).max() < 1e6
                if is_usable and not take_two_values(values):
                    yield each


def _sets(count: int, size: int) -> Iterator[tuple[int, ...]]:
    """Yield all sets of `size` of the numbers below `count`, small numbers first."""
    for largest in range(count):
        for others in itertools.combinations(range(largest), size - 1):
            yield (*others, largest)


#: A growing expression as a nested tuple, with open constants: ("x", i) is an input, ("f", f, u) is
#: c f(a u + b) + d, ("+", u, v) is u + c v, ("*", u, v) is u (b + c v), and ("shift", u) is u + b.
#: Some of the constants are redundant.
Tree = tuple[Any, ...]
_CONSTANTS = {"x": 0, "f": 4, "+": 1, "*": 2, "shift": 1}


def _size(tree: Tree) -> int:
    return 1 + sum(_size(each) for each in tree[1:] if isinstance(each, tuple))


@lru_cache(maxsize=128)
def _compiled(candidate: Candidate) -> Callable[[Array], tuple[Array, Array]]:
    """Return a function that computes the values and the slopes of a candidate."""
    expressions = candidate.expression, sympy.diff(candidate.expression, X)
    return sympy.lambdify(X, expressions, ["numpy", "scipy"], cse=True)  # type: ignore[no-any-return]


def _evaluated(
    tree: Tree,
    constants: Array,
    x: Array,
    rows: Array,
    first: int = 0,
    scaled: bool = True,
    shifted: bool = True,
) -> tuple[Array, int]:
    """Return the values (N,), and the index after the tree's last constant.

    The derivatives with respect to the constants are written to `rows` (constants, N), those of the
    tree's constants from index `first` on. They are 0 for redundant constants, so that a fit leaves
    these as they are. `scaled` and `shifted` tell whether constants outside of the tree make its
    scale and its shift redundant.
    """
    kind = tree[0]
    if kind == "x":
        return x[tree[1]], first
    if kind == "f":
        u, end = _evaluated(tree[2], constants, x, rows, first)
        a, b, c, d = constants[end : end + 4]
        value, slope = _compiled(tree[1])(a * u + b)
        rows[first:end] *= a * c * slope
        rows[end] = c * slope * u if "a" in tree[1].free else 0.0
        rows[end + 1] = c * slope if "b" in tree[1].free else 0.0
        rows[end + 2] = 0.0 if scaled else value
        rows[end + 3] = 0.0 if shifted else 1.0
        return c * value + d, end + 4
    is_shifted = shifted and kind != "*"
    u, end = _evaluated(tree[1], constants, x, rows, first, scaled or kind == "*", is_shifted)
    if kind == "shift":
        rows[end] = 1.0
        return u + constants[end], end + 1
    middle = end
    is_shifted = shifted or kind == "*" or tree[1][0] == "f"
    v, end = _evaluated(tree[2], constants, x, rows, middle, True, is_shifted)
    if kind == "+":
        rows[middle:end] *= constants[end]
        rows[end] = v
        return u + constants[end] * v, end + 1
    b, c = constants[end : end + 2]
    rows[first:middle] *= b + c * v
    rows[middle:end] *= c * u
    rows[end] = 0.0 if scaled else u
    rows[end + 1] = u * v
    return u * (b + c * v), end + 2


def _values(tree: Tree, constants: Sequence[float] | Array, x: Array) -> Array:
    rows = np.empty((len(constants), x.shape[1]))
    with np.errstate(all="ignore"):
        return _evaluated(tree, np.asarray(constants), x, rows)[0]


def _expression(tree: Tree, constants: Iterator[float], symbols: Sequence[sympy.Symbol]) -> Any:
    kind = tree[0]
    if kind == "x":
        return symbols[tree[1]]
    if kind == "f":
        u = _expression(tree[2], constants, symbols)
        a, b, c, d = (next(constants) for _ in range(4))
        return Symbolic(tree[1], (a, b, c, d), "").expression(u)
    u = _expression(tree[1], constants, symbols)
    v = _expression(tree[2], constants, symbols)
    if kind == "+":
        return u + number(next(constants)) * v
    return u * (number(next(constants)) + number(next(constants)) * v)


@dataclass(frozen=True, eq=False)
class _Grown:
    """A tree with fitted constants, and its relative error."""

    tree: Tree
    constants: Array
    error: float


class GrowingExpressions:
    """Expressions that grow by one function, term or factor at a time.

    Sizes take turns, small sizes more often. Of each size, an accurate expression that had few
    turns is extended, in all places and in all ways. In further turns, its constants are disturbed
    first, because the constants that are best for an expression may be far from those of the longer
    expression.
    """

    def __init__(self, problem: SearchProblem, generator: np.random.Generator) -> None:
        self.data = problem.data
        self.generator = generator
        some = self.data.all_points.spread(120)
        self.x, self.y = some.x.T, some.y
        self.functions = [
            each for each in without_twins(problem.candidates) if each.complexity <= 3
        ]
        self.leaves: list[Tree] = [("x", i) for i in range(len(self.x))]
        two_valued = take_two_values(self.x).tolist()
        self.linear = {leaf for leaf, two in zip(self.leaves, two_valued, strict=True) if two}
        self.columns = [
            ([(IDENTITY, 1.0, 0.0)], row[None]) if two else self.functions_of(row)
            for row, two in zip(self.x, two_valued, strict=True)
        ]
        self.found: dict[int, dict[Tree, _Grown]] = {}
        self.turns: Counter[Tree] = Counter()
        self.errors: set[float] = set()
        self.sizes = (size for most in itertools.count(2) for size in range(1, min(most, 13)))
        self.best = np.inf
        for leaf in self.leaves:
            self.add(leaf, np.zeros(0))

    def grown(self, work: float) -> Iterator[sympy.Expr]:
        """Extend expressions for this many units of work, and propose the accurate ones."""
        # Relative error at which the constants of a grown expression are fitted to all points.
        promising = 1e-3
        budget = Budget(work)
        while budget.left > 0 and self.found:
            same = self.found.get(next(self.sizes))
            if not same:
                continue
            parent = min(same.values(), key=self.order)
            constants = parent.constants
            if self.turns[parent.tree]:
                noise = self.generator.normal(size=constants.size)
                constants = constants * (1 + self.generator.choice([0.0, 0.3, 1.0]) * noise)
            self.turns[parent.tree] += 1
            with np.errstate(all="ignore"):
                extended = list(self.extended(parent.tree, constants.tolist()))
            for tree, start in extended:
                added = self.add(tree, start, 0.99 * parent.error)
                if added is not None and added.error < min(promising, 0.5 * self.best):
                    polished = self.fitted(tree, added.constants, 60, whole=True)
                    if polished is not None and polished.error < 0.5 * self.best:
                        self.best = polished.error
                        yield self.expression(polished)

    def functions_of(self, u: Array) -> tuple[list[tuple[Candidate, float, float]], Array]:
        """Return functions f(a u + b) with many constants, and their values (functions, N).

        The first function is u itself.
        """
        low, high = float(u.min()), float(u.max())
        middle, half = (low + high) / 2, (high - low) / 2
        called = [(IDENTITY, 1.0, 0.0)]
        values = [u[None]]
        for function in self.functions:
            grid = grid_values(function)[0]
            grid = np.column_stack([grid[:, 0] / half, grid[:, 1] - grid[:, 0] * middle / half])
            if bool(function.domain.allows(low, high)):
                grid = np.concatenate([[(1.0, 0.0)], grid])
            called += [(function, a, b) for a, b in grid.tolist()]
            values.append(function.value(np.multiply.outer(grid[:, 0], u) + grid[:, 1:]))
        count_work(COSTS.value * len(called) * u.size)
        columns = np.concatenate(values)
        usable = np.isfinite(columns).all(axis=1) & (np.abs(columns).max(axis=1) < 1e9)
        chosen = np.flatnonzero(usable)
        return [called[k] for k in chosen.tolist()], columns[chosen]

    def order(self, found: _Grown) -> float:
        """Return a random number that is smaller for accurate expressions with few turns."""
        return math.log(found.error + 1e-16) + self.turns[found.tree] + self.generator.normal()

    def extended(self, tree: Tree, constants: list[float]) -> Iterator[tuple[Tree, Array]]:
        """Yield the trees that are one step larger, with initial constants.

        At each place u of the tree, u + c f and u (1 + c f) are compared for all functions f of an
        input and many of their constants, by the part of the residual that they explain to first
        order. The best of these are yielded, and functions of u. An input with two values occurs at
        most once and in no function, because every function of it equals a line on the points.
        """
        rows = np.empty((len(constants), self.y.size))
        value, _ = _evaluated(tree, np.asarray(constants), self.x, rows)
        if not np.isfinite(rows).all():
            return
        moving = rows[np.abs(rows).max(axis=1) > 0]
        tangent = np.linalg.qr(np.stack([np.ones_like(value), value, *moving], axis=1))[0]
        scale = _line(value, self.y)[0] or 1.0
        for path, u, first, last in _places(tree):
            before, own, after = constants[:first], constants[first:last], constants[last:]
            raised = np.array([*before, *own, 0.0, *after])
            rows = np.empty((raised.size, self.y.size))
            _evaluated(_with(tree, path, ("shift", u)), raised, self.x, rows)
            slope = rows[last]
            values = _values(u, own, self.x)
            in_function = any(_at(tree, path[:k])[0] == "f" for k in range(len(path)))
            if not (
                np.isfinite(slope * values).all() and np.ptp(values) > 1e-9 * np.abs(values).max()
            ):
                continue
            for kind, weight in (("+", slope), ("*", slope * values)):
                for leaf, (called, columns) in zip(self.leaves, self.columns, strict=True):
                    if leaf in self.linear and (in_function or _contains(tree, leaf)):
                        continue
                    gains, factors = covered(self.y, weight * columns, tangent)
                    for k in self.best_of_each(called, gains)[:4]:
                        function, a, b = called[k]
                        c = float(factors[k]) / scale
                        is_line = function is IDENTITY
                        v = leaf if is_line else ("f", function, leaf)
                        new = [] if is_line else [a, b, 1.0, 0.0]
                        new += [c] if kind == "+" else [1.0, c]
                        yield (
                            _with(tree, path, (kind, u, v)),
                            np.array([*before, *own, *new, *after]),
                        )
            if any(_contains(u, leaf) for leaf in self.linear):
                continue
            called, columns = self.functions_of(values)
            # At the root, the best constants are known; elsewhere, some are drawn.
            gains = self.generator.random(len(called))
            if not path:
                gains = covered(
                    self.y - self.y.mean(), columns, np.full((value.size, 1), value.size**-0.5)
                )[0]
            for k in self.best_of_each(called, gains)[: 8 if path else 12]:
                function, a, b = called[k]
                if function is not IDENTITY:
                    c, d = _line(columns[k], values)
                    yield (
                        _with(tree, path, ("f", function, u)),
                        np.array([*before, *own, a, b, c, d, *after]),
                    )

    def best_of_each(
        self, called: Sequence[tuple[Candidate, float, float]], gains: Array
    ) -> list[int]:
        """Return the index of the best constants of each function, the best functions first."""
        best: dict[str, int] = {}
        for k in np.argsort(-gains)[: len(gains) // 2].tolist():
            if np.isfinite(gains[k]):
                best.setdefault(called[k][0].name, k)
        return list(best.values())

    def add(self, tree: Tree, constants: Array, most: float = np.inf) -> _Grown | None:
        """Fit a tree, and keep it if its error is at most `most` and it is a new function."""
        found = self.fitted(tree, constants, 6)
        if found is None or found.error > most:
            return None
        found = self.fitted(tree, found.constants, 20) or found
        digits = float(f"{found.error:.5e}")
        if digits not in self.errors:  # others with the same error are the same function
            self.errors.add(digits)
            same = self.found.setdefault(_size(tree), {})
            if tree not in same or found.error < same[tree].error:
                same[tree] = found
        return found

    @np.errstate(all="ignore")
    def fitted(
        self, tree: Tree, constants: Array, steps: int, whole: bool = False
    ) -> _Grown | None:
        """Fit the constants of c tree + d, where c and d are solved for (variable projection)."""
        x, y = (self.data.all_points.x.T, self.data.all_points.y) if whole else (self.x, self.y)
        size = float(np.std(y)) * len(y) ** 0.5
        damping = 1e-2
        loss, rows, rest = self.projected(tree, constants, x, y)
        if not math.isfinite(loss):
            return None
        for _ in range(steps if constants.size else 0):
            norms = np.linalg.norm(rows, axis=1)
            norms[norms == 0] = 1.0
            scaled = rows / norms[:, None]
            gram = scaled @ scaled.T
            slope = scaled @ rest
            before = loss
            for _ in range(4):
                try:
                    move = np.linalg.solve(gram + damping * np.eye(len(gram)), slope)
                except np.linalg.LinAlgError:
                    return None
                trial = constants + move / norms
                result = self.projected(tree, trial, x, y)
                if result[0] < loss:
                    constants = trial
                    loss, rows, rest = result
                    damping = max(damping / 10, 1e-9)
                    break
                damping *= 10
            if not loss < (1 - 1e-4) * before:
                break
        return _Grown(tree, constants, loss**0.5 / size)

    def projected(
        self, tree: Tree, constants: Array, x: Array, y: Array
    ) -> tuple[float, Array, Array]:
        """Return the squared residual of c tree + d, and its derivatives and values."""
        nodes = _size(tree)
        count_work(nodes * (COSTS.edge + COSTS.value * y.size * (1 + constants.size)) / 3)
        with np.errstate(all="ignore"):
            rows = np.empty((constants.size, y.size))
            value, _ = _evaluated(tree, constants, x, rows)
            centred = value - value.mean()
            power = float(centred @ centred)
            if (
                not math.isfinite(power)
                or power <= 1e-18 * float(value @ value)
                or not np.isfinite(rows).all()
            ):
                return math.inf, rows, value
            direction = centred / power**0.5
            rest = y - y.mean()
            along = float(direction @ rest)
            rest = rest - along * direction
            rows = rows - rows.mean(axis=1, keepdims=True)
            rows = rows - np.outer(rows @ direction, direction)
        return float(rest @ rest), along / power**0.5 * rows, rest

    def expression(self, found: _Grown) -> sympy.Expr:
        points = self.data.all_points
        value = _values(found.tree, found.constants, points.x.T)
        design = np.stack([value, np.ones_like(value)], axis=1)
        c, d = np.linalg.lstsq(design, points.y, rcond=None)[0].tolist()
        inner = _expression(found.tree, iter(found.constants.tolist()), input_symbols(len(self.x)))
        return number(c) * inner + number(d)


def _line(u: Array, values: Array) -> tuple[float, float]:
    """Return c and d of the least-squares line c u + d through values (N,)."""
    centred = u - u.mean()
    c = float(centred @ values) / (float(centred @ centred) or 1.0)
    return c, float(values.mean() - c * u.mean())


def _constants_of(tree: Tree) -> int:
    return _CONSTANTS[tree[0]] + sum(
        _constants_of(each) for each in tree[1:] if isinstance(each, tuple)
    )


def _places(tree: Tree, first: int = 0) -> Iterator[tuple[tuple[int, ...], Tree, int, int]]:
    """Yield each subtree with its path and the range of its constants."""
    last = first
    for index, child in enumerate(tree):
        if isinstance(child, tuple):
            for path, u, low, high in _places(child, last):
                yield (index, *path), u, low, high
            last += _constants_of(child)
    yield (), tree, first, first + _constants_of(tree)


def _at(tree: Tree, path: Sequence[int]) -> Tree:
    for k in path:
        tree = tree[k]
    return tree


def _contains(tree: Tree, leaf: Tree) -> bool:
    return any(u == leaf for _, u, *_ in _places(tree))


def _with(tree: Tree, path: tuple[int, ...], new: Tree) -> Tree:
    if not path:
        return new
    index, *rest = path
    return (*tree[:index], _with(tree[index], tuple(rest), new), *tree[index + 1 :])
