"""Formulas of one variable for an edge that no candidate matches: sums, products, quotients and compositions.

Polynomials and rational functions by linear algebra; then few terms of a dictionary, by the correlations of all its
entries at once, for the values and for simple functions of them; then terms one by one, all constants refitted
jointly. A formula counts as exact at the rounding of the values, or at the accuracy to which they are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, Budget, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, power
from kanrun.engine.symbolic.dictionary import Dictionary, call, dictionary, factors, known, products, scaled, unscaled
from kanrun.engine.symbolic.edge_matching import EdgeMatch
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.invariances import canonical
from kanrun.engine.symbolic.joined_graphs import (
    graph_complexity,
    graph_name,
    quotient_of_polynomials,
    summed_graphs,
    with_constant,
)
from kanrun.engine.symbolic.pairs import covered, few_terms, nearest_pairs
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import UnivariatePolicy
from kanrun.engine.symbolic.trees import Call, Joined, Part, Subgraph, graph_of, sound


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
    order = np.argsort(t, kind="stable")[np.linspace(0, t.size - 1, min(t.size, policy.points)).astype(int)]
    t, values = t[order], values[order]
    if t[0] == t[-1] or np.var(values) == 0.0:
        return []
    search = UnivariateSearch(t, values, candidates, accuracy, policy)
    with np.errstate(all="ignore"):
        for usual in search.phases(budget):
            # values that are not exact are near to many formulas: the usual ones are all compared
            if (search.exact() and (search.precise or not usual)) or budget.over:
                break
    return search.best()


@dataclass(frozen=True)
class Sought:
    """g(y), the function that undoes g, and its sign."""

    values: Array
    inverse: Symbolic | None


class UnivariateSearch:
    """What was found so far for values y (N,) at arguments t (N,) in order, and what adds to that."""

    def __init__(
        self, t: Array, y: Array, candidates: Sequence[Candidate], accuracy: float, policy: UnivariatePolicy
    ) -> None:
        self.t, self.y, self.candidates, self.policy = t, y, candidates, policy
        self.names = {each.name for each in candidates}
        self.spread = float(np.std(y))
        rounding = policy.rounding * float(np.abs(y).max()) / self.spread
        self.goal = max(accuracy, rounding)
        self.precise = self.goal < policy.precise
        self.found: list[EdgeMatch] = []

    def exact(self) -> bool:
        return any(match.loss <= self.goal**2 for match in self.found)

    def best(self) -> list[EdgeMatch]:
        return self.ranked(self.found)[: self.policy.returned]

    def ranked(self, found: list[EdgeMatch]) -> list[EdgeMatch]:
        return sorted(found, key=lambda match: match.score)

    # --- what is tried

    def phases(self, budget: Budget) -> Iterator[bool]:
        """Whether what comes next is as usual as what has been tried."""
        self.polynomials()
        yield True
        self.rationals()
        yield True
        self.families()
        yield True
        policy, simplest = self.policy, factors(self.t, self.candidates)
        every = dictionary(self.t, self.candidates).simplest(policy.entries)
        nice = dictionary(self.t, self.candidates, generic=1).simplest(policy.nice)
        simple = nice.chosen(range(min(policy.simple, len(nice.families))))
        wide = nice + products(simple, simplest).simplest(policy.products)
        plain, others = Sought(self.y, None), self.targets()
        self.singles(plain, wide)
        yield True
        self.pairs(plain, nice, None, 4)
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
        self.pairs(plain, every, None, policy.polished)
        yield False
        powers = [i for i, family in enumerate(simplest.families) if family in ("x", "x^2", "x^3")]
        self.pairs(plain, nice, None, 4, simplest.chosen(powers))
        yield False
        self.sums_with_factor(plain, nice)
        yield False
        for target in others:
            self.pairs(target, nice, None, 4)
            yield False
        self.pairs(plain, wide, None, policy.polished)
        yield False
        self.sums_with_factor(plain, wide)
        yield False
        for _ in self.grown(every, budget):
            yield False
        for target in (plain, *others):
            for index in range(len(simplest.families)):
                self.pairs(target, simple, (simplest, index), 2)
                yield False
        for index in range(min(policy.first, len(simple.families))):
            self.pairs(plain, simple, None, 1, simple.chosen([index]))
            yield False

    def singles(self, target: Sought, entries: Dictionary, weights: Dictionary | None = None) -> None:
        """w (c_0 + c_1 f) for the entries f nearest to the target, w one of the weights or 1."""
        ones = np.ones((1, self.t.size))
        ranked: list[tuple[float, float, int, int]] = []
        for number, w in enumerate(ones if weights is None else weights.values):
            loss = _left_by_each(target.values, entries.values * w, w)
            first = np.lexsort([entries.sizes, np.maximum(loss, self.goal**2)])[: self.policy.kept]
            places = [int(i) for i in first if np.isfinite(loss[i])]
            ranked += [(max(float(loss[i]), self.goal**2), float(entries.sizes[i]), i, number) for i in places]
        taken: set[tuple[str, int]] = set()
        for left, _, index, number in sorted(ranked):
            if len(taken) == self.policy.singles or self.exact() or (weights and left > self.policy.promising):
                return
            if (entries.families[index], number) in taken:
                continue
            taken.add((entries.families[index], number))
            w = ones[0] if weights is None else weights.values[number]
            constant, slope = np.linalg.lstsq(np.stack([w, w * entries.values[index]], 1), target.values, rcond=None)[0]
            weight = None if weights is None else (weights, number)
            self.try_sum([entries.tree(index, float(slope))], float(constant), weight, target.inverse)

    def targets(self) -> list[Sought]:
        """Functions of y, each with what undoes it."""
        y, found = self.y, []

        def add(values: Array, name: str, a: float = 1.0, c: float = 1.0, b: float = 0.0) -> None:
            if name in self.names and np.isfinite(values).all() and np.ptp(values) > 0:
                found.append(Sought(values, Symbolic(TABLE[name], (a, b, c, 0.0), "")))

        sign = 1.0 if (y > 0).all() else -1.0 if (y < 0).all() else 0.0
        if sign:
            add(1 / y, "1/x")
            add(np.log(sign * y), "exp", c=sign)
            add(y**2, "sqrt", c=sign)
            add(np.sqrt(sign * y), "x^2", c=sign)
            add(1 / y**2, "1/sqrt", c=sign)
            add(1 / np.sqrt(sign * y), "1/x^2", c=sign)
        if np.abs(y).max() < 20:
            add(np.exp(y), "log")
        if np.abs(y).max() < np.pi / 2:
            add(np.tan(y), "arctan")
            add(np.sin(y), "arcsin")
        if np.abs(y).max() < 1:
            add(np.arctanh(y), "tanh")
        return found

    def polynomials(self) -> None:
        """The least degree at which the residual falls to rounding at once, as it does for polynomials alone."""
        before = 1.0
        for degree in range(1, self.policy.degree + 1):
            basis = np.polynomial.chebyshev.chebvander(_unit(self.t), degree)
            rest = self.y - basis @ np.linalg.lstsq(basis, self.y, rcond=None)[0]
            error = float(np.sqrt(np.mean(rest**2))) / self.spread
            if error <= self.goal and (error < self.policy.sudden * before or degree < 3):
                self.try_terms([call(power(k)) for k in range(1, degree + 1)], degree)
                return
            before = error

    def rationals(self) -> None:
        """P / Q of the least degrees at which y Q - P vanishes at once, and plain ones of values that are not exact."""
        plain = range(0 if self.precise else self.policy.quotient + 1)
        for above, below in ((above, below) for below in plain[1:] for above in plain):
            self.keep(quotient_of_polynomials(self.t, self.y, above, below))
        unit, y = _unit(self.t), (self.y - self.y.mean()) / self.spread
        errors: dict[tuple[int, int], float] = {}
        for total in range(1, self.policy.rational + 1):
            for below in range(1, total + 1):
                above = total - below
                columns = np.polynomial.chebyshev.chebvander(unit, max(above, below))
                system = np.concatenate([columns[:, : above + 1], -y[:, None] * columns[:, : below + 1]], axis=1)
                _, size, v = np.linalg.svd(system, full_matrices=False)
                errors[above, below] = float(size[-1] / size[0])
                fewer = min(errors.get((above - 1, below), 1.0), errors.get((above, below - 1), 1.0))
                q = np.polynomial.chebyshev.chebval(unit, v[-1][above + 1 :])
                sound = (np.sign(q) == np.sign(q[0])).all() and np.abs(q).min() > 1e-6 * np.abs(q).max()
                if sound and errors[above, below] <= self.goal and errors[above, below] < self.policy.sudden * fewer:
                    self.keep(quotient_of_polynomials(self.t, self.y, max(above, below), below))
                    if self.exact():
                        return

    def pairs(
        self, target: Sought, entries: Dictionary, weight: tuple[Dictionary, int] | None, polished: int,
        beside: Dictionary | None = None,
    ) -> None:  # fmt: skip
        """w (c_0 + c_1 f + c_2 g) for the pairs of entries nearest to the target, w a factor or 1, with those `beside`
        them in the sum."""
        w = weight[0].values[weight[1]] if weight else np.ones_like(self.t)
        fixed = [w, *(w * beside.values if beside else ())]
        trial = nearest_pairs(target.values, entries.values * w, np.stack(fixed), self.policy.kept)
        taken: set[str] = set()
        for loss, i, j in trial:
            family = "+".join(sorted({entries.families[i], entries.families[j]}))
            if loss > 1e-20 and (family in taken or len(taken) >= polished):
                continue
            columns = np.stack([*fixed, w * entries.values[i], w * entries.values[j]], axis=1)
            c = np.linalg.lstsq(columns, target.values, rcond=None)[0]
            rest = target.values - columns @ c
            error = float(np.std(rest) / np.std(target.values))
            if error > self.goal * 1e3 and (family in taken or len(taken) >= polished):
                continue
            taken.add(family)
            terms: list[Part] = [
                entries.tree(k, float(factor))
                for k, factor in zip((i, j), c[len(fixed) :], strict=True)
                if abs(factor) * np.abs(w * entries.values[k]).max() > 1e-12 * np.abs(target.values).max()
            ]
            terms += [beside.tree(k, float(c[k + 1])) for k in range(len(beside.families))] if beside else []
            self.try_sum(terms, float(c[0]), weight, target.inverse)
            if self.exact():
                return

    def sums_with_factor(self, target: Sought, entries: Dictionary) -> None:
        """Every entry times a short polynomial, in t or in waves of t."""
        t = self.t
        families = [[call(power(k)) for k in (1, 2, 3)]]
        if "sin" in self.names:
            waves = [call("sin", float(k), b) for k in range(1, 6) for b in (0.0, np.pi / 2)]
            families += [waves[:2], waves]
        for parts in families:
            basis = [np.ones_like(t), *(part.function.value(t) for part in parts)]
            stacked = entries.values[:, :, None] * np.stack(basis, axis=1)
            norms = np.linalg.norm(stacked, axis=1, keepdims=True)
            q = np.linalg.qr(stacked / np.where(norms > 0, norms, 1.0))[0]
            count_work(COSTS.grid_value * stacked.size)
            rest = target.values - np.einsum("mnk,mk->mn", q, np.einsum("mnk,n->mk", q, target.values))
            errors = np.sqrt(np.mean(rest**2, axis=1)) / float(np.std(target.values))
            for index in np.argsort(errors)[:2]:
                if errors[index] > max(100 * self.goal, 1e-9):
                    break
                c = np.linalg.lstsq(stacked[index], target.values, rcond=None)[0]
                size = np.abs(c) * np.abs(stacked[index]).max(axis=0)
                terms = [
                    scaled(p, float(f)) for p, f, s in zip(parts, c[1:], size[1:], strict=True) if s > 1e-9 * size.max()
                ]
                self.try_sum(terms, float(c[0]) if size[0] > 1e-9 * size.max() else 0.0, (entries, int(index)), None)
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
            more = graph_of(Joined("sum", (entries.tree(int(i), float(slopes[i])),)))
            found = self.fitted(summed_graphs(function.graph, more))
            grown += [found] if found else []
            if len(taken) >= self.policy.branches:
                break
        return grown

    # --- what becomes of it

    def try_terms(self, terms: Sequence[Call], most: int) -> None:
        """A linear combination of terms that is exact, with as few as that takes, if these are at most `most`."""
        usable = [term for term in terms if known(term.function.candidate, self.names) and term.function.allows(self.t)]
        values = [term.function.value(self.t) for term in usable]
        usable = [term for term, each in zip(usable, values, strict=True) if np.isfinite(each).all()]
        plain = np.stack([np.ones_like(self.t), *(each for each in values if np.isfinite(each).all())], axis=1)
        columns = np.concatenate([plain[:, :1], plain[:, 1:] - plain[:, 1:].mean(axis=0)], axis=1)
        solved = few_terms(
            columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300), self.y, 10 * self.goal * self.spread
        )
        kept = [] if solved is None else [0, *(np.flatnonzero(solved[1:]) + 1)]
        if 1 < len(kept) <= most + 1:
            norms = np.linalg.norm(plain[:, kept], axis=0)
            c = np.linalg.lstsq(plain[:, kept] / norms, self.y, rcond=None)[0] / norms
            parts = [scaled(usable[k - 1], float(f)) for k, f in zip(kept[1:], c[1:], strict=True)]
            self.try_sum(parts, float(c[0]), None, None)

    def families(self) -> None:
        """Linear combinations within families of functions with whole numbers for constants."""
        wide, turn = range(-6, 7), np.pi / 2
        powers = [power(Fraction(k, 2)) for k in range(-4, 9) if k]
        waves = [call("sin", float(k), b) for k in range(1, 7) for b in (0.0, turn)]
        growth = [call("exp", float(k)) for k in range(-3, 4) if k]
        common = [call("sin", k, b) for k in (1.0, 2.0) for b in (0.0, turn)]
        common += [call(name) for name in ("log", "sqrt", "1/x", "1/x^2", "tanh", "arctan", "abs")]
        common += [call("exp", 1.0), call("exp", -1.0), *(call(power(k)) for k in (1, 2, 3, 4, 5))]
        most = self.policy.sums if self.precise else int(-np.log10(self.goal) / 2) - 1
        far = [call(power(k)) for k in range(-12, 3) if k]
        for terms in (waves, growth, far, [call(power(k)) for k in wide if k], [call(each) for each in powers], common):
            self.try_terms(terms, most)
            if self.exact():
                return

    def try_sum(
        self, terms: Sequence[Part], constant: float, weight: tuple[Dictionary, int] | None, inverse: Symbolic | None
    ) -> None:
        whole = with_constant(terms, constant)
        if weight is not None:
            whole = Joined("sum", (Joined("product", (whole, unscaled(weight[0].tree(weight[1], 1.0)))),))
        self.keep(whole if inverse is None else Joined("sum", (Call(inverse, whole),)))

    def keep(self, tree: Joined) -> None:
        self.fitted(graph_of(tree))

    def fitted(self, graph: Graph) -> EdgeMatch | None:
        """The match of the graph with all its constants fitted; None where it is not defined."""
        try:
            simple = canonical(graph)
        except (FloatingPointError, ZeroDivisionError):
            return None
        floor = 0.1 * self.goal * self.spread
        settings = RefitSettings(steps=self.policy.steps, floor=floor, damping=1e-6, patience=4)
        fitted = refit(simple, self.t[:, None], self.y, settings)
        loss = (fitted.rmse / self.spread) ** 2
        if not np.isfinite(loss) or not sound(fitted.graph, self.t):
            return None
        name = graph_name(fitted.graph)
        match = EdgeMatch(Subgraph(fitted.graph, name), loss, graph_complexity(fitted.graph), name, self.goal**2)
        self.found.append(match)
        return match


def _left_by_each(values: Array, entries: Array, beside: Array) -> Array:
    """The share of the variance of values (N,) that `beside` (N,) and each of the entries (M, N) leave."""
    q = beside / np.linalg.norm(beside)
    rest = values - (values @ q) * q
    left = rest @ rest - covered(rest, entries, q[:, None])[0]
    return np.asarray(np.nan_to_num(left, nan=np.inf) / np.sum((values - values.mean()) ** 2))


def _unit(t: Array) -> Array:
    return np.asarray((2 * t - t[0] - t[-1]) / (t[-1] - t[0]))
