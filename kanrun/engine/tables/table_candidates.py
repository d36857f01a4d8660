"""Rows of a table, the candidates that suit them, and their variances."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, repeat

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from kanrun.engine.tables.candidate_forms import (
    COMPONENTS,
    NEIGHBOURHOODS,
    CandidateSolution,
    Form,
    Functions,
    Kernels,
)
from kanrun.engine.tables.design import Design
from kanrun.engine.tables.gaussian_process import KernelPrior, RadialBasis, fit_kernel
from kanrun.engine.tables.reduced_basis import (
    Columns,
    PerRow,
    ReducedBasis,
    RowInputs,
    RowOutputs,
    Rows,
    blocks,
)
from kanrun.engine.tables.variance_components import (
    EvidencePolicy,
    Variances,
    estimate,
)

PAIR_FUNCTIONS, LONG_PAIR_FUNCTIONS = 8, 4  # smooth functions of an input in pairs
MAX_PAIRS = 24  # of a table with too many rows for kernels and too many pairs for functions
# From which variances are estimated, over rows and over functions.
EVIDENCE_ROWS, MAX_ROWS = 400, 4000
# Weight in pairs of an input without effect, relative to the one with the largest.
_RELEVANCE = 0.05
_MIN_EFFECT = 1e-3  # weight in the sparse fit of such an input
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


#: Solutions of a candidate for each output, and its variances.
Solved = tuple[list[CandidateSolution], list[Variances]]


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of one table, with its design, their functions h, and the chosen pairs.

    `is_long` says whether the table has too many rows, or shapes, for kernels of pairs.
    """

    u: RowInputs
    weights: PerRow
    policy: EvidencePolicy
    classes: int
    is_long: bool
    design: Design
    h: Columns
    chosen: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(u: ndarray, weights: ndarray, policy: EvidencePolicy, classes: int = 1) -> TableRows:
        """Build the functions of these rows; all inputs are equally relevant."""
        limit = (policy.max_work / classes) ** (1 / 3) if classes > 1 else policy.dense_rows
        is_long = len(u) > limit or bool(policy.shapes)
        paired = LONG_PAIR_FUNCTIONS if is_long else PAIR_FUNCTIONS
        basis = ReducedBasis.of(u, policy.functions, policy.step_functions, weights)
        design = Design(basis, paired, policy.shapes, np.ones(u.shape[1]))
        return TableRows(u, weights, policy, classes, is_long, design, design.columns(u))

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
            return Kernels(name, h[:], self.design)
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

    def _effects(self, found: Sequence[CandidateSolution]) -> ndarray:
        """Return the size of each input's effect, the largest being 1."""
        basis = self.design.basis
        squares = np.zeros(len(basis.places))
        for h in map(self.h.__getitem__, blocks(len(self.u))):
            for j, mine in enumerate(basis.places):
                main = np.stack([one.terms.main[mine] for one in found], 1)
                squares[j] += float(((np.take(h, mine, 1) @ main) ** 2).sum())
        largest = squares.max(initial=0.0)
        return np.sqrt(squares / largest) if largest > 0 else np.ones_like(squares)

    def narrowed(self, found: Sequence[CandidateSolution], to: TableRows) -> TableRows:
        """Return `to` with prior variances in proportion to the effects of the inputs here."""
        factors = np.sqrt(self._effects(found) + _MIN_EFFECT)[self.design.basis.column]
        h = Columns(lambda rows: to.h[rows] * factors, *to.h.shape)
        return replace(to, design=to.design.scaled(factors), h=h)

    def with_neighbourhoods(self, outputs: RowOutputs, start: Design | None) -> TableRows:
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

        def functions(rows: Rows) -> ndarray:
            return np.concatenate([self.h[rows], radial.values(self.u[rows])], 1)

        design = replace(self.design, radial=radial)
        return replace(self, design=design, h=Columns(functions, len(self.u), len(design.main)))

    def solve(self, name: str, outputs: RowOutputs, starts: Sequence[Variances] | None) -> Solved:
        """Return a candidate's solution and variances for each output of numbers."""
        first: Variances | None = None
        if (radial := self.design.radial) is not None:
            kernel = radial.kernel
            first = np.array([kernel.linear / self.u.shape[1], kernel.radial]), kernel.noise
        some = self.sampled(name)
        form, noise = self.form(name, some), 1 / self.weights
        whole = form if len(some) == len(outputs) else self.form(name)
        policy = self.policy.refining(*self.u.shape) if starts else self.policy
        solutions, found = [], []
        for y, start in zip(outputs.T, starts or repeat(first), strict=False):
            problem = form.problem(noise[some], y[some])
            known = estimate(problem, policy, start)
            problem = problem if whole is form else whole.problem(noise, y)
            solutions.append(whole.solution(problem, *known))
            found.append(known)
        return solutions, found
