"""Formulas of one variable for an edge that no candidate matches.

Polynomials and rational functions by linear algebra; then few terms of the dictionary, by the
correlations of all its entries at once, for the values and for simple functions of them; then terms
one by one, all constants refitted jointly. A formula counts as exact at the rounding of the values,
or at the accuracy to which they are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import Budget
from kanrun.engine.symbolic.candidates import Array, Candidate, number
from kanrun.engine.symbolic.description_length import SearchData, length_of
from kanrun.engine.symbolic.dictionary import (
    PRODUCT,
    Dictionary,
    dictionary_of_one,
    functions_of,
    generic_terms,
    powers_of,
    waves,
)
from kanrun.engine.symbolic.edge_matching import EdgeMatch, thinned
from kanrun.engine.symbolic.expression_graphs import graph_of_expression
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.graph import Graph, Subgraph, sound
from kanrun.engine.symbolic.invariances import canonicalise
from kanrun.engine.symbolic.multivariate import quotient_of_polynomials
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import (
    OutputTransform,
    covered,
    nearest_sums,
    nearest_terms,
    output_transforms,
    solve_terms,
)
from kanrun.engine.symbolic.search_problem import UnivariatePolicy
from kanrun.errors import KanrunError


def match_formulas(
    t: Array,
    values: Array,
    candidates: Sequence[Candidate],
    accuracy: float,
    budget: Budget,
    policy: UnivariatePolicy = UnivariatePolicy(),
) -> list[EdgeMatch]:
    """Return the formulas nearest to an edge's values (N,) at t (N,), best score first.

    `accuracy` is the error of the values relative to their standard deviation. The search ends at
    the first formula as good as that, or when the budget is spent.
    """
    t, values = thinned(policy.points, t, values)
    if t[0] == t[-1] or np.var(values) == 0.0:
        return []
    search = _UnivariateSearch(t, values, candidates, accuracy, policy)
    with np.errstate(all="ignore"):
        for usual in search.phases(budget):
            # Values that are not exact are near to many formulas: the usual ones are all compared.
            if (search.is_exact() and (search.precise or not usual)) or budget.over:
                break
    return search.best()


def regression_formulas(
    t: Array,
    values: Array,
    candidates: Sequence[Candidate],
    budget: Budget,
    policy: UnivariatePolicy,
) -> list[Graph]:
    """Return graphs of one input for noisy values (N,) at t (N,), shortest description first.

    The values may also be too few to be exact. One or two entries of the dictionary come first,
    then term after term, first of plain functions, then of compositions too. All constants are
    fitted to all points.
    """
    t, values = thinned(t.size, t, values)
    search = _UnivariateSearch(t, values, candidates, 0.0, policy, by_length=True)
    with np.errstate(all="ignore"):
        every = search.nice + search.generic + waves(t, candidates)
        plain = every.chosen([i for i, family in enumerate(every.families) if "(" not in family])
        target = OutputTransform(search.y)
        for entries in (plain, every.simplest(policy.entries)):
            search.singles([target], entries)
            search.pairs(target, entries)
            for _ in search.grown(entries, budget):
                if budget.over:
                    break
    return [match.function.graph for match in search.best() if isinstance(match.function, Subgraph)]


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
        policy: UnivariatePolicy,
        *,
        by_length: bool = False,
    ) -> None:
        self.t, self.y, self.candidates, self.policy = t, y, candidates, policy
        self.y_std, self.largest = float(np.std(y)), float(np.abs(y).max())
        self.goal = max(accuracy, policy.rounding * self.largest / self.y_std)
        self.precise = self.goal < policy.precise
        self.found: list[EdgeMatch] = []
        self.data = SearchData(t[:, None], y, t[:, None], y) if by_length else None

    @cached_property
    def nice(self) -> Dictionary:
        """Terms with constants that formulas are written with."""
        return dictionary_of_one(self.t, self.candidates)

    @cached_property
    def generic(self) -> Dictionary:
        """Functions with constants by the range of t."""
        return generic_terms(self.t, self.candidates, self.policy.generic)

    def is_exact(self) -> bool:
        return any(match.loss <= self.goal**2 for match in self.found)

    def best(self) -> list[EdgeMatch]:
        return sorted(self.found, key=self.score)[: self.policy.singles]

    def score(self, match: EdgeMatch) -> float:
        if self.data is None or not isinstance(match.function, Subgraph):
            return match.score
        graph = match.function.graph
        return length_of(match.loss**0.5, graph.parameters.size, graph.complexity, self.data)

    def phases(self, budget: Budget) -> Iterator[bool]:
        """Try one kind of formula after the other, and yield whether the next one is as usual."""
        policy, known = self.policy, self.goal * self.y_std / self.largest
        quotient = quotient_of_polynomials(self.t[:, None], self.y, policy.quotients, known)
        if quotient is not None:
            self.keep(quotient, wide=False)
        yield True
        nice, inputs = self.nice.simplest(policy.entries), Dictionary.of_inputs(self.t[:, None])
        simple = nice.chosen(range(min(policy.simple, len(nice))))
        factors = (inputs + functions_of(inputs, self.candidates, 4)).simplest(policy.factors)
        wide = nice + simple.combined(factors, PRODUCT, distinct=True)
        names = {each.name for each in self.candidates}
        plain, *others = output_transforms(self.y, names)
        self.singles([plain], wide)
        yield True
        self.pairs(plain, nice)
        yield True
        for target in others:
            self.singles([target], wide)
            yield True
        self.pairs(plain, nice, fixed=powers_of(inputs, self.candidates, (1, 2, 3)))
        yield False
        every = (self.nice + self.generic).simplest(policy.entries)
        powers = powers_of(inputs, self.candidates, (1, 2, 3, -1, -2))
        weights = zip(powers.values, powers.builds, strict=True)
        weighted = [each for weight in weights for each in output_transforms(self.y, names, weight)]
        for name in dict.fromkeys(each.outer.name for each in weighted):
            self.singles([each for each in weighted if each.outer.name == name], every)
            yield False
        varied = nice.varied(policy.alike, policy.simple // 2)
        self.singles([plain], varied.combined(varied, PRODUCT))
        yield False
        for target, entries in ((plain, every), (plain, wide), *((each, nice) for each in others)):
            self.pairs(target, entries)
            yield False
        for _ in self.grown(every, budget):
            yield False

    def singles(self, targets: Sequence[OutputTransform], entries: Dictionary) -> None:
        """Keep c_0 + c_1 f for the entries f nearest to one of the targets.

        One is kept of each family and target. Of several targets only what leaves little is kept.
        """
        basis, floor, policy = np.ones((self.t.size, 1)), self.goal**2, self.policy
        ranked = [
            (left, float(entries.sizes[i]), place, i)
            for place, target in enumerate(targets)
            for left, i in nearest_terms(
                target.values, entries.values, basis, policy.kept, entries.sizes, floor
            )
            if len(targets) == 1 or left <= policy.promising
        ]
        taken: set[tuple[str, int]] = set()
        for _, _, place, i in sorted(ranked):
            if (entries.families[i], place) not in taken:
                taken.add((entries.families[i], place))
                self.keep(solve_terms(targets[place], entries.chosen([i])).expression())
            if len(taken) == policy.singles or self.is_exact():
                return

    def pairs(
        self, target: OutputTransform, entries: Dictionary, fixed: Dictionary | None = None
    ) -> None:
        """Keep c_0 + c_1 f + c_2 g + ... for the nearest pairs of entries.

        Entries of `fixed` are in the sum. One pair is kept of each of a few families, and all that
        are nearly exact.
        """
        taken: set[str] = set()
        for _, found in nearest_sums(target, entries, self.policy.kept, fixed=fixed):
            full = found.family in taken or len(taken) >= self.policy.singles
            if full and found.error > self.policy.near * self.goal:
                continue
            taken.add(found.family)
            self.keep(found.expression())
            if self.is_exact():
                return

    def grown(self, entries: Dictionary, budget: Budget) -> Iterator[None]:
        """Add terms to the best so far, a few of them side by side, and refit all constants."""
        beam = self.best()[: self.policy.width]
        for _ in range(self.policy.terms):
            grown: list[EdgeMatch] = []
            for match in beam:
                if budget.over:
                    return
                grown += self.with_term(match, entries)
                yield
            beam = sorted(grown, key=self.score)[: self.policy.width]

    def with_term(self, match: EdgeMatch, entries: Dictionary) -> list[EdgeMatch]:
        """Return the match with one more term, of each of the families that explain most."""
        if not isinstance(match.function, Subgraph):
            return []
        graph = match.function.graph
        value, jacobian = graph.linearise(self.t[:, None])
        basis = np.linalg.qr(np.concatenate([np.ones((self.t.size, 1)), jacobian], axis=1))[0]
        cover, slopes = covered(self.y - value, entries.values, basis)
        order = np.argsort(-cover)
        firsts = list(dict.fromkeys(entries.families[i] for i in order))[: self.policy.singles]
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
            simple = canonicalise(graph_of_expression(expression, 1, wide=wide))
        except (FloatingPointError, KanrunError, ZeroDivisionError):
            return None
        floor = 0.1 * self.goal * self.y_std
        settings = RefitSettings(steps=self.policy.steps, floor=floor, damping=1e-6, patience=4)
        fitted = refit(simple, self.t[:, None], self.y, settings)
        loss = (fitted.rmse / self.y_std) ** 2
        if not np.isfinite(loss) or not sound(fitted.graph, self.t):
            return None
        found = Subgraph(fitted.graph)
        complexity = fitted.graph.complexity + max(fitted.graph.active_edges - 1, 0)
        match = EdgeMatch(found, loss, complexity, found.name, self.goal**2)
        self.found.append(match)
        return match
