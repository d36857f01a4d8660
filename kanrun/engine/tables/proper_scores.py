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
from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs
from kanrun.engine.tables.scores import error_scale
from kanrun.engine.tables.table_model import TableModel

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
        middles: Predictions, in increasing order, shape (bins,).
        scales: Scale of the distribution at each of these predictions, shape (bins,).
        freedom: Degrees of freedom, infinite for a normal distribution.
    """

    middles: ndarray
    scales: ndarray
    freedom: float

    @staticmethod
    def of(predicted: PerRow, errors: PerRow) -> ErrorDistribution:
        """Fit the distribution to `errors` of predictions by maximum likelihood."""
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


def held_out_scores(model: TableModel, y: RowOutputs) -> ProperScores:
    """Return the scores of the training rows with outputs y (rows, outputs).

    The rows of a fold are predicted by the model that was fitted without them, and their error
    distribution is estimated from the other folds.
    """
    inside = model.different[~np.isnan(model.held_out[model.different, 0])]
    number = np.zeros(len(y)) if model.folds is None else model.folds.number
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    latent = model.outputs.apply(model.held_out)
    found = []
    for fold in np.unique(number[inside]):
        rows = inside[number[inside] == fold]
        others = inside[number[inside] != fold]
        found.append(_scores(model, y, latent, others if len(others) else rows, rows))
    return ProperScores(*np.concatenate(found, 1).mean(1).tolist())


def new_scores(model: TableModel, trained: ndarray, x: RowInputs, y: RowOutputs) -> ProperScores:
    """Return the scores of new rows x with outputs y.

    The error distribution is estimated from the held-out predictions of the training rows, whose
    outputs are `trained`.
    """
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    inside = model.different[~np.isnan(model.held_out[model.different, 0])]
    both = np.concatenate([model.held_out[inside], model.predict(x)])
    known, new = np.split(np.arange(len(both)), [len(inside)])
    outputs = np.concatenate([trained[inside], y])
    found = _scores(model, outputs, model.outputs.apply(both), known, new)
    return ProperScores(*found.mean(1).tolist())


def _scores(
    model: TableModel, y: ndarray, latent: ndarray, known: ndarray, rows: ndarray
) -> ndarray:
    """Return the scores (2, rows) of `rows`; the error distribution comes from the `known` rows."""
    assert model.outputs is not None  # An invariant: callers ask for numbers only.
    found = []
    for place, output in enumerate(model.fit.outputs):
        power = output.likelihood.power
        ends = model.outputs.points[place][[0, -1]]
        errors = power.apply(y[:, place]) - latent[:, place]
        distribution = ErrorDistribution.of(latent[known, place], errors[known])
        limits = float(ends[0]), float(ends[1])
        found.append(distribution.scores(power, limits, latent[rows, place], y[rows, place]))
    return np.asarray(np.mean(found, axis=0))
