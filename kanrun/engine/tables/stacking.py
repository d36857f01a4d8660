"""Candidates of a table, fitted by evidence and stacked on held-out rows.

Leave-one-out predictions have a closed form, for classes after the last Newton step. The weights of
the stack are not negative and sum to one, and the stack is again of the form `Terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize
from scipy.special import log_softmax

from kanrun.engine.tables.design import Design, TableFunctions, Terms
from kanrun.engine.tables.gaussian_process import RadialBasis
from kanrun.engine.tables.logits import all_logits, fit_logits
from kanrun.engine.tables.table_candidates import (
    LONG_PAIR_FUNCTIONS,
    MAX_PAIRS,
    NEIGHBOURHOODS,
    CandidateSolution,
    TableRows,
)
from kanrun.engine.tables.table_policy import EvidencePolicy
from kanrun.engine.tables.variance_components import Variances

SPARSE = "sparse"  # the additive fit with few inputs, which is not in the stack
_SPARSE_INPUTS = 6  # inputs from which on there is a sparse fit
# Relative reduction of the stack's loss from which neighbourhoods are included.
_NEIGHBOURHOOD_GAIN = 0.005
_NEIGHBOURHOOD_ROWS, _NEIGHBOURHOOD_INPUTS = 30, 200  # fewest rows, most inputs
# Over which mean outputs and effects of neighbourhoods are taken.
_MEAN_ROWS, _EFFECT_ROWS = 2000, 100
_SUM_WEIGHT = 1e3  # of the row that makes weights sum to one
_MIN_WEIGHT = 1e-6  # of a member

#: Solutions of a candidate for each output, from the variances that it had for similar rows.
Solve = Callable[
    [TableRows, str, Sequence[Variances] | None], tuple[list[CandidateSolution], list[Variances]]
]
#: Weights of the members from their leave-one-out predictions (rows, outputs), and their loss.
Stack = Callable[[Sequence[ndarray]], tuple[ndarray, float]]


@dataclass(frozen=True, eq=False)
class TableFit:
    """The stack of one table.

    Attributes:
        design: Functions of the table.
        u: Encoded rows, shape (rows, inputs).
        weights: Weights of the candidates by name.
        terms: Terms of each output; two classes have the one logit of the second.
        left_out: Predictions of rows left out one by one, shape (rows, outputs).
        noise: Residual standard deviation of each output; 1 for classes.
        covariance: Of the first output's main effects of each input, shape (functions, functions).
        effective: Effective degrees of freedom of the main effects and, by their weight, of
            neighbourhoods.
        variances: Variances of each candidate, from which a fit to similar rows starts.
        sparse: The sparse fit.
    """

    design: Design
    u: ndarray
    weights: Mapping[str, float]
    terms: tuple[Terms, ...]
    left_out: ndarray
    noise: ndarray
    covariance: tuple[ndarray, ...]
    effective: float
    variances: Mapping[str, Sequence[Variances]]
    sparse: TableFit | None = None

    @property
    def additive(self) -> Design:
        """The design without neighbourhoods."""
        return replace(self.design, radial=None)

    def functions(self) -> TableFunctions:
        """Return the functions of single inputs, which may be many times the table."""
        return TableFunctions(self.additive, self.u)

    def raw(self, h: Float[ndarray, "rows functions"]) -> Float[ndarray, "rows outputs"]:
        """Evaluate all outputs; functions that `h` lacks count as zero."""
        return np.stack([one.values(h) for one in self.terms], 1)

    @cached_property
    def mean(self) -> Float[ndarray, " outputs"]:
        """Mean of each output over the first rows."""
        return np.asarray(self.raw(self.design.functions(self.u[:_MEAN_ROWS])).mean(0))

    def effect(
        self, j: int, u: Float[ndarray, "points inputs"]
    ) -> Float[ndarray, "points outputs"]:
        """Return the effect of input j, that of neighbourhoods being averaged over rows."""
        mine = self.design.basis.places[j]
        h = self.additive.functions(u)[:, mine]
        alone = np.stack([h @ one.main[mine] for one in self.terms], 1)
        if (radial := self.design.radial) is None:
            return alone
        rows = self.u[np.linspace(0, len(self.u) - 1, min(len(self.u), _EFFECT_ROWS)).astype(int)]
        inside = np.stack([one.main[len(self.design.lines) :] for one in self.terms])
        at = np.unique(np.append(u[:, j], rows[:, j]))
        at = at if len(at) <= _EFFECT_ROWS else np.quantile(at, np.linspace(0, 1, _EFFECT_ROWS))
        levels = radial.partial_dependence(rows, j, at, inside).T
        moved, mean = (
            np.stack([np.interp(x[:, j], at, one) for one in levels], 1) for x in (u, rows)
        )
        return np.asarray(alone + moved - mean.mean(0))

    def times(self, factor: ndarray | float, shift: ndarray | float = 0.0) -> TableFit:
        """Return the fit of the outputs times `factor` plus `shift`."""
        factors, shifts = (np.broadcast_to(a, len(self.terms)) for a in (factor, shift))
        one = Terms(1.0, np.zeros(0))
        units = zip(self.terms, factors, shifts, strict=True)
        return replace(
            self,
            terms=tuple(terms.plus(one, by, scale) for terms, scale, by in units),
            left_out=factor * self.left_out + shift,
            noise=factor * self.noise,
            covariance=tuple(factors[0] ** 2 * part for part in self.covariance),
            sparse=self.sparse and self.sparse.times(factor, shift),
        )


def fit_numbers(
    u: Float[ndarray, "rows inputs"],
    y: Float[ndarray, "rows outputs"],
    policy: EvidencePolicy,
    weights: Float[ndarray, " rows"] | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit outputs that are numbers, each with its own variances; `start` is a fit to similar rows.

    A row of weight w counts as w rows; over rows, for pairs, it has noise of variance 1/w.
    """
    weights = np.ones(len(y)) if weights is None else weights
    rows = TableRows.of(u, weights, policy)
    shift = weights @ y / weights.sum()
    scale = np.sqrt(weights @ (y - shift) ** 2 / weights.sum())
    scale = np.where(scale > 0, scale, 1.0)
    t = (y - shift) / scale
    root = np.sqrt(np.broadcast_to(weights[:, None], t.shape).ravel())
    heavy = _SUM_WEIGHT * np.sqrt(weights.sum())

    def solve(
        some: TableRows, name: str, known: Sequence[Variances] | None
    ) -> tuple[list[CandidateSolution], list[Variances]]:
        return some.fit_numbers(name, t, known)

    def stack(left_out: Sequence[ndarray]) -> tuple[ndarray, float]:
        """Solve non-negative least squares, with a heavy row for the sum of the weights."""
        columns = np.stack([part.ravel() * root for part in left_out], 1)
        extended = np.vstack([columns, np.full((1, len(left_out)), heavy)])
        found, _ = optimize.nnls(extended, np.append(t.ravel() * root, heavy))
        found = found / found.sum()
        return found, float(((t.ravel() * root - columns @ found) ** 2).sum())

    return _stacked(rows, t, solve, stack, start).times(scale, shift)


def fit_classes(
    u: Float[ndarray, "rows inputs"],
    labels: Int[ndarray, " rows"],
    classes: int,
    policy: EvidencePolicy,
    weights: Float[ndarray, " rows"] | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit the logits of classes 0 ...

    classes - 1 by penalised likelihood; two classes have the logit of class 1.

    The noise of a row follows from its probabilities (iteratively reweighted least squares). More
    than two logits are improved one after the other, and share their variances.
    """
    weights = np.ones(len(u)) if weights is None else weights
    rows = TableRows.of(u, weights, policy, classes)
    hot = np.eye(classes)[labels][:, 1:] if classes == 2 else np.eye(classes)[labels]

    def loss(logits: ndarray) -> float:
        likely = log_softmax(logits, 1)[np.arange(len(labels)), labels]
        return -float(np.average(likely, weights=weights))

    def stack(left_out: Sequence[ndarray]) -> tuple[ndarray, float]:
        """Return the weights with the largest leave-one-out likelihood of the labels."""
        logits = np.stack([all_logits(part) for part in left_out])

        def mixed(weight: ndarray) -> float:
            return loss(np.tensordot(weight, logits, 1))

        found: Any = optimize.minimize(
            mixed,
            np.full(len(left_out), 1 / len(left_out)),
            method="SLSQP",
            bounds=[(0, 1)] * len(left_out),
            constraints=optimize.LinearConstraint(np.ones((1, len(left_out))), 1, 1),
        )
        weight = np.where(found.x < _MIN_WEIGHT, 0.0, found.x)
        weight = weight / weight.sum()
        return weight, mixed(weight)

    beginning = policy.logit_variances[0]
    if start is None:
        first = _candidates(rows, start)[0]
        tried = [
            _left_out(fit_logits(rows, first, hot, each)[0]) for each in policy.logit_variances
        ]
        beginning = policy.logit_variances[int(np.argmin([loss(all_logits(one)) for one in tried]))]

    def solve(
        some: TableRows, name: str, known: Sequence[Variances] | None
    ) -> tuple[list[CandidateSolution], list[Variances]]:
        return fit_logits(some, name, hot, known[0][0] if known else beginning)

    return _stacked(rows, hot, solve, stack, start)


def _candidates(rows: TableRows, start: TableFit | None) -> tuple[str, ...]:
    """Return the candidates of the policy, or of the fit to similar rows, that suit the table."""
    policy, (count, inputs) = rows.policy, rows.u.shape
    functions = rows.h.shape[1] + MAX_PAIRS * LONG_PAIR_FUNCTIONS**2
    logits = {1: 0, 2: 1}.get(rows.classes, rows.classes)
    little_work = count * functions**2 * logits <= policy.max_work / 10
    over_products = not rows.is_long or rows.has_all_pairs
    suits = {
        "pairs": inputs > 1 and (start is not None or over_products or little_work),
        NEIGHBOURHOODS: 1 < inputs <= _NEIGHBOURHOOD_INPUTS
        and count >= _NEIGHBOURHOOD_ROWS
        and not policy.shapes,
    }
    known = policy.candidates if start is None else start.variances
    return tuple(name for name in policy.candidates if name in known and suits.get(name, True))


def _stacked(
    rows: TableRows,
    outputs: Float[ndarray, "rows outputs"],
    solve: Solve,
    stack: Stack,
    start: TableFit | None,
) -> TableFit:
    """Fit the candidates, stack them, and add the sparse fit."""
    policy, known = rows.policy, start.variances if start else {}
    solutions: dict[str, list[CandidateSolution]] = {}
    variances: dict[str, list[Variances]] = {}
    radial, sparse, names = None, None, _candidates(rows, start)
    for name in names:
        if name == NEIGHBOURHOODS:
            some = rows.with_neighbourhoods(outputs, start.design if start else None)
            radial = some.design.radial
        else:
            some = rows
        solutions[name], variances[name] = solve(some, name, known.get(name))
        if name != "additive":
            continue
        found = solutions[name]
        narrow = rows = rows.with_relevance(found)
        for _ in range(policy.sparse_rounds if rows.u.shape[1] >= _SPARSE_INPUTS else 0):
            narrow = narrow.narrowed(found, rows)
            found, variances[SPARSE] = solve(narrow, name, known.get(SPARSE))
            sparse = narrow
        solutions[SPARSE] = found
    weights, loss = stack([_left_out(solutions[name]) for name in names])
    if NEIGHBOURHOODS in names:
        simple = tuple(name for name in names if name != NEIGHBOURHOODS)
        others, without = stack([_left_out(solutions[name]) for name in simple])
        if loss > (1 - _NEIGHBOURHOOD_GAIN) * without:
            names, weights, radial = simple, others, None
            del variances[NEIGHBOURHOODS]
    members = dict(zip(names, map(float, weights), strict=True))
    whole = _weighted(rows, radial, members, solutions, variances)
    if sparse is None:
        return whole
    return replace(whole, sparse=_weighted(sparse, None, {SPARSE: 1.0}, solutions, variances))


def _weighted(
    rows: TableRows,
    radial: RadialBasis | None,
    weights: Mapping[str, float],
    solutions: Mapping[str, Sequence[CandidateSolution]],
    variances: Mapping[str, Sequence[Variances]],
) -> TableFit:
    """Return the weighted sum of candidates, with the bands of the richest one without pairs."""
    terms = [Terms(0.0, np.zeros(0))] * len(next(iter(solutions.values())))
    for name, weight in weights.items():
        found = zip(terms, solutions[name], strict=True)
        terms = [total.plus(one.terms, weight) for total, one in found]
    left_out = sum(weight * _left_out(solutions[name]) for name, weight in weights.items())
    simple = (name for name in ("steps", "additive") if name in weights)
    band = solutions[next(simple, next(iter(weights)))][0]
    local = weights.get(NEIGHBOURHOODS, 0.0)
    effective = (1 - local) * band.effective
    effective += local * solutions[NEIGHBOURHOODS][0].effective if local else 0.0
    return TableFit(
        replace(rows.design, radial=radial),
        rows.u,
        weights,
        tuple(terms),
        np.asarray(left_out),
        np.sqrt([noise for _, noise in variances[list(weights)[-1]]]),
        band.covariance,
        effective,
        variances,
    )


def _left_out(found: Sequence[CandidateSolution]) -> Float[ndarray, "rows outputs"]:
    return np.stack([one.left_out for one in found], 1)
