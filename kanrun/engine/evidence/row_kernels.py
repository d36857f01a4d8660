"""The rows of a table as kernels or columns of each member's variance components, and their solution."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kanrun.engine.evidence.basis import ReducedBasis
from kanrun.engine.evidence.components import (
    FunctionPosterior,
    Moments,
    estimate,
    estimate_of_moments,
    slope,
    slope_of_moments,
    solve,
    weights_of,
)
from kanrun.engine.evidence.design import KINDS, MAIN, RADIAL, Design, TableFunctions, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.radial import RadialBasis

#: The candidates, and of which components each is.
COMPONENTS = {
    "linear": (0,),
    "additive": (0, 1),
    "steps": (0, 1, 2),
    "pairs": tuple(range(RADIAL)),
    "neighbourhoods": (0, RADIAL),
}
_SIZED = 4096  # rows by which the size of a component is judged
_HELD = 1 << 22  # numbers of a candidate's columns that are held and not made anew
Start = tuple[ndarray, float]  # variances of components and of the noise


Blocks = tuple[ndarray, ...]  # covariances of the functions of each input


@dataclass(frozen=True, eq=False)
class RowsSolution:
    """The terms of an output; `weights` (rows,) are what is left of each row over the variance of its noise."""

    terms: Terms
    weights: ndarray
    left_out: ndarray
    covariance: Blocks
    effective: float


class MemberRows:
    """What the fits of one table share: scaled functions and their kinds, kernels, and samples of rows."""

    def __init__(
        self, u: ndarray, weights: ndarray, policy: EvidencePolicy, classes: int = 1
    ) -> None:
        self.policy, self.weights, self.u, self.classes = policy, weights, u, classes
        most = (
            (policy.most_work / classes) ** (1 / 3) if classes > 1 else policy.dense_rows
        )  # rows of kernels of pairs
        self.too_long = len(u) > most or bool(policy.shapes)
        paired = policy.long_pair_functions if self.too_long else policy.pair_functions
        self.design = Design.of(
            ReducedBasis.of(u, policy, weights), replace(policy, pair_functions=paired)
        )
        self.h = TableFunctions(self.design, u)
        self.scale = np.ones(self.h.shape[1])  # of the functions in h beside those of the design
        self.order = order = np.random.default_rng(0).permutation(
            len(u)
        )  # fixed: the same rows give the same model
        self.sample = np.sort(order[: policy.evidence_rows])
        self.longer = np.sort(order[: policy.most_rows])
        enough = self.h.shape[1] + self.design.products <= min(policy.most_functions, len(u))
        self.pairs = self.design.all_pairs() if enough else []
        self.some_pairs = self.too_long and not enough  # those that `relevant` chooses
        self._kernels: list[ndarray] = []

    def functions(self, name: str) -> int:
        """How many functions of single inputs a candidate has."""
        return int(np.isin(self.design.main, COMPONENTS[name]).sum())

    def over_rows(self, name: str, rows: int) -> bool:
        """Whether a candidate is solved over so many rows: with all pairs of many inputs, or with more functions."""
        if name == "pairs":
            return not self.pairs and not self.too_long
        return (
            not self.policy.shapes
            and RADIAL not in COMPONENTS[name]
            and self.functions(name) > max(self.policy.most_functions // 4, rows)
            and rows <= self.policy.dense_rows
        )

    def sampled(self, name: str, outputs: int = 1) -> ndarray:
        """The rows from which the variances of a candidate are estimated."""
        functions = self.functions(name)
        work = (
            functions**2 * (functions + len(self.h)) * (outputs - 1)
        )  # of one step for all classes
        if self.over_rows(name, len(self.h)) or work > self.policy.most_work / 10:
            return self.sample
        return np.arange(len(self.h)) if len(self.h) <= self.policy.most_rows else self.longer

    def of(self, name: str, rows: ndarray | None = None) -> Form:
        """A candidate over its functions or over these rows."""
        whole = rows is None or len(rows) == len(self.h)
        h = self.h if rows is None or whole else self.h[rows]
        if self.over_rows(name, len(h)):
            return _Kernels(self._kernels_of(name, h[:], whole))
        a, b = self.design.pair_columns(self.pairs if name == "pairs" else [])
        kinds, scale = self.design.kinds(a, b)
        kept = np.flatnonzero(np.isin(kinds, COMPONENTS[name]))
        kinds = np.searchsorted(COMPONENTS[name], kinds)
        conditions = self.design.constraints
        if conditions is not None:
            padded = np.concatenate([conditions, np.zeros((len(conditions), len(a)))], 1)
            conditions = padded[:, kept] * scale[kept]
        return _Columns(h, a, b, kinds[kept], scale[kept], kept, self.design, conditions)

    def _kernels_of(self, name: str, h: ndarray, whole: bool) -> list[ndarray]:
        """Those of a candidate; those of all rows are kept."""
        main = self._kernels[:MAIN] if whole else []
        pairs = self._kernels[MAIN:] if whole else []
        main = main or self.design.main_kernels(h)
        if name == "pairs":
            pairs = pairs or self.design.pair_kernels(h)
        if whole:
            self._kernels = main + pairs
        return (main + pairs)[: len(COMPONENTS[name])]

    def relevant(self, found: Sequence[RowsSolution]) -> None:
        """Inputs with large effects are more likely to take part in pairs.

        Where there are too many pairs for functions and too many rows for kernels, the strongest are chosen by the
        slopes of the likelihood in their coefficients, at what these solutions leave.
        """
        self.design = self.design.with_relevance(
            np.sqrt(self._shares([f.terms for f in found])) + self.policy.relevance
        )
        self._kernels = self._kernels[:MAIN]
        if not self.some_pairs:
            return
        slopes = np.zeros((len(found), *(len(self.design.places),) * 2))
        for start, h in self.h.blocks():
            g = np.take(h, self.design.places, 1)
            left = np.stack([one.weights[start : start + len(h), None] for one in found])
            slopes += g.T @ (g * left)
        scale = self.design.relevance[self.design.basis.column[self.design.places]]
        self.pairs = self.design.strongest_pairs(
            (slopes**2).sum(0) * np.outer(scale, scale), self.policy.most_pairs
        )

    def _shares(self, terms: Sequence[Terms]) -> Float[ndarray, " inputs"]:
        """The size of each input's effect, the largest 1."""
        places = self.design.basis.places
        effects = np.zeros((len(terms), len(places)))
        for _, h in self.h.blocks():
            for j, one in enumerate(places):
                values = h[:, one] / self.scale[one]
                effects[:, j] += [float(((values @ t.main[one]) ** 2).sum()) for t in terms]
        effects = np.sqrt(effects.sum(0) / len(self.h))
        largest = effects.max(initial=0.0)
        return effects / largest if largest > 0 else np.ones_like(effects)

    def narrowed(self, terms: Sequence[Terms]) -> MemberRows:
        """The same rows with the variance of each input's functions in proportion to the size of its effect."""
        scale = np.sqrt(self._shares(terms) + self.policy.least_share)[self.design.basis.column]
        other = copy(self)
        other.h, other.scale, other._kernels = self.h.scaled(scale / self.scale), scale, []
        if self.design.constraints is not None:
            other.design = replace(
                self.design, constraints=self.design.constraints * scale / self.scale
            )
        return other

    def near(self, outputs: Float[ndarray, "rows outputs"], start: Design | None) -> MemberRows:
        """The same rows with neighbourhoods for these outputs; `start` is the design of similar rows."""
        other = copy(self)
        known = start.radial if start else None
        radial = RadialBasis.of(self.u, outputs, self.weights, self.order, self.policy, known)
        other.design, other._kernels = replace(self.design, radial=radial), []
        other.h = TableFunctions(other.design, self.u)
        other.scale = np.ones(other.h.shape[1])
        return other

    def solve(self, name: str, variances: ndarray, noise: ndarray, y: ndarray) -> RowsSolution:
        """The candidate's terms for given variances of its components and of each row's noise."""
        form = self.of(name)
        if isinstance(form, _Columns):
            return self._in_units(form.solution(form.posterior(variances, noise, y), 1 / noise, y))
        found = solve(form.kernels, variances, noise, y)
        whole = np.zeros(len(KINDS))
        whole[list(COMPONENTS[name])] = variances
        h = self.h[:]
        terms = self.design.terms(h, found.offset, found.weights, whole)
        prior = whole[self.design.main]
        scaled = h * prior
        product = found.projection @ scaled
        places = self.design.basis.places
        spread = tuple(np.diag(prior[one]) - scaled[:, one].T @ product[:, one] for one in places)
        known = prior > 0
        effective = float((np.einsum("ij,ij->j", scaled, product)[known] / prior[known]).sum())
        return self._in_units(
            RowsSolution(terms, found.weights, found.left_out(y), spread, effective)
        )

    def _in_units(self, found: RowsSolution) -> RowsSolution:
        """The solution in terms of the design's functions."""
        pairs = zip(found.covariance, self.design.basis.places, strict=True)
        covariance = tuple(part * np.outer(self.scale[one], self.scale[one]) for part, one in pairs)
        return replace(
            found,
            terms=replace(found.terms, main=found.terms.main * self.scale),
            covariance=covariance,
        )

    def numbers(
        self, name: str, y: Float[ndarray, "rows outputs"], starts: Sequence[Start | None] | None
    ) -> tuple[list[RowsSolution], list[Start]]:
        """The variances of a candidate and its terms for each output of numbers."""
        some, components = self.sampled(name), len(COMPONENTS[name])
        if starts is None and self.design.radial is not None:
            line, radial, rest = self.design.radial.variances
            starts = [(np.array([line / self.u.shape[1], radial]), rest)] * y.shape[1]
        outputs = list(zip(y.T, starts or [None] * y.shape[1], strict=True))
        form = self.of(name, some)
        if isinstance(form, _Kernels) or len(some) < len(y):
            weights = self.weights[some]
            known = [
                form.estimate(t[some], weights, components, self.policy, start)
                for t, start in outputs
            ]
            problems = zip(known, y.T, strict=True)
            return [
                self.solve(name, variances, noise / self.weights, t)
                for (variances, noise), t in problems
            ], known
        found, known = [], []
        for t, start in outputs:
            moments = Moments.of(
                form, self.weights, t
            )  # the most work of a long table: once for both
            variances, noise = estimate_of_moments(
                moments, form.kinds, components, self.policy, start
            )
            posterior = moments.posterior(variances[form.kinds], noise, form.constraints)
            found.append(self._in_units(form.solution(posterior, self.weights, t)))
            known.append((variances, noise))
        return found, known


@dataclass(frozen=True, eq=False)
class _Kernels:
    """A candidate over rows: a kernel per component."""

    kernels: list[ndarray]

    def sizes(self, components: int, weights: ndarray) -> ndarray:
        return np.array(
            [np.average(np.diag(kernel), weights=weights) for kernel in self.kernels[:components]]
        )

    def estimate(
        self,
        y: ndarray,
        weights: ndarray,
        components: int,
        policy: EvidencePolicy,
        start: Start | None,
    ) -> Start:
        return estimate(self.kernels[:components], y, weights, policy, start)

    def fitted(self, variances: ndarray, noise: ndarray, y: ndarray) -> ndarray:
        return np.asarray(y - noise * weights_of(self.kernels, variances, noise, y))

    def slope(self, variances: ndarray, noise: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
        return slope(self.kernels, variances, solve(self.kernels, variances, noise, y), None, y)


@dataclass(frozen=True, eq=False)
class _Columns:
    """A candidate over functions: those `kept` of single inputs, or all of them and then products h_a h_b.

    Each has its kind and its scale, which is 1 for single inputs.
    """

    h: ndarray | TableFunctions
    a: ndarray
    b: ndarray
    kinds: ndarray
    scale: ndarray
    kept: ndarray
    design: Design
    constraints: ndarray | None = None

    def __call__(self, part: slice) -> ndarray:
        if len(self.h) * (self.h.shape[1] + len(self.a)) <= _HELD:
            return self._every[part]
        return self._of(part)

    @cached_property
    def _every(self) -> ndarray:
        return self._of(slice(None))

    def _of(self, part: slice) -> ndarray:
        h = self.h[part]
        if not len(self.a):
            return np.take(h, self.kept, 1)
        a, b = (
            np.take(h, index, 1) for index in (self.a, self.b)
        )  # np.take: ten times faster than h[:, index]
        return np.concatenate([h, a * b * self.scale[h.shape[1] :]], 1)

    def sizes(self, components: int, weights: ndarray) -> ndarray:
        squares = np.average(self(slice(0, _SIZED)) ** 2, 0, weights[:_SIZED])
        return np.array([squares[self.kinds == g].sum() for g in range(components)])

    def estimate(
        self,
        y: ndarray,
        weights: ndarray,
        components: int,
        policy: EvidencePolicy,
        start: Start | None,
    ) -> Start:
        return estimate_of_moments(
            Moments.of(self, weights, y), self.kinds, components, policy, start
        )

    def fitted(self, variances: ndarray, noise: ndarray, y: ndarray) -> ndarray:
        prior = variances[self.kinds]
        if self.constraints is not None:
            return self.posterior(variances, noise, y).fitted(self, len(y))
        kept = np.flatnonzero(prior > 0)

        def columns(part: slice) -> ndarray:
            return np.take(self(part), kept, 1) if len(kept) < len(prior) else self(part)

        return Moments.of(columns, 1 / noise, y).fitted(columns, prior[kept], len(y))

    def posterior(self, variances: ndarray, noise: ndarray, y: ndarray) -> FunctionPosterior:
        return Moments.of(self, 1 / noise, y).posterior(
            variances[self.kinds], 1.0, self.constraints
        )

    def slope(self, variances: ndarray, noise: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
        return slope_of_moments(
            Moments.of(self, 1 / noise, y), self.kinds, variances, 1.0, known=True
        )

    def solution(self, posterior: FunctionPosterior, weights: ndarray, y: ndarray) -> RowsSolution:
        """The terms of a posterior over these functions."""
        fitted, left_out = posterior.rows(self, weights, y)
        count = self.h.shape[1]
        every = np.zeros(count + len(self.a))
        every[self.kept] = posterior.coefficients * self.scale
        pairs = None
        if len(self.a):
            a, b = (np.searchsorted(self.design.places, one) for one in (self.a, self.b))
            pairs = np.zeros((len(self.design.places),) * 2)
            pairs[a, b] = pairs[b, a] = every[count:]
        main = self.kept < count
        spread = []
        for mine in self.design.basis.places:
            here = main & np.isin(self.kept, mine)
            place = np.searchsorted(mine, self.kept[here])
            part = np.zeros((len(mine),) * 2)
            part[np.ix_(place, place)] = posterior.covariance[np.ix_(here, here)]
            spread.append(part)
        terms = Terms(
            posterior.offset, every[:count], pairs, None if pairs is None else self.design.places
        )
        return RowsSolution(
            terms, weights * (y - fitted), left_out, tuple(spread), posterior.effective(main)
        )


Form = _Kernels | _Columns
