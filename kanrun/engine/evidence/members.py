"""The candidates of a table - straight lines, additive, with pairs - fitted by evidence and stacked on left-out rows.

All three are always there, so that the answer is not worse than the linear model by more than chance. Left-out
predictions have a closed form (`Posterior.left_out`; for classes after the last Newton step), the weights are not
negative and sum to one, and the stacked whole is again of the form `Terms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize
from scipy.special import expit, log_softmax, softmax

from kanrun.engine.evidence.components import move
from kanrun.engine.evidence.design import Design, TableFunctions, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.row_kernels import COMPONENTS, Blocks, Form, MemberRows, RowsSolution, Start

_LEAST_WEIGHT = 1e-3  # of p (1 - p), so that no row has endless noise
_MEAN_ROWS = 2000
_LARGEST_LOGIT, _LARGEST_MOVE = 30.0, 4.0
SPARSE = "sparse"  # the candidate beside the stack


@dataclass(frozen=True, eq=False)
class Member:
    """One candidate: its terms for each output, and what it predicts of rows that are left out (rows, outputs)."""

    name: str
    terms: tuple[Terms, ...]
    left_out: ndarray


@dataclass(frozen=True, eq=False)
class TableFit:
    """The stacked whole of one table, and its members.

    `u` (rows, inputs) are the rows; `terms` and `left_out` (rows, outputs) as in a member; classes have an output each,
    two classes the one logit of the second. `noise` is the standard deviation of what is left (1 for classes).
    `covariance` (functions, functions of each input) is that of the first output's main effects, `effective` their
    effective degrees of freedom. `sparse` is the fit with few inputs, which is not in the stack.
    """

    design: Design
    u: ndarray
    members: tuple[Member, ...]
    weights: ndarray
    terms: tuple[Terms, ...]
    left_out: ndarray
    noise: float
    covariance: Blocks
    effective: float
    variances: dict[str, list[Start]]
    sparse: TableFit | None = None

    def functions(self) -> TableFunctions:
        """The scaled functions of rows, which are not kept: of a long table they are many times the table itself."""
        return TableFunctions(self.design, self.u)

    @cached_property
    def mean(self) -> Float[ndarray, " outputs"]:
        """The mean of each output over the first rows."""
        h = self.design.functions(self.u[:_MEAN_ROWS])
        return np.asarray(np.stack([one.values(h) for one in self.terms], 1).mean(0))

    def times(self, factor: float) -> TableFit:
        """The fit with its terms multiplied."""
        terms = tuple(one.plus(one, 0.0, factor) for one in self.terms)
        covariance = tuple(factor**2 * part for part in self.covariance)
        return replace(self, terms=terms, left_out=factor * self.left_out, covariance=covariance)


def fit_numbers(
    u: Float[ndarray, "rows inputs"],
    y: Float[ndarray, "rows outputs"],
    policy: EvidencePolicy,
    weights: Float[ndarray, " rows"] | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit outputs that are numbers, each by itself; the terms are in the units of y.

    A row of weight w is w rows; the pairs alone, where they are solved over the rows, take it for a noise of variance
    1/w. `start`, a fit to similar rows, is where the variances start.
    """
    weights = np.ones(len(y)) if weights is None else weights
    rows = MemberRows(u, weights, policy)
    shift = weights @ y / weights.sum()
    scale = np.sqrt(weights @ (y - shift) ** 2 / weights.sum())
    scale = np.where(scale > 0, scale, 1.0)
    t = (y - shift) / scale
    names = _with_sparse(policy.candidates, rows)
    solutions: dict[str, list[RowsSolution]] = {name: [] for name in names}
    starts: dict[str, list[Start]] = {name: [] for name in names}
    for o, column in enumerate(t.T):
        for name in policy.candidates:
            found, variances = rows.numbers(name, column, start.variances[name][o] if start else None)
            solutions[name].append(found)
            starts[name].append(variances)
            if name == "additive":
                rows.relevant([found.terms])
        if SPARSE in names:
            found = solutions["additive"][-1]
            for _ in range(policy.sparse_rounds):
                found, variances = rows.narrowed([found.terms]).numbers(
                    "additive", column, start.variances[SPARSE][o] if start else None
                )
            solutions[SPARSE].append(found)
            starts[SPARSE].append(variances)
    left_out = {name: np.stack([one.left_out for one in found], 1) for name, found in solutions.items()}
    stack = _stack_numbers([left_out[name] for name in policy.candidates], t, weights)
    members = tuple(
        Member(
            name,
            tuple(Terms(s * one.terms.offset + m, s * one.terms.main, _times(one.terms.pairs, s), one.terms.places)
                  for one, m, s in zip(solutions[name], shift, scale, strict=True)),
            left_out[name] * scale + shift,
        )
        for name in names
    )  # fmt: skip
    noises = {name: float(np.mean(np.sqrt([one[1] for one in starts[name]]) * scale)) for name in names}
    return _Solved(rows, members, solutions, starts, noises, float(scale[0])).whole(stack)


def fit_classes(
    u: Float[ndarray, "rows inputs"],
    labels: Int[ndarray, " rows"],
    classes: int,
    policy: EvidencePolicy,
    weights: Float[ndarray, " rows"] | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit the logits of classes 0 ... classes - 1 (one logit, of class 1, for two of them) by penalised likelihood.

    The noise of a row follows from its probabilities (iteratively reweighted least squares); with more than two classes
    their logits are improved one after the other, and share the variances.
    """
    rows = MemberRows(u, np.ones(len(u)) if weights is None else weights, policy, classes)
    work = (
        len(u) * (rows.h.shape[1] + policy.most_pairs * policy.long_pair_functions**2) ** 2 * (classes - (classes == 2))
    )
    names = tuple(name for name in start.variances if name != SPARSE) if start else policy.candidates
    if start is None and rows.screens("pairs") and work > policy.most_work / 10:
        names = tuple(name for name in names if name != "pairs")
    policy = replace(policy, candidates=names)
    hot = np.eye(classes)[labels][:, 1:] if classes == 2 else np.eye(classes)[labels]
    solutions: dict[str, list[RowsSolution]] = {}
    starts: dict[str, list[Start]] = {}

    beginnings = policy.logit_variances

    def begun(name: str) -> ndarray | float:
        return start.variances[name][0][0] if start else beginnings[0]

    if start is None:  # where inputs tell classes together and none by itself, low variances end at nothing
        tried = [_classes_of(rows, policy.candidates[0], hot, each)[0] for each in beginnings]
        logits = [_all_logits(np.stack([one.left_out for one in each], 1)) for each in tried]
        losses = [_log_loss(np.clip(one, -_LARGEST_LOGIT, _LARGEST_LOGIT), labels, rows.weights) for one in logits]
        beginnings = (beginnings[int(np.argmin(losses))],)
    for name in policy.candidates:
        solutions[name], starts[name] = _classes_of(rows, name, hot, begun(name))
        if name == "additive":
            rows.relevant([one.terms for one in solutions[name]])
    if SPARSE in (every := _with_sparse(policy.candidates, rows)):
        found = solutions["additive"]
        for _ in range(policy.sparse_rounds):
            narrowed = rows.narrowed([one.terms for one in found])
            found, starts[SPARSE] = _classes_of(narrowed, "additive", hot, begun(SPARSE))
        solutions[SPARSE] = found
    left_out = {
        name: np.clip(np.stack([one.left_out for one in found], 1), -_LARGEST_LOGIT, _LARGEST_LOGIT)
        for name, found in solutions.items()
    }
    stack = _stack_classes([left_out[name] for name in policy.candidates], labels, rows.weights)
    members = tuple(Member(name, tuple(one.terms for one in solutions[name]), left_out[name]) for name in every)
    return _Solved(rows, members, solutions, starts, dict.fromkeys(every, 1.0), 1.0).whole(stack)


def _with_sparse(names: Sequence[str], rows: MemberRows) -> tuple[str, ...]:
    """The candidates that are fitted: the sparse one beside the additive one."""
    few = rows.u.shape[1] < rows.policy.sparse_inputs or not rows.policy.sparse_rounds
    return tuple(names) if few or "additive" not in names else (*names, SPARSE)


def _log_loss(logits: Float[ndarray, "rows classes"], labels: ndarray, weights: ndarray) -> float:
    return -float(np.average(log_softmax(logits, 1)[np.arange(len(labels)), labels], weights=weights))


def _classes_of(
    rows: MemberRows, name: str, hot: ndarray, start: ndarray | float
) -> tuple[list[RowsSolution], list[Start]]:
    """A candidate's solution for the logit of each class, and its variances, which start at `start`."""
    policy = rows.policy
    variances, logits = _class_variances(rows, name, hot, start)
    if rows.screens(name):
        some = rows.screened
        known = _start(hot, rows.weights)
        known[some] = _logits(rows.of(name, some), variances, hot[some], rows.weights[some], policy)
        rows.screen([_working(known, hot, c, rows.weights) for c in range(hot.shape[1])], variances)
    logits = _logits(rows.of(name), variances, hot, rows.weights, policy, logits if len(logits) == len(hot) else None)
    problems = [_working(logits, hot, c, rows.weights) for c in range(hot.shape[1])]
    return [rows.solve(name, variances, *one) for one in problems], [(variances, 1.0)]


@dataclass(frozen=True, eq=False)
class _Solved:
    """All candidates of a table; `noises` are their standard deviations of what is left."""

    rows: MemberRows
    members: tuple[Member, ...]
    solutions: Mapping[str, Sequence[RowsSolution]]
    starts: dict[str, list[Start]]
    noises: Mapping[str, float]
    scale: float

    def whole(self, weights: ndarray) -> TableFit:
        """The stack, with the bands of the richest member without pairs, and the sparse one beside it."""
        names = tuple(one.name for one in self.members if one.name != SPARSE)
        bands = next((name for name in ("steps", "additive") if name in names), names[0])
        found = self._sum(names, weights, bands)
        return replace(found, sparse=self._sum((SPARSE,), np.ones(1), SPARSE)) if SPARSE in self.solutions else found

    def _sum(self, names: Sequence[str], weights: ndarray, bands: str) -> TableFit:
        members = tuple(one for one in self.members if one.name in names)
        terms = []
        for o in range(len(members[0].terms)):
            whole = Terms(0.0, np.zeros_like(members[0].terms[o].main))
            for member, weight in zip(members, weights, strict=True):
                whole = whole.plus(member.terms[o], float(weight))
            terms.append(whole)
        left_out = sum(w * member.left_out for w, member in zip(weights, members, strict=True))
        band = self.solutions[bands][0]
        covariance = tuple(part * self.scale**2 for part in band.covariance)
        return TableFit(
            self.rows.design, self.rows.u, members, weights, tuple(terms), np.asarray(left_out), self.noises[names[-1]],
            covariance, band.effective, self.starts,
        )  # fmt: skip


def _times(matrix: ndarray | None, factor: float) -> ndarray | None:
    return None if matrix is None else matrix * factor


def _stack_numbers(left_out: Sequence[ndarray], t: ndarray, weights: ndarray) -> Float[ndarray, " members"]:
    """Weights by non-negative least squares, their sum held at one by a heavy row."""
    root = np.sqrt(np.broadcast_to(weights[:, None], t.shape).ravel())
    columns = np.stack([part.ravel() * root for part in left_out], 1)
    heavy = 1e3 * np.sqrt(weights.sum())
    rows = np.vstack([columns, np.full((1, len(left_out)), heavy)])
    found, _ = optimize.nnls(rows, np.append(t.ravel() * root, heavy))
    return np.asarray(found / found.sum())


def _stack_classes(left_out: Sequence[ndarray], labels: ndarray, weights: ndarray) -> Float[ndarray, " members"]:
    """Weights with the largest likelihood of the left-out labels."""
    logits = np.stack([_all_logits(part) for part in left_out])
    start = np.full(len(left_out), 1 / len(left_out))

    def loss(mixture: ndarray) -> float:
        return _log_loss(np.tensordot(mixture, logits, 1), labels, weights)

    found: Any = optimize.minimize(
        loss, start, method="SLSQP", bounds=[(0, 1)] * len(start),
        constraints=optimize.LinearConstraint(np.ones((1, len(start))), 1, 1),
    )  # fmt: skip
    mixture = np.maximum(found.x, 0)
    mixture[mixture < 1e-6] = 0
    return np.asarray(mixture / mixture.sum())


def _all_logits(logits: ndarray) -> ndarray:
    """One for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def _probabilities(logits: ndarray) -> ndarray:
    return expit(logits) if logits.shape[1] == 1 else softmax(logits, 1)


def _working(logits: ndarray, hot: ndarray, c: int, weights: ndarray) -> tuple[ndarray, ndarray]:
    """(noise, response) of the least squares problem that is one Newton step of class c."""
    p = _probabilities(logits)[:, c]
    weight = np.maximum(p * (1 - p), _LEAST_WEIGHT)
    return 1 / (weights * weight), logits[:, c] + (hot[:, c] - p) / weight


def _start(hot: ndarray, weights: ndarray) -> ndarray:
    share = np.clip(np.average(hot, 0, weights), 1e-3, 1 - 1e-3)
    base = np.log(share / (1 - share)) if hot.shape[1] == 1 else np.log(share)
    return np.tile(base, (len(hot), 1))


def _logits(form: Form, variances: ndarray, hot: ndarray, weights: ndarray, policy: EvidencePolicy,
            start: ndarray | None = None, settled: float = 1.0) -> ndarray:  # fmt: skip
    """The most probable logits of rows, for given variances, or `settled` times further from them than the policy's."""
    logits = _start(hot, weights) if start is None else start.copy()
    for _ in range(policy.newton_steps):
        before = logits.copy()
        for c in range(hot.shape[1]):
            fitted = form.fitted(variances, *_working(logits, hot, c, weights))
            logits[:, c] = before[:, c] + np.clip(fitted - before[:, c], -_LARGEST_MOVE, _LARGEST_MOVE)
        p = _probabilities(logits)
        if (np.abs(logits - before) * 2 * np.sqrt(p * (1 - p))).max() < settled * policy.newton_settled:
            break
    return logits


def _class_variances(rows: MemberRows, name: str, hot: ndarray, start: ndarray | float) -> tuple[ndarray, ndarray]:
    """The variances of a candidate's components for classes, from a sample of rows, and the logits of these.

    `start` has them, or the variance that all together give the logits at first.
    """
    policy = rows.policy
    some = rows.sampled(name, hot.shape[1])
    form, inside, weights = rows.of(name, some), hot[some], rows.weights[some]
    sizes = form.sizes(COMPONENTS[name], weights)
    there = sizes > 1e-12
    if isinstance(start, ndarray):
        variances = start.copy()
    else:
        variances = np.where(there, start / len(sizes) / np.where(there, sizes, 1.0), 0.0)
    logits = _start(inside, weights)
    for _ in range(policy.rounds):
        logits = _logits(form, variances, inside, weights, policy, logits, settled=10.0)
        first: ndarray | float = 0.0
        information: ndarray | float = 0.0
        for c in range(inside.shape[1]):
            parts = form.slope(variances, *_working(logits, inside, c, weights))
            first, information = first + parts[0], information + parts[1]
        change = move(np.asarray(first), np.asarray(information))
        variances[variances > 0] *= np.exp(change)
        variances[variances * sizes < policy.negligible * 10] = 0.0
        if not len(change) or np.abs(change).max() < 3 * policy.settled:
            break
    return variances, logits
