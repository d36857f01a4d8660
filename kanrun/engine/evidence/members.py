"""The candidates of a table, fitted by evidence and stacked on left-out rows.

They are additive, with steps, with pairs, and neighbourhoods; straight lines alone are fitted likewise. Left-out
predictions have a closed form (`Posterior.left_out`; for classes after the last Newton step), the weights are not
negative and sum to one, and the stacked whole is again of the form `Terms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize
from scipy.special import expit, log_softmax, softmax

from kanrun.engine.evidence.components import move
from kanrun.engine.evidence.design import Design, TableFunctions, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.radial import RadialBasis
from kanrun.engine.evidence.row_kernels import (
    COMPONENTS,
    Blocks,
    Form,
    MemberRows,
    RowsSolution,
    Start,
)

_LEAST_WEIGHT = 1e-3  # of p (1 - p), so that no row has endless noise
_MEAN_ROWS, _EFFECT_ROWS = 2000, 100
_LARGEST_LOGIT, _LARGEST_MOVE = 30.0, 4.0
SPARSE = "sparse"  # the candidate beside the stack
NEIGHBOURHOODS = "neighbourhoods"

#: A candidate of these rows by its name, from where its variances were for similar rows: a solution for each output.
Solve = Callable[[MemberRows, str, Sequence[Start] | None], tuple[list[RowsSolution], list[Start]]]
#: The weights of candidates by their predictions of left-out rows (rows, outputs), and the loss that they leave.
Stack = Callable[[Sequence[ndarray]], tuple[ndarray, float]]


@dataclass(frozen=True, eq=False)
class TableFit:
    """The stacked whole of one table.

    `u` (rows, inputs) are the rows; `weights` those of the candidates by name; `terms` of each output, two classes have
    the one logit of the second; `left_out` (rows, outputs) what it predicts of rows that are left out one by one.
    `noise` (outputs,) is the standard deviation of what is left (1 for classes). `covariance` (functions, functions of
    each input) is that of the first output's main effects, `effective` their effective degrees of freedom, those of
    neighbourhoods by their share included. `sparse` is the fit with few inputs, which is not in the stack.
    """

    design: Design
    u: ndarray
    weights: Mapping[str, float]
    terms: tuple[Terms, ...]
    left_out: ndarray
    noise: ndarray
    covariance: Blocks
    effective: float
    variances: Mapping[str, Sequence[Start]]
    sparse: TableFit | None = None

    def functions(self) -> TableFunctions:
        """The scaled functions of single inputs, which are not kept: of a long table they are many times the table."""
        return TableFunctions(replace(self.design, radial=None), self.u)

    @cached_property
    def mean(self) -> Float[ndarray, " outputs"]:
        """The mean of each output over the first rows."""
        h = self.design.functions(self.u[:_MEAN_ROWS])
        return np.asarray(np.stack([one.values(h) for one in self.terms], 1).mean(0))

    def effect(
        self, j: int, u: Float[ndarray, "points inputs"]
    ) -> Float[ndarray, "points outputs"]:
        """The effect of input j alone at these points, that of neighbourhoods as their mean over rows included."""
        mine = self.design.basis.places[j]
        h = replace(self.design, radial=None).functions(u)[:, mine]
        alone = np.stack([h @ one.main[mine] for one in self.terms], 1)
        if (radial := self.design.radial) is None:
            return alone
        rows = self.u[np.linspace(0, len(self.u) - 1, min(len(self.u), _EFFECT_ROWS)).astype(int)]
        inside = np.stack([one.main[len(self.design.lines) :] for one in self.terms])
        at = np.unique(np.append(u[:, j], rows[:, j]))
        at = at if len(at) <= _EFFECT_ROWS else np.quantile(at, np.linspace(0, 1, _EFFECT_ROWS))
        levels = radial.dependence(rows, j, at, inside).T
        moved, mean = (
            np.stack([np.interp(x[:, j], at, one) for one in levels], 1) for x in (u, rows)
        )
        return np.asarray(alone + moved - mean.mean(0))

    def times(self, factor: ndarray | float, shift: ndarray | float = 0.0) -> TableFit:
        """The fit of outputs multiplied, and then shifted."""
        units = list(
            zip(
                self.terms,
                *(np.broadcast_to(a, len(self.terms)) for a in (factor, shift)),
                strict=True,
            )
        )
        return replace(
            self,
            terms=tuple(one.plus(Terms(1.0, one.main[:0]), by, scale) for one, scale, by in units),
            left_out=factor * self.left_out + shift,
            noise=factor * self.noise,
            covariance=tuple(units[0][1] ** 2 * part for part in self.covariance),
            sparse=self.sparse and self.sparse.times(factor, shift),
        )


def fit_numbers(
    u: Float[ndarray, "rows inputs"],
    y: Float[ndarray, "rows outputs"],
    policy: EvidencePolicy,
    weights: Float[ndarray, " rows"] | None = None,
    start: TableFit | None = None,
) -> TableFit:
    """Fit outputs that are numbers; the terms are in the units of y.

    Each output has its own variances. A row of weight w is w rows; the pairs alone, where they are solved over the
    rows, take it for a noise of variance 1/w. `start`, a fit to similar rows, is where the variances start.
    """
    weights = np.ones(len(y)) if weights is None else weights
    rows = MemberRows(u, weights, policy)
    shift = weights @ y / weights.sum()
    scale = np.sqrt(weights @ (y - shift) ** 2 / weights.sum())
    scale = np.where(scale > 0, scale, 1.0)
    t = (y - shift) / scale

    def solve(
        some: MemberRows, name: str, known: Sequence[Start] | None
    ) -> tuple[list[RowsSolution], list[Start]]:
        return some.numbers(name, t, known)

    stack = partial(_stack_numbers, t=t, weights=weights)
    return _fitted(rows, t, _candidates(rows, start), solve, stack, start).times(scale, shift)


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
    hot = np.eye(classes)[labels][:, 1:] if classes == 2 else np.eye(classes)[labels]
    names, beginning = _candidates(rows, start), policy.logit_variances[0]
    stack = partial(_stack_classes, labels=labels, weights=rows.weights)
    if (
        start is None
    ):  # where inputs tell classes together and none by itself, low variances end at nothing
        tried = [
            _left_out(_classes_of(rows, names[0], hot, each)[0]) for each in policy.logit_variances
        ]
        losses = [_log_loss(all_logits(one), labels, rows.weights) for one in tried]
        beginning = policy.logit_variances[int(np.argmin(losses))]

    def solve(
        some: MemberRows, name: str, known: Sequence[Start] | None
    ) -> tuple[list[RowsSolution], list[Start]]:
        return _classes_of(some, name, hot, known[0][0] if known else beginning)

    return _fitted(rows, hot, names, solve, stack, start)


def _candidates(rows: MemberRows, start: TableFit | None) -> tuple[str, ...]:
    """Those of the policy, or of the fit to similar rows; pairs and neighbourhoods where there are inputs for them."""
    policy, (count, inputs) = rows.policy, rows.u.shape
    functions = rows.h.shape[1] + policy.most_pairs * policy.long_pair_functions**2
    work = (
        count * functions**2 * {1: 0, 2: 1}.get(rows.classes, rows.classes)
    )  # of a step for the logits
    fit = {
        "pairs": inputs > 1
        and (start is not None or not rows.some_pairs or work <= policy.most_work / 10),
        NEIGHBOURHOODS: 1 < inputs <= policy.radial_inputs
        and count >= policy.radial_fewest
        and not policy.shapes,
    }
    known = policy.candidates if start is None else start.variances
    return tuple(name for name in policy.candidates if name in known and fit.get(name, True))


def _fitted(
    rows: MemberRows,
    outputs: Float[ndarray, "rows outputs"],
    names: Sequence[str],
    solve: Solve,
    stack: Stack,
    start: TableFit | None,
) -> TableFit:
    """The stack of these candidates, with the bands of the richest one without pairs, and the sparse fit beside it."""
    policy = rows.policy
    near = rows.near(outputs, start.design if start else None) if NEIGHBOURHOODS in names else rows
    solutions: dict[str, list[RowsSolution]] = {}
    starts: dict[str, list[Start]] = {}
    for name in names:
        known = start.variances if start else {}
        solutions[name], starts[name] = solve(
            near if name == NEIGHBOURHOODS else rows, name, known.get(name)
        )
        if name != "additive":
            continue
        found = solutions[name]
        rows.relevant(found)
        for _ in range(policy.sparse_rounds if rows.u.shape[1] >= policy.sparse_inputs else 0):
            found, starts[SPARSE] = solve(
                rows.narrowed([one.terms for one in found]), name, known.get(SPARSE)
            )
            solutions[SPARSE] = found
    weights, loss = stack([_left_out(solutions[name]) for name in names])
    simple = [name for name in names if name != NEIGHBOURHOODS]
    if len(simple) < len(names):
        others, without = stack([_left_out(solutions[name]) for name in simple])
        if loss > (1 - policy.radial_gain) * without:
            names, weights, near = simple, others, rows
            del starts[NEIGHBOURHOODS]
    radial = near.design.radial if NEIGHBOURHOODS in names else None
    whole = _weighted(
        rows, radial, dict(zip(names, map(float, weights), strict=True)), solutions, starts
    )
    if SPARSE not in solutions:
        return whole
    return replace(whole, sparse=_weighted(rows, None, {SPARSE: 1.0}, solutions, starts))


def _weighted(
    rows: MemberRows,
    radial: RadialBasis | None,
    weights: Mapping[str, float],
    solutions: Mapping[str, Sequence[RowsSolution]],
    starts: Mapping[str, Sequence[Start]],
) -> TableFit:
    """The weighted sum of candidates."""
    terms = [Terms(0.0, np.zeros(0))] * len(next(iter(solutions.values())))
    for name, weight in weights.items():
        terms = [
            one.plus(found.terms, weight) for one, found in zip(terms, solutions[name], strict=True)
        ]
    left_out = sum(weight * _left_out(solutions[name]) for name, weight in weights.items())
    band = solutions[
        next((name for name in ("steps", "additive") if name in weights), next(iter(weights)))
    ][0]
    share = weights.get(NEIGHBOURHOODS, 0.0)
    local = solutions[NEIGHBOURHOODS][0].effective if share else 0.0
    noise = np.sqrt([one[1] for one in starts[list(weights)[-1]]])
    effective = (1 - share) * band.effective + share * local
    return TableFit(
        replace(rows.design, radial=radial),
        rows.u,
        weights,
        tuple(terms),
        np.asarray(left_out),
        noise,
        band.covariance,
        effective,
        starts,
    )


def _left_out(found: Sequence[RowsSolution]) -> Float[ndarray, "rows outputs"]:
    return np.stack([one.left_out for one in found], 1)


def _log_loss(logits: Float[ndarray, "rows classes"], labels: ndarray, weights: ndarray) -> float:
    return -float(
        np.average(log_softmax(logits, 1)[np.arange(len(labels)), labels], weights=weights)
    )


def _classes_of(
    rows: MemberRows, name: str, hot: ndarray, start: ndarray | float
) -> tuple[list[RowsSolution], list[Start]]:
    """A candidate's solution for the logit of each class, and its variances, which start at `start`."""
    policy = rows.policy
    variances, logits = _class_variances(rows, name, hot, start)
    logits = _logits(
        rows.of(name),
        variances,
        hot,
        rows.weights,
        policy,
        logits if logits.shape == hot.shape else None,
    )
    problems = [_working(logits, hot, c, rows.weights) for c in range(hot.shape[1])]
    found = [rows.solve(name, variances, *one) for one in problems]
    return [
        replace(one, left_out=np.clip(one.left_out, -_LARGEST_LOGIT, _LARGEST_LOGIT))
        for one in found
    ], [(variances, 1.0)]


def _stack_numbers(
    left_out: Sequence[ndarray], t: ndarray, weights: ndarray
) -> tuple[ndarray, float]:
    """Weights (members,) by non-negative least squares, their sum held at one by a heavy row, and their loss."""
    root = np.sqrt(np.broadcast_to(weights[:, None], t.shape).ravel())
    columns = np.stack([part.ravel() * root for part in left_out], 1)
    heavy = 1e3 * np.sqrt(weights.sum())
    rows = np.vstack([columns, np.full((1, len(left_out)), heavy)])
    found, _ = optimize.nnls(rows, np.append(t.ravel() * root, heavy))
    found = found / found.sum()
    return found, float(((t.ravel() * root - columns @ found) ** 2).sum())


def _stack_classes(
    left_out: Sequence[ndarray], labels: ndarray, weights: ndarray
) -> tuple[ndarray, float]:
    """Weights (members,) with the largest likelihood of the left-out labels, and their log loss."""
    logits = np.stack([all_logits(part) for part in left_out])
    start = np.full(len(left_out), 1 / len(left_out))

    def loss(mixture: ndarray) -> float:
        return _log_loss(np.tensordot(mixture, logits, 1), labels, weights)

    found: Any = optimize.minimize(
        loss,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * len(start),
        constraints=optimize.LinearConstraint(np.ones((1, len(start))), 1, 1),
    )
    mixture = np.maximum(found.x, 0)
    mixture[mixture < 1e-6] = 0
    mixture = mixture / mixture.sum()
    return mixture, loss(mixture)


def all_logits(logits: ndarray) -> ndarray:
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


def _logits(
    form: Form,
    variances: ndarray,
    hot: ndarray,
    weights: ndarray,
    policy: EvidencePolicy,
    start: ndarray | None = None,
    settled: float = 1.0,
) -> ndarray:
    """The most probable logits of rows, for given variances, or `settled` times further from them than the policy's."""
    logits = _start(hot, weights) if start is None else start.copy()
    for _ in range(policy.newton_steps):
        before = logits.copy()
        for c in range(hot.shape[1]):
            fitted = form.fitted(variances, *_working(logits, hot, c, weights))
            logits[:, c] = before[:, c] + np.clip(
                fitted - before[:, c], -_LARGEST_MOVE, _LARGEST_MOVE
            )
        p = _probabilities(logits)
        if (
            np.abs(logits - before) * 2 * np.sqrt(p * (1 - p))
        ).max() < settled * policy.newton_settled:
            break
    return logits


def _class_variances(
    rows: MemberRows, name: str, hot: ndarray, start: ndarray | float
) -> tuple[ndarray, ndarray]:
    """The variances of a candidate's components for classes, from a sample of rows, and the logits of these.

    `start` has them, or the variance that all together give the logits at first. Of many classes the most frequent
    `policy.variance_classes` tell them.
    """
    policy = rows.policy
    some = rows.sampled(name, hot.shape[1])
    if hot.shape[1] > policy.variance_classes:
        hot = hot[
            :, np.sort(np.argsort(-hot[some].sum(0), kind="stable")[: policy.variance_classes])
        ]
        some = some[hot[some].any(1)]
    form, inside, weights = rows.of(name, some), hot[some], rows.weights[some]
    sizes = form.sizes(len(COMPONENTS[name]), weights)
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
