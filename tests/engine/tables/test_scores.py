"""Scores of inputs, and the conversion of transformed outputs to the user's units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from kanrun.engine.tables.encoder import error_quantiles, input_scores, output_map, rank_map
from kanrun.engine.tables.likelihoods import Power


def drawn(kind, rows, seed):
    sign = -1 if kind == "negative" else 1
    return sign * getattr(np.random.default_rng(seed), kind.replace("negative", "exponential"))(
        size=rows
    )


def test_input_scores_increase_have_an_inverse_and_are_constant_beyond_the_range():
    x = drawn("lognormal", (200, 1), 0) ** 2
    scaling = input_scores(x)
    u = scaling.apply(x)
    assert stats.spearmanr(u[:, 0], x[:, 0]).statistic == pytest.approx(1)
    assert_allclose(scaling.invert(u), x, rtol=1e-9)
    far = scaling.apply(np.array([[-1e12], [-1e9], [1e9], [1e12]]))[:, 0]
    assert far[0] == far[1] < u.min() < u.max() < far[2] == far[3]


@pytest.mark.parametrize(
    "x, bent",
    [
        ([0] * 90 + [*range(1, 8)], False),  # few values
        ([0] * 90 + [*range(1, 9)], True),
        ([*np.linspace(-1, 1, 99), 1.45], False),  # a light tail
        ([*np.linspace(-1, 1, 99), 1.55], True),
    ],
)
def test_long_tails_of_many_values_are_bent_unless_scores_are_straight(x, bent):
    x = np.array(x, float)[:, None]
    standardised = (x - x.mean()) / x.std()
    assert np.allclose(input_scores(x).apply(x), standardised) != bent
    assert_allclose(input_scores(x, straight=[0]).apply(x), standardised, atol=1e-12)


@pytest.mark.parametrize(
    "x", [np.full(20, 7.0), 10 ** np.random.default_rng(0).uniform(-300, 0, 120)]
)
def test_a_constant_column_and_one_over_three_hundred_decades_have_finite_scores(x):
    found = input_scores(x[:, None]).apply(np.append(np.sort(x), 8.0)[:, None])
    assert np.isfinite(found).all()
    assert (np.diff(found[:, 0]) >= 0).all()


@given(
    st.integers(0, 1000),
    st.sampled_from(["normal", "lognormal", "exponential", "negative"]),
    st.floats(-1, 3),
)
def test_power_has_an_inverse_and_mean_log_slope_zero(seed, kind, exponent):
    y = drawn(kind, 80, seed)
    power = Power.of(y, np.ones(80), float(y.std()), float(np.median(y) / y.std()), exponent)
    assert_allclose(power.invert(power.apply(y)), y, rtol=1e-6, atol=1e-9 * np.abs(y).max())
    assert power.log_slopes(y).mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("exponent", [1.0, 0.3, 1.7])
def test_predictions_stay_within_the_margin(exponent):
    y = drawn("lognormal", 100, 1)[:, None]
    power = Power.of(y[:, 0], np.ones(100), 1.0, 0.0, exponent)

    def ends(far, **more):
        points, values = output_map(y[:, 0], power, np.resize([-0.1, 0.1], 100), **more)
        return np.interp([-far, 0.0, far], values, points)

    room = 0.1 * np.ptp(y)
    held = ends(1e9)
    assert held.min() >= y.min() - room - 1e-9
    assert held.max() <= y.max() + room + 1e-9
    free = ends(1e4, margin=np.inf)
    assert free[0] < y.min() - 10 * room
    assert free[2] > y.max() + 10 * room
    assert_allclose(ends(1e9, bounds=(0.5, 2.0))[[0, 2]], [0.5, 2.0])


def test_inverse_of_the_output_scale_is_the_mean_over_the_errors():
    y = drawn("lognormal", 2000, 2)
    power = Power.of(y, np.ones(2000), 1.0, 0.0, 0.2)
    errors = np.random.default_rng(3).normal(scale=0.2, size=2000)
    middle = float(np.median(power.apply(y)))
    points, values = output_map(y, power, errors)
    mean = np.interp(middle, values, points)
    levels = np.quantile(errors, np.linspace(0.025, 0.975, 20))
    assert mean == pytest.approx(power.invert(middle + levels).mean(), rel=1e-3)


def test_ranks_make_long_tails_and_clusters_even():
    u = np.concatenate([np.linspace(0, 1, 90), [5.0, 10.0, 20.0]])[:, None]
    t = rank_map(u).apply(u)[:, 0]
    assert (np.diff(t) > 0).all()
    ranks = 2 * t - u[:, 0]
    assert_allclose(np.diff(ranks[:85]), ranks[1] - ranks[0], rtol=1e-9)
    two = np.array([[-0.5]] * 9 + [[2.0]])
    assert_allclose(rank_map(two).apply(two), two)


def test_errors_that_grow_with_the_prediction_have_wider_quantiles_there():
    rng = np.random.default_rng(4)
    predicted = rng.uniform(0, 1, 2000)
    noise = rng.normal(size=2000)
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
    assert np.ptp(even[:, 2]) < 0.1  # nearly constant if errors do not grow
    assert error_quantiles(predicted[:199], noise[:199], np.array([0.5])).shape == (1, 2)
    equal = error_quantiles(np.zeros(len(noise)), np.sort(noise), np.array([0.05, 0.95]))
    assert np.ptp(equal, axis=0).max() == 0
    assert not error_quantiles(predicted, 0 * noise, np.array([0.05, 0.95]))[:, 1:].any()


@pytest.mark.parametrize("exponent", [0.5, 0.87, 1.5])
def test_outputs_continue_evenly_beyond_those_of_the_rows(exponent):
    """Below the smallest output, predictions once changed far too slowly towards their limit."""
    y = np.linspace(0.4, 3.6, 200)
    power = Power.of(y, np.ones(len(y)), 1.0, 2.0, exponent)
    first, last = power.apply(y[[0, -1]])
    beyond = [first - 0.02 * (last - first), last + 0.02 * (last - first)]
    points, values = output_map(y, power, np.zeros(len(y)))
    found = np.interp(beyond, values, points)
    assert_allclose(found, [0.4 - 0.02 * 3.2, 3.6 + 0.02 * 3.2], atol=0.005)
