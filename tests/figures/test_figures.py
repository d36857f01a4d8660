"""Figures, tested by the data that they draw; every one can be laid out without a warning."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import sample_tables as sample
from matplotlib.collections import QuadMesh, TriMesh
from numpy.testing import assert_allclose
from sample_tables import legend, stored, ticks

from kanrun import figures


def test_one_input_gives_curves_and_training_points():
    (axes,) = stored(figures.predictions(sample.predictions(1)))
    truth, prediction = axes.lines
    assert (truth.get_label(), prediction.get_label()) == ("truth", "prediction")
    assert_allclose(prediction.get_ydata() - truth.get_ydata(), 0.1)
    assert len(axes.collections[0].get_offsets()) == 60  # the points of the first seed


@pytest.mark.parametrize("lattice, kind", [(True, QuadMesh), (False, TriMesh)])
def test_two_inputs_give_maps_of_truth_prediction_and_error(lattice, kind):
    panels = stored(figures.predictions(sample.predictions(2, lattice=lattice)))[:3]
    assert [axes.get_title() for axes in panels] == ["truth", "prediction", "prediction - truth"]
    truth, prediction, error = (axes.collections[0] for axes in panels)
    assert isinstance(truth, kind)
    assert truth.get_clim() == prediction.get_clim()
    assert_allclose(error.get_array(), 0.1)
    assert error.get_clim() == pytest.approx((-0.1, 0.1))


def test_more_inputs_give_a_parity_plot_with_the_error():
    figure = figures.predictions(sample.predictions(3))
    (axes,) = stored(figure)
    train, test = axes.collections
    assert_allclose(np.diff(test.get_offsets()), 0.1)
    assert len(train.get_offsets()) == 60
    assert legend(figure) == ["train, RMSE 0.1", "test, RMSE 0.1"]


def test_four_of_six_outputs_are_drawn():
    table = sample.predictions(3)
    for name in ("truth", "prediction"):
        table = table.assign(**{f"{name}:o{i}": table[f"{name}:y"] for i in range(5)})
    figure = figures.predictions(table)
    assert len(stored(figure)) == 4
    assert figure.get_suptitle() == "4 of 6 outputs"
    assert len(figures.residuals(table).axes) == 8


def test_residuals_are_prediction_minus_truth():
    figure = figures.residuals(sample.predictions(2))
    left, right = stored(figure)
    assert_allclose(np.asarray(right.collections[0].get_offsets())[:, 1], 0.1)
    assert legend(figure) == ["train", "test"]
    outlines = [np.asarray(patch.get_xy()).T for patch in left.patches]
    assert sum(40 * abs(np.trapezoid(y, x)) / np.ptp(x) for x, y in outlines) == pytest.approx(200)


def test_few_large_errors_do_not_hide_the_others():
    table = sample.predictions(2, rows=400)
    table["prediction:y"] = table["truth:y"] + np.where(table.index % 399 == 0, 1.0, 1e-6)
    figure = figures.residuals(table)
    assert np.abs(figure.axes[1].get_ylim()).max() < 1e-4
    assert "points of y beyond, drawn at the border" in figure.get_suptitle()
    error = figures.predictions(table).axes[2]
    assert error.collections[0].get_clim()[1] < 1e-5
    assert any(axes.get_xlabel() == "largest 1" for axes in error.figure.axes)


def test_incomplete_and_unusual_predictions_can_be_drawn():
    plane = sample.predictions(2)
    line = plane.assign(**{"input:x1": plane["input:x0"]})
    long = "price in $ and " + "very " * 20 + "long"
    names = {"input:x0": f"input:{long}", "truth:y": "truth:$x", "prediction:y": "prediction:$x"}
    for table in (
        plane.assign(**{"truth:y": plane["truth:y"].where(plane["split"] == "train")}),
        line,
        line.iloc[:1],
        plane.assign(**{"prediction:y": plane["prediction:y"].where(plane.index % 3 > 0)}),
        sample.predictions(1).rename(columns=names),
    ):
        stored(figures.predictions(table))
        stored(figures.residuals(table))


def test_each_edge_has_a_panel_with_its_function():
    panels = stored(figures.edges(sample.edges([2, 3, 1])))
    titles = [axes.get_title() for axes in panels]
    assert len(titles) == 9
    assert titles[0] == "column 0 → h1.0\nscore 1"
    assert titles[-1].startswith("h1.2 → target")
    # All panels of a layer have one scale, that of its largest edge.
    assert_allclose([np.ptp(axes.get_ylim()) for axes in panels[:6]], 4.4)
    assert_allclose(np.ptp(panels[3].lines[1].get_ydata()), 4)
    assert panels[3].get_xlim() == (-1, 1)


def test_strongest_twenty_edges_of_their_layers_are_drawn():
    table = sample.edges([4, 10, 5])
    figure = figures.edges(table.assign(score=np.where(table["layer"] == 1, 1.0 + table["in"], 0)))
    assert len(figure.axes) == 20
    assert figure.get_suptitle() == "20 of 90 edges, the strongest of their layers"
    assert figure.axes[0].get_title().startswith("h1.6 → target")


def test_edges_have_units_of_the_data_and_are_grey_beyond_the_samples():
    table = sample.edges([1, 1])
    table = table.assign(x_data=10 * table["x"] + 50, seen=table["x"] <= 0)
    (axes,) = figures.edges(table).axes
    grey, blue = axes.lines
    assert axes.get_xlabel() == "40 to 60"
    assert grey.get_linewidth() < blue.get_linewidth()
    assert [np.isfinite(line.get_ydata()).sum() for line in (grey, blue)] == [21, 11]


def test_diagram_joins_each_edge_to_its_nodes():
    (axes,) = stored(figures.network_diagram(sample.edges([2, 3, 1])))
    below, above, curves = (axes.lines[part:27:3] for part in range(3))
    assert len(axes.patches) == len(below) == len(above) == len(curves) == 9
    assert np.all(np.diff([line.get_linewidth() for line in below[:3]]) < 0)  # scores decrease
    nodes = axes.lines[27].get_xydata()
    assert len(nodes) == 6
    starts = np.unique([line.get_xydata()[0] for line in below[:6]], axis=0)
    assert_allclose(starts, nodes[:2])
    assert {text.get_text() for text in axes.texts} == {"column 0", "column 1", "target"}


def test_diagram_labels_symbolic_edges_and_fades_pruned_ones():
    table = sample.edges([2, 2, 1])
    first = (table["layer"] == 0) & (table["out"] == 0)
    table["symbolic"] = np.where(first & (table["in"] == 0), "sin", None)
    table["pruned"] = first & (table["in"] == 1)
    (axes,) = figures.network_diagram(table).axes
    assert "sin" in [text.get_text() for text in axes.texts]
    curves = axes.lines[2:18:3]
    assert len({curve.get_color() for curve in curves}) == 3
    # In the order of inputs: (0,0), (0,1), (1,0), (1,1).
    assert np.argmin([curve.get_alpha() for curve in curves[:4]]) == 2


@pytest.mark.parametrize("shape", [[1, 1], [40, 1, 1], [1, 12, 12]])
def test_networks_of_odd_shapes_and_with_unknown_values_can_be_drawn(shape):
    table = sample.edges(shape)
    stored(figures.network_diagram(table))
    table.loc[table["out"] == 1, ["y", "score"]] = np.nan
    stored(figures.network_diagram(table))
    stored(figures.edges(table))


def test_figures_leave_the_settings_of_the_caller_alone():
    with mpl.rc_context({"font.size": 33}):
        figure = figures.predictions(sample.predictions(1))
        assert mpl.rcParams["font.size"] == 33
    assert figure.axes[0].xaxis.label.get_fontsize() == 8


def classes(truth, prediction, split="test"):
    return pd.DataFrame({"split": split, "truth:kind": truth, "prediction:kind": prediction})


def test_classes_give_a_confusion_matrix_of_each_split():
    test = classes(["a", "a", "a", "b", "b"], ["a", "a", "b", "b", None])
    tables = classes(["10", "7"], ["7", "7"], "train"), test, classes([None], ["a"], "grid")
    left, right = stored(figures.confusion(pd.concat(tables)))
    assert (ticks(left.xaxis), ticks(right.xaxis)) == (["7", "10"], ["a", "b"])
    found = [axes.images[0].get_array().tolist() for axes in (left, right)]
    assert found == [[[1, 0], [1, 0]], [[2, 1], [0, 1]]]
    assert right.get_title() == "kind, test: 75.0% correct\n(largest class 75.0%)"
    stored(figures.confusion(test.head(0)))


def test_thirty_classes_at_most_are_drawn():
    labels = list(map(str, range(32)))
    figure = figures.confusion(classes(labels, labels))
    assert figure.get_suptitle() == "30 of 32 classes, the first in order"
    assert figure.axes[0].images[0].get_array().tolist() == np.eye(30).tolist()


def effect(name, x, level="", lower=0.5, upper=2.5, **more):
    """Return the rows of one input in a table of effects; values increase from 1 to 2."""
    value = np.linspace(1, 2, len(x))
    table = pd.DataFrame({"x": x, "value": value, "level": level, "lower": lower, "upper": upper})
    return table.assign(**{"seed": 0, "input": name, "output": "y", "is_date": False} | more)


def effects(*tables, quantiles=(), **more):
    """Draw the effects of inputs in the order of their tables."""
    at = pd.DataFrame({"seed": 0, "input": tables[0]["input"][0], "x": quantiles}, dtype=object)
    order = [table["input"][0] for table in tables]
    return figures.effects(pd.concat(tables), order, at, **more)


def test_effects_name_levels_dates_and_weekdays():
    level = ["Northern Heights East", "Harbour"]
    figure = effects(
        effect("sold", [17_897.0, 19_400.0], is_date=True),
        effect("city", [0.0, 3.0], level),
        effect("weekday of sold", [0.0, 6.0]),
        quantiles=[18_000.0],
    )
    sold, city, day = stored(figure)
    assert min(axes.get_position().width for axes in (sold, city, day)) > 0.15
    assert ticks(city.xaxis) == level
    assert ticks(day.xaxis)[::6] == ["Mon", "Sun"]
    assert {"2020", "2022"} <= set(ticks(sold.xaxis))
    assert_allclose(sold.lines[0].get_ydata(), [1, 2])
    assert city.get_ylim() == sold.get_ylim()


@pytest.mark.parametrize("letters, angle", [(10, 0), (20, 30)])
def test_long_names_of_levels_are_turned(letters, angle):
    (axes,) = stored(effects(effect("side", [0.0, 1.0], ["n" * letters, "s" * 10])))
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {angle}


def test_wide_bands_of_effects_are_cut_and_others_are_within_the_axis():
    figure = effects(
        *(effect(name, [0.0, 1.0], upper=[1.2, end]) for name, end in (("a", 2.8), ("b", 9.0)))
    )
    low, high = stored(figure)[0].get_ylim()
    assert low < 0.5
    assert 2.8 < high < 4
    assert figure.get_suptitle() == "wide bands are cut"


def test_effects_on_classes_are_drawn_over_log_odds():
    likely = np.array([0.001, 0.01, 0.1])
    age = effect("age", [0.0, 1.0, 2.0], lower=np.nan, upper=np.nan)
    both = (age.assign(output=o, value=p, ale=p) for o, p in (("no", 1 - likely), ("yes", likely)))
    (axes,) = stored(effects(pd.concat(both, ignore_index=True), remark="a remark", classes=True))
    for line in axes.lines:  # the effect and the accumulated local effects
        assert_allclose(line.get_ydata(), likely)
    assert axes.get_yscale() == "logit"
    assert {"0.001", "0.01", "0.1"} <= set(ticks(axes.yaxis))
    assert axes.get_ylabel() == "probability of yes"


def test_pair_maps_share_colours_and_name_levels():
    x, y = np.indices((2, 5)).reshape(2, -1)
    numbers = pd.DataFrame({"input_1": "a", "input_2": "b", "x": x, "y": y, "value": x + y})
    numbers = numbers.assign(output="y", level_1="", level_2="", rows=1)
    city = {"input_1": "city", "input_2": "weekday of date", "x": 3 * x}
    cities = numbers.assign(**city, level_1=np.repeat(["Bonn", "Kiel"], 5))
    first, second, bar = stored(figures.pair_maps(pd.concat([numbers, cities])))
    meshes = [axes.collections[0] for axes in (first, second)]
    assert [mesh.get_clim() for mesh in meshes] == [(0, 5), (0, 5)]
    assert meshes[0].get_coordinates().shape == (6, 3, 2)
    assert_allclose(np.diff(meshes[0].get_coordinates()[:, 0, 1]), 1)
    assert ticks(first.xaxis) == ["0", "1"]
    assert (second.get_xlabel(), second.get_ylabel()) == ("city", "weekday of date")
    assert (ticks(second.xaxis), ticks(second.yaxis)[:2]) == (["Bonn", "Kiel"], ["Mon", "Tue"])
    assert bar.get_ylabel() == "y"


def test_curves_of_two_classes_are_those_of_the_second():
    truth = np.array([False, False, True, False, True, True, True, True])
    likely = np.linspace(0.1, 0.8, 8)
    table = pd.DataFrame({"truth:y": np.where(truth, "b", "a"), "probability:a": 1 - likely})
    table = table.assign(**{"probability:b": likely, "seed": 0, "split": "held out"})
    roc, recall, calibration = figures.class_curves(table).axes
    # 14 of 15 pairs are ordered correctly.
    assert roc.get_legend_handles_labels()[1] == ["b, area 0.933"]
    assert recall.get_legend_handles_labels()[1][0].startswith("mean 0.9")
    assert_allclose(calibration.lines[0].get_data(), [likely, truth])
