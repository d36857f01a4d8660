"""Proper scores (NLPD, CRPS) of known distributions, of folds and of new rows."""

import numpy as np
import pytest
from made_tables import table
from scipy import stats

from kanrun.engine.tables import fit_table
from kanrun.engine.tables.likelihoods import Power
from kanrun.engine.tables.reports import proper_scores, row_scores


def test_scores_of_a_normal_distribution_are_those_of_its_formulas():
    rng = np.random.default_rng(0)
    half = Power(unit=0.5, shift=0.0)
    predicted = rng.normal(size=4000)
    known = predicted, (predicted + 0.5 * rng.normal(size=4000)) / 2
    latent = np.array([0.0, 0.0, 1.0])
    z = np.array([0.0, 1.2, 0.3])
    nlpd, crps = row_scores(half, np.array([-9.0, 9.0]), known, (latent, z / 2))
    off = (z - latent) / 0.5
    expected = off * (2 * stats.norm.cdf(off) - 1) + 2 * stats.norm.pdf(off) - np.pi**-0.5
    np.testing.assert_allclose(nlpd, -stats.norm.logpdf(off) - np.log(4), rtol=0.1)
    np.testing.assert_allclose(crps, 0.25 * expected, rtol=0.05)


def test_scores_of_held_out_rows_are_those_of_new_rows():
    std = 3.0
    points = table(lambda a, b: 10 * np.sin(2 * a) + 10 * b, 2300, 2, 0, std, uniform=1.0)
    rows, new = (points.take(np.arange(*ends)) for ends in ((300,), (300, 2300)))
    model = fit_table(rows, None)
    for measured in (None, new):
        scores = proper_scores(model, rows.y, measured)
        assert scores.nlpd == pytest.approx(np.log(std) + 0.5 * np.log(2 * np.pi * np.e), abs=0.1)
        assert scores.crps == pytest.approx(std / np.sqrt(np.pi), rel=0.1)
