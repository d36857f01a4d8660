"""Formulas of one variable for an edge that no candidate matches.

Polynomials and rational functions by linear algebra; then few terms of the dictionary, by the
correlations of all its entries at once, for the values and for simple functions of them; then terms
one by one, all constants refitted jointly. A formula counts as exact at the rounding of the values,
or at the accuracy to which they are known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, Budget, WorkSpent, at_most, count_work
from kanrun.engine.symbolic.candidates import (
    TABLE,
    Array,
    Candidate,
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
    damped_waves,
    dictionary_of_one,
    functions_of,
    generic_terms,
    powers_of,
    waves,
)
from kanrun.engine.symbolic.edge_functions import Symbolic
from kanrun.engine.symbolic.graph import EdgeMatch, Graph, sound
from kanrun.engine.symbolic.matching import POINTS, thinned
from kanrun.engine.symbolic.multivariate import quotient_of_polynomials
from kanrun.engine.symbolic.problem import SearchData, length_of
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

#: Formulas of one variable: work for one of several edges, relative error of values if nothing else
#: is known, and accuracy of the values below which the first formula as good as that is taken.
UNIVARIATE_BUDGET, _VALUE_ROUNDING, _PRECISE = 10.0, 3e-14, 1e-10
#: Maximum degree and number of terms of a quotient of polynomials.
_DEGREE, _QUOTIENT_TERMS = 16, 20
#: Size of a dictionary; constants of a function that come from the range of the argument; entries
#: that are multiplied by factors (half as many by one another); factors; entries of each family.
_ENTRIES, _GENERIC, _SIMPLE, _FACTORS, _ALIKE = 3000, 90, 300, 20, 3
#: Terms and pairs that are looked at; families of each kind that are refitted, formulas returned.
_KEPT, _SINGLES = 60, 6
#: Fraction of the variance that a term may leave of the values over a weight, and multiple of the
#: accuracy up to which every pair is refitted.
_PROMISING, _NEAR = 0.1, 1e3
#: Formulas that are extended side by side, and the maximum number of terms that are added.
_WIDTH, _TERMS = 4, 4
#: Refit of all constants of a formula, which ends well below the goal.
_CONSTANTS, _BELOW_GOAL = RefitSettings(steps=60, damping=1e-6, patience=4), 0.1
#: Powers of the argument that are weights.
_WEIGHTS = (1, 2, 3, -1, -2)


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
    t, values = thinned(POINTS, t, values)
    if t[0] == t[-1] or np.var(values) == 0.0:
        return []
    search = _UnivariateSearch(t, values, candidates, accuracy, relative=relative)
    with np.errstate(all="ignore"):
        for usual in search.phases(budget):
            # Values that are not exact are near to many formulas: the usual ones are all compared.
            if (search.is_exact() and (search.precise or not usual)) or budget.over:
                break
    return search.best()


def regression_formulas(
    t: Array, values: Array, candidates: Sequence[Candidate], budget: Budget
) -> Iterator[list[Graph]]:
    """Yield graphs of one input for noisy values (N,) at t (N,), the shortest of each stage first.

    The values may also be too few to be exact. One or two products of an exponential and a wave, or
    plain functions come first; then term after term of these, and in the end of compositions too.
    All constants are fitted to all points.
    """
    t, values = thinned(t.size, t, values)
    search = _UnivariateSearch(t, values, candidates, 0.0, by_length=True)
    target = OutputTransform(search.y)

    every = dictionary_of_one(t, candidates) + generic_terms(t, candidates, _GENERIC)
    every += waves(t, candidates)
    plain = every.chosen([i for i, family in enumerate(every.families) if "(" not in family])

    def few(terms: Dictionary) -> None:
        search.singles(target, terms, _SINGLES)
        search.pairs(target, terms)

    def many(terms: Dictionary) -> None:
        for _ in search.grown(terms, budget):
            if budget.over:
                return

    wide = every.simplest(_ENTRIES)
    stages = (
        [(few, damped_waves(t, candidates)), (few, plain)],
        [(many, plain)],
        [(few, wide), (many, wide)],
    )
    for stage in stages:
        with np.errstate(all="ignore"), contextlib.suppress(WorkSpent), at_most(budget.left):
            for step, terms in stage:
                step(terms)
        found = (match.function for match in search.best())
        yield [each for each in found if isinstance(each, Graph)]


class _UnivariateSearch:
    """Formulas found so far for values y (N,) at arguments t (N,) in order, and what adds to them.

    With `by_length` they are ranked by the length of their description.
    """

    def __init__(
        self,
        t: Array,
        y: Array,
        candidates: Sequence[Candidate],
        accuracy: float,
        *,
        by_length: bool = False,
        relative: bool = False,
    ) -> None:
        self.t, self.y, self.candidates, self.relative = t, y, candidates, relative
        #: Size of y that errors are relative to.
        self.size = np.abs(y) if relative else np.full(y.size, np.std(y))
        self.goal = max(accuracy, _VALUE_ROUNDING * float(np.max(np.abs(y) / self.size)))
        self.precise = self.goal < _PRECISE
        self.found: list[EdgeMatch] = []
        self.data = SearchData(t[:, None], y, t[:, None], y) if by_length else None

    def is_exact(self) -> bool:
        return any(match.loss <= self.goal**2 for match in self.found)

    def best(self) -> list[EdgeMatch]:
        return sorted(self.found, key=self.score)[:_SINGLES]

    def score(self, match: EdgeMatch) -> float:
        graph = match.function
        if self.data is None or not isinstance(graph, Graph):
            return match.score
        return length_of(match.loss**0.5, graph.parameters.size, graph.complexity, self.data)

    def phases(self, budget: Budget) -> Iterator[bool]:
        """Try one kind of formula after the other, and yield whether the next one is as usual."""
        x, names = self.t[:, None], {each.name for each in self.candidates}
        known = self.goal * float(np.min(self.size / np.abs(self.y).max()))
        quotient = quotient_of_polynomials(x, self.y, _DEGREE, _QUOTIENT_TERMS, known)
        if quotient is not None:
            self.keep(quotient, wide=False)
        yield True
        every, inputs = dictionary_of_one(self.t, self.candidates), Dictionary.of_inputs(x)
        nice = every.simplest(_ENTRIES)
        factors = (inputs + functions_of(inputs, self.candidates, 4)).simplest(_FACTORS)
        wide = nice + nice.first(_SIMPLE).combined(factors, PRODUCT, distinct=True)
        plain, *others = output_transforms(self.y, names, self.relative)
        if self.relative:
            nice = self.exponentials(plain) + nice
        self.singles(plain, wide, _SINGLES)
        yield True
        self.pairs(plain, nice)
        yield True
        for target in others:
            if self.relative:
                self.singles(target, self.exponentials(target), 1)
            self.singles(target, wide, 1)
            yield True
        every = (every + generic_terms(self.t, self.candidates, _GENERIC)).simplest(_ENTRIES)
        powers = powers_of(inputs, self.candidates, _WEIGHTS)
        for weight in zip(powers.values, powers.builds, strict=True):
            for target in output_transforms(self.y, names, self.relative, weight):
                self.singles(target, self.exponentials(target) if self.relative else every, 1)
            yield False
        varied = nice.varied(_ALIKE, _SIMPLE // 2)
        self.singles(plain, varied.combined(varied, PRODUCT), _SINGLES)
        yield False
        for target, entries in ((plain, every), (plain, wide), *((each, nice) for each in others)):
            self.pairs(target, entries)
            yield False
        for _ in self.grown(every, budget):
            yield False

    def exponentials(self, target: OutputTransform) -> Dictionary:
        """Return exponentials at the rates of the target at both ends and on the whole."""
        third, logarithm = self.t.size // 3, np.log(np.abs(target.values))
        parts = (slice(third), slice(-third, None), slice(None))
        rates = [float(np.polyfit(self.t[part], logarithm[part], 1)[0]) for part in parts]
        grid = np.array([(sign * rate, 0.0) for rate in rates for sign in (1.0, -1.0)])
        return Dictionary.of_inputs(self.t[:, None]).functions(TABLE["exp"], grid)

    def singles(self, target: OutputTransform, entries: Dictionary, most: int) -> None:
        """Keep c_0 + c_1 f for the entries f nearest to the target, one of each of `most` families.

        Of several only what leaves little is kept.
        """
        taken: set[str] = set()
        for left, i in nearest_terms(target, entries, _KEPT, self.goal**2):
            far = most == 1 and left > _PROMISING and not self.relative
            if len(taken) == most or far or self.is_exact():
                return
            if entries.families[i] not in taken:
                taken.add(entries.families[i])
                self.keep(solve_terms(target, entries.chosen([i])).expression())

    def pairs(self, target: OutputTransform, entries: Dictionary) -> None:
        """Keep c_0 + c_1 f + c_2 g for the nearest pairs of entries.

        One pair is kept of each of a few families, and all that are nearly exact.
        """
        taken: set[str] = set()
        for _, found in nearest_sums(target, entries, _KEPT):
            full = found.family in taken or len(taken) >= _SINGLES
            if full and found.error > _NEAR * self.goal:
                continue
            taken.add(found.family)
            self.keep(found.expression())
            if self.is_exact():
                return

    def grown(self, entries: Dictionary, budget: Budget) -> Iterator[None]:
        """Add terms to the best so far, a few of them side by side, and refit all constants."""
        beam = self.best()[:_WIDTH]
        for _ in range(_TERMS):
            grown: list[EdgeMatch] = []
            for match in beam:
                if budget.over:
                    return
                grown += self.with_term(match, entries)
                yield
            beam = sorted(grown, key=self.score)[:_WIDTH]

    def with_term(self, match: EdgeMatch, entries: Dictionary) -> list[EdgeMatch]:
        """Return the match with one more term, of each of the families that explain most."""
        graph = match.function
        if not isinstance(graph, Graph):
            return []
        value, _, jacobian = graph.linearise(self.t[:, None])
        columns = np.concatenate([np.ones((self.t.size, 1)), jacobian], axis=1)
        basis = np.linalg.qr(columns / self.size[:, None])[0]
        rest = (self.y - value) / self.size
        cover, slopes = covered(rest, entries.values / self.size, basis)
        order = np.argsort(-cover)
        firsts = list(dict.fromkeys(entries.families[i] for i in order))[:_SINGLES]
        grown = []
        for family in firsts:
            i = next(int(i) for i in order if entries.families[i] == family)
            more = number(float(slopes[i])) * entries.builds[i]()
            grown.append(self.keep(to_expression(graph, ["x0"]) + more))
        return [each for each in grown if each is not None]

    def keep(self, expression: sympy.Expr, *, wide: bool = True) -> EdgeMatch | None:
        """Record the expression with all constants fitted; return its match, or None.

        There is none if it is not defined.
        """
        try:
            begun = graph_of_expression(expression, 1, wide=wide)
            last = begun.edges[-1].function
            if wide and isinstance(last, Symbolic):
                begun = begun.with_function(len(begun.edges) - 1, last.shifted(0.0))
        except (FloatingPointError, KanrunError, ZeroDivisionError):
            return None
        count_work(COSTS.conversion)
        settings = replace(_CONSTANTS, floor=_BELOW_GOAL * self.goal, weights=1 / self.size)
        fitted = refit(begun, self.t[:, None], self.y, settings)
        loss = fitted.rmse**2
        if not np.isfinite(loss) or not sound(fitted.graph, self.t):
            return None
        graph = canonicalise(fitted.graph)
        complexity = graph.complexity + max(graph.active_edges - 1, 0)
        match = EdgeMatch(graph, loss, complexity, function_label(graph), self.goal**2)
        self.found.append(match)
        return match
