"""Random tables and fits without folds for the tests of tables."""

import numpy as np

from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.points import Points


def table(function, rows, inputs, seed=0, noise=0.0, uniform=None):
    """Return points with a function of the columns, plus noise, as output.

    Inputs are normal, or uniform between -`uniform` and `uniform`.
    """
    rng = np.random.default_rng(seed)
    shape = rows, inputs
    x = rng.uniform(-uniform, uniform, shape) if uniform else rng.normal(size=shape)
    return Points(x, (function(*x.T) + noise * rng.normal(size=rows))[:, None])


def fitted(points, classes=None, **policy):
    """Return a model of a table, without cross-validation unless `policy` says otherwise."""
    return fit_table(points, classes, TablePolicy(**{"folds": 0, **policy}))


def columns(names):
    """Return the indices of the inputs of columns that are one input each."""
    return {name: [index] for index, name in enumerate(names)}


def rmse(model, new):
    return float(np.sqrt(np.mean((model.predict(new.x) - new.y) ** 2)))
