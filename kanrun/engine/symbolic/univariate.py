"""Formulas of one variable for an edge that no candidate matches: sums, products, quotients and compositions.

Polynomials and rational functions by linear algebra; then few terms of a dictionary, by the correlations of all its
entries at once, for the values and for simple functions of them; then terms one by one, all constants refitted
jointly. A formula counts as exact at the rounding of the values, or at the accuracy to which they are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, combination, number, power
from kanrun.engine.symbolic.description_length import SearchData, length_of
from kanrun.engine.symbolic.dictionary import (
    Dictionary,
    call,
    dictionary,
    factors,
    known,
    products,
    waves,
)
from kanrun.engine.symbolic.edge_matching import EdgeMatch, thinned
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.expression_graphs import graph_of_expression
from kanrun.engine.symbolic.expression_pairs import Sought, outputs
from kanrun.engine.symbolic.formula import to_expression
from kanrun.engine.symbolic.graph import Graph, Subgraph, sound
from kanrun.engine.symbolic.invariances import canonicalise
from kanrun.engine.symbolic.pairs import covered, few_terms, nearest_pairs
from kanrun.engine.symbolic.rational_functions import quotient_of_polynomials
from kanrun.engine.symbolic.refit import RefitSettings, refit
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
    """The few formulas nearest to an edge's values (N,) at its arguments t (N,), best score first.

    `accuracy` is the error of the values relative to their standard deviation; the search ends at the first formula as
    good as that, or when the budget is spent.
    """
    t, values = thinned(policy.points, t, values)
    if t[0] == t[-1] or np.var(values) == 0.0:
        return []
    search = UnivariateSearch(t, values, candidates, accuracy, policy)
    with np.errstate(all="ignore"):
        for usual in search.phases(budget):
            # values that are not exact are near to many formulas: the usual ones are all compared
            if (search.exact() and (search.precise or not usual)) or budget.over:
                break
    return search.best()


def regression_formulas(
    t: Array,
    values: Array,
    candidates: Sequence[Candidate],
    budget: Budget,
    policy: UnivariatePolicy,
) -> list[Graph]:
    """Graphs of one input for values (N,) with noise at t (N,), or too few to be exact, shortest description first: one
    or two entries of the dictionary, then term after term, first of plain functions, then of compositions too; all
    constants are fitted to all points."""
    t, values = thinned(t.size, t, values)
    search = UnivariateSearch(t, values, candidates, 0.0, policy, by_length=True)
    with np.errstate(all="ignore"):
        every = dictionary(search.t, candidates) + waves(search.t, candidates)
        plain = every.chosen([i for i, family in enumerate(every.families) if "(" not in family])
        for entries in (plain, every.simplest(policy.entries)):
            search.singles(Sought(search.y), entries)
            search.pairs(Sought(search.y), entries, policy.singles)
            for _ in search.grown(entries, budget):
                if budget.over:
                    break
    return [match.function.graph for match in search.best() if isinstance(match.function, Subgraph)]


class UnivariateSearch:
    """What was found so far for values y (N,) at arguments t (N,) in order, and what adds to that."""

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
        """With `by_length` what is found is ranked by the length of its description."""
        self.t, self.y, self.candidates, self.policy = t, y, candidates, policy
        self.names = {each.name for each in candidates}
        self.spread = float(np.std(y))
        rounding = policy.rounding * float(np.abs(y).max()) / self.spread
        self.goal = max(accuracy, rounding)
        self.precise = self.goal < policy.precise
        self.found: list[EdgeMatch] = []
        self.data = SearchData(t[:, None], y, t[:, None], y) if by_length else None

    def exact(self) -> bool:
        return any(match.loss <= self.goal**2 for match in self.found)

    def best(self) -> list[EdgeMatch]:
        return self.ranked(self.found)[: self.policy.returned]

    def ranked(self, found: list[EdgeMatch]) -> list[EdgeMatch]:
        return sorted(found, key=self.score)

    def score(self, match: EdgeMatch) -> float:
        if self.data is None or not isinstance(match.function, Subgraph):
            return match.score
        return length_of(
            match.loss**0.5,
            match.function.parameters.size,
            match.function.graph.complexity,
            self.data,
        )

    # --- what is tried

    def phases(self, budget: Budget) -> Iterator[bool]:
        """Whether what comes next is as usual as what has been tried."""
        known_to = self.goal * self.spread / float(np.abs(self.y).max())
        quotient = quotient_of_polynomials(self.t[:, None], self.y, self.policy.quotients, known_to)
        if quotient is not None:
            self.keep(quotient, wide=False)
        yield True
        self.families()
        yield True
        policy, simplest = self.policy, factors(self.t, self.candidates)
        every = dictionary(self.t, self.candidates).simplest(policy.entries)
        nice = dictionary(self.t, self.candidates, generic=1).simplest(policy.nice)
        simple = nice.chosen(range(min(policy.simple, len(nice.families))))
        wide = nice + products(simple, simplest).simplest(policy.products)
        plain, *others = outputs(self.y, self.names)
        self.singles(plain, wide)
        yield True
        self.pairs(plain, nice, 4)
        yield True
        for target in others:
            self.singles(target, wide)
            yield True
        varied = nice.varied(policy.alike, policy.simple // 2)
        self.singles(plain, products(varied, varied))
        yield False
        for target in (plain, *others):
            self.singles(target, every, simplest)
            yield False
        self.pairs(plain, every, policy.polished)
        yield False
        powers = [i for i, family in enumerate(simplest.families) if family in ("x", "x^2", "x^3")]
        self.pairs(plain, nice, 4, beside=simplest.chosen(powers))
        yield False
        self.sums_with_factor(plain, nice)
        yield False
        for target in others:
            self.pairs(target, nice, 4)
            yield False
        self.pairs(plain, wide, policy.polished)
        yield False
        self.sums_with_factor(plain, wide)
        yield False
        for _ in self.grown(every, budget):
            yield False
        for target in (plain, *others):
            for index in range(len(simplest.families)):
                self.pairs(target, simple, 2, simplest.chosen([index]))
                yield False
        for index in range(min(policy.first, len(simple.families))):
            self.pairs(plain, simple, 1, beside=simple.chosen([index]))
            yield False

    def singles(
        self, target: Sought, entries: Dictionary, weights: Dictionary | None = None
    ) -> None:
        """w (c_0 + c_1 f) for the entries f nearest to the target, w one of the weights or 1."""
        ones = np.ones((1, self.t.size))
        ranked: list[tuple[float, float, int, int]] = []
        for place, w in enumerate(ones if weights is None else weights.values):
            loss = _left_by_each(target.values, entries.values * w, w)
            first = np.lexsort([entries.sizes, np.maximum(loss, self.goal**2)])[: self.policy.kept]
            places = [int(i) for i in first if np.isfinite(loss[i])]
            ranked += [
                (max(float(loss[i]), self.goal**2), float(entries.sizes[i]), i, place)
                for i in places
            ]
        taken: set[tuple[str, int]] = set()
        for left, _, index, place in sorted(ranked):
            if (
                len(taken) == self.policy.singles
                or self.exact()
                or (weights and left > self.policy.promising)
            ):
                return
            if (entries.families[index], place) in taken:
                continue
            taken.add((entries.families[index], place))
            w = ones[0] if weights is None else weights.values[place]
            constant, slope = np.linalg.lstsq(
                np.stack([w, w * entries.values[index]], 1), target.values, rcond=None
            )[0]
            weight = sympy.Integer(1) if weights is None else weights.builds[place]()
            self.keep(
                target.inverse(
                    weight * combination([constant, slope], [sympy.S.One, entries.builds[index]()])
                )
            )

    def pairs(
        self,
        target: Sought,
        entries: Dictionary,
        polished: int,
        weight: Dictionary | None = None,
        beside: Dictionary | None = None,
    ) -> None:
        """w (c_0 + c_1 f + c_2 g) for the pairs of entries nearest to the target, w 1 or the one entry of `weight`,
        with those `beside` them in the sum."""
        w = weight.values[0] if weight else np.ones_like(self.t)
        fixed = [w, *(w * beside.values if beside else ())]
        trial = nearest_pairs(target.values, entries.values * w, np.stack(fixed), self.policy.kept)
        taken: set[str] = set()
        for loss, i, j in trial:
            family = "+".join(sorted({entries.families[i], entries.families[j]}))
            full = family in taken or len(taken) >= polished
            if loss > 1e-20 and full:
                continue
            columns = np.stack([*fixed, w * entries.values[i], w * entries.values[j]], axis=1)
            c = np.linalg.lstsq(columns, target.values, rcond=None)[0]
            error = float(np.std(target.values - columns @ c) / np.std(target.values))
            if error > self.goal * 1e3 and full:
                continue
            taken.add(family)
            c[np.abs(c) * np.abs(columns).max(axis=0) <= 1e-12 * np.abs(target.values).max()] = 0.0
            builds = [*(beside.builds if beside else ()), entries.builds[i], entries.builds[j]]
            whole = combination(c, [sympy.S.One, *(build() for build in builds)])
            self.keep(target.inverse(weight.builds[0]() * whole if weight else whole))
            if self.exact():
                return

    def sums_with_factor(self, target: Sought, entries: Dictionary) -> None:
        """Every entry times a short polynomial, in t or in waves of t."""
        t = self.t
        families = [[call(power(k)) for k in (1, 2, 3)]]
        if "sin" in self.names:
            waves = [call(TABLE["sin"], float(k), b) for k in range(1, 6) for b in (0.0, np.pi / 2)]
            families += [waves[:2], waves]
        for parts in families:
            basis, terms = (
                [np.ones_like(t), *(part.value(t) for part in parts)],
                [part.expression() for part in parts],
            )
            stacked = entries.values[:, :, None] * np.stack(basis, axis=1)
            norms = np.linalg.norm(stacked, axis=1, keepdims=True)
            q = np.linalg.qr(stacked / np.where(norms > 0, norms, 1.0))[0]
            count_work(COSTS.grid_value * stacked.size)
            rest = target.values - np.einsum(
                "mnk,mk->mn", q, np.einsum("mnk,n->mk", q, target.values)
            )
            errors = np.sqrt(np.mean(rest**2, axis=1)) / float(np.std(target.values))
            for index in np.argsort(errors)[:2]:
                if errors[index] > max(100 * self.goal, 1e-9):
                    break
                c = np.linalg.lstsq(stacked[index], target.values, rcond=None)[0]
                size = np.abs(c) * np.abs(stacked[index]).max(axis=0)
                c[size <= 1e-9 * size.max()] = 0.0
                self.keep(entries.builds[index]() * combination(c, [sympy.S.One, *terms]))
                if self.exact():
                    return

    def grown(self, entries: Dictionary, budget: Budget) -> Iterator[None]:
        """The best so far with one more term, all constants refitted, a few of them side by side."""
        beam = self.best()[: self.policy.width]
        for _ in range(self.policy.terms):
            grown: list[EdgeMatch] = []
            for match in beam:
                if budget.over:
                    return
                grown += self.with_term(match, entries)
                yield
            if not grown:
                return
            beam = self.ranked(grown)[: self.policy.width]

    def with_term(self, match: EdgeMatch, entries: Dictionary) -> list[EdgeMatch]:
        function = match.function
        if not isinstance(function, Subgraph):
            return []
        value, jacobian = function.graph.linearise(self.t[:, None])
        basis = np.linalg.qr(np.concatenate([np.ones((self.t.size, 1)), jacobian], axis=1))[0]
        cover, slopes = covered(self.y - value, entries.values, basis)
        grown: list[EdgeMatch] = []
        taken: set[str] = set()
        for i in np.argsort(-cover):
            if entries.families[i] in taken:
                continue
            taken.add(entries.families[i])
            more = number(float(slopes[i])) * entries.builds[int(i)]()
            found = self.keep(to_expression(function.graph, ["x0"]) + more)
            grown += [found] if found else []
            if len(taken) >= self.policy.branches:
                break
        return grown

    # --- what becomes of it

    def try_terms(self, terms: Sequence[Symbolic], most: int) -> None:
        """A linear combination of terms that is exact, with as few as that takes, if these are at most `most`."""
        usable = [
            term for term in terms if known(term.candidate, self.names) and term.allows(self.t)
        ]
        values = [term.value(self.t) for term in usable]
        usable = [
            term for term, each in zip(usable, values, strict=True) if np.isfinite(each).all()
        ]
        plain = np.stack(
            [np.ones_like(self.t), *(each for each in values if np.isfinite(each).all())], axis=1
        )
        columns = np.concatenate([plain[:, :1], plain[:, 1:] - plain[:, 1:].mean(axis=0)], axis=1)
        solved = few_terms(
            columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300),
            self.y,
            10 * self.goal * self.spread,
        )
        kept = [] if solved is None else [0, *(np.flatnonzero(solved[1:]) + 1)]
        if 1 < len(kept) <= most + 1:
            norms = np.linalg.norm(plain[:, kept], axis=0)
            c = np.linalg.lstsq(plain[:, kept] / norms, self.y, rcond=None)[0] / norms
            self.keep(
                combination(c, [sympy.S.One, *(usable[k - 1].expression() for k in kept[1:])])
            )

    def families(self) -> None:
        """Linear combinations within families of functions with whole numbers for constants."""
        wide, turn = range(-6, 7), np.pi / 2
        powers = [power(Fraction(k, 2)) for k in range(-4, 9) if k]
        waves = [call(TABLE["sin"], float(k), b) for k in range(1, 7) for b in (0.0, turn)]
        growth = [call(TABLE["exp"], float(k)) for k in range(-3, 4) if k]
        common = [call(TABLE["sin"], k, b) for k in (1.0, 2.0) for b in (0.0, turn)]
        common += [
            call(TABLE[name]) for name in ("log", "sqrt", "1/x", "1/x^2", "tanh", "arctan", "abs")
        ]
        common += [
            call(TABLE["exp"], 1.0),
            call(TABLE["exp"], -1.0),
            *(call(power(k)) for k in (1, 2, 3, 4, 5)),
        ]
        most = self.policy.sums if self.precise else int(-np.log10(self.goal) / 2) - 1
        far = [call(power(k)) for k in range(-12, 3) if k]
        for terms in (
            waves,
            growth,
            far,
            [call(power(k)) for k in wide if k],
            [call(each) for each in powers],
            common,
        ):
            self.try_terms(terms, most)
            if self.exact():
                return

    def keep(self, expression: sympy.Expr, *, wide: bool = True) -> EdgeMatch | None:
        """The match of the expression with all its constants fitted; None where it is not defined."""
        try:
            simple = canonicalise(graph_of_expression(expression, 1, wide=wide))
        except (FloatingPointError, KanrunError, ZeroDivisionError):
            return None
        floor = 0.1 * self.goal * self.spread
        settings = RefitSettings(steps=self.policy.steps, floor=floor, damping=1e-6, patience=4)
        fitted = refit(simple, self.t[:, None], self.y, settings)
        loss = (fitted.rmse / self.spread) ** 2
        if not np.isfinite(loss) or not sound(fitted.graph, self.t):
            return None
        found, complexity = (
            Subgraph(fitted.graph),
            fitted.graph.complexity + max(fitted.graph.active_edges - 1, 0),
        )
        match = EdgeMatch(found, loss, complexity, found.name, self.goal**2)
        self.found.append(match)
        return match


def _left_by_each(values: Array, entries: Array, beside: Array) -> Array:
    """The share of the variance of values (N,) that `beside` (N,) and each of the entries (M, N) leave."""
    q = beside / np.linalg.norm(beside)
    rest = values - (values @ q) * q
    left = rest @ rest - covered(rest, entries, q[:, None])[0]
    return np.asarray(np.nan_to_num(left, nan=np.inf) / np.sum((values - values.mean()) ** 2))
