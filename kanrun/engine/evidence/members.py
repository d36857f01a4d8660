"""The candidates of a table - straight lines, additive, with pairs - fitted by evidence and stacked on left-out rows.

All three are always there, so that the answer is not worse than the linear model by more than chance. Left-out
predictions have a closed form (`Posterior.left_out`; for classes after the last Newton step), the weights are not
negative and sum to one, and the stacked whole is again of the form `Terms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import optimize
from scipy.special import expit, log_softmax, softmax

from kanrun.engine.evidence.basis import ReducedBasis
from kanrun.engine.evidence.components import estimate, move, slope, solve, solve_wide, weights_of
from kanrun.engine.evidence.design import KINDS, MAIN, Design, Terms
from kanrun.engine.evidence.evidence_policy import EvidencePolicy

#: The candidates, and of how many components each is.
COMPONENTS = {"linear": 1, "additive": MAIN, "pairs": len(KINDS)}
_LEAST_WEIGHT = 1e-3  # of p (1 - p), so that no row has endless noise
_LARGEST_LOGIT, _LARGEST_MOVE = 30.0, 4.0


@dataclass(frozen=True, eq=False)
class Member:
    """One candidate: its terms for each output, and what it predicts of rows that are left out (rows, outputs)."""

    name: str
    terms: tuple[Terms, ...]
    left_out: ndarray


@dataclass(frozen=True, eq=False)
class TableFit:
    """The stacked whole of one table, and its members.

    `functions` are the scaled functions of the rows; `terms` and `left_out` (rows, outputs) as in a member; classes
    have an output each, two classes the one logit of the second. `noise` is the standard deviation of what is left (1
    for classes). `covariance` (functions, functions) is that of the first output's main effects, `effective` their
    effective degrees of freedom.
    """

    design: Design
    functions: ndarray
    members: tuple[Member, ...]
    weights: ndarray
    terms: tuple[Terms, ...]
    left_out: ndarray
    noise: float
    covariance: ndarray
    effective: float


@dataclass(frozen=True, eq=False)
class _Solution:
    terms: Terms
    fitted: ndarray
    left_out: ndarray
    covariance: ndarray | None = None
    effective: float = 0.0


class _Rows:
    """What the fits of one table share: scaled functions, kernels, and the sample of rows for the evidence."""

    def __init__(self, u: ndarray, policy: EvidencePolicy) -> None:
        self.policy = policy
        self.design = Design.of(ReducedBasis.of(u, policy), policy)
        self.h = self.design.functions(u)
        order = np.random.default_rng(0).permutation(len(u))  # fixed: the same rows give the same model
        self.sample = np.sort(order[: policy.evidence_rows])
        self.screened = np.sort(order[: policy.screening_rows])
        self.dense = len(u) <= policy.dense_rows
        self.pairs: list[tuple[int, int]] = []
        self._kernels: list[ndarray] = []

    def kernels(self, name: str, rows: ndarray | None = None) -> list[ndarray]:
        """Those of a candidate, for some of the rows or for all."""
        if rows is not None:
            h = self.h[rows]
            return (self.design.main_kernels(h) + (self.design.pair_kernels(h) if name == "pairs" else []))[
                : COMPONENTS[name]
            ]
        if not self._kernels:
            self._kernels = self.design.main_kernels(self.h)
        if name == "pairs" and len(self._kernels) == MAIN:
            self._kernels += self.design.pair_kernels(self.h)
        return self._kernels[: COMPONENTS[name]]

    def relevant(self, terms: Sequence[Terms]) -> None:
        """Inputs with large effects are more likely to take part in pairs."""
        effects = np.zeros(self.design.basis.inputs)
        for j in range(len(effects)):
            one = self.design.basis.column == j
            effects[j] = np.sqrt(sum(float(((self.h[:, one] @ t.main[one]) ** 2).mean()) for t in terms))
        largest = effects.max(initial=0.0)
        share = np.sqrt(effects / largest) if largest > 0 else np.ones_like(effects)
        self.design = self.design.with_relevance(share + self.policy.relevance)
        self._kernels = self._kernels[:MAIN]

    def solve(self, name: str, variances: ndarray, noise: ndarray, y: ndarray, covariance: bool = False) -> _Solution:
        """The candidate's terms for given variances of its components and of each row's noise."""
        whole = np.zeros(len(KINDS))
        whole[: len(variances)] = variances
        if not self.dense:
            return self._solve_wide(whole, noise, y)
        found = solve(self.kernels(name), variances, noise, y)
        terms = self.design.terms(self.h, found.offset, found.weights, whole)
        fitted, left_out = y - noise * found.weights, found.left_out(y)
        if not covariance:
            return _Solution(terms, fitted, left_out)
        prior = np.where(self.design.lines, whole[0], whole[1])
        scaled = self.h * prior
        spread = np.diag(prior) - scaled.T @ (found.projection @ scaled)
        return _Solution(terms, fitted, left_out, spread, _effective(spread, prior))

    def _solve_wide(self, variances: ndarray, noise: ndarray, y: ndarray) -> _Solution:
        a, b = self.design.pair_columns(self.pairs if np.any(variances[MAIN:]) else [])

        def columns(part: slice) -> ndarray:
            h = self.h[part]
            return np.concatenate([h, h[:, a] * h[:, b]], 1)

        found = solve_wide(columns, self.design.prior(variances, a, b), noise, y)
        count = self.h.shape[1]
        pairs = None
        if len(a):
            pairs = np.zeros((count, count))
            pairs[a, b] = pairs[b, a] = found.coefficients[count:]
        terms = Terms(found.offset, found.coefficients[:count], pairs)
        spread, prior = found.covariance[:count, :count], self.design.prior(variances, a, b)[:count]
        return _Solution(terms, found.fitted, found.left_out, spread, _effective(spread, prior))

    def screen(self, kernels: list[ndarray], variances: ndarray, problems: Sequence[tuple[ndarray, ndarray]]) -> None:
        """Choose the pairs of a table too long for kernels by fits to `screened` rows: (noise, y) of each output."""
        h = self.h[self.screened]
        energy = np.zeros((h.shape[1],) * 2)
        for noise, y in problems:
            found = solve(kernels, variances, noise, y)
            terms = self.design.terms(h, found.offset, found.weights, variances)
            energy += 0 if terms.pairs is None else terms.pairs**2
        self.pairs = self.design.strongest_pairs(energy, self.policy.most_pairs)


def _effective(covariance: ndarray, prior: ndarray) -> float:
    """How many of the coefficients the data determine rather than their prior."""
    known = prior > 0
    return float(np.sum(1 - np.diag(covariance)[known] / prior[known]))


def fit_numbers(
    u: Float[ndarray, "rows inputs"], y: Float[ndarray, "rows outputs"], policy: EvidencePolicy
) -> TableFit:
    """Fit outputs that are numbers, each by itself; the terms are in the units of y."""
    rows = _Rows(u, policy)
    shift, scale = y.mean(0), y.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    t = (y - shift) / scale
    solutions: dict[str, list[_Solution]] = {name: [] for name in policy.candidates}
    noises = []
    for column in t.T:
        for name in policy.candidates:
            variances, noise = estimate(rows.kernels(name, rows.sample), column[rows.sample], policy)
            if name == "pairs" and not rows.dense:
                known = np.full(len(rows.screened), noise)
                rows.screen(rows.kernels(name, rows.screened), variances, [(known, column[rows.screened])])
            found = rows.solve(name, variances, np.full(len(column), noise), column, covariance=True)
            solutions[name].append(found)
            if name == "additive":
                rows.relevant([found.terms])
        noises.append(noise)
    left_out = {name: np.stack([one.left_out for one in found], 1) for name, found in solutions.items()}
    weights = _stack_numbers(list(left_out.values()), t)
    members = tuple(
        Member(
            name,
            tuple(Terms(s * one.terms.offset + m, s * one.terms.main, _times(one.terms.pairs, s))
                  for one, m, s in zip(solutions[name], shift, scale, strict=True)),
            left_out[name] * scale + shift,
        )
        for name in policy.candidates
    )  # fmt: skip
    noise = float(np.mean(np.sqrt(noises) * scale))
    return _whole(rows, members, weights, noise, _of_effects(solutions), float(scale[0]))


def fit_classes(u: Float[ndarray, "rows inputs"], labels: Int[ndarray, " rows"], classes: int,
                policy: EvidencePolicy) -> TableFit:  # fmt: skip
    """Fit the logits of classes 0 ... classes - 1 (one logit, of class 1, for two of them) by penalised likelihood.

    The noise of a row follows from its probabilities (iteratively reweighted least squares); with more than two classes
    their logits are improved one after the other, and share the variances.
    """
    if classes * len(u) ** 3 > policy.most_work:
        policy = replace(policy, candidates=tuple(name for name in policy.candidates if name != "pairs"))
    rows = _Rows(u, policy)
    hot = np.eye(classes)[labels][:, 1:] if classes == 2 else np.eye(classes)[labels]
    solutions: dict[str, list[_Solution]] = {}
    for name in policy.candidates:
        variances = _class_variances(rows, name, hot)
        if name == "pairs" and not rows.dense:
            kernels = rows.kernels(name, rows.screened)
            inside = hot[rows.screened]
            logits = _kernel_logits(kernels, variances, inside, policy)
            rows.screen(kernels, variances, [_working(logits, inside, c) for c in range(inside.shape[1])])
        solutions[name] = _logits(rows, name, variances, hot)
        if name == "additive":
            rows.relevant([one.terms for one in solutions[name]])
    left_out = {
        name: np.clip(np.stack([one.left_out for one in found], 1), -_LARGEST_LOGIT, _LARGEST_LOGIT)
        for name, found in solutions.items()
    }
    weights = _stack_classes(list(left_out.values()), labels)
    members = tuple(
        Member(name, tuple(one.terms for one in solutions[name]), left_out[name]) for name in policy.candidates
    )
    return _whole(rows, members, weights, 1.0, _of_effects(solutions), 1.0)


def _of_effects(solutions: dict[str, list[_Solution]]) -> _Solution:
    """The solution whose main effects have the bands: the additive one, where it is a candidate."""
    return solutions.get("additive", next(iter(solutions.values())))[0]


def _whole(rows: _Rows, members: Sequence[Member], weights: ndarray, noise: float, additive: _Solution,
           scale: float) -> TableFit:  # fmt: skip
    terms = []
    for o in range(len(members[0].terms)):
        whole = Terms(0.0, np.zeros_like(members[0].terms[o].main))
        for member, weight in zip(members, weights, strict=True):
            whole = whole.plus(member.terms[o], float(weight))
        terms.append(whole)
    left_out = sum(w * member.left_out for w, member in zip(weights, members, strict=True))
    spread = additive.covariance if additive.covariance is not None else np.zeros((rows.h.shape[1],) * 2)
    return TableFit(
        rows.design, rows.h, tuple(members), weights, tuple(terms), np.asarray(left_out), noise, spread * scale**2,
        additive.effective,
    )  # fmt: skip


def _times(matrix: ndarray | None, factor: float) -> ndarray | None:
    return None if matrix is None else matrix * factor


def _stack_numbers(left_out: Sequence[ndarray], t: ndarray) -> Float[ndarray, " members"]:
    """Weights by non-negative least squares, their sum held at one by a heavy row."""
    columns = np.stack([part.ravel() for part in left_out], 1)
    heavy = 1e3 * np.sqrt(len(columns))
    weights, _ = optimize.nnls(np.vstack([columns, np.full((1, len(left_out)), heavy)]), np.append(t.ravel(), heavy))
    return np.asarray(weights / weights.sum())


def _stack_classes(left_out: Sequence[ndarray], labels: ndarray) -> Float[ndarray, " members"]:
    """Weights with the largest likelihood of the left-out labels."""
    logits = np.stack([_all_logits(part) for part in left_out])
    start = np.full(len(left_out), 1 / len(left_out))

    def loss(weights: ndarray) -> float:
        return float(-log_softmax(np.tensordot(weights, logits, 1), 1)[np.arange(len(labels)), labels].mean())

    found: Any = optimize.minimize(
        loss, start, method="SLSQP", bounds=[(0, 1)] * len(start),
        constraints=optimize.LinearConstraint(np.ones((1, len(start))), 1, 1),
    )  # fmt: skip
    weights = np.maximum(found.x, 0)
    weights[weights < 1e-6] = 0
    return np.asarray(weights / weights.sum())


def _all_logits(logits: ndarray) -> ndarray:
    """One for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def _probabilities(logits: ndarray) -> ndarray:
    return expit(logits) if logits.shape[1] == 1 else softmax(logits, 1)


def _working(logits: ndarray, hot: ndarray, c: int) -> tuple[ndarray, ndarray]:
    """(noise, response) of the least squares problem that is one Newton step of class c."""
    p = _probabilities(logits)[:, c]
    weight = np.maximum(p * (1 - p), _LEAST_WEIGHT)
    return 1 / weight, logits[:, c] + (hot[:, c] - p) / weight


def _start(hot: ndarray) -> ndarray:
    share = np.clip(hot.mean(0), 1e-3, 1 - 1e-3)
    base = np.log(share / (1 - share)) if hot.shape[1] == 1 else np.log(share)
    return np.tile(base, (len(hot), 1))


def _kernel_logits(
    kernels: list[ndarray], variances: ndarray, hot: ndarray, policy: EvidencePolicy, start: ndarray | None = None
) -> ndarray:
    """The most probable logits of rows, for given variances."""
    logits = _start(hot) if start is None else start.copy()
    for _ in range(policy.newton_steps):
        before = logits.copy()
        for c in range(hot.shape[1]):
            noise, response = _working(logits, hot, c)
            fitted = response - noise * weights_of(kernels, variances, noise, response)
            logits[:, c] = before[:, c] + np.clip(fitted - before[:, c], -_LARGEST_MOVE, _LARGEST_MOVE)
        if np.abs(logits - before).max() < policy.newton_settled:
            break
    return logits


def _class_variances(rows: _Rows, name: str, hot: ndarray) -> ndarray:
    """The variances of a candidate's components for classes, from the sample of rows."""
    policy, kernels, inside = rows.policy, rows.kernels(name, rows.sample), hot[rows.sample]
    sizes = np.array([np.trace(kernel) / len(inside) for kernel in kernels])
    variances = np.where(sizes > 1e-12, 1 / len(kernels) / np.maximum(sizes, 1e-12), 0.0)
    logits = _start(inside)
    for _ in range(policy.rounds):
        logits = _kernel_logits(kernels, variances, inside, policy, logits)
        first: ndarray | float = 0.0
        information: ndarray | float = 0.0
        for c in range(inside.shape[1]):
            noise, response = _working(logits, inside, c)
            found = solve(kernels, variances, noise, response)
            parts = slope(kernels, variances, found, None, response)
            first, information = first + parts[0], information + parts[1]
        change = move(np.asarray(first), np.asarray(information))
        variances[variances > 0] *= np.exp(change)
        variances[variances * sizes < policy.negligible * 10] = 0.0
        if not len(change) or np.abs(change).max() < 3 * policy.settled:
            break
    return variances


def _logits(rows: _Rows, name: str, variances: ndarray, hot: ndarray) -> list[_Solution]:
    """The most probable terms of each logit, on all rows."""
    if rows.dense:
        logits = _kernel_logits(rows.kernels(name), variances, hot, rows.policy)
    else:
        logits = _wide_logits(rows, name, variances, hot)
    problems = [_working(logits, hot, c) for c in range(hot.shape[1])]
    return [rows.solve(name, variances, *one, covariance=c == 0) for c, one in enumerate(problems)]


def _wide_logits(rows: _Rows, name: str, variances: ndarray, hot: ndarray) -> ndarray:
    logits = _start(hot)
    for _ in range(rows.policy.newton_steps):
        before = logits.copy()
        for c in range(hot.shape[1]):
            fitted = rows.solve(name, variances, *_working(logits, hot, c)).fitted
            logits[:, c] = before[:, c] + np.clip(fitted - before[:, c], -_LARGEST_MOVE, _LARGEST_MOVE)
        if np.abs(logits - before).max() < rows.policy.newton_settled:
            break
    return logits
