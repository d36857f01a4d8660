"""Logits of the classes of a table, by Newton's method, and the variances of their components."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit, softmax

from kanrun.engine.tables.table_candidates import CandidateSolution, Form, TableRows
from kanrun.engine.tables.table_policy import EvidencePolicy
from kanrun.engine.tables.variance_components import Variances, equal_variances, maximise

_MIN_VARIANCE = 1e-3  # of p (1 - p), so that no row has unlimited noise
_MAX_LOGIT, _MAX_MOVE = 30.0, 4.0
_LOGIT_VARIANCE = 10.0  # against which components of logits are judged negligible
_NEWTON_TOLERANCE = 1e-2  # change of the logits, in units of 1 / (2 sqrt(p (1 - p)))
# Times the tolerances of logits and of variances, while variances are searched.
_ROUGHLY = 10.0, 3.0


def all_logits(logits: Float[ndarray, "rows logits"]) -> Float[ndarray, "rows classes"]:
    """Return one logit for each class: the one of two classes is split."""
    return np.concatenate([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def probabilities(logits: Float[ndarray, "rows logits"]) -> Float[ndarray, "rows classes"]:
    """Return the probabilities of all classes."""
    return np.asarray(softmax(all_logits(logits), 1))


def fit_logits(
    rows: TableRows, name: str, hot: Float[ndarray, "rows logits"], start: ndarray | float
) -> tuple[list[CandidateSolution], list[Variances]]:
    """Return a candidate's solution for each logit, and its variances, which begin at `start`."""
    variances, logits = _class_variances(rows, name, hot, start)
    form = rows.form(name)
    known = logits if logits.shape == hot.shape else None
    logits = _newton(form, variances, hot, rows.weights, rows.policy, known)
    solutions = []
    for c in range(hot.shape[1]):
        noise, response = _working(logits, hot, c, rows.weights)
        found = form.solution(form.problem(noise, response), response, 1 / noise, variances)
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
    form, inside, weights = rows.form(name, some), hot[some], rows.weights[some]
    logits = _prior_logits(inside, weights)
    sizes = form.problem(1 / weights, inside[:, 0]).sizes

    def slope(variances: ndarray, _noise: float) -> tuple[ndarray, ndarray]:
        nonlocal logits
        logits = _newton(form, variances, inside, weights, policy, logits, _ROUGHLY[0])
        working = (_working(logits, inside, c, weights) for c in range(inside.shape[1]))
        slopes = [form.problem(*one).slope(variances, known=True) for one in working]
        return np.asarray(sum(first for first, _ in slopes)), np.asarray(sum(i for _, i in slopes))

    first = start if isinstance(start, ndarray) else equal_variances(sizes, start)
    variances, _ = maximise(
        slope,
        sizes,
        _LOGIT_VARIANCE,
        (first, 1.0),
        policy.max_steps,
        tolerance=_ROUGHLY[1] * policy.tolerance,
        known=True,
    )
    return variances, logits


def _newton(
    form: Form,
    variances: ndarray,
    hot: ndarray,
    weights: ndarray,
    policy: EvidencePolicy,
    start: ndarray | None = None,
    roughly: float = 1.0,
) -> Float[ndarray, "rows logits"]:
    """Return the most probable logits for given variances, to `roughly` times the tolerance."""
    logits = _prior_logits(hot, weights) if start is None else start.copy()
    for _ in range(policy.max_steps):
        before = logits.copy()
        for c in range(hot.shape[1]):
            fitted = form.fitted(variances, *_working(logits, hot, c, weights))
            logits[:, c] = before[:, c] + np.clip(fitted - before[:, c], -_MAX_MOVE, _MAX_MOVE)
        p = _sigmoid(logits)
        change = np.abs(logits - before) * 2 * np.sqrt(p * (1 - p))
        if change.max() < roughly * _NEWTON_TOLERANCE:
            break
    return logits


def _sigmoid(logits: ndarray) -> ndarray:
    """Return the probability that belongs to each logit."""
    return np.asarray(expit(logits) if logits.shape[1] == 1 else softmax(logits, 1))


def _working(logits: ndarray, hot: ndarray, c: int, weights: ndarray) -> tuple[ndarray, ndarray]:
    """Return noise and response of the least squares problem that is one Newton step of class c."""
    p = _sigmoid(logits)[:, c]
    weight = np.maximum(p * (1 - p), _MIN_VARIANCE)
    return 1 / (weights * weight), logits[:, c] + (hot[:, c] - p) / weight


def _prior_logits(hot: ndarray, weights: ndarray) -> ndarray:
    """Return the logits of the classes' frequencies."""
    fraction = np.clip(np.average(hot, 0, weights), _MIN_VARIANCE, 1 - _MIN_VARIANCE)
    base = np.log(fraction / (1 - fraction)) if hot.shape[1] == 1 else np.log(fraction)
    return np.tile(base, (len(hot), 1))
