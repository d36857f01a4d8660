"""Candidates of a table: their components over rows or functions, and their solution."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, repeat

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kanrun.engine.tables.design import KINDS, RADIAL, Design, TableFunctions, Terms
from kanrun.engine.tables.gaussian_process import KernelPrior, RadialBasis, fit_kernel
from kanrun.engine.tables.reduced_basis import ReducedBasis, blocks
from kanrun.engine.tables.variance_components import (
    EvidencePolicy,
    FunctionProblem,
    KernelProblem,
    Variances,
    estimate,
)

NEIGHBOURHOODS = "neighbourhoods"
#: The candidates by name, and the components of each.
COMPONENTS = {
    "linear": (0,),
    "additive": (0, 1),
    "steps": (0, 1, 2),
    "pairs": tuple(range(RADIAL)),
    NEIGHBOURHOODS: (0, RADIAL),
}
PAIR_FUNCTIONS, LONG_PAIR_FUNCTIONS = 8, 4  # smooth functions of an input in pairs
MAX_PAIRS = 24  # of a table with too many rows for kernels and too many pairs for functions
# From which variances are estimated, over rows and over functions.
EVIDENCE_ROWS, MAX_ROWS = 400, 4000
# Weight in pairs of an input without effect, relative to the one with the largest.
_RELEVANCE = 0.05
_MIN_EFFECT = 1e-3  # weight in the sparse fit of such an input
_STORED = 1 << 22  # numbers of a candidate's columns that are kept in memory
_RADIAL_MIN_ROWS, _RADIAL_INPUTS = 30, 200  # of tables with neighbourhoods: fewest and most
_RADIAL_ROWS, _RADIAL_CENTRES = 1500, 300  # among which centres are chosen, and of these at most
_SMALL_WORK = 0.1  # of the work that the policy allows
_RADIAL_WORK = 2e7  # inputs x rows^2 from which hyperparameters are estimated
_LIMIT = float(np.exp(14.0))  # of hyperparameters, and its inverse
# Variance of the radial part, so that its truncation costs at most 1% of the output.
_RADIAL_MAX = 10.0
# Of neighbourhoods; precisions start at 1 / inputs, so that their sum is near 1.
_PRIOR = KernelPrior(
    precision=(1.0, 1 / _LIMIT, _LIMIT),
    linear=(0.3, 1 / _LIMIT, _LIMIT),
    radial=(0.5, 1 / _LIMIT, _RADIAL_MAX),
    noise=(0.2, 1e-6, 20.0),
    precision_std=1.5,
    variance_std=3.0,
)


@dataclass(frozen=True, eq=False)
class CandidateSolution:
    """A candidate's solution for one output.

    Attributes:
        terms: The most probable terms.
        weights: Residuals over the variance of each row's noise, shape (rows,).
        left_out: Prediction of each row by all others, for the same variances, shape (rows,).
        covariance: Of the main effects of each input, shape (functions, functions).
        effective: Effective degrees of freedom of the main effects.
    """

    terms: Terms
    weights: ndarray
    left_out: ndarray
    covariance: tuple[ndarray, ...]
    effective: float


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of one table, with its design, their functions h, and the chosen pairs.

    `is_long` says whether the table has too many rows, or shapes, for kernels of pairs.
    """

    u: Float[ndarray, "rows inputs"]
    weights: Float[ndarray, " rows"]
    policy: EvidencePolicy
    classes: int
    is_long: bool
    design: Design
    h: TableFunctions
    chosen: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(u: ndarray, weights: ndarray, policy: EvidencePolicy, classes: int = 1) -> TableRows:
        """Build the functions of these rows; all inputs are equally relevant."""
        limit = (policy.max_work / classes) ** (1 / 3) if classes > 1 else policy.dense_rows
        is_long = len(u) > limit or bool(policy.shapes)
        paired = LONG_PAIR_FUNCTIONS if is_long else PAIR_FUNCTIONS
        basis = ReducedBasis.of(u, policy.functions, policy.step_functions, weights)
        design = Design(basis, paired, policy.shapes, np.ones(u.shape[1]))
        h = TableFunctions(design, u)
        return TableRows(u, weights, policy, classes, is_long, design, h)

    @cached_property
    def has_all_pairs(self) -> bool:
        """Whether the products of all pairs are few enough for functions."""
        each = np.bincount(self.design.basis.column[self.design.places], minlength=1)
        products = (each.sum() ** 2 - (each**2).sum()) // 2
        return bool(self.h.shape[1] + products <= min(self.policy.max_functions, len(self.u)))

    @cached_property
    def order(self) -> Int[ndarray, " rows"]:
        """A fixed permutation, whose beginnings are samples: the same rows give the same model."""
        return np.random.default_rng(0).permutation(len(self.u))

    def _over_rows(self, name: str, rows: int) -> bool:
        """Return whether a candidate is solved over rows: it has too many functions."""
        if name == "pairs":
            return not self.is_long and not self.has_all_pairs
        if self.policy.shapes or name == NEIGHBOURHOODS or rows > self.policy.dense_rows:
            return False
        return self._functions(name) > max(self.policy.max_functions // 4, rows)

    def _functions(self, name: str) -> int:
        return int(np.isin(self.design.main, COMPONENTS[name]).sum())

    def sampled(self, name: str, outputs: int = 1) -> Int[ndarray, " sample"]:
        """Return the rows that variances are estimated from, fewer if a step is much work."""
        functions, rows = self._functions(name), len(self.u)
        work = functions**2 * (functions + rows) * (outputs - 1)
        few = self._over_rows(name, rows) or work > _SMALL_WORK * self.policy.max_work
        return np.sort(self.order[: EVIDENCE_ROWS if few else MAX_ROWS])

    def form(self, name: str, rows: Int[ndarray, " sample"] | None = None) -> Form:
        """Return a candidate over its functions or over its rows, all or these."""
        h = self.h if rows is None or len(rows) == len(self.u) else self.h[rows]
        if self._over_rows(name, len(h)):
            return Kernels(name, h, self.design)
        pairs: Iterable[tuple[int, int]] = self.chosen if name == "pairs" else ()
        if name == "pairs" and self.has_all_pairs:
            column = self.design.basis.column[self.design.places]
            pairs = combinations(np.unique(column).tolist(), 2)
        return Functions.of(name, h, self.design, pairs)

    def candidates(self, known: Collection[str] | None) -> tuple[str, ...]:
        """Return the candidates that suit the table; `known` are those of a fit to similar rows.

        Pairs are solved over rows or over the products of few functions, or are little work.
        """
        policy, (count, inputs) = self.policy, self.u.shape
        functions = self.h.shape[1] + MAX_PAIRS * LONG_PAIR_FUNCTIONS**2
        logits = {1: 0, 2: 1}.get(self.classes, self.classes)
        little = count * functions**2 * logits <= _SMALL_WORK * policy.max_work
        local = count >= _RADIAL_MIN_ROWS and inputs <= _RADIAL_INPUTS and not policy.shapes
        suits = {
            "pairs": known is not None or not self.is_long or self.has_all_pairs or little,
            NEIGHBOURHOODS: local,
        }
        return tuple(
            name
            for name in policy.candidates
            if name in (known or policy.candidates)
            and (name not in suits or (inputs > 1 and suits[name]))
        )

    def with_relevance(self, found: Sequence[CandidateSolution]) -> TableRows:
        """Return the rows with inputs weighted for pairs, by the size of their effects.

        If there are too many pairs for functions and too many rows for kernels, the strongest are
        chosen: those in whose coefficients the likelihood is steepest, given these solutions.
        """
        relevance = np.sqrt(self._effects(found)) + _RELEVANCE
        design, chosen = replace(self.design, relevance=relevance), self.chosen
        if self.is_long and not self.has_all_pairs:
            slopes = np.zeros((len(found), *(len(design.places),) * 2))
            for part in blocks(len(self.u)):
                g = np.take(self.h[part], design.places, 1)
                slopes += g.T @ (g * np.stack([one.weights[part, None] for one in found]))
            scale = relevance[design.basis.column[design.places]]
            energy = (slopes**2).sum(0) * np.outer(scale, scale)
            chosen = tuple(design.strongest_pairs(energy, MAX_PAIRS))
        return replace(self, design=design, chosen=chosen)

    def _effects(self, found: Sequence[CandidateSolution]) -> Float[ndarray, " inputs"]:
        """Return the size of each input's effect, the largest being 1."""
        places = self.design.basis.places
        squares = np.zeros(len(places))
        for h in map(self.h.__getitem__, blocks(len(self.u))):
            for j, mine in enumerate(places):
                values = np.take(h, mine, 1)
                squares[j] += sum(
                    float(((values @ one.terms.main[mine]) ** 2).sum()) for one in found
                )
        largest = squares.max(initial=0.0)
        return np.sqrt(squares / largest) if largest > 0 else np.ones_like(squares)

    def narrowed(self, found: Sequence[CandidateSolution], to: TableRows) -> TableRows:
        """Return `to` with prior variances in proportion to the effects of the inputs here."""
        factors = np.sqrt(self._effects(found) + _MIN_EFFECT)[self.design.basis.column]
        design = to.design.scaled(factors)
        return replace(to, design=design, h=to.h.scaled(design, factors))

    def with_neighbourhoods(
        self, outputs: Float[ndarray, "rows outputs"], start: Design | None
    ) -> TableRows:
        """Return the rows with neighbourhoods for these outputs.

        `start` is the design of similar rows.
        """
        policy, inputs = self.policy, self.u.shape[1]
        some = self.order[: min(EVIDENCE_ROWS, int(np.sqrt(_RADIAL_WORK / inputs)))]
        std = outputs.std(0)
        _, low, high = _PRIOR.precision
        kernel = fit_kernel(
            self.u[some],
            (outputs[some] - outputs.mean(0)) / np.where(std > 0, std, 1.0),
            replace(_PRIOR, precision=(1 / inputs, low, high)),
            row_noise=1 / self.weights[some],
            start=start.radial.kernel if start and start.radial else None,
            max_steps=(policy.refining(*self.u.shape) if start else policy).kernel_steps,
        )
        radial = RadialBasis.of(
            self.u,
            self.order[:_RADIAL_ROWS],
            kernel,
            policy.omitted * kernel.noise / kernel.radial,
            min(_RADIAL_CENTRES, int(np.sqrt(policy.max_work / len(self.u)))),
        )
        design = replace(self.design, radial=radial)
        return replace(self, design=design, h=TableFunctions(design, self.u))

    def fit_numbers(
        self, name: str, y: Float[ndarray, "rows outputs"], starts: Sequence[Variances] | None
    ) -> tuple[list[CandidateSolution], list[Variances]]:
        """Return a candidate's solution and variances for each output of numbers."""
        first: Variances | None = None
        if (radial := self.design.radial) is not None:
            kernel = radial.kernel
            first = np.array([kernel.linear / self.u.shape[1], kernel.radial]), kernel.noise
        some = self.sampled(name)
        form, noise = self.form(name, some), 1 / self.weights
        whole = form if len(some) == len(y) else self.form(name)
        policy = self.policy.refining(*self.u.shape) if starts else self.policy
        solutions, found = [], []
        for t, start in zip(y.T, starts or repeat(first), strict=False):
            known = estimate(form.problem(noise[some], t[some]), policy, start)
            solutions.append(whole.solution(noise, t, *known))
            found.append(known)
        return solutions, found


class Kernels:
    """A candidate over rows: a kernel for each of its components."""

    def __init__(self, name: str, h: ndarray | TableFunctions, design: Design) -> None:
        self._h, self._design, self._components = h[:], design, list(COMPONENTS[name])
        self._kernels = design.kernels(self._h, self._components)

    def problem(self, noise: ndarray, y: ndarray) -> KernelProblem:
        """Return the problem of rows y with these variances of their noise."""
        return KernelProblem(self._kernels, noise, y)

    def fitted(self, noise: ndarray, y: ndarray, variances: ndarray) -> ndarray:
        """Return the fitted values."""
        return np.asarray(y - noise * self.problem(noise, y).posterior(variances).weights)

    def solution(
        self, noise: ndarray, y: ndarray, variances: ndarray, scale: float = 1.0
    ) -> CandidateSolution:
        """Return the terms for given variances of the components and of the noise."""
        found, h = self.problem(noise, y).posterior(variances, scale), self._h
        projection = found.projection()
        whole = np.zeros(KINDS)
        whole[self._components] = variances
        prior = whole[self._design.main]
        scaled = h * prior
        product = projection @ scaled
        places = self._design.basis.places
        known = prior > 0
        return CandidateSolution(
            self._design.terms(h, found.offset, found.weights, whole),
            found.weights,
            y - found.weights / np.diag(projection),
            tuple(np.diag(prior[p]) - scaled[:, p].T @ product[:, p] for p in places),
            float((np.einsum("ij,ij->j", scaled, product)[known] / prior[known]).sum()),
        )


@dataclass(frozen=True, eq=False)
class Functions:
    """A candidate over functions: `kept` ones of single inputs, then products h_a h_b."""

    h: ndarray | TableFunctions
    a: ndarray
    b: ndarray
    kinds: ndarray
    scale: ndarray
    kept: ndarray
    components: int
    design: Design
    constraints: ndarray | None

    @staticmethod
    def of(
        name: str, h: ndarray | TableFunctions, design: Design, pairs: Iterable[tuple[int, int]]
    ) -> Functions:
        """Return the functions of the candidate's components."""
        a, b = design.products(pairs)
        kinds, scale = design.kinds(a, b)
        kept = np.flatnonzero(np.isin(kinds, COMPONENTS[name]))
        kinds = np.searchsorted(COMPONENTS[name], kinds)
        conditions = design.constraints
        if conditions is not None:
            conditions = np.pad(conditions, ((0, 0), (0, len(a))))[:, kept] * scale[kept]
        count = len(COMPONENTS[name])
        return Functions(h, a, b, kinds[kept], scale[kept], kept, count, design, conditions)

    def __call__(self, part: slice) -> ndarray:
        """Return the columns of these rows."""
        few = len(self.h) * (self.h.shape[1] + len(self.a)) <= _STORED
        return self._every[part] if few else self._of(part)

    @cached_property
    def _every(self) -> ndarray:
        return self._of(slice(None))

    def _of(self, part: slice) -> ndarray:
        h = self.h[part]
        if not len(self.a):
            return np.take(h, self.kept, 1)
        a, b = (np.take(h, one, 1) for one in (self.a, self.b))  # ten times faster than h[:, one]
        return np.concatenate([h, a * b * self.scale[h.shape[1] :]], 1)

    def problem(self, noise: ndarray, y: ndarray) -> FunctionProblem:
        """Return the problem of rows y with these variances of their noise."""
        return FunctionProblem.of(self, self.kinds, self.components, 1 / noise, y)

    def fitted(self, noise: ndarray, y: ndarray, variances: ndarray) -> ndarray:
        """Return the fitted values."""
        kept = np.flatnonzero(variances[self.kinds] > 0)

        def columns(part: slice) -> ndarray:
            return np.take(self(part), kept, 1) if len(kept) < len(self.kinds) else self(part)

        problem = FunctionProblem.of(columns, self.kinds[kept], self.components, 1 / noise, y)
        bound = None if self.constraints is None else self.constraints[:, kept]
        found = problem.posterior(variances, constraints=bound)
        parts = [found.offset + columns(part) @ found.coefficients for part in blocks(len(y))]
        return np.concatenate(parts)

    def solution(
        self, noise: ndarray, y: ndarray, variances: ndarray, scale: float = 1.0
    ) -> CandidateSolution:
        """Return the terms for given variances of the components and of the noise."""
        problem, weights = self.problem(noise, y), 1 / (scale * noise)
        found = problem.posterior(variances, scale, self.constraints)
        covariance = found.covariance()
        fitted, left_out = problem.rows(found, self, weights, y)
        count, design = self.h.shape[1], self.design
        every = np.zeros(count + len(self.a))
        every[self.kept] = found.coefficients * self.scale
        terms = Terms(found.offset, every[:count])
        if len(self.a):
            a, b = (np.searchsorted(design.places, one) for one in (self.a, self.b))
            pairs = np.zeros((len(design.places),) * 2)
            pairs[a, b] = pairs[b, a] = every[count:]
            terms = replace(terms, pairs=pairs, places=design.places)
        spread = []
        for mine in design.basis.places:
            here = np.flatnonzero(np.isin(self.kept, mine))
            place = np.searchsorted(mine, self.kept[here])
            part = np.zeros((len(mine),) * 2)
            part[np.ix_(place, place)] = covariance[np.ix_(here, here)]
            spread.append(part)
        main = found.kept[self.kept[found.kept] < count]
        effective = (1 - np.diag(covariance)[main] / variances[self.kinds[main]]).sum()
        return CandidateSolution(
            terms, weights * (y - fitted), left_out, tuple(spread), float(effective)
        )


Form = Kernels | Functions
