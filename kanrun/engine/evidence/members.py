"""The candidates of a table, fitted by evidence and stacked on left-out rows.

They are additive, with steps, with pairs, and neighbourhoods; straight lines alone are fitted likewise. Left-out
predictions have a closed form (`Posterior.left_out`; for classes after the last Newton step), the weights are not
negative and sum to one, and the stacked whole is again of the form `Terms`.
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

from kanrun.engine.evidence.components import move
from kanrun.engine.evidence.design import Design, TableFunctions, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.radial import RadialBasis
from kanrun.engine.evidence.row_kernels import COMPONENTS, Blocks, Form, MemberRows, RowsSolution, Start

_LEAST_WEIGHT = 1e-3  # of p (1 - p), so that no row has endless noise
_MEAN_ROWS, _EFFECT_ROWS = 2000, 100
_LARGEST_LOGIT, _LARGEST_MOVE = 30.0, 4.0
SPARSE = "sparse"  # the candidate beside the stack
NEIGHBOURHOODS = "neighbourhoods"


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
    effective degrees of freedom, those of neighbourhoods by their share included. `sparse` is the fit with few inputs,
    which is not in the stack.
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
        """The scaled functions of single inputs, which are not kept: of a long table they are many times the table."""
        return TableFunctions(replace(self.design, radial=None), self.u)

    @cached_property
    def mean(self) -> Float[ndarray, " outputs"]:
        """The mean of each output over the first rows."""
        h = self.design.functions(self.u[:_MEAN_ROWS])
        return np.asarray(np.stack([one.values(h) for one in self.terms], 1).mean(0))

    def effect(self, j: int, u: Float[ndarray, "points inputs"]) -> Float[ndarray, "points outputs"]:
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
        moved, mean = (np.stack([np.interp(x[:, j], at, one) for one in levels], 1) for x in (u, rows))
        return np.asarray(alone + moved - mean.mean(0))

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
    candidates = _candidates(rows, start)
    names = _with_sparse(candidates, rows)
    near = rows.near(t, start.design if start else None) if NEIGHBOURHOODS in candidates else rows
    solutions: dict[str, list[RowsSolution]] = {name: [] for name in names}
    starts: dict[str, list[Start]] = {name: [] for name in names}
    for o, column in enumerate(t.T):
        for name in candidates:
            found, variances = (near if name == NEIGHBOURHOODS else rows).numbers(
                name, column, start.variances[name][o] if start else None
            )
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
    stack = _weights(candidates, lambda some: _stack_numbers([left_out[name] for name in some], t, weights), policy)
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
    return _Solved(rows, near.design.radial, members, solutions, starts, noises, float(scale[0])).whole(stack)


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
    names = _candidates(rows, start)
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
    near = rows.near(hot, start.design if start else None) if NEIGHBOURHOODS in names else rows
    for name in policy.candidates:
        solutions[name], starts[name] = _classes_of(near if name == NEIGHBOURHOODS else rows, name, hot, begun(name))
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
    stack = _weights(
        names, lambda some: _stack_classes([left_out[name] for name in some], labels, rows.weights), policy
    )
    members = tuple(Member(name, tuple(one.terms for one in solutions[name]), left_out[name]) for name in every)
    return _Solved(rows, near.design.radial, members, solutions, starts, dict.fromkeys(every, 1.0), 1.0).whole(stack)


def _candidates(rows: MemberRows, start: TableFit | None) -> tuple[str, ...]:
    """Those of the policy, or of the fit to similar rows; pairs and neighbourhoods where there are inputs for them."""
    policy, (count, inputs) = rows.policy, rows.u.shape
    fit = {
        "pairs": inputs > 1,
        NEIGHBOURHOODS: 1 < inputs <= policy.radial_inputs and count >= policy.radial_fewest and not policy.shapes,
    }
    known = policy.candidates if start is None else start.variances
    return tuple(name for name in policy.candidates if name in known and fit.get(name, True))


def _weights(
    names: Sequence[str], stack: Callable[[Sequence[str]], tuple[ndarray, float]], policy: EvidencePolicy
) -> dict[str, float]:
    """The weight of each candidate; neighbourhoods have one where they predict left-out rows better by enough."""
    weights, loss = stack(names)
    simple = [name for name in names if name != NEIGHBOURHOODS]
    if len(simple) < len(names):
        others, without = stack(simple)
        if loss > (1 - policy.radial_gain) * without:
            names, weights = simple, others
    return dict(zip(names, map(float, weights), strict=True))


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
    logits = _logits(rows.of(name), variances, hot, rows.weights, policy, logits if logits.shape == hot.shape else None)
    problems = [_working(logits, hot, c, rows.weights) for c in range(hot.shape[1])]
    return [rows.solve(name, variances, *one) for one in problems], [(variances, 1.0)]


@dataclass(frozen=True, eq=False)
class _Solved:
    """All candidates of a table; `noises` are their standard deviations of what is left."""

    rows: MemberRows
    radial: RadialBasis | None
    members: tuple[Member, ...]
    solutions: Mapping[str, Sequence[RowsSolution]]
    starts: dict[str, list[Start]]
    noises: Mapping[str, float]
    scale: float

    def whole(self, weights: Mapping[str, float]) -> TableFit:
        """The stack, with the bands of the richest member without pairs, and the sparse one beside it."""
        bands = next((name for name in ("steps", "additive") if name in weights), next(iter(weights)))
        found = self._sum(weights, bands)
        return replace(found, sparse=self._sum({SPARSE: 1.0}, SPARSE)) if SPARSE in self.solutions else found

    def _sum(self, weights: Mapping[str, float], bands: str) -> TableFit:
        members = tuple(one for one in self.members if one.name in weights)
        design = replace(self.rows.design, radial=self.radial if NEIGHBOURHOODS in weights else None)
        terms = []
        for o in range(len(members[0].terms)):
            whole = Terms(0.0, np.zeros(0))
            for member in members:
                whole = whole.plus(member.terms[o], weights[member.name])
            terms.append(whole)
        left_out = sum(weights[member.name] * member.left_out for member in members)
        band = self.solutions[bands][0]
        covariance = tuple(part * self.scale**2 for part in band.covariance)
        share = weights.get(NEIGHBOURHOODS, 0.0)
        local = self.solutions[NEIGHBOURHOODS][0].effective if share else 0.0
        effective = (1 - share) * band.effective + share * local
        starts = {name: one for name, one in self.starts.items() if name != NEIGHBOURHOODS or NEIGHBOURHOODS in weights}
        shares = np.array([weights[member.name] for member in members])
        return TableFit(
            design, self.rows.u, members, shares, tuple(terms), np.asarray(left_out), self.noises[members[-1].name],
            covariance, effective, starts,
        )  # fmt: skip


def _times(matrix: ndarray | None, factor: float) -> ndarray | None:
    return None if matrix is None else matrix * factor


def _stack_numbers(left_out: Sequence[ndarray], t: ndarray, weights: ndarray) -> tuple[ndarray, float]:
    """Weights (members,) by non-negative least squares, their sum held at one by a heavy row, and their loss."""
    root = np.sqrt(np.broadcast_to(weights[:, None], t.shape).ravel())
    columns = np.stack([part.ravel() * root for part in left_out], 1)
    heavy = 1e3 * np.sqrt(weights.sum())
    rows = np.vstack([columns, np.full((1, len(left_out)), heavy)])
    found, _ = optimize.nnls(rows, np.append(t.ravel() * root, heavy))
    found = found / found.sum()
    return found, float(((t.ravel() * root - columns @ found) ** 2).sum())


def _stack_classes(left_out: Sequence[ndarray], labels: ndarray, weights: ndarray) -> tuple[ndarray, float]:
    """Weights (members,) with the largest likelihood of the left-out labels, and their log loss."""
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
    mixture = mixture / mixture.sum()
    return mixture, loss(mixture)


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

    `start` has them, or the variance that all together give the logits at first. Of many classes the most frequent
    `policy.variance_classes` tell them.
    """
    policy = rows.policy
    some = rows.sampled(name, hot.shape[1])
    if hot.shape[1] > policy.variance_classes:
        hot = hot[:, np.sort(np.argsort(-hot[some].sum(0), kind="stable")[: policy.variance_classes])]
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
