"""Functions of one variable for an edge: candidates with constants, and formulas.

An edge is matched by c f(a x + b) + d. Where no candidate f does, formulas are searched:
polynomials and rational functions by linear algebra; then few terms of the dictionary, by the
correlations of all its entries at once, for the values and for simple functions of them; then terms
one by one, all constants refitted jointly. A formula counts as exact at the rounding of the values,
or at the accuracy to which they are known.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pandas as pd
import sympy

from kanrun.engine.symbolic.budget import Budget, WorkSpent
from kanrun.engine.symbolic.candidates import (
    CONSTANT,
    GRID_STEPS,
    TINY,
    TWINS,
    Array,
    Candidate,
    grid_values,
    number,
)
from kanrun.engine.symbolic.conversions import (
    canonicalise,
    function_label,
    graph_of_expression,
    to_expression,
)
from kanrun.engine.symbolic.dictionary import (
    PRODUCT,
    Dictionary,
    dictionary_of_one,
    functions_of,
    generic_terms,
    powers_of,
)
from kanrun.engine.symbolic.edge_functions import Symbolic, flat, standardised
from kanrun.engine.symbolic.graph import ROUNDING, Edge, EdgeMatch, Graph, sound
from kanrun.engine.symbolic.problem import SearchData
from kanrun.engine.symbolic.quotients import quotient_of_polynomials
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import (
    OutputTransform,
    covered,
    nearest_sums,
    nearest_terms,
    output_transforms,
    solve_terms,
)
from kanrun.errors import KanrunError

#: Samples of an edge that are used.
POINTS = 120
#: Best candidates of an edge that are refitted.
_CANDIDATES = 12
#: Grid points of which the two starts of a candidate are chosen.
_RANKED = 40
#: Distance of the two starts, relative to a.
_APART = 0.3
_MATCHED = RefitSettings(steps=40, gain=3e-4, patience=5, damping=1e-4)
#: Work for one of several edges.
UNIVARIATE_BUDGET = 3.5
#: Relative error of values if nothing else is known.
_VALUE_ROUNDING = 3e-14
#: Accuracy of the values below which the first formula as good as that is taken.
_PRECISE = 1e-10
#: Maximum degree of a quotient of polynomials.
_DEGREE = 16
#: Maximum number of its terms.
_QUOTIENT_TERMS = 20
#: Size of a dictionary.
_ENTRIES = 3000
#: Constants of a function that come from the range of the argument.
_GENERIC = 90
#: Entries that are multiplied by factors; half as many by one another.
_SIMPLE = 300
#: Factors of entries.
_FACTORS = 20
#: Entries of each family.
_ALIKE = 3
#: Terms and pairs that are looked at.
_KEPT = 60
#: Families of each kind that are refitted, and formulas that are returned.
_SINGLES = 6
#: Fraction of the variance that a term may leave of the values over a weight.
_PROMISING = 0.1
#: Multiple of the accuracy up to which every pair is refitted.
_NEAR = 1e3
#: Formulas that are extended side by side.
_WIDTH = 4
#: Largest number of terms that `grow` adds to a formula, one after another.
_TERMS = 4
#: Refit of all constants of a formula.
_CONSTANTS = RefitSettings(steps=60, damping=1e-6, patience=4)
#: Part of the goal below which that refit ends.
_BELOW_GOAL = 0.1
#: Powers of the argument that are weights.
_WEIGHTS = (1, 2, 3, -1, -2)
#: Powers that are weights over decades.
_ROOTS = (Fraction(1, 2), Fraction(-1, 2))


def _points(t: Array, values: Array, most: int = POINTS, *, relative: bool = False) -> SearchData:
    """Return at most this many values (N,), in the order of t (N,), to fit and choose on."""
    places = np.linspace(0, t.size - 1, min(t.size, most)).astype(int)
    order = np.argsort(t, kind="stable")[places]
    x = t[order, None]
    y = values[order]
    return SearchData(x, y, x, y, relative)


def _matched(
    function: Symbolic | Graph, loss: float, floor: float = ROUNDING, *, named: bool = True
) -> EdgeMatch:
    size = function.complexity
    if isinstance(function, Graph):
        size += max(function.active_edges - 1, 0)
    return EdgeMatch(function, loss, size, function_label(function) if named else "", floor)


def match_edge(t: Array, values: Array, candidates: Sequence[Candidate]) -> list[EdgeMatch]:
    """Return the candidates' matches of an edge's values (N,) at t (N,), best score first.

    They are defined on the range of t. Twins (sigmoid and tanh, ...) are matched once; candidates
    that are far off on the coarse grid are left out.
    """
    data = _points(t, values)
    mean = float(values.mean())
    varies = float(np.var(data.y)) > 0
    found = [_matched(flat(mean), float(varies))] if CONSTANT in candidates else []
    if not varies or not np.ptp(data.x):
        return found
    names = {candidate.name for candidate in candidates}
    coarse = [
        (*_coarse(data, candidate), candidate)
        for candidate in candidates
        if candidate is not CONSTANT and TWINS.get(candidate.name) not in names
    ]
    coarse.sort(key=lambda entry: entry[0] * 2 ** entry[-1].complexity)
    for _, starts, candidate in coarse[:_CANDIDATES]:
        matches = [match for start in starts if (match := _match(data, candidate, *start))]
        found += sorted(matches, key=lambda match: match.loss)[:1]
    return sorted(found, key=lambda match: match.score)


def _match(data: SearchData, candidate: Candidate, a: float, b: float) -> EdgeMatch | None:
    """Return the candidate with its constants fitted, from f(a x + b) for x scaled to [-1, 1]."""
    t = data.x[:, 0]
    middle = float(t[-1] + t[0]) / 2
    half = float(t[-1] - t[0]) / 2
    begun = Symbolic(candidate, (a / half, b - a * middle / half, 1.0, 0.0), candidate.free)
    with np.errstate(all="ignore"):
        design = np.stack([begun.value(t), np.ones_like(t)], axis=1)
    if not np.isfinite(design).all():
        return None
    c, d = np.linalg.lstsq(design, data.y, rcond=None)[0].tolist()
    graph = Graph(1, ("sum",), (Edge(0, 1, begun.changed(c=c, d=d)),))
    fitted = refit(graph, data, replace(_MATCHED, floor=ROUNDING**0.5 * data.y_std))
    result = fitted.edges[0].function
    loss = data.error(fitted) ** 2
    assert isinstance(result, Symbolic), "as the edge was begun"
    is_sound = result.allows(t) and np.isfinite(loss)
    return _matched(standardised(result), loss) if is_sound else None


def _coarse(data: SearchData, candidate: Candidate) -> tuple[float, list[tuple[float, float]]]:
    """Return the smallest loss on the grid, the constants (a, b) there, and the best ones apart.

    The edge is taken at equal steps.
    """
    grid, f = grid_values(candidate)
    t = data.x[:, 0]
    target = np.interp(np.linspace(t[0], t[-1], GRID_STEPS), t, data.y)
    target = target - target.mean()
    constant = np.full((GRID_STEPS, 1), GRID_STEPS**-0.5)
    explained = covered(target, f, constant)[0]
    order = np.argsort(-explained)[:_RANKED]
    order = order[explained[order] > 0]
    if not order.size:
        return np.inf, []
    best = grid[order]
    others = best[np.abs(best - best[0]).max(axis=1) > _APART * abs(best[0, 0])]
    loss = 1 - float(explained[order[0]]) / max(float(target @ target), TINY)
    return loss, [tuple(each) for each in (best[0], *others[:1])]


def match_formulas(
    t: Array,
    values: Array,
    candidates: Sequence[Candidate],
    accuracy: float,
    budget: Budget,
    *,
    relative: bool = False,
) -> list[EdgeMatch]:
    """Return the formulas nearest to an edge's values (N,) at t (N,), best score first.

    `accuracy` is the error of the values relative to their standard deviation, or to themselves if
    errors are `relative`. The search ends at the first formula as good as that, or when the budget
    is spent.
    """
    data = _points(t, values, relative=relative)
    if not (np.ptp(data.x) and np.ptp(data.y)):
        return []
    search = _UnivariateSearch(data, candidates, accuracy)
    with np.errstate(all="ignore"), contextlib.suppress(WorkSpent), budget.enforced():
        for usual in search.phases():
            # Values that are not exact are near to many formulas: the usual ones are all compared.
            if (search.is_exact() and (search.precise or not usual)) or budget.over:
                break
    best = search.best()
    matches = [_matched(found.graph, found.error**2, search.goal**2) for found in best]
    return sorted(matches, key=lambda match: match.score)


@dataclass(frozen=True)
class _Found:
    """A formula with its relative error and its rank, the score of a match."""

    graph: Graph
    error: float
    rank: float


class _UnivariateSearch:
    """Formulas found so far for points in the order of their arguments, and what adds to them."""

    def __init__(
        self, data: SearchData, candidates: Sequence[Candidate], accuracy: float = 0.0
    ) -> None:
        self.data = data
        self.candidates = candidates
        self.t = data.x[:, 0]
        self.y = data.y
        self.relative = data.relative
        #: Size of y that errors are relative to.
        self.size = np.abs(data.y) if data.relative else np.full(data.y.size, data.y_std)
        self.goal = max(accuracy, _VALUE_ROUNDING * float(np.max(np.abs(data.y) / self.size)))
        self.precise = self.goal < _PRECISE
        self.found: list[_Found] = []

    def is_exact(self) -> bool:
        return any(found.error <= self.goal for found in self.found)

    def best(self) -> list[_Found]:
        return sorted(self.found, key=operator.attrgetter("rank"))[:_SINGLES]

    def phases(self) -> Iterator[bool]:
        """Try one kind of formula after the other, and yield whether the next one is as usual."""
        x = self.t[:, None]
        names = {each.name for each in self.candidates}
        largest = np.full(self.y.size, np.abs(self.y).max())
        scale = self.size if self.relative else largest
        known = self.goal * float(np.min(self.size / scale))
        quotient = quotient_of_polynomials(x, self.y, _DEGREE, _QUOTIENT_TERMS, scale, known)
        if quotient is not None:
            self.keep(quotient, wide=False)
        yield True
        every = dictionary_of_one(self.t, self.candidates)
        inputs = Dictionary.of_inputs(x)
        nice = every.simplest(_ENTRIES)
        factors = (inputs + functions_of(inputs, self.candidates, 4)).simplest(_FACTORS)
        wide = nice + nice.first(_SIMPLE).combined(factors, PRODUCT, distinct=True)
        size = self.size if self.relative else 1.0
        plain, *others = output_transforms(self.y, names, size)
        self.singles(plain, wide, _SINGLES)
        yield True
        for shared in (None, inputs + powers_of(inputs, self.candidates, (2, 3))):
            self.pairs(plain, nice, shared)
            yield True
        every = (every + generic_terms(self.t, self.candidates, _GENERIC)).simplest(_ENTRIES)
        powers = powers_of(inputs, self.candidates, (*_WEIGHTS, *(_ROOTS if self.relative else ())))
        for weight in (None, *zip(powers.values, powers.builds, strict=True)):
            for target in output_transforms(self.y, names, size, weight):
                self.singles(target, every, 1)
                yield weight is None
        places = pd.Series(nice.families).groupby(nice.families).cumcount()
        varied = nice.chosen(np.flatnonzero(places < _ALIKE)[: _SIMPLE // 2])
        self.singles(plain, varied.combined(varied, PRODUCT), _SINGLES)
        yield False
        for target, entries in ((plain, every), (plain, wide), *((each, nice) for each in others)):
            self.pairs(target, entries)
            yield False
        self.grow(every)

    def singles(self, target: OutputTransform, entries: Dictionary, most: int) -> None:
        """Keep c_0 + c_1 f for the entries f nearest to the target, one of each of `most` families.

        Of several only what leaves little is kept.
        """
        for left, i in nearest_terms(target, entries, most, self.goal**2):
            if self.is_exact() or (most == 1 and left > _PROMISING and not self.relative):
                return
            self.keep(solve_terms(target, entries.chosen([i])).expression())

    def pairs(
        self, target: OutputTransform, entries: Dictionary, shared: Dictionary | None = None
    ) -> None:
        """Keep c_0 + c_1 f + c_2 g for the nearest pairs of entries, plus the `shared` terms.

        One pair is kept of each of a few families, and all that are nearly exact.
        """
        taken: set[str] = set()
        for _, found in nearest_sums(target, entries, _KEPT, shared=shared):
            full = found.family in taken or len(taken) >= _SINGLES
            if full and found.error > _NEAR * self.goal:
                continue
            taken.add(found.family)
            self.keep(found.expression())
            if self.is_exact():
                return

    def grow(self, entries: Dictionary) -> None:
        """Add terms to the best so far, a few of them side by side, and refit all constants."""
        beam = self.best()[:_WIDTH]
        for _ in range(_TERMS):
            grown: list[_Found] = []
            for found in beam:
                grown += self.with_term(found.graph, entries)
                if self.is_exact():
                    return
            beam = sorted(grown, key=operator.attrgetter("rank"))[:_WIDTH]

    def with_term(self, graph: Graph, entries: Dictionary) -> list[_Found]:
        """Return the graph with one more term, of each of the families that explain most."""
        value, _, jacobian = graph.linearise(self.t[:, None])
        columns = np.concatenate([np.ones((self.t.size, 1)), jacobian], axis=1)
        basis = np.linalg.qr(columns / self.size[:, None])[0]
        rest = (self.y - value) / self.size
        cover, slopes = covered(rest, entries.values / self.size, basis)
        grown = []
        for i in entries.of_different_families(np.argsort(-cover), _SINGLES):
            more = number(float(slopes[i])) * entries.builds[i]()
            grown.append(self.keep(to_expression(graph, ["x0"]) + more))
        return [each for each in grown if each is not None]

    def keep(self, expression: sympy.Expr, *, wide: bool = True) -> _Found | None:
        """Record the expression with all constants fitted; return it, or None.

        There is none if it is not defined.
        """
        try:
            begun = graph_of_expression(expression, 1, wide=wide)
            last = begun.edges[-1].function
            if wide and isinstance(last, Symbolic):
                begun = begun.with_function(len(begun.edges) - 1, last.shifted(0.0))
        except (FloatingPointError, KanrunError, ZeroDivisionError):
            return None
        settings = replace(_CONSTANTS, floor=_BELOW_GOAL * self.goal * self.data.y_std)
        fitted = refit(begun, self.data, settings)
        error = self.data.error(fitted)
        if not np.isfinite(error) or not sound(fitted, self.data.x):
            return None
        graph = canonicalise(fitted)
        rank = _matched(graph, error**2, self.goal**2, named=False).score
        self.found.append(_Found(graph, error, rank))
        return self.found[-1]
