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
from kanrun.engine.tables.design import Design, Terms
from kanrun.engine.tables.reduced_basis import Columns, PerRow, RowFunctions, RowInputs, RowOutputs
from kanrun.engine.tables.table_candidates import (
    NEIGHBOURHOODS,
    CandidateSolution,
    Functions,
    MainPosterior,
    Solved,
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
_MEAN_ROWS = 2000  # over which mean outputs are taken
_SUM_WEIGHT = 1e3  # of the row that makes weights sum to one
_MIN_WEIGHT = 1e-6  # of a member
_MIN_VARIANCE = 1e-3  # of p (1 - p), so that no row has unlimited noise
_MAX_LOGIT, _MAX_MOVE = 30.0, 4.0
_LOGIT_VARIANCE = 10.0  # against which components of logits are judged negligible
_NEWTON_TOLERANCE = 1e-2  # change of the logits, in units of 1 / (2 sqrt(p (1 - p)))
# Times the tolerances of logits and of variances, while variances are searched.
_ROUGHLY = 10.0, 3.0

RowLogits = Float[ndarray, "rows logits"]
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
        variances: Variances of each candidate, from which a fit to similar rows starts.
        posteriors: Function that computes the posteriors of the first output over `unit`, with
            their weights: of the richest candidate without pairs, and of neighbourhoods.
        unit: Factor of the first output since the fit.
        sparse: The sparse fit.
    """

    design: Design
    u: ndarray
    weights: Mapping[str, float]
    terms: tuple[Terms, ...]
    left_out: ndarray
    noise: ndarray
    variances: Mapping[str, Sequence[Variances]]
    posteriors: Callable[[], list[tuple[float, MainPosterior]]]
    unit: float = 1.0
    sparse: TableFit | None = None

    @cached_property
    def main(self) -> MainPosterior:
        """Posterior of the first output's main effects, over `unit`."""
        return self.posteriors()[0][1]

    @property
    def effective(self) -> float:
        """Effective degrees of freedom of main effects and, by their weight, of neighbourhoods."""
        found = self.posteriors() if self.unit else ()
        return sum(weight * one.degrees_of_freedom(range(len(one.prior))) for weight, one in found)

    @property
    def additive(self) -> Design:
        """The design without neighbourhoods."""
        return replace(self.design, radial=None)

    @property
    def terms_alone(self) -> TableFit:
        """The fit without what only reports and refits need: rows, errors and posteriors."""
        few = replace(self, u=self.u[:0], left_out=self.left_out[:0], sparse=None)
        return replace(few, posteriors=list)

    def functions(self) -> Columns:
        """Return the functions of single inputs, which may be many times the table."""
        return self.additive.columns(self.u)

    def raw(self, h: RowFunctions) -> RowOutputs:
        """Evaluate all outputs; functions that `h` lacks count as zero."""
        return np.stack([one.values(h) for one in self.terms], 1)

    @cached_property
    def mean(self) -> ndarray:
        """Mean of each output over the first rows, shape (outputs,)."""
        return np.asarray(self.raw(self.design.functions(self.u[:_MEAN_ROWS])).mean(0))

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
            unit=self.unit * float(factors[0]),
            sparse=self.sparse and self.sparse.times(factor, shift),
        )


def fit_numbers(
    u: RowInputs,
    y: RowOutputs,
    policy: EvidencePolicy,
    weights: PerRow | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit outputs that are numbers, each with its own variances; `start` is a fit to similar rows.

    A row of weight w counts as w rows.
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
        return some.solve(name, t, known)

    def stack(left_out: Sequence[ndarray]) -> tuple[ndarray, float]:
        """Solve non-negative least squares, with a heavy row for the sum of the weights."""
        columns = np.stack([part.ravel() * root for part in left_out], 1)
        extended = np.vstack([columns, np.full((1, len(left_out)), heavy)])
        found, _ = optimize.nnls(extended, np.append(t.ravel() * root, heavy))
        found = found / found.sum()
        return found, float(((t.ravel() * root - columns @ found) ** 2).sum())

    return _stacked(rows, t, solve, stack, start).times(scale, shift)


def fit_classes(
    u: RowInputs,
    labels: Int[ndarray, " rows"],
    classes: int,
    policy: EvidencePolicy,
    weights: PerRow | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit the logits of the classes by penalised likelihood; two have the logit of class 1.

    The noise of a row follows from its probabilities (iteratively reweighted least squares). More
    than two logits are improved one after the other, and share their variances.
    """
    weights = np.ones(len(u)) if weights is None else weights
    hot = np.eye(classes)[labels][:, 1:] if classes == 2 else np.eye(classes)[labels]
    rows = TableRows.of(u, weights, policy, hot.shape[1])

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


def probabilities(logits: RowLogits) -> RowOutputs:
    """Return the probabilities of all classes, shape (rows, classes)."""
    return np.asarray(softmax(_all_logits(logits), 1))


def _all_logits(logits: ndarray) -> RowLogits:
    """Return one logit for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


@dataclass(frozen=True, eq=False)
class _Newton:
    """Newton's method for the logits of a candidate's rows: least squares, class by class."""

    form: Functions
    hot: RowLogits
    weights: PerRow
    max_steps: int

    def prior(self) -> RowLogits:
        """Return the logits of the classes' frequencies."""
        fraction = np.average(self.hot, 0, self.weights)
        fraction = np.clip(fraction, _MIN_VARIANCE, 1 - _MIN_VARIANCE)
        odds = fraction / (1 - fraction) if len(fraction) == 1 else fraction
        return np.tile(np.log(odds), (len(self.hot), 1))

    def problem(self, logits: ndarray, c: int, form: Functions) -> Any:
        """Return the least squares problem that is one step of class c."""
        p = _sigmoid(logits)[:, c]
        weight = np.maximum(p * (1 - p), _MIN_VARIANCE)
        response = logits[:, c] + (self.hot[:, c] - p) / weight
        return form.problem(1 / (self.weights * weight), response)

    def logits(self, variances: ndarray, start: ndarray, roughly: float = 1.0) -> ndarray:
        """Return the most probable logits for variances, to `roughly` times the tolerance."""
        logits, form = start.copy(), self.form.active(variances)
        for _ in range(self.max_steps):
            before = logits.copy()
            for c in range(logits.shape[1]):
                fitted = form.fitted(self.problem(logits, c, form), variances)
                move = np.clip(fitted - before[:, c], -_MAX_MOVE, _MAX_MOVE)
                logits[:, c] = before[:, c] + move
            p = _sigmoid(logits)
            change = np.abs(logits - before) * 2 * np.sqrt(p * (1 - p))
            if change.max() < roughly * _NEWTON_TOLERANCE:
                break
        return logits


def _sigmoid(logits: ndarray) -> ndarray:
    """Return the probability that belongs to each logit."""
    return np.asarray(expit(logits) if logits.shape[1] == 1 else softmax(logits, 1))


def _fit_logits(rows: TableRows, name: str, hot: RowLogits, start: ndarray | float) -> Solved:
    """Return a candidate's solution for each logit, and its variances, which begin at `start`."""
    variances, known = _class_variances(rows, name, hot, start)
    newton = _Newton(rows.form(name), hot, rows.weights, rows.policy.max_steps)
    logits = newton.logits(variances, known if known.shape == hot.shape else newton.prior())
    solutions = []
    for c in range(hot.shape[1]):
        found = newton.form.solution(newton.problem(logits, c, newton.form), variances)
        left_out = np.clip(found.left_out, -_MAX_LOGIT, _MAX_LOGIT)
        solutions.append(replace(found, left_out=left_out))
    return solutions, [(variances, 1.0)]


def _class_variances(
    rows: TableRows, name: str, hot: ndarray, start: ndarray | float
) -> tuple[ndarray, ndarray]:
    """Return variances, and the logits of the rows that they are estimated from.

    `start` holds them, or is their sum at first.
    """
    policy, some = rows.policy, rows.sample
    if hot.shape[1] > policy.variance_classes:
        frequent = np.argsort(-hot[some].sum(0), kind="stable")[: policy.variance_classes]
        hot = hot[:, np.sort(frequent)]
        some = some[hot[some].any(1)]
    form = rows.form(name, some)
    newton = _Newton(form, hot[some], rows.weights[some], policy.max_steps)
    logits = newton.prior()
    sizes = form.problem(1 / newton.weights, newton.hot[:, 0]).sizes

    def slope(variances: ndarray, _noise: float) -> Slope:
        nonlocal logits
        logits = newton.logits(variances, logits, _ROUGHLY[0])
        slopes = [
            newton.problem(logits, c, form).slope(variances, known=True)
            for c in range(hot.shape[1])
        ]
        return np.asarray(sum(first for first, _ in slopes)), np.asarray(sum(i for _, i in slopes))

    first = start if isinstance(start, ndarray) else equal_variances(sizes, start)
    rough = replace(policy, tolerance=_ROUGHLY[1] * policy.tolerance)
    variances, _ = maximise(slope, sizes, _LOGIT_VARIANCE, (first, 1.0), rough, known=True)
    return variances, logits


def _stacked(
    rows: TableRows,
    outputs: RowOutputs,
    solve: Solve,
    stack: Stack,
    start: TableFit | None,
) -> TableFit:
    """Fit the candidates, stack them, and add the sparse fit."""
    known, solved, sparse = start.variances if start else {}, dict[str, Solved](), None
    names = rows.candidates(start.variances if start else None)
    some = rows
    for name in names:
        if name == NEIGHBOURHOODS:
            some = rows.with_neighbourhoods(outputs, start.design if start else None)
        solved[name] = found = solve(some, name, known.get(name))
        if name != "additive":
            continue
        some = rows = sparse = rows.with_relevance(found[0])
        rounds = rows.policy.sparse_rounds if rows.u.shape[1] >= _SPARSE_INPUTS else 0
        for _ in range(rounds):
            sparse = sparse.narrowed(found[0], rows)
            found = solve(sparse, name, known.get(SPARSE))
        if rounds:
            solved[SPARSE] = found

    def stacked(names: Sequence[str]) -> tuple[dict[str, float], float]:
        weights, loss = stack([_left_out(solved[name][0]) for name in names])
        return dict(zip(names, map(float, weights), strict=True)), loss

    weights, loss = stacked(names)
    if NEIGHBOURHOODS in names:
        without, others = stacked([name for name in names if name != NEIGHBOURHOODS])
        if loss > (1 - _NEIGHBOURHOOD_GAIN) * others:
            weights, some = without, rows
            del solved[NEIGHBOURHOODS]
    whole = _weighted(some, weights, solved)
    if sparse is None or SPARSE not in solved:
        return whole
    return replace(whole, sparse=_weighted(sparse, {SPARSE: 1.0}, solved))


def _weighted(
    rows: TableRows, weights: Mapping[str, float], solved: Mapping[str, Solved]
) -> TableFit:
    """Return the weighted sum of candidates, with the bands of the richest one without pairs."""
    last, noises = solved[list(weights)[-1]]
    terms, left_out = [Terms(0.0, np.zeros(0))] * len(last), np.zeros(_left_out(last).shape)
    for name, weight in weights.items():
        found = zip(terms, solved[name][0], strict=True)
        terms = [total.plus(one.terms, weight) for total, one in found]
        left_out += weight * _left_out(solved[name][0])
    simple = (name for name in ("steps", "additive") if name in weights)
    band = solved[next(simple, next(iter(weights)))][0][0]
    bells, local = solved.get(NEIGHBOURHOODS), weights.get(NEIGHBOURHOODS, 0.0)

    def posteriors() -> list[tuple[float, MainPosterior]]:
        others = [(local, bells[0][0].posterior())] if bells and local else []
        return [(1 - local, band.posterior()), *others]

    return TableFit(
        rows.design,
        rows.u,
        weights,
        tuple(terms),
        left_out,
        np.sqrt([noise for _, noise in noises]),
        {name: variances for name, (_, variances) in solved.items()},
        posteriors,
    )


def _left_out(found: Sequence[CandidateSolution]) -> RowOutputs:
    return np.stack([one.left_out for one in found], 1)
