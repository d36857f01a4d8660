"""Families for counts, positive numbers and fractions: likelihoods and fitted means."""

from functools import partial

import numpy as np
import pytest
from cases import cases
from made_tables import fitted
from numpy.testing import assert_allclose
from scipy.special import ndtri
from scipy.stats import binom
from sklearn.linear_model import GammaRegressor, PoissonRegressor
from sklearn.metrics import d2_tweedie_score, log_loss, mean_gamma_deviance, mean_poisson_deviance

from kanrun import fit
from kanrun.engine.tables.folds import cross_validate
from kanrun.errors import InvalidData
from kanrun.points import Family, Points

MEANS = np.array([0.02, 0.3, 0.6, 0.95])


def draw(family, rows, seed, dispersion=1.0, level=1.0):
    """Return random points whose means depend on three of the four inputs, and these means."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (rows, 4))
    eta = level + np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2]
    mean = Family(family).mean(eta)
    if family == "gamma":
        y = rng.gamma(1 / dispersion, mean * dispersion)
    elif family == "binomial":
        y = rng.binomial(10, mean) / 10
    else:
        excess = dispersion - 1
        y = rng.poisson(rng.gamma(mean / excess, excess) if excess else mean)
    return Points(x, y[:, None].astype(float)), mean


quickly = partial(fit, pairs=False, selection="evidence")


def test_deviances_are_those_of_scikit_learn():
    y = np.array([0.0, 1.0, 3.0, 2.0])
    for name, outputs, expected in (
        ("poisson", y, mean_poisson_deviance(y, MEANS)),
        ("gamma", y + 1, mean_gamma_deviance(y + 1, MEANS)),
        ("binomial", y % 2, 2 * log_loss(y % 2, MEANS)),
    ):
        assert Family(name).deviance(outputs, MEANS).mean() == pytest.approx(expected)
    explained = Family("poisson").explained(y[:, None], MEANS[:, None])
    assert explained == pytest.approx(d2_tweedie_score(y, MEANS, power=1))


@pytest.mark.parametrize("name", ["poisson", "gamma", "binomial"])
def test_scores_and_weights_are_derivatives_of_the_likelihood(name):
    family = Family(name)
    y = np.array([0.1, 0.2, 0.7, 0.9])
    step = 1e-5
    eta = family.link(MEANS)
    low, high = (family.deviance(y, family.mean(eta + d)) for d in (-step, step))
    assert_allclose(family.score(y, MEANS), (low - high) / (4 * step), rtol=1e-6)
    slope = (family.mean(eta + step) - family.mean(eta - step)) / (2 * step)
    variance = {"poisson": MEANS, "gamma": MEANS**2, "binomial": MEANS * (1 - MEANS)}[name]
    assert_allclose(family.weight(MEANS), slope**2 / variance, rtol=1e-6)


@pytest.mark.parametrize(
    "name, dispersion, mean, variance",
    cases("""
poisson | 1.0 | 4.0 | 4.0
poisson | 3.0 | 4.0 | 12.0
gamma | 0.5 | 4.0 | 8.0
binomial | 0.1 | 0.4 | 0.024
"""),
)
def test_quantiles_have_mean_and_variance_and_scores_are_normal(name, dispersion, mean, variance):
    family = Family(name, dispersion=dispersion)
    means = np.full(4000, mean)
    y = family.quantile(ndtri((np.arange(4000) + 0.5) / 4000), means)
    assert y.mean() == pytest.approx(mean, rel=0.01)
    assert y.var() == pytest.approx(variance, rel=0.03)
    scores = family.normal_scores(y, means)
    assert abs(scores.mean()) < 0.05
    assert scores.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "name, values, rule",
    cases("""
poisson | [-1.0, 2.0] | from -1 to 2, and family=poisson is for counts
poisson | [0.0, 0.0] | not all 0
gamma | [0.0, 2.0] | for numbers above 0
binomial | [0.5, 1.5] | fractions from 0 to 1
"""),
)
def test_outputs_of_another_family_are_refused(name, values, rule):
    with pytest.raises(InvalidData, match=rule):
        Family(name).check(np.array(values), "y")


@pytest.mark.parametrize(
    "name, dispersion, level, bound",
    cases("""
poisson | 1.0 | 1.0 | 1.25
poisson | 1.0 | -1.5 | 1.15
gamma | 0.2 | 1.0 | 1.2
"""),
)
def test_each_family_finds_a_known_mean(name, dispersion, level, bound):
    points, _ = draw(name, 300, 0, dispersion, level)
    new, truth = draw(name, 2000, 1, dispersion, level)
    model = fitted(points, family=name)
    family = Family(name)
    predicted = model.predict(new.x)

    def loss(mean):
        return family.deviance(new.y[:, 0], mean).mean()

    assert loss(predicted[:, 0]) < bound * loss(truth)
    linear = {"poisson": PoissonRegressor, "gamma": GammaRegressor}[name](alpha=1e-3)
    linear.fit(points.x, points.y[:, 0])
    assert loss(predicted[:, 0]) < loss(linear.predict(new.x))
    assert (model.predict(new.x * 1e3) > 0).all()


def test_fractions_and_their_cross_validation():
    points, truth = draw("binomial", 400, 0, level=0.0)
    model = fitted(points, family="binomial", folds=2, pairs=False)
    found = cross_validate(points, Family("binomial"), model.folds, baselines=True)
    means = found.groupby("model")["loss"].mean()
    assert means["kanrun"] < means["logistic regression"] < means["mean"]
    noise = Family("binomial").deviance(points.y[:, 0], truth).mean()
    assert noise < means["kanrun"] < 3 * noise


@pytest.mark.parametrize("dispersion", [1.0, 3.0])
def test_intervals_cover_counts_and_widen_with_the_mean(dispersion):
    points, _ = draw("poisson", 1000, 0, dispersion)
    model = quickly(points.x, points.y, family="poisson")
    new, _ = draw("poisson", 2000, 1, dispersion)
    low, high = model.interval(new.x, 0.9)
    assert 0.88 < np.mean((low <= new.y) & (new.y <= high)) < 0.97
    wide = high - low
    order = np.argsort(model.predict(new.x))
    assert wide[order[-200:]].mean() > 2.5 * wide[order[:200]].mean()


@pytest.mark.parametrize(
    "trials, level",
    cases("""
1 | 0.0
1 | -2.5
5 | -2.5
10 | 0.0
"""),
)
def test_intervals_of_fractions_contain_as_much_as_their_binomial_distribution_says(trials, level):
    shares = (0.8, 0.9, 0.95)
    fractions = np.arange(trials + 1) / trials
    nominal = []
    measured = []
    for seed in (3, 4):
        rng = np.random.default_rng(seed)
        x = rng.uniform(-2, 2, (3500, 2))
        mean = Family("binomial").mean(level + 1.5 * np.sin(2 * x[:, 0]))
        y = rng.binomial(trials, mean)[:, None] / trials
        model = quickly(x[:500], y[:500], family="binomial")
        likely = binom.pmf(np.arange(trials + 1), trials, model.predict(x[500:])[:, None])
        ends = [model.interval(x[500:], share) for share in shares]
        nominal.append([(likely * ((a <= fractions) & (fractions <= b))).sum(1) for a, b in ends])
        measured.append([((a <= y[500:]) & (y[500:] <= b))[:, 0] for a, b in ends])
    covered = np.mean(measured, axis=(0, 2))
    assert np.abs(covered - np.mean(nominal, axis=(0, 2))).max() < 0.03
    assert (covered > np.array(shares) - 0.03).all()
    low, high = ends[-1]
    assert (low == 0).any()
    if trials == 1:
        assert set(np.unique([low, high])) <= {0.0, 1.0}
    else:
        assert (high < 1).mean() > 0.1


@pytest.mark.parametrize("level", [0.0, -2.5])
def test_single_trials_have_dispersion_1_and_the_means_of_two_classes(level):
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (200, 2))
    y = rng.binomial(1, Family("binomial").mean(level + 1.5 * np.sin(2 * x[:, :1]))).astype(float)
    points = Points(x, y, weights=rng.integers(1, 3, 200) / 1.5)
    model = fitted(points, family="binomial")
    assert (model.family.dispersion, model.fit.outputs[0].likelihood.dispersion) == (1.0, 1.0)
    assert_allclose(model.predict(x)[:, 0], fitted(points, 2).predict(x)[:, 1], atol=2e-3)


def test_intervals_cover_if_nothing_predicts_the_output():
    x, y = np.random.default_rng(6).normal(size=(2, 2500))
    model = quickly(x[:500], y[:500])
    low, high = model.interval(x[500:], 0.9)
    assert 0.87 < np.mean((low[:, 0] <= y[500:]) & (y[500:] <= high[:, 0])) < 0.93


def test_ends_of_fractions_have_the_probability_of_0_and_1():
    mean = np.linspace(0.1, 0.9, 500)
    y = np.random.default_rng(4).binomial(4, mean) / 4
    family = Family("binomial").with_dispersion(y[:, None], mean[:, None], np.ones(500))
    levels = ndtri((np.arange(200) + 0.5) / 200)
    drawn = family.quantile(levels[:, None], mean)
    for end in (0, 1):
        assert (drawn == end).mean() == pytest.approx((y == end).mean(), abs=2e-3)
    scores = family.normal_scores(y, mean)
    assert abs(scores.mean()) < 0.1
    assert scores.std() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("unit", [1e-12, 1e200])
def test_gamma_predictions_scale_with_the_unit_of_the_output(unit):
    points, _ = draw("gamma", 100, 0, 0.1)
    ours, other = (fitted(Points(points.x, u * points.y), family="gamma") for u in (1.0, unit))
    assert_allclose(other.predict(points.x), unit * ours.predict(points.x), rtol=2e-3)
    assert other.family.dispersion == pytest.approx(ours.family.dispersion, rel=1e-2)
