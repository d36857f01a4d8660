"""Rows of a table, the candidates that suit them, and their variances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from kanrun.engine.tables.design import RADIAL, Design, Terms
from kanrun.engine.tables.gaussian_process import KernelPrior, RadialBasis, fit_kernel, inverse_of
from kanrun.engine.tables.reduced_basis import (
    MIN_STEPS,
    Columns,
    PerRow,
    ReducedBasis,
    RowInputs,
    RowOutputs,
    Rows,
    blocks,
    exclude_each_other,
    has_two_values,
    spaced,
)
from kanrun.engine.tables.variance_components import (
    FunctionProblem,
    TablePolicy,
    Variances,
    estimate,
    widened,
)

NEIGHBOURHOODS = "neighbourhoods"
#: Nodes of jumps for the outputs, and for what the other candidates leave.
JUMPS, OTHER_JUMPS = "jumps", "remaining jumps"
#: The candidates by name, and the components of each.
COMPONENTS = {
    "linear": (0,),
    "additive": (0, 1),
    "steps": (0, 1, 2),
    "pairs": tuple(range(RADIAL)),
    NEIGHBOURHOODS: (0, RADIAL),
}
#: Candidates without pairs, the richest first.
SIMPLE = ("steps", "additive")
# Smooth functions of an input in pairs, if all pairs are few functions, or else in the strongest
# pairs; the maximum number of these, and the number of rows for each.
PAIR_FUNCTIONS, CHOSEN_FUNCTIONS, MAX_PAIRS, _PAIR_ROWS = 8, 4, 24, 16
_MIN_FUNCTIONS = 150  # of all inputs, however few the rows
# From which variances are estimated: of classes if a step is much work, and of others.
EVIDENCE_ROWS, MAX_ROWS = 400, 4000
# Rows from which the kernel is estimated, and centres: a tenth of the rows, within these limits; or
# a fifth of them less `_MANY_FROM` centres, if these are more. On 12,000 rows of a smooth function
# of 8 inputs R2 is 0.840 with 300 centres, and 0.926 with 1000 centres and rows (xgboost: 0.879);
# on 10,125 rows of 26 readings of 6 hidden states 0.887 with 1000, 0.907 with 2000 centres.
_RADIAL_EACH, _KERNEL_ROWS, _RADIAL_CENTRES = 10, (EVIDENCE_ROWS, 1000), (300, 2000)
_MANY_EACH, _MANY_FROM = 5, 500
# Weight in pairs of an input without effect, relative to the one with the largest.
_RELEVANCE = 0.05
_MIN_EFFECT = 1e-3  # weight in the sparse fit of such an input
_RADIAL_MIN_ROWS, _RADIAL_INPUTS = 30, 200  # of tables with neighbourhoods: fewest and most
_RADIAL_ROWS, _RADIAL_AMONG = 1500, 3  # fewest among which centres are chosen, and for each centre
_SMALL_WORK = 0.0125  # of the work that the policy allows
_RADIAL_WORK = 2e7  # inputs x rows^2 from which hyperparameters are estimated
#: Numbers of the covariances of all outputs up to which these are kept: 256 MiB.
_MAX_KEPT = 1 << 25
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
class MainPosterior:
    """Distribution of the coefficients of the functions of single inputs.

    Attributes:
        mean: Most probable coefficients, shape (functions,).
        covariance: Their covariance, shape (functions, functions).
        prior: Prior variances, shape (functions,); 0 for functions that are left out.
    """

    mean: ndarray
    covariance: ndarray
    prior: ndarray

    def degrees_of_freedom(self, places: ndarray) -> float:
        """Return the effective number of coefficients: the sum of 1 - V_kk / P_k."""
        known = places[self.prior[places] > 0]
        return float((1 - self.covariance[known, known] / self.prior[known]).sum())

    def log_bayes_factor(self, places: ndarray) -> float:
        """Return the logarithm of the evidence for these functions, over that without them.

        The prior variances P are given, so it is the density of zero before the data over that
        after them (J. Dickey, Annals of Mathematical Statistics 42 (1971) 204-223):
        (m' V^-1 m + log det V - log det P) / 2.
        """
        known = places[self.prior[places] > 0]
        mean, covariance = self.mean[known], self.covariance[np.ix_(known, known)]
        size = np.linalg.slogdet(covariance)[1] - np.log(self.prior[known]).sum()
        return float(mean @ np.linalg.solve(covariance, mean) + size) / 2


#: Function that computes the posterior of an output, None if that is not kept. If the second
#: argument is true, it allows for the uncertainty of the variances.
Posterior = Callable[[int, bool], MainPosterior | None]


@dataclass(frozen=True, eq=False)
class CandidateSolution:
    """A candidate's solution for all outputs.

    Attributes:
        terms: The most probable terms.
        slopes: Residuals over the variance of each row's noise, shape (rows, outputs).
        left_out: Prediction of each row by all others, for the same variances, shape (rows,
            outputs).
        variances: Variances of each output.
        posterior: Function that computes the posterior of an output, which only reports need.
    """

    terms: Terms
    slopes: RowOutputs
    left_out: RowOutputs
    variances: Sequence[Variances]
    posterior: Posterior


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of one table, with its design, their functions h, and the pairs, all or chosen ones.

    `logits` is their number, 0 for outputs that are numbers.
    """

    u: RowInputs
    weights: PerRow
    policy: TablePolicy
    logits: int
    design: Design
    h: Columns
    pairs: tuple[tuple[int, int], ...]
    has_all_pairs: bool

    @staticmethod
    def of(u: ndarray, weights: ndarray, policy: TablePolicy, logits: int = 0) -> TableRows:
        """Build the functions of these rows; all inputs are equally relevant."""
        rows, inputs = u.shape
        most = int(min(policy.max_functions, max(_MIN_FUNCTIONS, policy.per_row * rows)))
        binary = int(has_two_values(u).sum())  # each has one function
        each = max(most - binary, most // 2) // max(inputs - binary, 1)
        smooth = min(policy.functions, max(2, each // 3))
        steps = min(policy.step_functions, max(MIN_STEPS, each - smooth))
        basis = ReducedBasis.of(u, smooth, steps, weights)
        ones = np.ones(inputs), np.ones(len(basis.column))
        apart = exclude_each_other(u[spaced(rows, MAX_ROWS)])
        design = Design(basis, PAIR_FUNCTIONS, policy.shapes, *ones, apart)
        paired = combinations(np.unique(basis.column[design.places]).tolist(), 2)
        pairs = tuple(pair for pair in paired if not apart[pair])
        has_all = len(design.products(pairs)[-1]) <= min(policy.max_functions, rows)
        if not has_all:
            design, pairs = replace(design, pair_functions=CHOSEN_FUNCTIONS), ()
        return TableRows(u, weights, policy, logits, design, basis.columns(u), pairs, has_all)

    @cached_property
    def order(self) -> Int[ndarray, " rows"]:
        """A fixed permutation, whose beginnings are samples: the same rows give the same model."""
        return np.random.default_rng(0).permutation(len(self.u))

    @cached_property
    def is_much_work(self) -> bool:
        """True if one step for the logits of classes is much work."""
        functions = self.h.shape[1] + MAX_PAIRS * CHOSEN_FUNCTIONS**2
        return len(self.u) * functions**2 * self.logits > _SMALL_WORK * self.policy.max_work

    @cached_property
    def sample(self) -> Int[ndarray, " sample"]:
        """Rows that variances are estimated from."""
        return np.sort(self.order[: EVIDENCE_ROWS if self.is_much_work else MAX_ROWS])

    def form(self, name: str, rows: Int[ndarray, " sample"] | None = None) -> Functions:
        """Return the functions of a candidate on all or these rows."""
        h = self.h if rows is None or len(rows) == len(self.u) else self.h[rows]
        design = self.design
        a, b, kinds, scale = design.products(self.pairs if name == "pairs" else ())
        kept = np.flatnonzero(np.isin(kinds, COMPONENTS[name]))
        conditions = design.constraints
        if conditions is not None:
            conditions = np.pad(conditions, ((0, 0), (0, len(a))))[:, kept] * scale[kept]

        def functions(rows: Rows) -> ndarray:
            values = h[rows]
            if len(a):
                # Taking columns is ten times faster than indexing them.
                products = np.take(values, a, 1) * np.take(values, b, 1)
                values = np.concatenate([values, products], 1)
            return np.asarray(np.take(values, kept, 1) * scale[kept])

        columns = Columns(functions, len(h), len(kept))
        kinds = np.searchsorted(COMPONENTS[name], kinds[kept])
        count = len(COMPONENTS[name])
        return Functions(columns, kinds, kept, count, a, b, scale, design, conditions)

    def candidates(self) -> tuple[str, ...]:
        """Return the candidates that suit the table."""
        rows, inputs = self.u.shape
        local = rows >= _RADIAL_MIN_ROWS and inputs <= _RADIAL_INPUTS and not self.policy.shapes
        suits = {
            "pairs": self.has_all_pairs or not self.is_much_work,
            NEIGHBOURHOODS: local,
        }
        return tuple(
            name
            for name in self.policy.candidates
            if name in COMPONENTS and (name not in suits or (inputs > 1 and suits[name]))
        )

    def with_relevance(self, found: CandidateSolution) -> TableRows:
        """Return the rows with inputs weighted for pairs, by the size of their effects.

        Of too many pairs the strongest are chosen: those in whose coefficients the likelihood is
        steepest, given these solutions.
        """
        relevance = np.sqrt(self._effects(found)) + _RELEVANCE
        design, pairs = replace(self.design, relevance=relevance), self.pairs
        if not self.has_all_pairs:
            slopes = np.zeros((found.slopes.shape[1], *(len(design.places),) * 2))
            for part in blocks(len(self.u)):
                g = np.take(self.h[part], design.places, 1)
                slopes += g.T @ (g * found.slopes[part].T[:, :, None])
            scale = relevance[design.basis.column[design.places]]
            energy = (slopes**2).sum(0) * np.outer(scale, scale)
            limit = min(MAX_PAIRS, -(-len(self.u) // _PAIR_ROWS))
            pairs = tuple(design.strongest_pairs(energy, limit))
        return replace(self, design=design, pairs=pairs)

    def _effects(self, found: CandidateSolution) -> ndarray:
        """Return the size of each input's effect, the largest being 1."""
        basis = self.design.basis
        squares = np.zeros(len(basis.places))
        for h in map(self.h.__getitem__, blocks(len(self.u))):
            for j, mine in enumerate(basis.places):
                squares[j] += ((np.take(h, mine, 1) @ found.terms.main[:, mine].T) ** 2).sum()
        largest = squares.max(initial=0.0)
        return np.sqrt(squares / largest) if largest > 0 else np.ones_like(squares)

    def narrowed(self, found: CandidateSolution) -> TableRows:
        """Return the rows with prior variances in proportion to the effects of the inputs."""
        factors = np.sqrt(self._effects(found) + _MIN_EFFECT)[self.design.basis.column]
        return replace(self, design=replace(self.design, factors=factors))

    def with_neighbourhoods(self, outputs: RowOutputs) -> TableRows:
        """Return the rows with neighbourhoods for these outputs."""
        policy, (rows, inputs) = self.policy, self.u.shape
        known = int(np.clip(rows // _RADIAL_EACH, *_KERNEL_ROWS))
        wanted = max(rows // _RADIAL_EACH, rows // _MANY_EACH - _MANY_FROM)
        centres = int(np.clip(wanted, *_RADIAL_CENTRES))
        centres = min(centres, int(np.sqrt(policy.max_work / rows)), int(policy.max_numbers / rows))
        some = self.order[: min(known, int(np.sqrt(_RADIAL_WORK / inputs)))]
        std = outputs.std(0)
        _, low, high = _PRIOR.precision
        kernel = fit_kernel(
            self.u[some],
            (outputs[some] - outputs.mean(0)) / np.where(std > 0, std, 1.0),
            replace(_PRIOR, precision=(1 / inputs, low, high)),
            row_noise=1 / self.weights[some],
            max_steps=policy.kernel_steps,
        )
        radial = RadialBasis.of(
            self.u,
            self.order[: max(_RADIAL_ROWS, _RADIAL_AMONG * centres)],
            kernel,
            policy.omitted * kernel.noise / kernel.radial,
            centres,
        )

        def functions(rows: Rows) -> ndarray:
            return np.concatenate([self.h[rows], radial.values(self.u[rows])], 1)

        design = replace(self.design, radial=radial)
        return replace(self, design=design, h=Columns(functions, len(self.u), len(design.main)))

    def solve(self, name: str, outputs: RowOutputs) -> CandidateSolution:
        """Return a candidate's solution for outputs of numbers, each with its own variances."""
        start: Variances | None = None
        if (radial := self.design.radial) is not None:
            kernel = radial.kernel
            start = np.array([kernel.linear / self.u.shape[1], kernel.radial]), kernel.noise
        some, weights = self.sample, self.weights
        form = self.form(name, some)
        whole = form if len(some) == len(outputs) else self.form(name)
        problems, variances = [], []
        for y in outputs.T:
            problem = form.problem(weights[some], y[some])
            variances.append(estimate(problem, self.policy, start))
            problems.append(problem if whole is form else whole.problem(weights, y))
        return whole.solution(problems, variances)


@dataclass(frozen=True, eq=False)
class Functions:
    """A candidate over functions: `kept` ones of single inputs, then products h_a h_b.

    `columns` are those of the functions, with components `kinds`, and `scale` is that of all.
    """

    columns: Columns
    kinds: ndarray
    kept: ndarray
    components: int
    a: ndarray
    b: ndarray
    scale: ndarray
    design: Design
    constraints: ndarray | None

    def problem(self, weights: PerRow, y: PerRow) -> FunctionProblem:
        """Return the problem of rows y with these weights, the inverse variances of their noise."""
        return FunctionProblem.of(self.columns, self.kinds, self.components, weights, y)

    def active(self, variances: ndarray) -> Functions:
        """Return the functions whose component has a variance."""
        kept = np.flatnonzero(variances[self.kinds] > 0)
        if len(kept) == len(self.kinds):
            return self
        columns = Columns(
            lambda rows: np.take(self.columns[rows], kept, 1), len(self.columns), len(kept)
        )
        bound = None if self.constraints is None else self.constraints[:, kept]
        kinds, places = self.kinds[kept], self.kept[kept]
        return replace(self, columns=columns, kinds=kinds, kept=places, constraints=bound)

    def solution(
        self, problems: Iterable[FunctionProblem], variances: Sequence[Variances]
    ) -> CandidateSolution:
        """Return the terms of outputs for given variances of the components and of the noise."""
        design, count, kept = self.design, len(self.scale) - len(self.a), self.kept
        every = np.zeros((len(variances), len(self.scale)))
        offsets, slopes, left_out = [], [], []
        kept_problems = list[FunctionProblem]()
        for row, problem, (prior, scale) in zip(every, problems, variances, strict=True):
            found = problem.posterior(prior, scale, self.constraints)
            fitted = problem.fitted(found)
            row[kept] = found.coefficients * self.scale[kept]
            offsets.append(found.offset)
            slopes.append(problem.weights * (problem.y - fitted) / scale)
            left_out.append(problem.left_out(found, fitted, scale))
            if not kept_problems or len(variances) * problem.gram.size <= _MAX_KEPT:
                kept_problems.append(problem.without_rows)
        places = design.places if len(self.a) else design.places[:0]
        a, b = (np.searchsorted(places, one) for one in (self.a, self.b))
        pairs = np.zeros((len(every), *(len(places),) * 2))
        pairs[:, a, b] = pairs[:, b, a] = every[:, count:]
        terms = Terms(np.array(offsets), every[:, :count], pairs, places)
        # Not `self`, whose columns may be the largest arrays of a fit.
        scales = self.scale

        def posterior(output: int, widen: bool) -> MainPosterior | None:
            if output >= len(kept_problems):
                return None
            problem, (prior, noise) = kept_problems[output], variances[output]
            prior = widened(problem, prior, noise) if widen else prior
            found = problem.posterior(prior, noise)
            known, whole = kept[found.kept], np.zeros((len(scales),) * 2)
            scale, every_prior = scales[known], np.zeros(len(scales))
            whole[np.ix_(known, known)] = inverse_of(found.factor) * np.outer(scale, scale)
            every_prior[known] = prior[problem.kinds[found.kept]] * scale**2
            return MainPosterior(terms.main[output], whole[:count, :count], every_prior[:count])

        return CandidateSolution(
            terms, np.stack(slopes, 1), np.stack(left_out, 1), variances, posterior
        )
