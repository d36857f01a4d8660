"""`kanrun.fit` on data in memory: the same numbers as the command line, and messages."""

import io
import os
import pickle
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from numpy.testing import assert_allclose, assert_array_equal

from kanrun import Model, fit, load_run
from kanrun.engine.training import LevenbergMarquardt
from kanrun.errors import InvalidData, KanrunError, UsageError

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (80, 2))
Y = np.exp(X[:, 0]) + X[:, 1] ** 2 + 0.01 * RNG.normal(size=80)
FRAME = pd.DataFrame(X, columns=["length", "mass"])
SMALL = {"model": "kan", "hidden": [], "intervals": [3], "steps": 5}


@pytest.fixture(scope="module")
def automatic():
    return fit(FRAME, pd.Series(Y, name="period"), folds=3)


def run_of(command, line):
    command(f"fit -q figures=none {line}")
    return load_run("fit/latest")


def test_the_same_numbers_as_the_command_line(command):
    target = "target.formula=exp(-x0)*sin(3*x1) target.domain=[[-1,1],[0,2]]"
    network = "model.hidden=[2] model.intervals=[3] sampling.n_train=60 sampling.n_test=30"
    solver = "solver.select_width=false solver.n_starts=1 solver.steps=4"
    run = run_of(command, f"{target} {network} {solver} seed=3")
    model = fit(
        formula="exp(-x)*sin(3*y)",
        domain={"x": (-1, 1), "y": (0, 2)},
        seed=3,
        hidden=(2,),
        intervals=[3],
        steps=4,
        n_train=60,
        n_test=30,
        n_starts=1,
        select_width=False,
    )
    assert model.inputs == ("x", "y")
    assert_array_equal(model.predict(X), run.model().predict(X))
    summary = run.tables["summary"].iloc[0]
    for column in ("test_rmse", "validation_rmse", "parameters", "effective_parameters"):
        assert model.tables["summary"].iloc[0][column] == summary[column], column
    assert 0 < summary["effective_parameters"] < summary["parameters"]


@pytest.mark.slow
def test_a_table_gives_the_same_numbers_too(automatic, tmp_path, command):
    FRAME.assign(period=Y).to_csv(tmp_path / "data.csv", index=False, float_format="%.17g")
    table = "target.path=data.csv target.outputs=[period]"
    run = run_of(command, f"{table} model.folds=3 model.baselines=false")
    assert_array_equal(automatic.predict(X), run.model().predict(X))
    assert automatic.tables["summary"]["cv_rmse"][0] == run.tables["summary"]["cv_rmse"][0]


def test_arrays_tensors_and_frames_are_the_same_data(automatic):
    evidence = fit(FRAME, Y, selection="evidence").predict(X)
    for x, y in (
        (torch.tensor(X), torch.tensor(Y)),
        (X.tolist(), Y.tolist()),
        ({"a": X[:, 0], "b": X[:, 1]}, Y),
    ):
        assert_array_equal(fit(x, y, selection="evidence").predict(X), evidence)
    expected = automatic.predict(X)
    assert_array_equal(automatic.predict(FRAME[["mass", "length"]]), expected)
    assert automatic.predict(X[0]) == pytest.approx(expected[0], rel=1e-12)
    unnamed = FRAME.rename(columns={"mass": ""})
    assert fit(unnamed, Y, **SMALL).inputs == ("length", "")
    several = fit(X, np.stack([Y, -Y], 1), selection="evidence")
    assert set(several.tables["held_out"]["fold"]) == {-1}
    assert several.outputs == ("y0", "y1")
    assert several.score(X, np.stack([Y, -Y], 1)) > 0.95


def test_classes_keep_their_labels():
    labels = np.where(np.median(Y) < Y, "high", "low")
    model = fit(X, labels, selection="evidence")
    assert model.classes == ("high", "low")
    assert model.score(X, labels) > 0.9
    numbers = fit(
        X, (np.median(Y) < Y).astype(int) * 5, task="classification", selection="evidence"
    )
    assert set(numbers.predict(X)) == {0, 5}
    assert_allclose(numbers(X[:4]).sum(1), 1)


@pytest.mark.parametrize(
    "settings",
    cases(
        r"""
{'intervals': [4, 8]}
{'intervals': [4], 'hidden': [1], 'n_starts': 2, 'steps': 3}
{'solver': 'adam', 'intervals': [4]}
{'solver': 'lbfgs', 'intervals': [3], 'task': 'classification'}
{'model': 'mlp', 'hidden': [3]}
{'model': 'polynomial', 'degree': 4}
"""
    ),
)
def test_the_weight_of_a_row_is_its_share_of_the_loss(settings):
    """Doubling all weights changes nothing; doubling one weight is like repeating the row."""
    x = X[:, :1] if settings.get("model") == "polynomial" else X
    y = (np.median(Y) < Y).astype(int) if "task" in settings else Y
    weights = RNG.integers(1, 4, 80)
    settings = {"model": "kan", "steps": 6, "hidden": [], "validation_fraction": 0.0} | settings
    if settings.get("model") == "polynomial":
        del settings["hidden"], settings["steps"]
    weighted = fit(x, y, sample_weight=weights / 2, **settings)
    repeated = fit(np.repeat(x, weights, 0), np.repeat(y, weights), **settings)
    assert_allclose(weighted(x), repeated(x), rtol=1e-6, atol=1e-7)
    assert np.abs(weighted(x) - fit(x, y, **settings)(x)).max() > 1e-5
    error, same = (each.tables["summary"].iloc[0]["train_rmse"] for each in (weighted, repeated))
    assert error == pytest.approx(same, rel=1e-6)


def test_model_has_summary_plot_and_html(automatic):
    text = str(automatic.summary())
    for part in (
        "length, mass",
        "period",
        "effective degrees of freedom",
        "RMSE, cross-validated",
        "permutation_importance",
    ):
        assert part in text
    facts = automatic.summary().facts
    assert 0.005 < facts["RMSE, cross-validated"] < 0.03
    assert set(automatic.summary().contributions["input"]) == {"length", "mass"}
    html = automatic._repr_html_()
    assert html.count("<img") == 1
    assert "effective degrees of freedom" in html
    titles = {axes.get_title() for axes in automatic.plot("effects").axes}
    assert {"length", "mass"} <= titles
    words = {text.get_text() for axes in automatic.plot().axes for text in axes.texts}
    assert {"length", "mass", "period"} <= words
    with pytest.raises(UsageError, match=r"no figure .nothing.\. Its figures: effects"):
        automatic.plot("nothing")


def test_saved_and_pickled_models_give_the_same_predictions(automatic, tmp_path):
    file = automatic.save(tmp_path / "period.v1")
    assert file.name == "period.v1.safetensors"
    for back in (
        Model.load(file),
        Model.load(tmp_path / "period.v1"),
        pickle.loads(pickle.dumps(automatic)),
    ):
        assert_array_equal(back.predict(X), automatic.predict(X))
        assert str(back.summary()) == str(automatic.summary())
        assert len(back.plot("effects").axes) == len(automatic.plot("effects").axes)
    (tmp_path / "text.safetensors").write_text("no model")
    with pytest.raises(KanrunError, match=r"text\.safetensors is not a readable safetensors file"):
        Model.load(tmp_path / "text.safetensors")
    with pytest.raises(KanrunError, match="missing"):
        Model.load(tmp_path / "nothing.safetensors")


def test_a_score_needs_y_in_the_shape_of_the_predictions(automatic):
    y = np.ones((len(X), 2))
    with pytest.raises(InvalidData, match=rf"shape \({len(X)}, 2\), and the predictions"):
        automatic.score(X, y)


def test_an_interval_needs_a_level_that_was_measured(automatic):
    for level in (0.0, 0.9999, 1.5):
        with pytest.raises(UsageError, match=f"level={level}"):
            automatic.interval(X, level)
    low, high = automatic.interval(X, 0.99)
    assert (low < high).all()


def test_ctrl_c_keeps_the_best_so_far(monkeypatch):
    original = LevenbergMarquardt.step
    presses = [1]

    def interrupted(self):
        if self.network.intervals == 6:
            while presses[0]:
                presses[0] -= 1
                os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(LevenbergMarquardt, "step", interrupted)
    with pytest.warns(
        UserWarning, match="interrupted: the model is the best of the training so far"
    ):
        model = fit(X, Y, "kan", hidden=[], intervals=[3, 6, 12], steps=5)
    assert list(model.tables["stages"]["intervals"]) == [3, 6]
    assert model.score(X, Y) > 0.9
    presses[0] = 2
    with pytest.raises(KeyboardInterrupt):
        fit(X, Y, "kan", hidden=[], intervals=[3, 6], steps=5)


def test_progress_is_shown_if_asked_for(monkeypatch):
    shown = []
    monkeypatch.setattr("kanrun.study.progress.SECONDS_BETWEEN_LINES", 0.0)
    for progress in (False, True):
        monkeypatch.setattr("sys.stderr", io.StringIO())
        fit(X, Y, "kan", hidden=[], intervals=[3], steps=2, progress=progress)
        shown.append(sys.stderr.getvalue())
    assert shown[0] == ""
    assert "best " in shown[1]


REFUSED = {
    "nothing": ((), {}, "fit takes either data"),
    "no y": ((X,), {}, "needs y"),
    "lengths": ((X, Y[:-1]), {}, "x has 80 rows and y has 79"),
    "infinity": ((np.where(X > 0.9, np.inf, X), Y), {}, "x contains infinity"),
    "empty": ((np.zeros((0, 2)), []), {}, "x is empty"),
    "labels of two dimensions": (
        (X, np.zeros((80, 2))),
        {"task": "classification"},
        "y must be labels",
    ),
    "one class": ((X, ["a"] * 80), {}, "one class only, 'a'"),
    "negative weight": ((X, Y), {"sample_weight": -np.ones(80)}, "must not be negative"),
    "weights of another length": (
        (X, Y),
        {"sample_weight": [1.0]},
        "one number for each of 80 rows",
    ),
    "a file's name": (("data.csv", Y), {}, "x is 'data.csv', where an array"),
    "columns of several lengths": (
        ({"a": [1.0], "b": [1.0, 2.0]}, [1.0, 2.0]),
        {},
        "differ in length: 1, 2",
    ),
    "unknown setting": (
        (X, Y),
        {"intervalls": 5},
        "intervalls is not a setting of .*did you mean intervals",
    ),
    "a setting of another model": (
        (X, Y),
        {"model": "auto", "hidden": [3]},
        r"hidden is not a setting of model=auto\. Write model=kan or model=mlp\.",
    ),
    "a setting of solvers": (
        (X, Y),
        {"steps": 5},
        "steps is a setting of solvers, .* Write model=kan",
    ),
    "a setting of another solver": (
        (X, Y, "kan"),
        {"solver": "lm", "momentum": 0.9},
        "momentum is not a setting of",
    ),
    "no output": ((X, np.zeros((80, 0))), {}, r"y must be .* not \(80, 0\)"),
    "two columns without a name": ((pd.DataFrame(X, columns=["", ""]), Y), {}, "called ''"),
    "a domain of data": ((X, Y), {"domain": (-1, 1)}, "domain can be used only with formula"),
    "a formula without a range": (
        (),
        {"formula": "a*b", "domain": {"a": (0, 1)}},
        "no range of the variable 'b'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsuitable_data_are_refused_in_one_sentence(name):
    data, settings, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as caught:
        fit(*data, **settings)
    assert "\n" not in str(caught.value)


def test_columns_that_are_left_out_are_named_in_warnings():
    frame = FRAME.assign(empty=np.nan, shop="north")
    with pytest.warns(UserWarning, match="'empty' is left out.*empty") as caught:
        model = fit(frame, Y, selection="evidence")
    assert [str(each.message)[:30] for each in caught] == [note[:30] for note in model.notes[:2]]
    assert "'shop' is left out" in model.notes[1]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="leave it out$"):
        fit(FRAME.assign(shop=[f"s{i // 3}" for i in range(80)]), Y, selection="evidence")


def test_an_output_computed_from_a_column_has_another_name():
    model = fit(FRAME, FRAME["mass"] ** 2, selection="evidence")
    assert (model.inputs, model.outputs) == (("length", "mass"), ("output mass",))
    assert model.score(FRAME, FRAME["mass"] ** 2) > 0.99
    for y in (FRAME["mass"], FRAME[["mass"]]):
        with pytest.raises(InvalidData, match="x has the column 'mass', which is y"):
            fit(FRAME, y)


def test_constant_columns_and_float16_data_are_accepted():
    with_constant = np.column_stack([X, np.ones(80)])
    model = fit(with_constant, Y, selection="evidence")
    assert model.score(with_constant, Y) > 0.99
    assert any("constant" in note for note in model.notes)
    assert fit(X.astype(np.float16), Y, selection="evidence").score(X, Y) > 0.99


def test_functions_without_noise_are_fitted_although_their_covariance_is_nearly_singular():
    x = np.linspace(-1, 1, 200)
    for function in (np.exp, lambda t: np.sin(3 * t)):
        model = fit(x, function(x))
        inside = np.linspace(-0.9, 0.9, 101)
        assert np.abs(model.predict(inside) - function(inside)).max() < 1e-4
