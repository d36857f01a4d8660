"""Candidates of a table, fitted by evidence and stacked on held-out rows.

Leave-one-out predictions have a closed form, for classes after the last step of Newton's method,
which finds their logits. The weights of the stack are not negative and sum to one, and the stack is
again of the form `Terms`.
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
from scipy.special import expit, log_softmax, softmax

from kanrun.engine.tables.cross_validation import SPARSE
from kanrun.engine.tables.design import Design, TableFunctions, Terms
from kanrun.engine.tables.table_candidates import (
    NEIGHBOURHOODS,
    CandidateSolution,
    Form,
    TableRows,
)
from kanrun.engine.tables.variance_components import (
    EvidencePolicy,
    Slope,
    Variances,
    equal_variances,
    maximise,
)

_SPARSE_INPUTS = 6  # inputs from which on there is a sparse fit
# Relative reduction of the stack's loss from which neighbourhoods are included.
_NEIGHBOURHOOD_GAIN = 0.005
# Over which mean outputs and effects of neighbourhoods are taken.
_MEAN_ROWS, _EFFECT_ROWS = 2000, 100
_SUM_WEIGHT = 1e3  # of the row that makes weights sum to one
_MIN_WEIGHT = 1e-6  # of a member
_MIN_VARIANCE = 1e-3  # of p (1 - p), so that no row has unlimited noise
_MAX_LOGIT, _MAX_MOVE = 30.0, 4.0
_LOGIT_VARIANCE = 10.0  # against which components of logits are judged negligible
_NEWTON_TOLERANCE = 1e-2  # change of the logits, in units of 1 / (2 sqrt(p (1 - p)))
# Times the tolerances of logits and of variances, while variances are searched.
_ROUGHLY = 10.0, 3.0

#: Solutions of a candidate for each output, and its variances.
Solved = tuple[list[CandidateSolution], list[Variances]]
#: Solution of a candidate, from the variances that it had for similar rows.
Solve = Callable[[TableRows, str, Sequence[Variances] | None], Solved]
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

    def solve(some: TableRows, name: str, known: Sequence[Variances] | None) -> Solved:
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
    """Fit the logits of the classes by penalised likelihood; two have the logit of class 1.

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
        logits = np.stack([_all_logits(part) for part in left_out])

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
        first = rows.candidates(None)[0]
        tried = (_fit_logits(rows, first, hot, each)[0] for each in policy.logit_variances)
        losses = [loss(_all_logits(_left_out(one))) for one in tried]
        beginning = policy.logit_variances[int(np.argmin(losses))]

    def solve(some: TableRows, name: str, known: Sequence[Variances] | None) -> Solved:
        return _fit_logits(some, name, hot, known[0][0] if known else beginning)

    return _stacked(rows, hot, solve, stack, start)


def probabilities(logits: Float[ndarray, "rows logits"]) -> Float[ndarray, "rows classes"]:
    """Return the probabilities of all classes."""
    return np.asarray(softmax(_all_logits(logits), 1))


def _all_logits(logits: ndarray) -> Float[ndarray, "rows classes"]:
    """Return one logit for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


@dataclass(frozen=True, eq=False)
class _Newton:
    """Newton's method for the logits of a candidate's rows: least squares, class by class."""

    form: Form
    hot: Float[ndarray, "rows logits"]
    weights: Float[ndarray, " rows"]
    max_steps: int

    def prior(self) -> Float[ndarray, "rows logits"]:
        """Return the logits of the classes' frequencies."""
        fraction = np.average(self.hot, 0, self.weights)
        fraction = np.clip(fraction, _MIN_VARIANCE, 1 - _MIN_VARIANCE)
        odds = fraction / (1 - fraction) if len(fraction) == 1 else fraction
        return np.tile(np.log(odds), (len(self.hot), 1))

    def working(self, logits: ndarray, c: int) -> tuple[ndarray, ndarray]:
        """Return noise and response of the least squares problem that is one step of class c."""
        p = _sigmoid(logits)[:, c]
        weight = np.maximum(p * (1 - p), _MIN_VARIANCE)
        return 1 / (self.weights * weight), logits[:, c] + (self.hot[:, c] - p) / weight

    def logits(self, variances: ndarray, start: ndarray, roughly: float = 1.0) -> ndarray:
        """Return the most probable logits for variances, to `roughly` times the tolerance."""
        logits = start.copy()
        for _ in range(self.max_steps):
            before = logits.copy()
            for c in range(logits.shape[1]):
                move = self.form.fitted(*self.working(logits, c), variances) - before[:, c]
                logits[:, c] = before[:, c] + np.clip(move, -_MAX_MOVE, _MAX_MOVE)
            p = _sigmoid(logits)
            change = np.abs(logits - before) * 2 * np.sqrt(p * (1 - p))
            if change.max() < roughly * _NEWTON_TOLERANCE:
                break
        return logits


def _sigmoid(logits: ndarray) -> ndarray:
    """Return the probability that belongs to each logit."""
    return np.asarray(expit(logits) if logits.shape[1] == 1 else softmax(logits, 1))


def _fit_logits(
    rows: TableRows, name: str, hot: Float[ndarray, "rows logits"], start: ndarray | float
) -> Solved:
    """Return a candidate's solution for each logit, and its variances, which begin at `start`."""
    variances, known = _class_variances(rows, name, hot, start)
    newton = _Newton(rows.form(name), hot, rows.weights, rows.policy.max_steps)
    logits = newton.logits(variances, known if known.shape == hot.shape else newton.prior())
    solutions = []
    for c in range(hot.shape[1]):
        found = newton.form.solution(*newton.working(logits, c), variances)
        left_out = np.clip(found.left_out, -_MAX_LOGIT, _MAX_LOGIT)
        solutions.append(replace(found, left_out=left_out))
    return solutions, [(variances, 1.0)]


def _class_variances(
    rows: TableRows, name: str, hot: ndarray, start: ndarray | float
) -> tuple[ndarray, ndarray]:
    """Return variances, and the logits of the rows that they are estimated from.

    `start` holds them, or is their sum at first.
    """
    policy, some = rows.policy, rows.sampled(name, hot.shape[1])
    if hot.shape[1] > policy.variance_classes:
        frequent = np.argsort(-hot[some].sum(0), kind="stable")[: policy.variance_classes]
        hot = hot[:, np.sort(frequent)]
        some = some[hot[some].any(1)]
    newton = _Newton(rows.form(name, some), hot[some], rows.weights[some], policy.max_steps)
    form, logits = newton.form, newton.prior()
    sizes = form.problem(1 / newton.weights, newton.hot[:, 0]).sizes

    def slope(variances: ndarray, _noise: float) -> Slope:
        nonlocal logits
        logits = newton.logits(variances, logits, _ROUGHLY[0])
        working = (newton.working(logits, c) for c in range(hot.shape[1]))
        slopes = [form.problem(*one).slope(variances, known=True) for one in working]
        return np.asarray(sum(first for first, _ in slopes)), np.asarray(sum(i for _, i in slopes))

    first = start if isinstance(start, ndarray) else equal_variances(sizes, start)
    rough = replace(policy, tolerance=_ROUGHLY[1] * policy.tolerance)
    variances, _ = maximise(slope, sizes, _LOGIT_VARIANCE, (first, 1.0), rough, known=True)
    return variances, logits


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
    radial, sparse, names = None, None, rows.candidates(start.variances if start else None)
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
    rows = replace(rows, design=replace(rows.design, radial=radial))
    whole = _weighted(rows, members, solutions, variances)
    if sparse is None:
        return whole
    return replace(whole, sparse=_weighted(sparse, {SPARSE: 1.0}, solutions, variances))


def _weighted(
    rows: TableRows,
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
        rows.design,
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
