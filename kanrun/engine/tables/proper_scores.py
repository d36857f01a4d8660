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

from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class ErrorDistribution:
    """Student's t distribution of the errors of one output.

    Attributes:
        middles: Mean prediction of each bin, in increasing order, shape (bins,).
        scales: Scale of the distribution at each mean prediction, shape (bins,). Between these
            predictions, the scale is interpolated linearly.
        freedom: Degrees of freedom, infinite for a normal distribution.
    """

    middles: ndarray
    scales: ndarray
    freedom: float

    @staticmethod
    def of(predicted: PerRow, errors: PerRow) -> ErrorDistribution:
        """Fit the distribution by maximum likelihood to the `errors` of predictions `predicted`."""
        middles, scale = error_scale(predicted, errors)
        relative = errors / np.interp(predicted, middles, scale)
        unit = max(float(np.sqrt(np.mean(relative**2))), np.sqrt(np.finfo(float).tiny))

        def surprise(p: ndarray) -> float:
            size, freedom = np.exp(p)
            return float(p[0] - stats.t.logpdf(relative / unit / size, freedom).mean())

        bounds = optimize.Bounds(*np.log([_SCALES, _FREEDOM]).T)
        size, freedom = np.exp(
            optimize.minimize(surprise, np.log([0.8, 8.0]), method="L-BFGS-B", bounds=bounds).x
        )
        return ErrorDistribution(middles, scale * unit * size, float(freedom))

    def scores(
        self, power: Power, limits: tuple[float, float], latent: PerRow, y: PerRow
    ) -> ndarray:
        """Return the logarithmic score and the CRPS of each row, shape (2, rows).

        Args:
            power: Transform between outputs and latent values.
            limits: Lower and upper limit of the outputs.
            latent: Predicted latent values, shape (rows,).
            y: Outputs, shape (rows,).
        """
        size = np.interp(latent, self.middles, self.scales)
        error = power.apply(y) - latent
        nlpd = np.log(size * power.unit) - power.log_slopes(y)
        nlpd -= stats.t.logpdf(error / size, self.freedom)
        at = latent[:, None] + size[:, None] * stats.t.ppf(_LEVELS, self.freedom)
        off = y[:, None] - np.clip(power.invert(at), *limits)
        return np.stack([nlpd, 2 * (off * (_LEVELS - (off < 0))).mean(1)])


def proper_scores(model: TableModel, y: RowOutputs, new: Points | None = None) -> ProperScores:
    """Return the scores of the rows `new` or, if it is None, of the held-out training rows.

    The error distribution of new rows is estimated from all held-out predictions, and that of a
    fold from the predictions of the other folds. `y` (rows, outputs) are the outputs of the
    training rows.
    """
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    inside = model.held_out_rows
    number = np.zeros(len(inside)) if model.folds is None else model.folds.number[inside]
    predicted = model.held_out[inside]
    y = y[inside]
    scored = np.unique(number)
    if new is not None:
        number = np.repeat([0, 1], [len(inside), len(new)])
        predicted = np.concatenate([predicted, model.predict(new.x)])
        y = np.concatenate([y, new.y])
        scored = np.array([1])
    latent = model.outputs.apply(predicted)
    scores = []
    for k in scored:
        rows = number == k
        known = ~rows if (~rows).any() else rows
        for output, limits, f, truth in zip(
            model.fit.outputs, model.outputs.points, latent.T, y.T, strict=True
        ):
            power = output.likelihood.power
            distribution = ErrorDistribution.of(f[known], power.apply(truth[known]) - f[known])
            ends = float(limits[0]), float(limits[-1])
            scores.append(distribution.scores(power, ends, f[rows], truth[rows]))
    return ProperScores(*np.concatenate(scores, 1).mean(1).tolist())
