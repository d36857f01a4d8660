"""Points of functions: independent random streams, noise, validation, and refusals."""

import numpy as np
import pytest
from cases import cases, refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from kanrun.config import SamplingConfig
from kanrun.targets.datasets import build_target, generator, make_dataset, split_order
from kanrun.targets.settings import ExpressionTarget, NamedTarget

TARGET = NamedTarget(name="exp_sin_square")


def dataset(seed=0, target=TARGET, **sampling):
    return make_dataset(build_target(target), SamplingConfig(**sampling), seed)


def test_data_sets_have_the_sizes_asked_for_or_1000_training_points():
    data = dataset(n_test=300, validation_fraction=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (800, 200, 300)
    for points in (data.train, data.validation, data.test):
        assert_array_equal(points.y, data.target.function(points.x))
        assert points.x.dtype == points.y.dtype == np.float64
        assert (np.abs(points.x) <= 1).all()
    assert (data.classes, data.notes) == (None, ())


def test_sampled_points_do_not_change_between_versions():
    """A run must be repeatable years later, so the points of a seed must not change."""
    first = {
        "train": [0.9429375528828794, 0.3163371523854981],
        "test": [0.6771968569751019, 0.2429867485428212],
        "noise": [0.8382711479571602, 0.08372444856512495],
        "validation": [0.3644334333698406, 0.5113367953594365],
        "rows": [0.6529725757834846, 0.32395866639788673],
    }
    for purpose, expected in first.items():
        assert_allclose(generator(0, purpose).random(2), expected, rtol=1e-15)


def all_training(data):
    """Return the inputs of training and validation together."""
    return {*map(tuple, data.train.x), *map(tuple, data.validation.x)}


def test_streams_do_not_disturb_each_other():
    base = dataset(n_train=100, n_test=50)
    more_test = dataset(n_train=100, n_test=80, noise=0.5, validation_fraction=0.4)
    more_train = dataset(n_train=200, n_test=50)
    assert all_training(base) == all_training(more_test)
    assert all_training(base) < all_training(more_train)
    assert_array_equal(base.test.x, more_test.test.x[:50])
    assert_array_equal(base.test.x, more_train.test.x)
    assert not all_training(base) & {*map(tuple, base.test.x)}


def test_noise_is_relative_and_never_on_the_test():
    noisy = dataset(n_train=20000, noise=0.3)
    clean = dataset(n_train=20000)
    assert_array_equal(noisy.train.x, clean.train.x)
    error = noisy.train.y - clean.train.y
    assert error.std() == pytest.approx(0.3 * clean.train.y.std(), rel=0.03)
    assert abs(error.mean()) < 0.02
    assert (noisy.validation.y != clean.validation.y).all()
    assert_array_equal(noisy.test.y, clean.test.y)


@pytest.mark.parametrize(
    "train, share, expected",
    cases("""
        19 | 0.2 | 0
        20 | 0.2 | 4
        20 | 0.01 | 0
        1000 | 0.0 | 0
        33 | 0.5 | 16
    """),
)
def test_validation_rows_are_the_share_asked_for(train, share, expected):
    data = dataset(n_train=train, n_test=0, validation_fraction=share)
    assert data.test is None
    assert len(data.train) == train - expected
    assert (data.validation and len(data.validation)) == (expected or None)


def test_target_with_given_points_has_no_validation_or_test_rows():
    data = dataset(target=NamedTarget(name="lecture_points"))
    assert_array_equal(data.train.x, [[0], [1], [2], [5]])
    assert_array_equal(data.train.y, [[5], [1], [3], [2]])
    assert data.validation is None
    assert data.test is None
    assert "4 given points" in data.notes[0]


@pytest.mark.parametrize(
    "sampling, sentence",
    cases("""
        {'noise': 1e999} | sampling.noise has a number that is not finite
        {'validation_fraction': 0.51} | sampling.validation_fraction=0.51 must be a number from 0 to 0.5 (fraction
        {'seed': -1} | seed=-1 must not be negative
        {'n_test': None} | sampling.n_test must be a number; null is for tables
        {'n_train': 1_000_000_000_000} | sampling.n_train=1000000000000 points of 100 variables are more than memory
    """),  # noqa: E501
)
def test_impossible_samplings_are_refused(sampling, sentence):
    with refuses(sentence):
        dataset(target=NamedTarget(name="mean_sin_square_100d"), **sampling)


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=6), st.floats(0.5, 0.95), st.integers(0, 20)
)
@settings(max_examples=30)
def test_an_order_has_every_row_once_and_its_first_part_is_stratified(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    for strata in (None, labels):
        order = split_order(len(labels), generator(seed, "rows"), strata)
        assert_array_equal(np.sort(order), np.arange(len(labels)))
    first = max(round(share * len(labels)), len(sizes))
    counts = np.bincount(labels[order[:first]], minlength=len(sizes))
    assert (counts >= np.minimum(sizes, 1)).all()
    expected = np.array(sizes) * first / max(len(labels), 1)
    assert np.abs(counts - expected).max() <= len(sizes) / 2 + 1


@pytest.mark.parametrize(
    "formula, domain, plain",
    cases("""
        sin(10*x0)*x1 | [[0.0, 1.0], [0.0, 1.0]] | True
        sin(x0/1000)*x1/10000 | [[0.0, 10000.0], [0.0, 10000.0]] | False
        1e9+x0*x1 | [[-1.0, 1.0], [-1.0, 1.0]] | False
        1e-9*sin(x0) | [[1e6, 1000001]] | False
        5*heaviside(x0 + 3) | [[-1.0, 1.0]] | True
        1e6*heaviside(x0 + 3) | [[-1.0, 1.0]] | False
        sin(x0) | [[-100.0, 100.0]] | True
        sin(x0) | [[-101.0, 101.0]] | False
        sin(1e3*x0) | [[-0.0099, 0.0099]] | False
        sin(x0) | [[100.0, 102.0]] | False
    """),
)
def test_functions_of_no_ordinary_size_are_standardised(formula, domain, plain):
    target = ExpressionTarget(formula=formula, domain=domain)
    data = dataset(target=target, n_train=100, n_test=20)
    inputs = data.input_scaling.apply(data.train.x)
    outputs = data.output_scaling.apply(data.train.y)
    assert (np.array_equal(inputs, data.train.x) and np.array_equal(outputs, data.train.y)) == plain
    assert np.abs(inputs).max() <= 100
    assert np.abs(outputs).max() <= 1e4
    assert_allclose(data.output_scaling.invert(outputs), data.train.y, rtol=1e-12)
