"""Figures by the data that they draw, not by pixels; every one can be laid out."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import sample_tables as sample
from matplotlib.collections import PathCollection, QuadMesh, TriMesh
from sample_tables import legend, stored

from kanrun import figures


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn(axes, kind=PathCollection):
    return [item for item in axes.collections if isinstance(item, kind)]


def heights(points):
    return np.asarray(points.get_offsets())[:, 1]


def test_one_input_gives_curves_and_training_points():
    (axes,) = stored(figures.predictions(sample.predictions(1)))
    truth, prediction = axes.lines
    assert (truth.get_label(), prediction.get_label()) == ("truth", "prediction")
    assert np.all(np.diff(np.asarray(prediction.get_xdata(), dtype=float)) > 0)
    np.testing.assert_allclose(
        np.asarray(prediction.get_ydata()) - np.asarray(truth.get_ydata()), 0.1
    )
    (points,) = axes.collections
    assert len(points.get_offsets()) == 60  # of the first seed


@pytest.mark.parametrize("lattice, kind", [(True, QuadMesh), (False, TriMesh)])
def test_two_inputs_give_three_maps(lattice, kind):
    maps = [
        axes
        for axes in stored(figures.predictions(sample.predictions(2, lattice=lattice)))
        if axes.get_title()
    ]
    assert [axes.get_title() for axes in maps] == ["truth", "prediction", "prediction - truth"]
    images = [drawn(axes, kind)[0] for axes in maps]
    assert images[0].get_clim() == images[1].get_clim()
    np.testing.assert_allclose(np.asarray(images[2].get_array()), 0.1)
    assert images[2].get_clim() == pytest.approx((-0.1, 0.1))


def test_two_inputs_without_truth_or_on_a_line():
    unknown = figures.predictions(sample.predictions(2, truth=False))
    assert [axes.get_title() for axes in unknown.axes if axes.get_title()] == ["prediction"]
    stored(unknown)
    line = sample.predictions(2).assign(**{"input:x1": lambda table: table["input:x0"]})
    stored(figures.predictions(line))
    stored(figures.predictions(line.iloc[:1]))


def test_more_inputs_give_a_parity_plot_with_the_error():
    figure = figures.predictions(sample.predictions(3))
    (axes,) = figure.axes
    train, test = drawn(axes)
    offsets = np.asarray(test.get_offsets())
    np.testing.assert_allclose(offsets[:, 1] - offsets[:, 0], 0.1)
    assert len(train.get_offsets()) == 60
    assert legend(figure) == ["train, RMSE 0.1", "test, RMSE 0.1"]
    stored(figure)


def test_of_many_outputs_four_are_drawn_and_that_is_said():
    table = sample.predictions(3)
    for number in range(6):
        table[f"truth:o{number}"] = table["truth:y"]
        table[f"prediction:o{number}"] = table["prediction:y"]
    table = table.drop(columns=["truth:y", "prediction:y"])
    figure = figures.predictions(table)
    assert len([axes for axes in figure.axes if axes.collections]) == 4
    assert figure.get_suptitle() == "4 of 6 outputs"
    stored(figure)
    assert len(figures.residuals(table).axes) == 8


def test_residuals_are_prediction_minus_truth():
    figure = figures.residuals(sample.predictions(2))
    left, right = figure.axes
    np.testing.assert_allclose(heights(right.collections[0]), 0.1)
    assert legend(figure) == ["train", "test"]
    outlines = [np.asarray(patch.get_xy()).T for patch in left.patches]
    assert sum(40 * abs(np.trapezoid(y, x)) / np.ptp(x) for x, y in outlines) == pytest.approx(200)
    stored(figure)
    stored(figures.residuals(sample.predictions(2, truth=False)))


def test_a_few_large_errors_do_not_hide_the_others():
    table = sample.predictions(2, rows=400)
    table["prediction:y"] = table["truth:y"] + np.where(np.arange(len(table)) % 399 == 0, 1.0, 1e-6)
    figure = figures.residuals(table)
    right = figure.axes[1]
    assert max(np.abs(heights(points)).max() for points in right.collections) < 1e-5
    assert "points of y beyond, drawn at the border" in figure.get_suptitle()
    figure = figures.predictions(table)
    assert drawn(figure.axes[2], TriMesh)[0].get_clim()[1] < 1e-5
    assert "largest 1" in [axes.get_xlabel() for axes in figure.axes]
    stored(figure)


def test_each_edge_has_a_panel_with_its_function():
    figure = figures.edges(sample.edges([2, 3, 1]))
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 9
    assert titles[0] == "column 0 → h1.0\nscore 1"
    assert [titles[i].partition("\n")[0] for i in (1, -1)] == ["column 1 → h1.0", "h1.2 → target"]
    heights = [np.ptp(axes.get_ylim()) for axes in figure.axes]
    np.testing.assert_allclose(heights[:6], 4.4)  # one scale for a layer, that of its largest edge
    second = figure.axes[1]
    np.testing.assert_allclose(np.ptp(second.lines[0].get_ydata()), 4)
    assert second.get_xlim() == (-1, 1)
    stored(figure)


def test_of_many_edges_the_twenty_that_are_strongest_in_their_layers_are_drawn():
    table = sample.edges([4, 10, 5])
    last = table["layer"] == 1
    figure = figures.edges(table.assign(score=np.where(last, 1.0 + table["in"], 0.0)))
    assert len(figure.axes) == 20
    assert figure.get_suptitle() == "20 of 90 edges, the strongest of their layers"
    assert figure.axes[0].get_title().startswith("h1.6 → target")


def test_edges_are_in_the_units_of_the_data_and_grey_where_none_reach():
    table = sample.edges([1, 1])
    table = table.assign(x_data=10 * table["x"] + 50, seen=table["x"] <= 0)
    (axes,) = figures.edges(table).axes
    grey, blue = axes.lines
    assert axes.get_xlabel() == "40 to 60"
    assert grey.get_linewidth() < blue.get_linewidth()
    assert [np.isfinite(each.get_ydata()).sum() for each in (grey, blue)] == [21, 11]


def test_the_diagram_draws_each_edge_between_its_nodes():
    table = sample.edges([2, 3, 1])
    (axes,) = stored(figures.network_diagram(table))
    below, above, curves = (axes.lines[part:27:3] for part in range(3))
    assert len(axes.patches) == len(below) == len(above) == len(curves) == 9
    assert np.all(np.diff([line.get_linewidth() for line in below[:3]]) < 0)  # scores fall
    places = next(line.get_xydata() for line in axes.lines if line.get_marker() == "o")
    assert len(places) == 6
    ends = np.array([line.get_xydata()[0] for line in below[:6]])
    np.testing.assert_allclose(np.unique(ends, axis=0), places[:2])  # lines start at the two inputs
    assert {"column 0", "column 1", "target"} <= set(texts(axes))


def test_symbolic_edges_are_labelled_and_pruned_ones_are_ghosts():
    table = sample.edges([2, 2, 1])
    first = (table["layer"] == 0) & (table["out"] == 0)
    table["symbolic"] = np.where(first & (table["in"] == 0), "sin", None)
    table["pruned"] = first & (table["in"] == 1)
    (axes,) = figures.network_diagram(table).axes
    assert "sin" in texts(axes)
    curves = axes.lines[2:18:3]
    assert len({curve.get_color() for curve in curves}) == 3
    # In the order of inputs: (0,0), (0,1), (1,0), (1,1).
    assert np.argmin([curve.get_alpha() for curve in curves[:4]]) == 2


@pytest.mark.parametrize("shape", [[1, 1], [100, 1, 1], [1, 30, 30]])
def test_diagrams_of_odd_shapes(shape):
    stored(figures.network_diagram(sample.edges(shape)))


def test_values_that_are_not_finite_and_missing_scores_do_not_stop_a_figure():
    table = sample.edges([2, 2, 1])
    table.loc[table["out"] == 1, ["y", "score"]] = np.nan
    stored(figures.network_diagram(table))
    stored(figures.edges(table))
    broken = sample.predictions(2)
    broken.loc[::3, "prediction:y"] = np.nan
    stored(figures.predictions(broken))
    stored(figures.residuals(broken))


def test_names_with_dollar_signs_and_long_names_are_text():
    table = sample.predictions(1).rename(
        columns={"input:x0": "input:price in $ and " + "very " * 20 + "long", "truth:y": "truth:$x"}
    )
    table = table.rename(columns={"prediction:y": "prediction:$x"})
    stored(figures.predictions(table))


def test_figures_leave_the_settings_of_the_caller_alone():
    with mpl.rc_context({"font.size": 33}):
        figure = figures.predictions(sample.predictions(1))
        assert mpl.rcParams["font.size"] == 33
    assert figure.axes[0].xaxis.label.get_fontsize() == 8


NAMES = {0.0: "setosa", 1.0: "virginica"}


def flowers(names=NAMES):
    """Labels as runs record them: setosa below the diagonal, 10% of the test points wrong."""
    table = sample.predictions(3).drop(columns=["truth:y", "prediction:y"])
    kind = (table[[f"input:x{i}" for i in range(3)]].sum(axis=1) > 0).astype(float)
    wrong = (table["split"] == "test") & (np.arange(len(table)) % 10 == 0)
    truth = kind.where(table["split"] != "grid")
    found = kind.where(~wrong, 1 - kind)
    return table.assign(**{"truth:kind": truth.map(names), "prediction:kind": found.map(names)})


def test_classes_give_a_confusion_matrix_of_each_split():
    train, test = figures.confusion(flowers()).axes
    assert [text.get_text() for text in test.get_xticklabels()] == ["setosa", "virginica"]
    counts = [np.asarray(axes.images[0].get_array()) for axes in (train, test)]
    assert [int(each.sum()) for each in counts] == [60, 60]
    assert [int(each.trace()) for each in counts] == [60, 54]
    assert test.get_title() == "kind, test: 90.0% correct\n(largest class 53.3%)"


def test_odd_tables_of_classes_can_be_drawn():
    table = flowers()
    holes = table["prediction:kind"].where(np.arange(len(table)) % 3 > 0)
    numbers = flowers(names={0.0: 7, 1.0: 10})
    for odd in (
        table.assign(**{"prediction:kind": holes}),
        table.query("split == 'train'"),
        table.head(0),
        numbers,
    ):
        stored(figures.confusion(odd))
    ticks = figures.confusion(numbers).axes[0].get_xticklabels()
    assert [text.get_text() for text in ticks] == ["7", "10"]


def test_effects_name_levels_in_full_and_show_dates_as_dates():
    columns = {"seed": 0, "output": "y", "value": [1.0, 2.0], "lower": 0.5, "upper": 2.5}
    level = ["Northern Heights East", "Harbour"]
    city = pd.DataFrame({"input": "city", "level": level, "x": [0.0, 1.0], **columns})
    sold = pd.DataFrame({"input": "sold", "level": "", "x": [17_897.0, 19_400.0], **columns})
    table = pd.concat([city.assign(is_date=False), sold.assign(is_date=True)])
    values = pd.DataFrame({"seed": 0, "input": ["sold"], "x": [18_000.0]})
    figure = figures.effects(table, ["sold", "city", "sold"], values)
    stored(figure)
    sold, city = figure.axes
    assert min(axes.get_position().width for axes in figure.axes) > 0.3
    assert [text.get_text() for text in city.get_xticklabels()] == level
    assert (city.get_title(), sold.get_title()) == ("city", "sold")
    assert {"2020", "2022"} <= {text.get_text() for text in sold.get_xticklabels()}
    np.testing.assert_allclose(sold.lines[0].get_ydata(), [1, 2])
    assert city.get_ylim() == sold.get_ylim()


@pytest.mark.parametrize("letters, below", [(10, True), (11, False)])
def test_short_names_of_levels_stand_level_below_the_axis(letters, below):
    level = ["n" * letters, "s" * 10]
    columns = {"seed": 0, "input": "side", "output": "y", "value": 1.0, "lower": 0.5, "upper": 1.5}
    table = pd.DataFrame({"level": level, "x": [0.0, 1.0], **columns})
    (axes,) = stored(
        figures.effects(table, ["side"], pd.DataFrame({"seed": [], "input": [], "x": []}))
    )
    ticks = axes.get_xticklabels()
    assert [text.get_text() for text in ticks] == level
    assert all((text.get_rotation() == 0) is below for text in ticks)


def test_levels_and_weekdays_have_names_and_bands_are_within_the_axis():
    columns = {"seed": 0, "output": "y", "value": [1.0, 2.0], "lower": [0.5, 1.5]}
    lit = pd.DataFrame({"input": "lit", "level": ["yes", "no"], "x": [0.0, 1.0], **columns})
    day = {"input": "weekday of sold", "level": "", "x": [0.0, 6.0], **columns}
    table = pd.concat([lit, pd.DataFrame(day)]).assign(is_date=False, upper=[1.2, 2.8, 1.2, 9.0])
    figure = figures.effects(
        table, ["lit", "weekday of sold"], pd.DataFrame({"input": [], "x": []})
    )
    stored(figure)
    lit, day = figure.axes
    assert [text.get_text() for text in lit.get_xticklabels()] == ["yes", "no"]
    assert [text.get_text() for text in day.get_xticklabels()][::6] == ["Mon", "Sun"]
    low, high = lit.get_ylim()
    assert low < 0.5
    assert 2.8 < high < 4, "a band is shown as far as it is no wider than the curves"
    assert figure.get_suptitle() == "wide bands are cut"


def test_effects_on_classes_are_drawn_over_log_odds():
    columns = {"input": "age", "level": "", "x": [0.0, 1.0, 2.0], "lower": np.nan, "upper": np.nan}
    likely = np.array([0.001, 0.01, 0.1])
    parts = (("no", 1 - likely), ("yes", likely))
    rows = [pd.DataFrame({**columns, "output": name, "value": p, "ale": p}) for name, p in parts]
    table, quantiles = pd.concat(rows), pd.DataFrame({"input": ["age"] * 3, "x": [0.0, 1.0, 2.0]})
    (axes,) = stored(figures.effects(table, ["age"], quantiles, "a remark", classes=True))
    line, ale, _ = axes.lines
    np.testing.assert_allclose(line.get_ydata(), likely)
    np.testing.assert_allclose(ale.get_ydata(), likely)
    assert axes.get_yscale() == "logit"
    assert {"0.001", "0.01", "0.1"} <= {text.get_text() for text in axes.get_yticklabels()}
    assert axes.get_ylabel() == "probability of yes"


def test_pair_maps_share_colours_and_show_cells_at_their_places():
    x, y = (each.ravel() for each in np.meshgrid([0.0, 1.0], np.linspace(0, 4, 5), indexing="ij"))
    part = pd.DataFrame({"output": "y", "x": x, "y": y, "value": x + y, "rows": 1})
    part["level_1"] = part["level_2"] = ""
    table = pd.concat([part.assign(input_1=name, input_2="b") for name in ("a", "c")])
    figure = figures.pair_maps(table)
    stored(figure)
    first, second, bar = figure.axes
    meshes = [drawn(axes, QuadMesh)[0] for axes in figure.axes[:2]]
    assert [mesh.get_clim() for mesh in meshes] == [(0, 5), (0, 5)]
    corners = meshes[0].get_coordinates()
    assert corners.shape == (6, 3, 2)
    np.testing.assert_allclose(np.diff(corners[:, 0, 1]), 1)
    assert [axes.get_xlabel() for axes in (first, second)] == ["a", "c"]
    assert [text.get_text() for text in first.get_xticklabels()] == ["0", "1"]
    city = part.assign(input_1="city", level_1=np.repeat(["Bonn", "Kiel"], 5), x=3 * x)
    named = figures.pair_maps(city.assign(input_2="weekday of date")).axes[0]
    assert (named.get_xlabel(), named.get_ylabel()) == ("city", "weekday of date")
    assert [text.get_text() for text in named.get_xticklabels()] == ["Bonn", "Kiel"]
    assert [text.get_text() for text in named.get_yticklabels()][:2] == ["Mon", "Tue"]
    assert bar.get_ylabel() == "y"


def curves(likely, truth):
    table = {"seed": 0, "split": "held out", "truth:y": np.where(truth, "b", "a")}
    table |= {"probability:a": 1 - np.array(likely), "probability:b": likely}
    return figures.class_curves(pd.DataFrame(table)).axes


def test_curves_of_two_classes_are_those_of_the_second():
    truth = np.array([False, False, True, False, True, True, True, True])
    roc, recall, calibration = curves(np.linspace(0.1, 0.8, 8), truth)
    label = roc.get_legend_handles_labels()[1]
    assert label == ["b, area 0.933"]  # 14 of 15 pairs are in order
    assert recall.get_legend_handles_labels()[1][0].startswith("mean 0.9")
    middle, observed = calibration.lines[0].get_data()
    np.testing.assert_allclose(observed, truth)
    np.testing.assert_allclose(middle, np.linspace(0.1, 0.8, 8))
