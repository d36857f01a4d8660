"""Scores of inputs and the way between a transformed output and the user's units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from kanrun.engine.tables.scores import (
    PowerTransform,
    error_quantiles,
    input_scores,
    output_map,
)


def test_scores_increase_and_come_back():
    x = np.random.default_rng(0).lognormal(sigma=2, size=(200, 1))
    scaling = input_scores(x)
    u = scaling.apply(x)
    assert stats.spearmanr(u[:, 0], x[:, 0]).statistic == pytest.approx(1)
    assert_allclose(scaling.invert(u), x, rtol=1e-9)


def test_beyond_the_training_range_scores_end():
    x = np.random.default_rng(0).normal(size=(200, 1))
    scaling = input_scores(x)
    far = scaling.apply(np.array([[1e9], [1e12], [-1e9]]))[:, 0]
    width = np.ptp(scaling.apply(x))
    assert far[0] == far[1]
    assert far[0] - scaling.apply(x).max() == pytest.approx(0.25 * width)
    assert scaling.apply(x).min() - far[2] == pytest.approx(0.25 * width)


def test_few_values_and_straight_scores_are_standardised():
    x = np.array([[0.0], [1.0]] * 30)
    assert_allclose(input_scores(x).apply(x), (x - 0.5) / 0.5)
    y = np.random.default_rng(0).exponential(size=(100, 1))
    assert_allclose(input_scores(y, straight=[0]).apply(y), (y - y.mean()) / y.std())


@pytest.mark.parametrize(
    "x, bent",
    [
        ([0] * 90 + [*range(1, 8)], False),  # few values
        ([0] * 90 + [*range(1, 9)], True),
        ([*np.linspace(-1, 1, 99), 1.45], False),  # a light tail
        ([*np.linspace(-1, 1, 99), 1.55], True),
    ],
)
def test_long_tails_of_many_values_are_bent(x, bent):
    x = np.array(x, float)[:, None]
    assert np.allclose(input_scores(x).apply(x), (x - x.mean()) / x.std()) != bent


def test_a_constant_column_has_a_scale():
    assert np.isfinite(input_scores(np.full((20, 1), 7.0)).apply(np.array([[7.0], [8.0]]))).all()


def test_a_column_over_six_hundred_decades_has_finite_scores():
    x = 10 ** np.random.default_rng(0).uniform(-300, 0, (120, 1))
    found = input_scores(x).apply(np.sort(x, axis=0))
    assert np.isfinite(found).all()
    assert (np.diff(found[:, 0]) >= 0).all()


@given(st.integers(0, 1000), st.sampled_from(["normal", "lognormal", "exponential", "negative"]))
def test_a_transform_comes_back(seed, kind):
    rng = np.random.default_rng(seed)
    draws = {"normal": rng.normal, "lognormal": rng.lognormal, "exponential": rng.exponential}
    y = -rng.exponential(size=80) if kind == "negative" else draws[kind](size=80)
    transform = PowerTransform.of(y)
    assert_allclose(transform.invert(transform.apply(y)), y, rtol=1e-6, atol=1e-9 * np.abs(y).max())


def test_predictions_stay_within_the_margin():
    y = np.random.default_rng(1).lognormal(size=(100, 1))
    transform = PowerTransform.of(y[:, 0])
    assert transform is not None
    for one, errors in ((None, np.zeros(1)), (transform, np.array([-0.1, 0.1]))):
        there = output_map(y, one, errors).invert(np.array([[-1e9], [0.0], [1e9]]))
        room = 0.1 * np.ptp(y)
        assert there.min() >= y.min() - room - 1e-9
        assert there.max() <= y.max() + room + 1e-9
    free = output_map(y, margin=np.inf)
    assert free.invert(np.array([[1e3]]))[0, 0] == 1e3


def test_the_way_back_is_the_mean_over_errors():
    y = np.random.default_rng(2).lognormal(size=(2000, 1))
    transform = PowerTransform.of(y[:, 0])
    errors = np.random.default_rng(3).normal(scale=0.5, size=4000)
    at = np.array([0.0])
    mean = output_map(y, transform, errors).invert(at[:, None])[0, 0]
    expected = transform.invert(np.quantile(errors, np.linspace(0.025, 0.975, 20))).mean()
    assert mean == pytest.approx(expected, rel=1e-3)


def test_errors_that_grow_with_the_prediction_have_wider_quantiles_there():
    rng = np.random.default_rng(4)
    predicted, noise = rng.uniform(0, 1, 2000), rng.normal(size=2000)
    found = error_quantiles(predicted, (0.1 + predicted) * noise, np.array([0.05, 0.95]))
    assert found.shape == (8, 3)
    assert_allclose(found[:, 2] / (1.645 * (0.1 + found[:, 0])), 1, atol=0.15)
    new = rng.uniform(0, 1, 20_000)
    low, high = (np.interp(new, found[:, 0], ends) for ends in found.T[1:])
    errors = (0.1 + new) * rng.normal(size=20_000)
    inside = (low < errors) & (errors < high)
    assert 0.88 < inside.mean() < 0.92
    assert 0.85 < inside[new < 0.2].mean() < 0.95
    even = error_quantiles(predicted, noise, np.array([0.05, 0.95]))
    assert np.ptp(even[:, 2]) < 0.1  # within chance they stay nearly equal
    assert error_quantiles(predicted[:199], noise[:199], np.array([0.5])).shape == (1, 2)
    equal = error_quantiles(np.zeros(len(noise)), np.sort(noise), np.array([0.05, 0.95]))
    assert np.ptp(equal, axis=0).max() == 0
    assert not error_quantiles(predicted, 0 * noise, np.array([0.05, 0.95]))[:, 1:].any()
