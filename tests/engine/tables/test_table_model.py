"""The automatic table model: predictions are bounded, and at least as good as linear ones."""

from dataclasses import replace
from time import process_time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pandas import DataFrame
from sklearn.linear_model import RidgeCV

from kanrun.engine.networks import KAN
from kanrun.engine.tables import TablePolicy, fit_table
from kanrun.engine.tables.effects import (
    REMAINDER,
    anova_table,
    column_effect,
    effect_table,
    importance_table,
    pair_maps,
    pair_table,
)
from kanrun.engine.tables.folds import assign_folds, training_rows
from kanrun.engine.tables.scores import LINEAR_MARGIN, MARGIN
from kanrun.monitoring import monitored
from kanrun.points import Family, Points

ROUNDING = 1e-12  # relative rounding error of a network
UNFOLDED = TablePolicy(folds=0)  # no cross-validation, which is slow


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
    free = fit_table(points, None, TablePolicy(extrapolation="linear", folds=0)).predict(inside)
    assert np.isfinite(free).all()
    middle = (points.y.max() + points.y.min()) / 2
    assert np.abs(free - middle).max() <= 3 * width
    model = fit_table(points, None, TablePolicy(folds=0))
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


def rmse(model, new):
    return float(np.sqrt(np.mean((model.predict(new.x) - new.y) ** 2)))


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
    kinds = []
    for seed, tail in enumerate(tails):
        points = linear(rows, seed, tail)
        new = linear(400, 100 + seed, tail)
        model = fit_table(points, None, UNFOLDED)
        kinds.append(model.fit.kind)
        ratios.append(rmse(model, new) / ridge_rmse(points, new))
    # A Bayes factor of 20 lets chance decide for the full model in up to 1 of 20 tables.
    assert kinds.count("linear") >= 0.93 * len(kinds)
    assert np.median(ratios) <= bound
    assert np.mean(np.array(ratios) > 1.25) <= 0.2


def half_skewed():
    """Return a skewed output of three inputs."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 3))
    y = np.exp(x[:, 0] + x[:, 1] * x[:, 2] / 2 + 0.3 * rng.normal(size=150))
    return Points(x, y[:, None])


def test_skewed_outputs_get_a_power_below_1_whatever_their_unit():
    points = half_skewed()
    model = fit_table(points, None, UNFOLDED)
    (fit,) = model.fit.outputs
    assert -0.9 < fit.likelihood.power.exponent < 0.6
    other = Points(np.ldexp(points.x, -990), np.ldexp(points.y, 990))
    same = np.ldexp(fit_table(other, None, UNFOLDED).predict(other.x), -990)
    assert np.abs(same - model.predict(points.x)).max() < 1e-6 * points.y.std()


@pytest.mark.parametrize("classes", [None, 2, 3])
def test_network_equals_the_latent_functions(classes):
    points = half_skewed()
    if classes:
        ends = np.quantile(points.y, np.arange(1, classes) / classes)
        points = replace(points, y=np.digitize(points.y, ends).astype(float))
    model = fit_table(points, classes, UNFOLDED)
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
    rng = np.random.default_rng(4)
    x = rng.uniform(-2, 2, (400, 4))
    y = np.sin(2 * x[:, 0]) + x[:, 1] - 0.5 * x[:, 2] ** 2 + 0.2 * rng.normal(size=400)
    points = Points(x, y[:, None])
    names = {"a": [0], "b": [1], "c": [2], "d": [3]}
    anova = anova_table(fit_table(points, None, UNFOLDED), names).set_index("term")
    assert abs(anova["variance_fraction"][REMAINDER]) < 0.01


def test_constant_output_is_predicted_exactly():
    x = np.random.default_rng(0).normal(size=(40, 2))
    flat = fit_table(Points(x, np.full((40, 1), 5.0)), None, UNFOLDED)
    assert_allclose(flat.predict(x), 5.0)


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
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    truth = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + (x[:, 3] > 0)
    return Points(x, (truth + 0.5 * rng.normal(size=rows))[:, None])


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
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 4))
    y = np.sin(2 * x[:, 2]) + x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=300)
    points = Points(x, y[:, None])
    names = ["a", "b", "c", "d"]
    model = fit_table(points, None, UNFOLDED)
    importance = importance_table(model, points, {name: [j] for j, name in enumerate(names)}, 0)
    assert importance["input"].iloc[-1] == "d"
    anova = anova_table(model, {name: [j] for j, name in enumerate(names)}).set_index("term")
    assert anova["variance_fraction"].sum() == pytest.approx(1, rel=1e-9)
    assert anova["variance_fraction"].idxmax() == REMAINDER  # the product of a and b
    assert anova["log10_bayes_factor"]["c"] > 20
    assert anova["log10_bayes_factor"]["d"] < 0
    assert 3 < anova["degrees_of_freedom"]["c"] < 15
    assert anova["degrees_of_freedom"]["d"] < 1.1  # without evidence, no curve
    assert (importance["std"] > 0).all()
    pairs = pair_table(model, {name: [j] for j, name in enumerate(names)})
    assert {pairs["input_1"][0], pairs["input_2"][0]} == {"a", "b"}
    effects = effect_table(model, points, {name: [j] for j, name in enumerate(names)}, ["y"])
    near = effects[(effects["input"] == "c") & (effects["x"].abs() < 1.5)]
    assert np.corrcoef(np.sin(2 * near["x"]), near["value"])[0, 1] > 0.98


def test_importance_is_measured_on_rows_that_models_of_folds_were_not_fitted_to():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 2))
    exponents = np.array([40, -30])
    y = 2.0**70 * (x[:, :1] + 0.1 * rng.normal(size=(60, 1)))  # in a very large unit
    points = Points(np.ldexp(x, exponents), y)
    model = fit_table(points, None, TablePolicy(folds=3))
    for k, predict in enumerate(model.folds.predict):
        rows = model.folds.number == k
        assert np.std(predict(points.x[rows]) - y[rows]) < 0.15 * y.std()
    importance = importance_table(model, points, {"a": [0], "b": [1]}, 0)
    assert list(importance["input"]) == ["a", "b"]
    sizes = importance["permutation_importance"] / y.std()
    assert 0.8 < sizes[0] < 1.8
    assert abs(sizes[1]) < 0.1


def test_classes_far_apart_get_sure_probabilities():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(240, 3))
    rings = x[:, 0] ** 2 + 0.01 * rng.normal(size=240)
    labels = np.digitize(rings, [0.3, 1.2]).astype(float)[:, None]
    train = Points(x[:160], labels[:160])
    new = Points(x[160:], labels[160:])
    model = fit_table(train, 3, TablePolicy(folds=2))
    likely = model.predict(new.x)[np.arange(80), new.y[:, 0].astype(int)]
    assert -np.log(likely).mean() < 0.25


def shaped(rows=120):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, 3))
    y = 0.3 * np.exp(x[:, 0]) - np.tanh(2 * x[:, 1]) + 0.5 * np.abs(x[:, 2]) + rng.normal(size=rows)
    return Points(x, y[:, None])


@pytest.mark.parametrize("extrapolation", ["clip", "constant"])
def test_shapes_are_kept_exactly(extrapolation):
    policy = TablePolicy(
        shapes=((0, "increasing"), (1, "decreasing"), (2, "convex")),
        extrapolation=extrapolation,
        folds=0,
    )
    model = fit_table(shaped(), None, policy)
    at = np.linspace(-5, 5, 1001)

    def curve(j):
        x = np.zeros((1001, 3))
        x[:, j] = at
        return model.predict(x)[:, 0]

    assert np.diff(curve(0)).min() >= -ROUNDING
    assert np.ptp(curve(0)) > 0.3
    assert np.diff(curve(1)).max() <= ROUNDING
    assert np.diff(curve(2)[np.abs(at) < 2], 2).min() > -1e-12
    free = fit_table(shaped(), None, TablePolicy(folds=0))
    assert np.sqrt(np.mean((model.predict(shaped().x) - free.predict(shaped().x)) ** 2)) < 0.5
    if extrapolation == "constant":
        beyond = np.array([shaped().x.max(0), shaped().x.max(0) + 3])
        assert_allclose(*model.predict(beyond))


def test_a_monotone_classifier():
    points = shaped()
    labels = Points(points.x, (points.y > points.y.mean()).astype(float))
    model = fit_table(labels, 2, TablePolicy(shapes=((0, "increasing"),), folds=0))
    x = np.zeros((301, 3))
    x[:, 0] = np.linspace(-4, 4, 301)
    assert np.diff(model.predict(x)[:, 1]).min() >= -ROUNDING


def test_an_input_beyond_its_range_adds_nothing_with_zero():
    model = fit_table(shaped(), None, TablePolicy(extrapolation="zero", pairs=False, folds=0))
    far = model.predict(np.array([[50.0, 0, 0], [-50.0, 0, 0]]))
    assert_allclose(far[0], far[1])


def test_folds_that_do_not_fit_into_the_time_are_left_out():
    seen = []
    points = linear(80)
    with monitored(seen.append, process_time()):
        model = fit_table(points, None)
    assert model.folds is None
    assert np.isfinite(model.predict(points.x)).all()
    with monitored(seen.append):
        fit_table(points, None)
    assert [(one.part, one.done) for one in seen if one.part == "folds"] == [
        ("folds", k) for k in (0, 0, 1, 2, 3, 4)
    ]


def test_few_of_many_inputs_are_found():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(560, 40))
    y = 2 * x[:, 0] + x[:, 1] ** 2 + 0.3 * rng.normal(size=560)
    model = fit_table(Points(x[:80], y[:80, None]), None, UNFOLDED)
    assert np.mean((model.predict(x[80:])[:, 0] - y[80:]) ** 2) < 0.3 * y.var()
    sizes = [column_effect(model.fit, [j], model.u, model.u).std() for j in range(40)]
    assert set(np.argsort(sizes)[-2:]) == {0, 1}


def test_a_category_has_a_point_for_each_level_with_a_wider_band_where_rows_are_few():
    rng = np.random.default_rng(5)
    level = rng.permutation(np.repeat([0, 1, 2], (60, 30, 10)))
    x = np.column_stack([np.eye(3)[level][:, :2], rng.normal(size=100)])
    y = np.array([0.0, 5.0, 9.0])[level] + x[:, 2] + rng.normal(size=100)
    model = fit_table(Points(x, y[:, None]), None, TablePolicy(folds=0))
    levels = {"city": ["a", "b", "(others)"]}
    columns = {"city": [0, 1], "s": [2]}
    points = Points(x, y[:, None])
    effects = effect_table(model, points, columns, ["y"], levels)
    mine = effects["input"] == "city"
    assert effects["level"][mine].tolist() == levels["city"]
    np.testing.assert_allclose(np.diff(effects["value"][mine]), [5, 4], atol=1.0)
    widths = (effects["upper"] - effects["lower"])[mine]
    assert widths.is_monotonic_increasing  # rare levels have wider bands
    assert set(effects["input"]) == {"city", "s"}
    pairs = DataFrame({"input_1": ["city"], "input_2": ["s"]})
    maps = pair_maps(model, points, pairs, columns, ["y"], levels)
    rows = maps.groupby("level_1")["rows"].sum()
    assert rows.to_dict() == {"a": 60, "b": 30, "(others)": 10}


def test_newton_steps_that_did_not_converge_are_reported(monkeypatch):
    x = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    points = Points(x, (x[:, :1] + 0.5 * x[:, 1:] > 0).astype(float))
    policy = TablePolicy(folds=0, pairs=False)
    assert all(output.has_converged for output in fit_table(points, 2, policy).fit.outputs)
    monkeypatch.setattr("kanrun.engine.tables.posterior._STEPS", 1)
    assert not any(output.has_converged for output in fit_table(points, 2, policy).fit.outputs)


def test_fitting_a_constant_output_prints_nothing(capfd):
    x = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    assert_allclose(fit_table(Points(x, np.full((50, 1), 2.5)), None).predict(x), 2.5)
    assert capfd.readouterr() == ("", "")
