"""Training points added where a network has its largest errors, and settings without them."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from cases import cases, refuses
from kanrun.experiments.fit import add_points, make_fit, most_extra_points
from kanrun.experiments.fit.config import FitConfig

from kanrun.config import SamplingConfig
from kanrun.engine import least_squares
from kanrun.engine.training import fit
from kanrun.model.settings import BSplineConfig, KANConfig, LMSolver, PolynomialConfig
from kanrun.runs.records import Note, Row
from kanrun.study.resources import generator
from kanrun.targets.settings import ExpressionTarget


def settings(noise=0.0, n_train=25):
    return FitConfig(
        target=ExpressionTarget("exp(2*x0 + x1)"),
        model=KANConfig(hidden=[1], intervals=[4]),
        solver=LMSolver(n_starts=2, steps=5, select_width=False),
        sampling=SamplingConfig(n_train=n_train, n_test=500, noise=noise),
        extra_points=200,
    )


@pytest.mark.slow
def test_points_join_until_new_points_are_fitted_as_well():
    one = make_fit(settings(), 0).training
    before = fit(one.create, one.problem.data, one.plan, generator(0, "training"))
    problem, after, ratio = add_points(one.problem, before, one.plan, 200, 0)
    joined = len(problem.data.train) - len(one.problem.data.train)
    assert joined in (50, 100, 150, 200)
    assert len(problem.dataset.train) == len(problem.data.train)
    assert after.errors.test < 0.5 * before.errors.test
    # The ratio is the error at new points over that at the first training points.
    assert ratio == pytest.approx(after.errors.test / before.errors.train, rel=0.2)


@pytest.mark.parametrize(
    "given, n_train, noise, grows, most",
    cases("""
        None | None | 0.0 | True | 1000
        None | None | 0.0 | False | 0
        None | 1000 | 0.0 | True | 0
        None | None | 0.1 | True | 0
        0 | None | 0.0 | True | 0
        7 | 1000 | 0.0 | False | 7
    """),
)
def test_points_join_by_default_where_the_shape_grows(given, n_train, noise, grows, most):
    cfg = replace(settings(noise, n_train), extra_points=given)
    assert most_extra_points(cfg, grows) == most


def off(error):
    """Return a training whose network is wrong at one end, where no training point lies."""

    def forward(x):
        wrong = torch.where(x[:, :1] > 0.96, error, 1e-3)
        return torch.exp(2 * x[:, :1] + x[:, 1:]) + wrong

    network = torch.nn.Module()
    network.forward = forward
    return SimpleNamespace(network=network)


def test_the_network_of_the_lowest_error_is_chosen(monkeypatch):
    one = make_fit(settings(), 0).training
    assert one.problem.data.train.x[:, 0].max() < 0.96
    first, second, third = map(off, (1.0, 8e-3, 9e-3))
    following = [third, second]
    monkeypatch.setattr("kanrun.experiments.fit._continued", lambda *_: following.pop())
    problem, best, _ = add_points(one.problem, first, one.plan, 200, 0)
    assert best is second
    assert not following
    assert len(problem.data.train) - len(one.problem.data.train) == 50


def notes_of(records):
    return [record.text for record in records if isinstance(record, Note)]


def test_a_kink_is_reported_where_it_is():
    kink = FitConfig(
        target=ExpressionTarget("abs(x0 - 17.3)", domain=[10, 30]),
        model=KANConfig(intervals=[5, 20, 50]),
        solver=LMSolver(),
        sampling=SamplingConfig(n_train=500, n_test=500),
    )
    records = list(make_fit(kink, 0).run({}, 0, None))
    (note,) = (text for text in notes_of(records) if "knots were" in text)
    found = re.search(r"knots were inserted at x0 = .*?([\d.]+) to ([\d.]+)", note)
    assert "where the function has a kink" in note
    assert abs(sum(map(float, found.groups())) / 2 - 17.3) < 0.1
    (summary,) = (r.values for r in records if isinstance(r, Row) and r.table == "summary")
    assert summary["test_rmse"] < 4e-3  # 8e-3 without inserted knots


def test_extra_points_of_noisy_functions_are_refused():
    with refuses("extra_points=200 needs a function without noise"):
        make_fit(settings(noise=0.1), 0)


def notes_on(formula, model):
    target = ExpressionTarget(formula)
    cfg = replace(settings(), target=target, model=model, sampling=SamplingConfig())
    return notes_of(make_fit(replace(cfg, extra_points=None), 0).run({}, 0, None))


MODELS = {
    "kan": KANConfig(hidden=[1], intervals=[4]),
    "bspline": BSplineConfig(),
    "polynomial": PolynomialConfig(),
}


@pytest.mark.parametrize(
    "model, formula, place",
    cases("""
        kan | exp(sin(pi*x0) + x1^2) | None
        kan | exp(x0) + abs(x1 - 0.3) | x1=0.3
        bspline | 1/(1 + 25*x0^2) | None
        bspline | exp(x0) + abs(x0 - 0.3) | x0=0.3
        polynomial | 1/(1 + 100*(x0 + 0.5)^2) + 0.1*max(0, x0 - 0.7) | None
    """),
)
def test_kink_is_reported_as_the_limit_of_accuracy_if_the_largest_errors_are_there(
    model, formula, place
):
    notes = [text for text in notes_on(formula, MODELS[model]) if "kink" in text]
    assert bool(notes) == bool(place)
    assert not place or re.search(rf"{place}(000\d*)?$", notes[-1])


def test_steps_by_truncated_conjugate_gradients_are_counted(monkeypatch):
    monkeypatch.setattr(least_squares, "MATRIX_UNKNOWNS", 0)
    monkeypatch.setattr(least_squares, "CG_MAX_ITERATIONS", 2)
    notes = notes_on("exp(x0) + sin(x1)", KANConfig(hidden=[], intervals=[3]))
    assert any(re.match(r"[1-9]\d* of \d+ steps are approximate", text) for text in notes)
