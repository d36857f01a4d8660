"""The automatic table model: predictions are bounded, and at least as good as linear ones."""

from dataclasses import replace
from time import process_time

import numpy as np
import pytest
import torch
from made_tables import columns, fitted, rmse, table
from numpy.testing import assert_allclose
from pandas import DataFrame
from sklearn.linear_model import RidgeCV

from kanrun.engine.networks import KAN
from kanrun.engine.tables import fit_table
from kanrun.engine.tables.encoder import LINEAR_MARGIN, MARGIN
from kanrun.engine.tables.folds import assign_folds, training_rows
from kanrun.engine.tables.reports import (
    REMAINDER,
    anova_table,
    column_effect,
    effect_table,
    importance_table,
    pair_maps,
    pair_table,
)
from kanrun.monitoring import monitored
from kanrun.points import Family, Points

ROUNDING = 1e-12  # relative rounding error of a network


def nasty(seed):
    """Return a synthetic table with long tails, ties, outliers and gaps."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(30, 250))
    inputs = int(rng.integers(1, 8))
    kinds = (
        lambda: rng.lognormal(sigma=rng.uniform(0.5, 3), size=rows),
        lambda: np.round(rng.normal(size=rows) * 2),
        lambda: np.where(rng.random(rows) < 0.02, 1e4, rng.normal(size=rows)),
        lambda: rng.uniform(0, 1, rows) + 50 * rng.integers(0, 2, rows),
        lambda: rng.standard_t(1.5, size=rows),
        lambda: np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(size=rows)),
    )
    x = np.stack([kinds[rng.integers(0, 6)]() for _ in range(inputs)], 1)
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12)
    y = (
        z @ rng.normal(size=inputs)
        + np.sin(2 * z[:, 0])
        + (z[:, 0] * z[:, -1] if rng.random() < 0.5 else 0)
    )
    y = y + rng.uniform(0.05, 2) * rng.normal(size=rows)
    if rng.random() < 0.3:
        y = np.exp(np.clip(y, -4, 4))
    return Points(x, y[:, None]), rng


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 220))]
)
def test_inside_the_training_box_predictions_are_bounded(seed):
    points, rng = nasty(seed)
    low = points.x.min(0)
    high = points.x.max(0)
    inside = rng.uniform(low, high, size=(300, len(low)))
    width = float(np.ptp(points.y))
    free = fitted(points, extrapolation="linear").predict(inside)
    assert np.isfinite(free).all()
    middle = (points.y.max() + points.y.min()) / 2
    assert np.abs(free - middle).max() <= 3 * width
    model = fitted(points)
    held = model.predict(np.concatenate([inside, inside * 1e3]))
    margin = LINEAR_MARGIN if model.fit.kind == "linear" else MARGIN
    assert held.min() >= points.y.min() - 1.001 * margin * width
    assert held.max() <= points.y.max() + 1.001 * margin * width


def linear(rows=60, seed=0, tail=1.0):
    rng = np.random.default_rng(seed)
    x = rng.lognormal(sigma=tail, size=(rows, 3))
    return Points(x, (x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=rows))[:, None])


def ridge_rmse(points, new):
    scale = points.x.std(0)
    fitted = RidgeCV(np.logspace(-3, 4, 15)).fit(points.x / scale, points.y[:, 0])
    return float(np.sqrt(np.mean((fitted.predict(new.x / scale) - new.y[:, 0]) ** 2)))


@pytest.mark.parametrize(
    "tails, rows, bound",
    [
        ((1.0, 1.5, 2.0), 150, 1.03),
        *(
            pytest.param([tail] * 15, 200, 1.02, marks=pytest.mark.slow)
            for tail in (0.5, 1.0, 1.5, 2.0)
        ),
    ],
)
def test_on_long_tails_a_linear_truth_costs_nothing(tails, rows, bound):
    ratios = []
    for seed, tail in enumerate(tails):
        points = linear(rows, seed, tail)
        new = linear(400, 100 + seed, tail)
        model = fitted(points)
        assert model.fit.kind == "linear"
        ratios.append(rmse(model, new) / ridge_rmse(points, new))
    assert np.median(ratios) <= bound
    assert np.mean(np.array(ratios) > 1.25) <= 0.2


SKEWED = table(lambda a, b, c: np.exp(a + b * c / 2), 150, 3, 1)
SKEWED = replace(SKEWED, y=SKEWED.y * np.exp(0.3 * np.random.default_rng(2).normal(size=(150, 1))))


def test_skewed_outputs_get_a_power_below_1_whatever_their_unit():
    model = fitted(SKEWED)
    (fit,) = model.fit.outputs
    assert -0.9 < fit.likelihood.power.exponent < 0.6
    other = Points(np.ldexp(SKEWED.x, -990), np.ldexp(SKEWED.y, 990))
    same = np.ldexp(fitted(other).predict(other.x), -990)
    assert np.abs(same - model.predict(SKEWED.x)).max() < 1e-6 * SKEWED.y.std()


@pytest.mark.parametrize("classes", [None, 2, 3])
def test_network_equals_the_latent_functions(classes):
    points = SKEWED
    if classes:
        ends = np.quantile(points.y, np.arange(1, classes) / classes)
        points = replace(points, y=np.digitize(points.y, ends).astype(float))
    model = fitted(points, classes)
    assert len(model.fit.centres.inputs) > 100
    at = np.random.default_rng(2).normal(size=(50, 3)) * 2
    latent = model.latent(at)
    if classes == 2:
        latent = np.concatenate([-latent / 2, latent / 2], 1)
    u = torch.as_tensor(model.inputs.apply(at))
    assert_allclose(model.network(u).detach(), latent, atol=1e-9)
    copy = KAN.from_description(model.network.describe())
    copy.load_state_dict(model.network.state_dict())
    assert torch.equal(copy(u), model.network(u))


def test_additive_truth_leaves_little_variance_outside_the_main_effects():
    def additive(a, b, c, _):
        return np.sin(2 * a) + b - 0.5 * c**2

    points = table(additive, 400, 4, 4, 0.2, uniform=2.0)
    anova = anova_table(fitted(points), columns("abcd")).set_index("term")
    assert abs(anova["variance_fraction"][REMAINDER]) < 0.01


def test_every_row_is_left_out_once_and_classes_are_spread():
    labels = np.array([0] * 40 + [1] * 10)
    points = Points(np.zeros((50, 1)), labels[:, None])
    number = assign_folds(points, 5, 0, Family(classes=2))
    assert np.bincount(number).tolist() == [10] * 5
    assert all((labels[number == k] == 1).sum() == 2 for k in range(5))


def test_groups_stay_together_and_time_goes_forward():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 100).astype(float)
    points = Points(np.zeros((100, 1)), np.zeros((100, 1)), groups=groups)
    number = assign_folds(points, 5, 0)
    assert set(number) == set(range(5))
    assert all(len(set(number[groups == g])) == 1 for g in set(groups))
    times = rng.permutation(100).astype(float)
    later = replace(points, groups=times, forward=True)
    number = assign_folds(later, 5, 0)
    assert set(number) == {-1, 0, 1, 2, 3, 4}
    for fold in range(5):
        trained = times[training_rows(later, number, fold)]
        assert len(trained) >= 10
        assert trained.max() < times[number == fold].min()
    ties = replace(later, groups=np.maximum(times - 60, 0))
    for folded in (points, later, ties):
        assert set(assign_folds(folded, 5, 0, single=True)) == {-1, 0}
    assert max(assign_folds(ties, 5, 0)) == 2


def wavy(rows, seed):
    def truth(a, b, c, d, _):
        return np.sin(2 * a) + 0.5 * b * c + (d > 0)

    return table(truth, rows, 5, seed, 0.5)


@pytest.mark.parametrize(
    "draws, low, high",
    [(2, 0.88, 1.15), pytest.param(40, 0.97, 1.08, marks=pytest.mark.slow)],
)
def test_cross_validated_errors_are_those_of_fresh_rows(draws, low, high):
    ratios = []
    for seed in range(draws):
        points = wavy(120, seed)
        model = fit_table(points, None)
        squares = (model.folds.values - points.y) ** 2
        ratios.append(np.sqrt(squares.mean()) / rmse(model, wavy(2000, 1000 + seed)))
    assert low < np.mean(ratios) < high


def test_importance_and_anova_rank_the_relevant_inputs_first():
    points = table(lambda a, b, c, _: np.sin(2 * c) + a * b, 300, 4, 3, 0.1)
    model = fitted(points)
    importance = importance_table(model, points, columns("abcd"), 0)
    assert importance["input"].iloc[-1] == "d"
    assert (importance["std"] > 0).all()
    anova = anova_table(model, columns("abcd")).set_index("term")
    assert anova["variance_fraction"].sum() == pytest.approx(1, rel=1e-9)
    assert anova["variance_fraction"].idxmax() == REMAINDER  # the product of a and b
    assert anova["log10_bayes_factor"]["c"] > 20
    assert anova["log10_bayes_factor"]["d"] < 0
    assert 3 < anova["degrees_of_freedom"]["c"] < 15
    assert anova["degrees_of_freedom"]["d"] < 1.1  # without evidence, no curve
    pairs = pair_table(model, columns("abcd"))
    assert {pairs["input_1"][0], pairs["input_2"][0]} == {"a", "b"}
    effects = effect_table(model, points, columns("abcd"), ["y"])
    near = effects[(effects["input"] == "c") & (effects["x"].abs() < 1.5)]
    assert np.corrcoef(np.sin(2 * near["x"]), near["value"])[0, 1] > 0.98


def test_importance_is_measured_on_rows_that_models_of_folds_were_not_fitted_to():
    drawn = table(lambda a, _: a, 60, 2, 5, 0.1)
    y = np.ldexp(drawn.y, 70)  # in a very large unit
    points = Points(np.ldexp(drawn.x, [40, -30]), y)
    model = fitted(points, folds=3)
    for k, predict in enumerate(model.folds.predict):
        rows = model.folds.number == k
        assert np.std(predict(points.x[rows]) - y[rows]) < 0.15 * y.std()
    importance = importance_table(model, points, columns("ab"), 0)
    assert list(importance["input"]) == ["a", "b"]
    sizes = importance["permutation_importance"] / y.std()
    assert 0.8 < sizes[0] < 1.8
    assert abs(sizes[1]) < 0.1


def test_classes_far_apart_get_sure_probabilities():
    drawn = table(lambda a, b, c: a**2, 240, 3, 5, 0.01)
    labels = np.digitize(drawn.y, [0.3, 1.2])
    model = fitted(Points(drawn.x[:160], labels[:160].astype(float)), 3, folds=2)
    likely = model.predict(drawn.x[160:])[np.arange(80), labels[160:, 0]]
    assert -np.log(likely).mean() < 0.25


SHAPED = table(
    lambda a, b, c: 0.3 * np.exp(a) - np.tanh(2 * b) + 0.5 * np.abs(c), 120, 3, 2, noise=1.0
)


def along(model, j, reach, count=1001):
    """Return predictions where input j varies and the others are 0."""
    x = np.zeros((count, 3))
    x[:, j] = np.linspace(-reach, reach, count)
    return model.predict(x)[:, -1]


@pytest.mark.parametrize("extrapolation", ["clip", "constant"])
def test_shapes_are_kept_exactly(extrapolation):
    shapes = ((0, "increasing"), (1, "decreasing"), (2, "convex"))
    model = fitted(SHAPED, shapes=shapes, extrapolation=extrapolation)
    rising = along(model, 0, 5)
    assert np.diff(rising).min() >= -ROUNDING
    assert np.ptp(rising) > 0.3
    assert np.diff(along(model, 1, 5)).max() <= ROUNDING
    assert np.diff(along(model, 2, 2, 400), 2).min() > -1e-12
    free = fitted(SHAPED).predict(SHAPED.x)
    assert np.sqrt(np.mean((model.predict(SHAPED.x) - free) ** 2)) < 0.5
    if extrapolation == "constant":
        assert_allclose(*model.predict(SHAPED.x.max(0) + np.array([[0.0], [3.0]])))


def test_a_monotone_classifier():
    labels = replace(SHAPED, y=(SHAPED.y > SHAPED.y.mean()).astype(float))
    model = fitted(labels, 2, shapes=((0, "increasing"),))
    assert np.diff(along(model, 0, 4)).min() >= -ROUNDING


def test_an_input_beyond_its_range_adds_nothing_with_zero():
    model = fitted(SHAPED, extrapolation="zero", pairs=False)
    assert_allclose(*along(model, 0, 50, 2))


def test_folds_that_do_not_fit_into_the_time_are_left_out():
    seen = []
    points = linear(80)
    with monitored(seen.append, process_time()):
        model = fit_table(points, None)
    assert not model.folds.predict
    assert np.isfinite(model.predict(points.x)).all()
    with monitored(seen.append):
        fit_table(points, None)
    assert [(one.part, one.done) for one in seen if one.part == "folds"] == [
        ("folds", k) for k in (0, 0, 1, 2, 3, 4)
    ]


def test_few_of_many_inputs_are_found():
    points = table(lambda *x: 2 * x[0] + x[1] ** 2, 560, 40, 5, 0.3)
    model = fitted(points.take(np.arange(80)))
    assert rmse(model, points.take(np.arange(80, 560))) ** 2 < 0.3 * points.y.var()
    sizes = [column_effect(model, [j]).std() for j in range(40)]
    assert set(np.argsort(sizes)[-2:]) == {0, 1}


def test_a_category_has_a_point_for_each_level_with_a_wider_band_where_rows_are_few():
    rng = np.random.default_rng(5)
    level = rng.permutation(np.repeat([0, 1, 2], (60, 30, 10)))
    x = np.column_stack([np.eye(3)[level][:, :2], rng.normal(size=100)])
    y = np.array([0.0, 5.0, 9.0])[level] + x[:, 2] + rng.normal(size=100)
    points = Points(x, y[:, None])
    model = fitted(points)
    levels = {"city": ["a", "b", "(others)"]}
    known = {"city": [0, 1], "s": [2]}
    effects = effect_table(model, points, known, ["y"], levels)
    assert set(effects["input"]) == {"city", "s"}
    mine = effects[effects["input"] == "city"]
    assert mine["level"].tolist() == levels["city"]
    assert_allclose(np.diff(mine["value"]), [5, 4], atol=1.0)
    assert (mine["upper"] - mine["lower"]).is_monotonic_increasing  # rare levels, wider bands
    pairs = DataFrame({"input_1": ["city"], "input_2": ["s"]})
    maps = pair_maps(model, points, pairs, known, ["y"], levels)
    assert maps.groupby("level_1")["rows"].sum().to_dict() == {"a": 60, "b": 30, "(others)": 10}


def test_newton_steps_that_did_not_converge_are_reported(monkeypatch):
    points = table(lambda a, b: a + 0.5 * b > 0, 80, 2, uniform=1.0)
    for converged in (True, False):
        outputs = fitted(points, 2, pairs=False).fit.outputs
        assert {output.has_converged for output in outputs} == {converged}
        monkeypatch.setattr("kanrun.engine.tables.posterior._STEPS", 1)


def test_a_constant_output_is_predicted_exactly_without_a_word(capfd):
    points = table(lambda a, b: 2.5 + 0 * a, 50, 2)
    assert_allclose(fit_table(points, None).predict(points.x), 2.5)
    assert capfd.readouterr() == ("", "")
