"""`model=auto` by the real command: records, warnings and refusals."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases, refuses
from doors import run_config, typed
from kanrun.experiments.fit.tables import rank_note
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from kanrun import fit, load_run

HOUSES = "'target.path={}/houses.csv' 'target.inputs=[rooms,area (m2)]'"
QUICK = {"baselines": False, "folds": 3, "pairs": False}
EVIDENCE = {"selection": "evidence"}


@pytest.fixture(scope="module")
def houses():
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 6, 150).astype(float)
    area = rng.uniform(10, 60, 150)
    price = 20 * rooms + 3 * area + 2 * rooms * np.sqrt(area) + 5 * rng.normal(size=150)
    return pd.DataFrame({"rooms": rooms, "area (m2)": area, "price": price})


@pytest.fixture(scope="module")
def table(houses, tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    houses.to_csv(folder / "houses.csv", index=False, float_format="%.17g")
    return folder


@pytest.fixture(scope="module")
def run(table):
    cfg = typed("fit", HOUSES.format(table), "target.outputs=price model.folds=3")
    return run_config(cfg, table / "outputs").path


@pytest.fixture(scope="module")
def model(run):
    return load_run(run).model()


def test_a_table_is_fitted_by_the_automatic_model(run, houses):
    loaded = load_run(run)
    summary = loaded.tables["summary"].iloc[0]
    baselines = loaded.tables["baselines"]
    means = baselines.groupby("model")["rmse"].mean()
    assert loaded.config["model"]["kind"] == "auto"
    assert set(means.index) == {"kanrun", "mean", "ridge regression", "gradient boosting"}
    assert 4 < means["kanrun"] < means["ridge regression"] < means["mean"]
    assert summary["cv_rmse"] == pytest.approx(means["kanrun"], rel=1e-9)
    assert summary["cv_crps"] < summary["cv_rmse"]
    assert summary["cv_nlpd"] < 1.5 + np.log(summary["cv_rmse"])
    relative = summary["cv_rmse"] / houses["price"].std(ddof=0)
    assert summary["relative_error"] == pytest.approx(relative, rel=1e-9)
    assert summary["train_points"] == 150
    assert "test_rmse" not in summary
    assert {"effects", "importance", "input_values", "kernel", "edges"} <= set(loaded.tables)
    assert (run / "figures" / "effects.png").exists()
    held = loaded.tables["held_out"]
    assert sorted(held["row"]) == list(range(150))
    squares = (held["prediction:price"] - held["truth:price"]) ** 2
    by_fold = np.sqrt(squares.groupby(held["fold"]).mean())
    assert_allclose(by_fold, baselines.query("model == 'kanrun'")["rmse"], rtol=1e-9)


def test_data_in_memory_give_the_numbers_of_the_command(model, run, houses):
    x = houses[["rooms", "area (m2)"]]
    ours = fit(x, houses["price"], folds=3)
    assert_array_equal(ours.predict(x), model.predict(x))
    theirs = load_run(run).tables["summary"]
    assert ours.tables["summary"]["cv_rmse"][0] == theirs["cv_rmse"][0]


def test_figures_of_edges_are_drawn_on_request(run, command, refused):
    figures = run / "figures"
    line = f"runs figures '{run}'"
    assert not (figures / "network.png").exists()
    assert command(f"{line} --figure network").out == f"{figures / 'network.png'}\n"
    drawn = command(f"{line} --effect rooms --format svg").out.split()
    assert drawn == [str(figures / name) for name in ("effect_rooms.svg", "effect_rooms.csv")]
    effect = load_run(run).model().effect("rooms")
    stored = pd.read_csv(figures / "effect_rooms.csv")
    assert list(stored) == list(effect)
    assert_allclose(stored["value"], effect["value"])
    assert "did you mean rooms?" in refused(f"{line} --effect room")
    assert "--figure nope is of one run" in refused(f"{line} --figure nope --effect rooms")
    said = refused(f"{line} --figure nope")
    assert "there is no figure nope; the figures are effects" in said


def test_columns_of_new_rows_are_found_by_name(model):
    there = pd.DataFrame({"rooms": [2.0, 3.0, 4.0], "area (m2)": [30.0, 60.0, 50.0]})
    array = there.to_numpy()
    expected = model(array)
    swapped = there[["area (m2)", "rooms"]].assign(further="text")
    for same in (swapped, dict(there), torch.tensor(array, requires_grad=True)):
        assert_array_equal(model(same), expected)
    assert_array_equal(model.interval(swapped, 0.9)[0], model.interval(array, 0.9)[0])
    for single in ([2.0, 30.0], swapped.drop(columns="further").iloc[0]):
        assert_allclose(model(single), expected[0], rtol=1e-13)  # summed in another order


UNSUITABLE = cases("""
{'Rooms': [2.0], 'area (m2)': [30.0]} | x has no column 'rooms' ... mean Rooms
{'rooms': [2.0]} | x has no column 'area (m2)'; its columns are rooms
{'rooms': ['a', 'b'], 'area (m2)': [1, 2]} | column 'rooms' of x has 2 values that are not numbers
{'rooms': [1, None], 'area (m2)': [1, 2]} | column 'rooms' of x has 1 missing value
[[0.0, 0.0, 0.0]] | x has 3 columns, and the model has 2 inputs: rooms, area (m2)
[0.0, 0.0, 0.0] | x has 3 columns
[[[0.0, 0.0]]] | x has 3 dimensions
[[1.0, 2.0], [1.0]] | rows differ in length
[[1.0, 1e999]] | x contains infinity
[[1j, 2]] | complex
""")
UNSUITABLE += [
    (sparse.eye(2), "x is a sparse matrix"),
    (pd.DataFrame([[1, 2, 3]], columns=["rooms", "rooms", "area (m2)"]), "two columns called"),
]


@pytest.mark.parametrize("x, message", UNSUITABLE)
def test_new_rows_that_do_not_fit_are_refused(x, message, model):
    with refuses(message) as caught:
        model(x)
    assert isinstance(caught.value, ValueError)


@pytest.mark.usefixtures("unwritten")
def test_any_table_goes_in_every_column_comes_out_and_text_outputs_are_classes(
    command, refused, tmp_path
):
    rng = np.random.default_rng(1)
    city = rng.choice(["Bern", "Basel", "Chur"], 150)
    size = rng.uniform(1, 9, 150).round(2)
    rent = 10 * size + 20 * (city == "Bern") + rng.normal(size=150)
    data = pd.DataFrame({"id": "h" + pd.Series(range(150)).astype(str), "city": city, "size": size})
    data["dear"] = np.where(rent > 60, "yes", "no")
    data.loc[[3, 8], "size"] = np.nan
    data.to_csv("rents.csv", index=False)
    line = "target.path=rents.csv target.outputs=dear target.exclude=[id] sampling.n_test=40"
    done = command(f"fit {line} model.folds=2 model.baselines=false --outputs made")
    assert "the output 'dear' is text, so its values are classes; target.task decides" in done.err
    assert "input of their own: size 2" in done.out + done.err
    loaded = load_run(done.folder)
    inputs = loaded.model().inputs
    assert " ".join(inputs) == "city=Basel city=Bern city=Chur size size is missing"
    summary = loaded.tables["summary"].iloc[0]
    assert summary["test_accuracy"] > 0.85
    assert summary["cv_cross_entropy"] < 0.5
    assert set(loaded.tables["baselines"]["model"]) == {"kanrun"}
    held = loaded.tables["held_out"]
    assert held["split"].value_counts().to_dict() == {"held out": 110, "test": 40}
    right = (held["prediction:dear"] == held["truth:dear"])[held["split"] == "test"].mean()
    assert right == pytest.approx(summary["test_accuracy"])
    assert_allclose(held[["probability:no", "probability:yes"]].sum(axis=1), 1)
    predict = f"predict {done.folder} rents.csv"
    command(f"{predict} --output out.csv")
    out = pd.read_csv("out.csv")
    pd.testing.assert_frame_equal(out[list(data)], data)
    assert (out["prediction:dear"] == out["dear"]).mean() > 0.9
    said = refused(f"{predict} --output no.csv --interval 0.8")
    assert "--interval and --quantiles are for numbers, and this model predicts classes" in said
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(
    "setting, share", [("class_weight=balanced", 0.5), ("threshold=0.05", 0.05)]
)
def test_rare_classes_are_found_with_balanced_weights_or_a_lower_threshold(setting, share, command):
    rng = np.random.default_rng(0)
    dose = rng.normal(size=300)
    ill = np.where(rng.random(300) < 1 / (1 + np.exp(3 - dose)), "yes", "no")
    pd.DataFrame({"dose": dose, "ill": ill}).to_csv("rare.csv", index=False)
    line = "fit target.path=rare.csv target.outputs=ill model.selection=evidence model.pairs=false"
    loaded = load_run(command(f"{line} target.{setting} figures=[]").folder)
    model = loaded.model()
    assert_array_equal(model.predict(dose) == "yes", model(dose)[:, 1] > share)
    held = loaded.tables["held_out"]
    # Without the setting, less than 0.2 of the rare class is found.
    assert (held["prediction:ill"] == "yes")[held["truth:ill"] == "yes"].mean() > 0.5


@pytest.mark.parametrize(
    "settings, said",
    cases("""
        {} | ''
        {'monotone': {'ages': 'increasing'}} | 'ages' whose shape could be kept; did you mean
        {'curvature': {'age': 'convex'}} | in model.monotone and in model.curvature
        {'monotone': {'age': 'rising'}} | with decreasing, increasing
    """),
)
def test_shapes_are_settings_by_the_name_of_the_input(settings, said):
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"age": rng.uniform(20, 60, 60), "size": rng.normal(size=60)})
    y = np.sin(frame["age"] / 5) + frame["size"] + 0.3 * rng.normal(size=60)
    settings = {"monotone": {"age": "increasing"}} | settings
    with refuses(said) if said else nullcontext():
        model = fit(frame, y, **EVIDENCE, **settings)
        at = pd.DataFrame({"age": np.linspace(0, 80, 200), "size": 0.0})
        assert np.diff(model.predict(at)).min() >= -1e-12


def test_bounds_are_kept_beyond_the_rows_and_too_narrow_ones_refused():
    x = np.linspace(-2, 2, 80)
    y = np.clip(0.5 + 0.4 * x + 0.05 * np.random.default_rng(2).normal(size=80), 0, 1)
    at = np.linspace(-40, 40, 99)
    line = partial(fit, x, y, extrapolation="linear", **EVIDENCE)
    assert np.ptp(line().predict(at)) > 1
    held = line(bounds=[0, 1]).predict(at)
    assert 0 <= held.min() < held.max() <= 1
    with refuses("is too narrow: the outputs range from 0 to 1"):
        line(bounds=[0, 0.5])


def test_many_levels_are_random_effects_also_for_levels_that_no_row_has():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=100)
    town = np.repeat(np.arange(100), 2)
    x = rng.uniform(-2, 2, 200)
    y = x + effects[town] + rng.normal(size=200)

    def frame(town, x):
        return pd.DataFrame({"x": x, "town": [f"t{k}" for k in town]})

    model = fit(frame(town, x), y, pairs=False, **EVIDENCE)
    new = rng.uniform(-2, 2, 100)
    found = model.predict(frame(range(100), new)) - new
    shrunk = np.bincount(town, y - x) / 3  # optimal for known variances
    assert np.std(found - effects) < 1.1 * np.std(shrunk - effects)
    unseen = model.predict(frame([999] * 100, new)) - new
    assert np.std(unseen) < 0.2
    assert abs(unseen.mean() - effects.mean()) < 0.15


@pytest.mark.parametrize("slope, kept", [(0.0, True), (1.5, False)])
def test_the_mean_is_the_model_where_nothing_beats_it_by_its_standard_error(slope, kept):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(21, 3))
    y = slope * x[:, 0] + rng.normal(size=21)
    model = fit(x, y, **QUICK)
    summary = model.tables["summary"].iloc[0]
    assert (summary["selected_model"] == "mean") == kept
    assert (summary["effective_parameters"] == 0) == kept
    assert any("selected the mean of the outputs" in note for note in model.notes) == kept
    predicted = model.predict(rng.normal(size=(9, 3)))
    assert (np.ptp(predicted) == 0) == kept
    if kept:
        assert predicted[0] == pytest.approx(y.mean(), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_classifier_of_noise_predicts_the_frequencies_of_the_classes(classes):
    rng = np.random.default_rng(1)
    y = np.sort(rng.integers(0, classes, 40))
    model = fit(rng.normal(size=(40, 2)), y.astype(float), task="classification", **QUICK)
    assert model.tables["summary"]["selected_model"][0] == "mean"
    shares = np.bincount(y) / 40
    assert_allclose(model([[0.0, 0]])[0], shares, rtol=1e-7)
    for labels in (y.astype(float), y, *([y == 1] if classes == 2 else [])):
        assert model.score(rng.normal(size=(40, 2)), labels) == shares.max()


def test_negative_predictions_of_counts_are_named():
    x = np.linspace(-2, 2, 60)
    counts = np.maximum(np.round(3 * x + np.sin(40 * x)), 0)
    advice = "set target.family=poisson for counts, gamma for sizes above 0, or model.bounds=[0,1"
    said = f"training rows are negative, which no output is; {advice}"
    assert any(said in note for note in fit(x, counts, **QUICK).notes)
    assert not any("are negative" in note for note in fit(x, counts - 1, **QUICK).notes)


@pytest.mark.parametrize(
    "settings, said",
    cases("""
        {'folds': 20, 'baselines': True} | the baselines were left out because of the size of the table
        {'folds': 3, 'max_cpu_seconds': 0.001} | 3 of 3 folds of the cross-validation were left
        {'folds': 3, 'baselines': False} | ''
    """),  # noqa: E501
)
def test_folds_and_baselines_that_are_left_out_are_named(settings, said):
    x = np.linspace(-1, 1, 30)
    notes = fit(x, x**2, pairs=False, **settings).notes
    left = [note for note in notes if "left out because of" in note]
    assert any(said in note for note in left) if said else not left


@pytest.mark.parametrize(
    "ours, said",
    cases("""
        [0.81, 0.99] | kanrun has the lowest cross-validated RMSE, 10.0% below the next (ridge)
        [1.19, 1.01] | ridge has the lowest cross-validated RMSE; that of kanrun is 10.0% higher
        [1.24, 0.96] | ridge has the lowest cross-validated RMSE; that of kanrun is 10.0% higher
        [1.25, 0.95] | of kanrun and ridge differ by no more than chance
        [1.0004, 1.0004] | of kanrun and ridge differ by no more than chance
        [0.9996] | of kanrun and ridge differ by no more than chance
        [1.01] | ridge has the lowest cross-validated RMSE; that of kanrun is 1.0% higher
    """),
)
def test_the_lowest_loss_is_named_unless_the_difference_is_noise_or_rounds_to_zero(ours, said):
    losses = pd.DataFrame({"kanrun": ours, "mean": 2.0, "ridge": 1.0})
    (note,) = rank_note(losses, "RMSE")
    assert note.text.endswith(said)
    assert note.warning == said.startswith("ridge")
    assert not list(rank_note(losses[["kanrun"]], "RMSE"))
    assert not list(rank_note(losses.assign(ridge=0.0), "RMSE"))


def test_copies_of_rows_are_counted_and_stay_in_one_fold():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    y = x[:, 0] + rng.normal(size=50)
    order = np.append(np.arange(50), np.arange(10))
    model = fit(x[order], y[order], **QUICK)
    assert any(note.startswith("10 of 60 training rows are copies") for note in model.notes)
    fold = model.tables["held_out"].set_index("row")["fold"]
    assert_array_equal(fold[range(10)], fold[range(50, 60)])
    assert model.tables["summary"]["train_points"][0] == 60
    tested = fit(x[order], y[order], n_test=30, **QUICK)
    assert any("test rows are copies of training rows" in note for note in tested.notes)
