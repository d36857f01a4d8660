"""Candidates of a table, fitted by evidence and stacked on held-out rows.

Leave-one-out predictions have a closed form, with a link after the last step of Newton's method,
which finds logits of classes and links of means. The weights of the stack are not negative and sum
to one, and the stack is again of the form `Terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import optimize
from scipy.special import softmax

from kanrun.engine.tables.cross_validation import SPARSE, row_losses
from kanrun.engine.tables.design import Terms
from kanrun.engine.tables.jumps import BoostingTarget, squares
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.engine.tables.table_candidates import (
    JUMPS,
    NEIGHBOURHOODS,
    SIMPLE,
    CandidateSolution,
    Functions,
    TableRows,
)
from kanrun.engine.tables.table_fit import Stack, TableFit, with_jumps
from kanrun.engine.tables.variance_components import (
    FunctionProblem,
    Slope,
    TablePolicy,
    equal_variances,
    maximise,
)
from kanrun.points import Family, deviation

_SPARSE_INPUTS = 6  # inputs from which on there is a sparse fit
# Relative reduction of the stack's loss from which neighbourhoods are included.
_NEIGHBOURHOOD_GAIN = 0.005
_SUM_WEIGHT = 1e3  # of the row that makes weights sum to one
_MIN_WEIGHT = 1e-6  # of a member
_MIN_INFORMATION = 1e-3  # of a row (times the mean of counts), so that none has unlimited noise
_MAX_LINK, _MAX_MOVE = 30.0, 4.0
_LINK_VARIANCE = 10.0  # against which components of links are judged negligible
_NEWTON_TOLERANCE = 1e-2  # change of the links, in units of half their standard error
# Times the tolerances of links and of variances, while variances are searched.
_ROUGHLY = 10.0, 3.0

RowLogits = Float[ndarray, "rows logits"]
#: Solution of a candidate for outputs.
Solve = Callable[[TableRows, str, RowOutputs], CandidateSolution]


def fit_numbers(
    u: RowInputs, y: RowOutputs, policy: TablePolicy, weights: PerRow | float = 1.0
) -> TableFit:
    """Fit outputs that are numbers, each with its own variances.

    A row of weight w counts as w rows.
    """
    weights = np.broadcast_to(weights, len(y))
    rows = TableRows.of(u, weights, policy)
    shift = weights @ y / weights.sum()
    scale = deviation(y, weights)
    scale = np.where(scale > 0, scale, 1.0)
    t, root = (y - shift) / scale, np.sqrt(weights)[:, None]
    right, heavy = (t * root).ravel(), _SUM_WEIGHT * np.sqrt(weights.sum())

    def stack(left_out: Sequence[ndarray]) -> tuple[ndarray, float]:
        """Solve non-negative least squares, with a heavy row for the sum of the weights."""
        columns = np.stack([(part * root).ravel() for part in left_out], 1)
        extended = np.vstack([columns, np.full((1, len(left_out)), heavy)])
        found, _ = optimize.nnls(extended, np.append(right, heavy))
        found = found / found.sum()
        return found, float(((right - columns @ found) ** 2).sum())

    fit = _stacked(rows, t, TableRows.solve, stack)
    if JUMPS in policy.candidates and not policy.shapes and y.shape[1] == 1:
        fit = with_jumps(rows, fit, squares(t[:, 0], weights), 0.0, stack)
    return fit.times(scale, shift)


def fit_likelihood(
    u: RowInputs,
    y: RowOutputs,
    family: Family,
    policy: TablePolicy,
    weights: PerRow | float = 1.0,
) -> TableFit:
    """Fit logits of classes or the link of means by penalised likelihood.

    y (rows, 1) numbers the classes or has numbers; two classes have the logit of class 1. The noise
    of a row follows from its mean (iteratively reweighted least squares); the dispersion of sizes
    and fractions is estimated with the variances, that of counts is 1. More than two logits are
    improved one after the other, and share their variances.
    """
    weights, means = np.broadcast_to(weights, len(u)), y
    if family.classes:
        means = np.eye(family.classes)[y[:, 0].astype(np.intp)]
        means = means[:, 1:] if family.classes == 2 else means
    rows = TableRows.of(u, weights, policy, means.shape[1])

    def loss(eta: ndarray) -> float:
        predicted = probabilities(eta) if family.classes else family.mean(eta)
        return float(np.average(row_losses(predicted, y, family), weights=weights))

    def stack(left_out: Sequence[ndarray]) -> tuple[ndarray, float]:
        """Return the weights with the largest leave-one-out likelihood."""
        count = len(left_out)

        def mixed(weight: ndarray) -> float:
            return loss(np.tensordot(weight, np.stack(left_out), 1))

        found: Any = optimize.minimize(
            mixed,
            np.full(count, 1 / count),
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints=optimize.LinearConstraint(np.ones((1, count)), 1, 1),
        )
        weight = np.where(found.x < _MIN_WEIGHT, 0.0, found.x) / found.x.sum()
        return weight, mixed(weight)

    first = rows.candidates()[0]
    start = min(
        policy.logit_variances,
        key=lambda each: loss(_fit_link(rows, first, means, family, each).left_out),
    )

    def solve(some: TableRows, name: str, _: RowOutputs) -> CandidateSolution:
        return _fit_link(some, name, means, family, start)

    # Neighbourhoods are found in the link of counts and sizes, whose noise varies less.
    seen = family.link((y + np.average(y, 0, weights)) / 2) if family.is_log else means
    fit = _stacked(rows, seen, solve, stack)
    if JUMPS in policy.candidates and not policy.shapes and means.shape[1] == 1:
        level = float(family.link(np.average(means[:, 0], weights=weights)))
        fit = with_jumps(rows, fit, _link_target(means[:, 0], weights, family), level, stack)
    if family.classes:
        return fit
    information = np.average(family.weight(family.mean(fit.left_out)), 0, weights)
    return replace(fit, noise=fit.noise / np.sqrt(information))


def probabilities(logits: RowLogits) -> RowOutputs:
    """Return the probabilities of all classes, shape (rows, classes); one logit is split."""
    split = np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits
    return softmax(split, 1)


def _newton_step(y: PerRow, mean: PerRow, family: Family) -> tuple[PerRow, PerRow]:
    """Return information, which is not too small, and step of Newton's method of each row."""
    least = _MIN_INFORMATION * (float(family.weight(y.mean())) if family.is_log else 1.0)
    information = np.maximum(family.weight(mean), least)
    return information, family.score(y, mean) / information


def _link_target(y: PerRow, weights: PerRow, family: Family) -> BoostingTarget:
    """Return the likelihood of one link of the means, for nodes of jumps."""

    def loss(y: PerRow, eta: PerRow) -> PerRow:
        if family.classes:
            return np.asarray(np.logaddexp(0, eta) - y * eta)
        return family.deviance(y, family.mean(eta))

    return BoostingTarget(
        y, weights, lambda y, eta: _newton_step(y, family.mean(eta), family), loss
    )


@dataclass(frozen=True, eq=False)
class _Newton:
    """Newton's method for the link of the means (rows, outputs): least squares, one by one."""

    form: Functions
    y: RowOutputs
    family: Family
    weights: PerRow
    max_steps: int

    def prior(self) -> RowLogits:
        """Return the link of the means of all rows; of counts and sizes nearer to the rows."""
        mean = np.average(self.y, 0, self.weights)
        if self.family.is_log:
            return self.family.link((self.y + mean) / 2)
        mean = np.clip(mean, _MIN_INFORMATION, 1 - _MIN_INFORMATION)
        return np.tile(self.family.link(mean) if len(mean) == 1 else np.log(mean), (len(self.y), 1))

    def problems(self, eta: RowLogits) -> Iterator[FunctionProblem]:
        """Yield the least squares problem of each output."""
        return (self.problem(eta, c, self.form) for c in range(eta.shape[1]))

    def problem(self, eta: RowLogits, c: int, form: Functions) -> FunctionProblem:
        """Return the least squares problem that is one step of output c."""
        weight, step = _newton_step(self.y[:, c], self.family.mean(eta)[:, c], self.family)
        return form.problem(self.weights * weight, eta[:, c] + step)

    def links(
        self, variances: ndarray, scale: float, start: ndarray, roughly: float = 1.0
    ) -> RowLogits:
        """Return the most probable links for variances, to `roughly` times the tolerance."""
        eta, form = start.copy(), self.form.active(variances)
        for _ in range(self.max_steps):
            before = eta.copy()
            for c in range(eta.shape[1]):
                problem = self.problem(eta, c, form)
                fitted = problem.fitted(problem.posterior(variances, scale, form.constraints))
                eta[:, c] = before[:, c] + np.clip(fitted - before[:, c], -_MAX_MOVE, _MAX_MOVE)
            change = np.abs(eta - before) * 2
            change *= np.sqrt(self.family.weight(self.family.mean(eta)) / scale)
            if change.max() < roughly * _NEWTON_TOLERANCE:
                break
        return eta


def _fit_link(
    rows: TableRows, name: str, y: RowOutputs, family: Family, start: float
) -> CandidateSolution:
    """Return a candidate's solution; its variances, common to all outputs, first sum to `start`.

    They are estimated from a sample of the rows and the most frequent classes.
    """
    policy, some, known, frequent = rows.policy, rows.sample, family.has_known_dispersion, y
    if y.shape[1] > policy.variance_classes:
        order = np.argsort(-y[some].sum(0), kind="stable")[: policy.variance_classes]
        frequent = y[:, np.sort(order)]
        some = some[frequent[some].any(1)]
    form = rows.form(name, some)
    newton = _Newton(form, frequent[some], family, rows.weights[some], policy.max_steps)
    eta = newton.prior()
    sizes = form.problem(newton.weights, np.zeros(len(some))).sizes

    def slope(variances: ndarray, scale: float) -> Slope:
        nonlocal eta
        eta = newton.links(variances, scale, eta, _ROUGHLY[0])
        each = [one.slope(variances, scale, known=known) for one in newton.problems(eta)]
        first, information = (np.sum(part, axis=0) for part in zip(*each, strict=True))
        return first, information

    first = equal_variances(sizes, start), 1.0
    rough = replace(policy, tolerance=_ROUGHLY[1] * policy.tolerance)
    variances, scale = maximise(slope, sizes, _LINK_VARIANCE, first, rough, known=known)
    whole = _Newton(rows.form(name), y, family, rows.weights, policy.max_steps)
    middle = whole.prior()
    eta = whole.links(variances, scale, eta if eta.shape == y.shape else middle)
    found = whole.form.solution(whole.problems(eta), [(variances, scale)] * y.shape[1])
    ends = middle.min(0) - _MAX_LINK, middle.max(0) + _MAX_LINK
    return replace(found, left_out=np.clip(found.left_out, *ends))


def _stacked(rows: TableRows, outputs: RowOutputs, solve: Solve, stack: Stack) -> TableFit:
    """Fit the candidates, stack them, and add the sparse fit."""
    names, some, solved = rows.candidates(), rows, dict[str, CandidateSolution]()
    for name in names:
        if name == NEIGHBOURHOODS:
            some = rows.with_neighbourhoods(outputs)
        solved[name] = found = solve(some, name, outputs)
        if name != "additive":
            continue
        some = rows = rows.with_relevance(found)
        for _ in range(rows.policy.sparse_rounds if rows.u.shape[1] >= _SPARSE_INPUTS else 0):
            narrow = rows.narrowed(found)
            solved[SPARSE] = found = solve(narrow, name, outputs)

    def stacked(names: Sequence[str]) -> tuple[dict[str, float], float]:
        weights, loss = stack([solved[name].left_out for name in names])
        return dict(zip(names, map(float, weights), strict=True)), loss

    weights, loss = stacked(names)
    if NEIGHBOURHOODS in names:
        without, others = stacked([name for name in names if name != NEIGHBOURHOODS])
        if loss > (1 - _NEIGHBOURHOOD_GAIN) * others:
            weights, some = without, rows
            del solved[NEIGHBOURHOODS]
    sparse = _weighted(rows, {SPARSE: 1.0}, solved) if SPARSE in solved else None
    return replace(_weighted(some, weights, solved), sparse=sparse)


def _weighted(
    rows: TableRows, weights: Mapping[str, float], solved: Mapping[str, CandidateSolution]
) -> TableFit:
    """Return the weighted sum of candidates."""
    parts = [(weight, solved[name]) for name, weight in weights.items()]
    simple = next((name for name in SIMPLE if name in weights), None)
    posteriors = {
        name: solved[name].posterior for name, weight in weights.items() if weight or name == simple
    }
    return TableFit(
        rows.design,
        rows.u,
        weights,
        Terms.weighted([(weight, one.terms) for weight, one in parts]),
        np.sum([weight * one.left_out for weight, one in parts], axis=0),
        np.sqrt([noise for _, noise in parts[-1][1].variances]),
        posteriors,
        np.ones(len(parts[0][1].terms.main)),
    )
