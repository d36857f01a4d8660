"""`kanrun.fit` on data in memory: the same numbers as the command line, and messages."""

import io
import os
import pickle
import signal
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases, refuses
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import r2_score

from kanrun import Model, fit, load_run
from kanrun.engine.training import LevenbergMarquardt
from kanrun.errors import KanrunError

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (80, 2))
Y = np.exp(X[:, 0]) + X[:, 1] ** 2 + 0.01 * RNG.normal(size=80)
FRAME = pd.DataFrame(X, columns=["length", "mass"])
EVIDENCE = {"selection": "evidence"}
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
    size = {"hidden": (2,), "intervals": [3], "n_train": 60, "n_test": 30, "seed": 3}
    steps = {"steps": 4, "n_starts": 1, "select_width": False}
    domain = {"x": (-1, 1), "y": (0, 2)}
    model = fit(formula="exp(-x)*sin(3*y)", domain=domain, **size, **steps)
    assert model.inputs == ("x", "y")
    assert_array_equal(model.predict(X), run.model().predict(X))
    ours, theirs = (each.tables["summary"].iloc[0] for each in (model, run))
    same = ["test_rmse", "validation_rmse", "parameters", "effective_parameters"]
    assert_array_equal(ours[same], theirs[same])
    assert 0 < ours["effective_parameters"] < ours["parameters"]


def test_arrays_tensors_and_frames_are_the_same_data():
    expected = fit(FRAME, Y, **EVIDENCE).predict(X)
    columns = {"a": X[:, 0], "b": X[:, 1]}
    for x, y in ((torch.tensor(X), torch.tensor(Y)), (X.tolist(), Y.tolist()), (columns, Y)):
        assert_array_equal(fit(x, y, **EVIDENCE).predict(X), expected)
    assert fit(FRAME.rename(columns={"mass": ""}), Y, **SMALL).inputs == ("length", "")


def test_several_outputs_are_scored_as_in_scikit_learn():
    both = np.stack([Y, -Y], 1)
    model = fit(X, both, **EVIDENCE)
    assert set(model.tables["held_out"]["fold"]) == {-1}
    assert model.outputs == ("y0", "y1")
    assert model.score(X, both) > 0.95
    truth = np.stack([Y, np.ones(80)], 1)  # with a constant output
    assert model.score(X, truth) == r2_score(truth, model.predict(X))
    with refuses("shape (80,), and the predictions"):
        model.score(X, Y)


def test_classes_keep_their_labels():
    high = np.median(Y) < Y
    labels = np.where(high, "high", "low")
    model = fit(X, labels, **EVIDENCE)
    assert model.classes == ("high", "low")
    assert model.score(X, labels) > 0.9
    numbers = fit(X, high * 5, task="classification", **EVIDENCE)
    assert set(numbers.predict(X)) == {0, 5}
    assert_allclose(numbers(X[:4]).sum(1), 1)


@pytest.mark.parametrize(
    "settings",
    cases("""
        {'model': 'kan', 'hidden': [], 'steps': 6, 'intervals': [4, 8]}
        {'model': 'kan', 'hidden': [1], 'steps': 3, 'intervals': [4], 'n_starts': 2}
        {'model': 'kan', 'hidden': [], 'steps': 6, 'intervals': [4], 'solver': 'adam'}
        {'model': 'kan', 'hidden': [], 'steps': 6, 'intervals': [3], 'solver': 'lbfgs', 'task': 'classification'}
        {'model': 'mlp', 'hidden': [3], 'steps': 6}
        {'model': 'polynomial', 'degree': 4}
    """),  # noqa: E501
)
def test_the_weight_of_a_row_is_its_share_of_the_loss(settings):
    """Doubling all weights changes nothing; doubling one weight is like repeating the row."""
    x = X[:, : 1 if settings["model"] == "polynomial" else 2]
    y = (np.median(Y) < Y).astype(int) if "task" in settings else Y
    weights = RNG.integers(1, 4, 80)
    own = partial(fit, validation_fraction=0.0, **settings)
    weighted = own(x, y, sample_weight=weights / 2)
    repeated = own(np.repeat(x, weights, 0), np.repeat(y, weights))
    assert_allclose(weighted(x), repeated(x), rtol=1e-6, atol=1e-7)
    assert np.abs(weighted(x) - own(x, y)(x)).max() > 1e-5
    error, same = (each.tables["summary"]["train_rmse"][0] for each in (weighted, repeated))
    assert error == pytest.approx(same, rel=1e-6)


def test_model_has_summary_plot_and_html(automatic):
    summary = automatic.summary()
    for part in ("length, mass", "period", "RMSE, cross-validated", "permutation_importance"):
        assert part in str(summary)
    assert 0.005 < summary.facts["RMSE, cross-validated"] < 0.03
    assert set(summary.contributions["input"]) == {"length", "mass"}
    html = automatic._repr_html_()
    assert html.count("<img") == 1
    assert "effective degrees of freedom" in html
    titles = {axes.get_title() for axes in automatic.plot("effects").axes}
    assert {"length", "mass"} <= titles
    words = {text.get_text() for axes in automatic.plot().axes for text in axes.texts}
    assert {"length", "mass", "period"} <= words
    with refuses("no figure 'nothing'. Its figures: effects"):
        automatic.plot("nothing")


def test_saved_and_pickled_models_give_the_same_predictions(automatic, tmp_path):
    file = automatic.save(tmp_path / "period.v1")
    assert file.name == "period.v1.safetensors"
    loaded = map(Model.load, (file, tmp_path / "period.v1"))
    for back in (*loaded, pickle.loads(pickle.dumps(automatic))):
        assert_array_equal(back.predict(X), automatic.predict(X))
        assert str(back.summary()) == str(automatic.summary())
        assert len(back.plot("effects").axes) == len(automatic.plot("effects").axes)
    (tmp_path / "text.safetensors").write_text("no model")
    with pytest.raises(KanrunError, match=r"text\.safetensors is not a readable safetensors file"):
        Model.load(tmp_path / "text.safetensors")
    with pytest.raises(KanrunError, match="missing"):
        Model.load(tmp_path / "nothing.safetensors")


def test_an_interval_needs_a_level_that_was_measured(automatic):
    for level in (0.0, 0.9999, 1.5):
        with refuses(f"level={level}"):
            automatic.interval(X, level)
    low, high = automatic.interval(X, 0.99)
    assert (low < high).all()


def test_ctrl_c_keeps_the_best_so_far(monkeypatch):
    original = LevenbergMarquardt.step
    presses = [signal.SIGINT]

    def interrupted(self):
        while self.network.intervals == 6 and presses:
            os.kill(os.getpid(), presses.pop())
        return original(self)

    monkeypatch.setattr(LevenbergMarquardt, "step", interrupted)
    said = "interrupted: the model is the best of the training so far"
    with pytest.warns(UserWarning, match=said):
        model = fit(X, Y, **SMALL | {"intervals": [3, 6, 12]})
    assert list(model.tables["stages"]["intervals"]) == [3, 6]
    assert model.score(X, Y) > 0.9
    presses.extend([signal.SIGINT] * 2)
    with pytest.raises(KeyboardInterrupt):
        fit(X, Y, **SMALL | {"intervals": [3, 6]})


def test_progress_is_shown_if_asked_for(monkeypatch):
    monkeypatch.setattr("kanrun.study.progress.SECONDS_BETWEEN_LINES", 0.0)
    for progress in (False, True):
        monkeypatch.setattr("sys.stderr", io.StringIO())
        fit(X, Y, **SMALL, progress=progress)
        shown = sys.stderr.getvalue()
        assert "best " in shown if progress else not shown


#: Arguments that differ from those of a fit to X and Y.
REFUSED = cases("""
{'x': None, 'y': None} | fit takes either data
{'y': None} | needs y
{'y': [1.0, 2.0]} | x has 80 rows and y has 2
{'x': [[1.0], [1e999]], 'y': [1.0, 2.0]} | x contains infinity
{'x': {'a': []}, 'y': []} | x is empty
{'x': [[1.0], [2.0]], 'y': ['a', 'a']} | one class only, 'a'
{'x': 'data.csv'} | x is 'data.csv', where an array
{'x': {'a': [1.0], 'b': [1.0, 2.0]}, 'y': [1.0, 2.0]} | differ in length: 1, 2
{'x': [[1.0]], 'y': [[]]} | y must be ... not (1, 0)
{'x': [[1.0]], 'y': [[1.0, 2.0]], 'task': 'classification'} | y must be labels
{'sample_weight': [1.0]} | one number for each of 80 rows
{'x': [[1.0], [2.0]], 'y': [1.0, 2.0], 'sample_weight': [1.0, -1.0]} | must not be negative
{'intervalls': 5} | intervalls is not a setting of ... did you mean intervals
{'model': 'auto', 'hidden': [3]} | hidden is not a setting of model=auto. Write model=kan or model=mlp.
{'steps': 5} | steps is a setting of solvers, ... Write model=kan
{'model': 'kan', 'solver': 'lm', 'momentum': 0.9} | momentum is not a setting of
{'domain': (-1, 1)} | domain can be used only with formula
{'x': None, 'y': None, 'formula': 'a*b', 'domain': {'a': (0, 1)}} | no range of the variable 'b'
""")  # noqa: E501
REFUSED += [({"x": pd.DataFrame(X, columns=["", ""])}, "called ''")]


@pytest.mark.parametrize("arguments, message", REFUSED)
def test_unsuitable_data_and_settings_are_refused_in_one_sentence(arguments, message):
    with refuses(message) as caught:
        fit(**{"x": X, "y": Y} | arguments)
    assert "\n" not in str(caught.value)


def test_columns_that_are_left_out_are_named_in_warnings():
    frame = FRAME.assign(empty=np.nan, shop="north")
    with pytest.warns(UserWarning, match="'empty' is left out.*empty") as caught:
        model = fit(frame, Y, **EVIDENCE)
    assert [str(each.message)[:30] for each in caught] == [note[:30] for note in model.notes[:2]]
    assert "'shop' is left out" in model.notes[1]
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="leave it out$"):
        fit(FRAME.assign(shop=[f"s{i // 3}" for i in range(80)]), Y, **EVIDENCE)


def test_an_output_computed_from_a_column_has_another_name():
    y = FRAME["mass"] ** 2
    model = fit(FRAME, y, **EVIDENCE)
    assert (model.inputs, model.outputs) == (("length", "mass"), ("output mass",))
    assert model.score(FRAME, y) > 0.99
    for same in (FRAME["mass"], FRAME[["mass"]]):
        with refuses("x has the column 'mass', which is y"):
            fit(FRAME, same)


def test_constant_columns_and_float16_data_are_accepted():
    with_constant = np.column_stack([X, np.ones(80)])
    model = fit(with_constant, Y, **EVIDENCE)
    assert model.score(with_constant, Y) > 0.99
    assert any("constant" in note for note in model.notes)
    assert fit(X.astype(np.float16), Y, **EVIDENCE).score(X, Y) > 0.99


def test_functions_without_noise_are_fitted_although_their_covariance_is_nearly_singular():
    x = np.linspace(-1, 1, 200)
    inside = np.linspace(-0.9, 0.9, 101)
    for function in (np.exp, lambda t: np.sin(3 * t)):
        found = fit(x, function(x)).predict(inside)
        assert_allclose(found, function(inside), rtol=0, atol=1e-4)
