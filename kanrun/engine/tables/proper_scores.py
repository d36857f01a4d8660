"""Proper scores of predictive distributions of numbers: logarithmic score and CRPS.

Errors of predictions are modelled by Student's t distribution in the units of the latent function,
with a scale that may vary with the prediction (`error_scale`). The logarithmic score (`nlpd`) is
minus the logarithm of the predictive density at the output, in the user's units. The continuous
ranked probability score (`crps`) is twice the quantile loss, averaged over quantile levels, in the
units of the output.

Source: T. Gneiting and A. Raftery, Journal of the American Statistical Association 102 (2007)
359-378.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from scipy import optimize, stats

from kanrun.engine.tables.likelihoods import Power
from kanrun.engine.tables.reduced_basis import PerRow, RowOutputs
from kanrun.engine.tables.scores import error_scale
from kanrun.engine.tables.table_model import TableModel
from kanrun.points import Points

#: Levels at which quantile losses are averaged.
_LEVELS = (np.arange(100) + 0.5) / 100
#: Limits of the degrees of freedom; the upper limit is practically a normal distribution.
_FREEDOM = (2.1, 1000.0)
#: Limits of the scale, relative to the root mean square of the errors.
_SCALES = (0.01, 3.0)


class ProperScores(NamedTuple):
    """Scores averaged over rows; lower is better."""

    nlpd: float
    crps: float


def proper_scores(model: TableModel, y: RowOutputs, new: Points | None = None) -> ProperScores:
    """Return the scores of the rows `new` or, if it is None, of the held-out training rows.

    The error distribution of new rows is estimated from all held-out predictions, and that of a
    fold from the predictions of the other folds. `y` (rows, outputs) are the outputs of the
    training rows.
    """
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    inside = model.held_out_rows
    latent = model.outputs.apply(model.held_out[inside])
    y = y[inside]
    number = model.folds.number[inside]
    parts = [(number != k, latent[number == k], y[number == k]) for k in np.unique(number)]
    if new is not None:
        parts = [(np.full(len(number), True), model.outputs.apply(model.predict(new.x)), new.y)]
    scores = []
    for others, f, truth in parts:
        known = others if others.any() else ~others
        for j, output in enumerate(model.fit.outputs):
            ends = model.outputs.points[j][[0, -1]]
            power = output.likelihood.power
            scores.append(
                row_scores(power, ends, (latent[known, j], y[known, j]), (f[:, j], truth[:, j]))
            )
    return ProperScores(*np.concatenate(scores, 1).mean(1).tolist())


def row_scores(
    power: Power, ends: ndarray, known: tuple[ndarray, ndarray], judged: tuple[ndarray, ndarray]
) -> ndarray:
    """Return the logarithmic score and the CRPS of each judged row, shape (2, rows).

    Args:
        power: Transform between outputs and latent values.
        ends: Lower and upper limit of the outputs, shape (2,).
        known: Predicted latent values and outputs from which the distribution is estimated.
        judged: Predicted latent values and outputs of the judged rows.
    """
    predicted, truth = known
    latent, y = judged
    errors = power.apply(truth) - predicted
    middles, scale = error_scale(predicted, errors)
    unit, freedom = _student(errors / np.interp(predicted, middles, scale))
    size = np.interp(latent, middles, scale * unit)
    nlpd = np.log(size * power.unit) - power.log_slopes(y)
    nlpd -= stats.t.logpdf((power.apply(y) - latent) / size, freedom)
    at = latent[:, None] + size[:, None] * stats.t.ppf(_LEVELS, freedom)
    off = y[:, None] - np.clip(power.invert(at), *ends)
    return np.stack([nlpd, 2 * (off * (_LEVELS - (off < 0))).mean(1)])


def _student(errors: PerRow) -> tuple[float, float]:
    """Return the scale and the degrees of freedom of Student's t distribution of `errors`.

    They are fitted by maximum likelihood.
    """
    unit = max(float(np.sqrt(np.mean(errors**2))), np.sqrt(np.finfo(float).tiny))

    def surprise(p: ndarray) -> float:
        size, freedom = np.exp(p)
        return float(p[0] - stats.t.logpdf(errors / unit / size, freedom).mean())

    bounds = optimize.Bounds(*np.log([_SCALES, _FREEDOM]).T)
    found = optimize.minimize(surprise, np.log([0.8, 8.0]), method="L-BFGS-B", bounds=bounds)
    size, freedom = np.exp(found.x).tolist()
    return unit * size, freedom
