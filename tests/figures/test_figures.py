"""Figures by the data that they draw, not by pixels; every one can be laid out."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import sample_tables as sample
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh, TriMesh
from sample_tables import legend, stored

from kanrun import figures
from kanrun.figures.prediction import has_classes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_one_input_gives_curves_and_training_points():
    figure = figures.predictions(sample.predictions(1))
    (axes,) = figure.axes
    truth, prediction = axes.lines
    assert (truth.get_label(), prediction.get_label()) == ("truth", "prediction")
    assert np.all(np.diff(np.asarray(prediction.get_xdata(), dtype=float)) > 0)
    np.testing.assert_allclose(
        np.asarray(prediction.get_ydata()) - np.asarray(truth.get_ydata()), 0.1
    )
    (points,) = axes.collections
    assert len(points.get_offsets()) == 60  # of the first seed
    stored(figure)


@pytest.mark.parametrize(("lattice", "kind"), [(True, QuadMesh), (False, TriMesh)])
def test_two_inputs_give_three_maps(lattice, kind):
    figure = figures.predictions(sample.predictions(2, lattice=lattice))
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["truth", "prediction", "prediction - truth"]
    images = [next(item for item in axes.collections if isinstance(item, kind)) for axes in maps]
    assert images[0].get_clim() == images[1].get_clim()
    np.testing.assert_allclose(np.asarray(images[2].get_array()), 0.1)
    assert images[2].get_clim() == pytest.approx((-0.1, 0.1))
    stored(figure)


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
    train, test = (item for item in axes.collections if isinstance(item, PathCollection))
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
    offsets = np.asarray(right.collections[0].get_offsets())
    np.testing.assert_allclose(offsets[:, 1], 0.1)
    assert legend(figure) == ["train", "test"]
    outlines = [np.asarray(patch.get_xy()).T for patch in left.patches]
    assert sum(40 * abs(np.trapezoid(y, x)) / np.ptp(x) for x, y in outlines) == pytest.approx(200)
    stored(figure)
    stored(figures.residuals(sample.predictions(2, truth=False)))
    stored(figures.residuals(sample.predictions(2).assign(**{"prediction:y": "text"})))


def test_a_few_large_errors_do_not_hide_the_others():
    table = sample.predictions(2, rows=400)
    table["prediction:y"] = table["truth:y"] + np.where(np.arange(len(table)) % 399 == 0, 1.0, 1e-6)
    right = figures.residuals(table).axes[1]
    assert (
        np.abs(
            np.concatenate([np.asarray(points.get_offsets()) for points in right.collections])[:, 1]
        ).max()
        < 1e-5
    )
    assert "points beyond" in right.get_title()
    figure = figures.predictions(table)
    mesh = next(item for item in figure.axes[2].collections if isinstance(item, TriMesh))
    assert mesh.get_clim()[1] < 1e-5
    assert "largest 1" in [axes.get_xlabel() for axes in figure.axes]
    stored(figure)


def titles(axes):
    return [text.partition("\n")[0] for text in texts(axes) if " → " in text]


def test_each_edge_has_a_panel_with_its_function():
    figure = figures.edges(sample.edges([2, 3, 1]))
    (axes,) = figure.axes
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines]
    boxes = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert len(drawn) == len(boxes) == 9
    assert "column 0 → h1.0\nscore 1" in texts(axes)
    assert titles(axes)[:2] == ["column 0 → h1.0", "column 1 → h1.0"]
    assert titles(axes)[-1] == "h1.2 → target"
    first, second = (np.ptp(each[:, 1]) for each in drawn[:2])
    assert second == pytest.approx(2 * first)  # one scale for the layer, that of its largest edge
    assert (drawn[1][0, 0], drawn[1][-1, 0]) == pytest.approx((boxes[1].x0, boxes[1].x1))
    assert second == pytest.approx(boxes[1].height / 1.1)
    stored(figure)


def test_of_many_edges_the_twenty_that_are_strongest_in_their_layers_are_drawn():
    table = sample.edges([4, 10, 5])
    last = table["layer"] == 1
    figure = figures.edges(table.assign(score=np.where(last, 1.0 + table["in"], 0.0)))
    (axes,) = figure.axes
    assert len(axes.lines) == 20
    assert figure.get_suptitle() == "20 of 90 edges, the strongest of their layers"
    assert titles(axes)[0] == "h1.6 → target"


def test_edges_are_in_the_units_of_the_data_and_grey_where_none_reach():
    table = sample.edges([1, 1])
    table = table.assign(x_data=10 * table["x"] + 50, seen=table["x"] <= 0)
    (axes,) = figures.edges(table).axes
    grey, blue = axes.lines
    assert {"40", "60"} <= set(texts(axes))
    assert grey.get_linewidth() < blue.get_linewidth()
    assert [np.isfinite(each.get_ydata()).sum() for each in (grey, blue)] == [21, 11]


def test_the_diagram_draws_each_edge_between_its_nodes():
    table = sample.edges([2, 3, 1])
    figure = figures.network_diagram(table)
    (axes,) = figure.axes
    boxes = [item for item in axes.collections if isinstance(item, PolyCollection)]
    assert [len(item.get_paths()) for item in boxes] == [9]
    lines, curves, *_ = (item for item in axes.collections if isinstance(item, LineCollection))
    assert len(lines.get_segments()) == 18
    assert len(curves.get_segments()) == 9
    widths = np.asarray(lines.get_linewidths())
    assert np.all(np.diff(widths[:3]) < 0)  # the scores of the edges of the first input fall
    nodes = next(item for item in axes.collections if isinstance(item, PathCollection))
    places = np.asarray(nodes.get_offsets())
    assert len(places) == 6
    ends = np.array([segment[0] for segment in lines.get_segments()[:6]])
    np.testing.assert_allclose(np.unique(ends, axis=0), places[:2])  # lines start at the two inputs
    assert {"column 0", "column 1", "target"} <= set(texts(axes))
    stored(figure)


def test_symbolic_edges_are_labelled_and_pruned_ones_are_ghosts():
    table = sample.edges([2, 2, 1])
    first = (table["layer"] == 0) & (table["out"] == 0)
    table["symbolic"] = np.where(first & (table["in"] == 0), "sin", None)
    table["pruned"] = first & (table["in"] == 1)
    (axes,) = figures.network_diagram(table).axes
    assert "sin" in texts(axes)
    curves = [item for item in axes.collections if isinstance(item, LineCollection)][1]
    colours = [tuple(colour[:3]) for colour in curves.get_colors()]
    assert len({*colours}) == 3
    alphas = np.asarray(curves.get_alpha())
    assert np.argmin(alphas[:4]) == 2  # in the order of inputs: (0,0), (0,1), (1,0), (1,1)


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


def flowers(inputs=3, names=NAMES):
    """Labels as runs record them: setosa below the diagonal, 10% of the test points wrong."""
    table = sample.predictions(inputs, lattice=True).drop(columns=["truth:y", "prediction:y"])
    kind = (table[[f"input:x{i}" for i in range(inputs)]].sum(axis=1) > 0).astype(float)
    wrong = (table["split"] == "test") & (np.arange(len(table)) % 10 == 0)
    truth = kind.where(table["split"] != "grid")
    found = kind.where(~wrong, 1 - kind)
    return table.assign(**{"truth:kind": truth.map(names), "prediction:kind": found.map(names)})


def test_labels_stand_in_a_confusion_matrix():
    axes = figures.predictions(flowers()).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["setosa", "virginica"]
    counts = np.asarray(axes.images[0].get_array())
    assert counts.sum() == 60
    assert counts[0, 1] + counts[1, 0] == 6
    assert axes.get_title() == "kind, test: 90.0% correct\n(largest class 53.3%)"


def test_two_inputs_give_a_map_of_the_labels():
    figure = figures.predictions(flowers(2))
    plane = figure.axes[0]
    assert legend(figure) == ["setosa", "virginica", "misclassified"]
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("x0", "x1")
    assert len(np.asarray(plane.collections[-1].get_offsets())) == 6
    stored(figure)


def test_in_place_of_residuals_stand_the_confusion_matrices_of_all_splits():
    train, test = (axes for axes in figures.residuals(flowers()).axes if axes.images)
    counts = [np.asarray(axes.images[0].get_array()) for axes in (train, test)]
    assert [int(each.sum()) for each in counts] == [60, 60]
    assert [int(each.trace()) for each in counts] == [60, 54]


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_odd_tables_of_classes_can_be_drawn(inputs):
    table = flowers(inputs)
    broken = table.assign(
        **{"prediction:kind": table["prediction:kind"].where(np.arange(len(table)) % 3 > 0)}
    )
    for odd in (
        broken,
        table.drop(columns="truth:kind"),
        table.query("split == 'train'"),
        table.head(0),
    ):
        for figure in (figures.predictions(odd), figures.residuals(odd)):
            stored(figure)


def test_only_whole_numbers_on_both_sides_are_classes():
    assert has_classes(flowers(), "kind")
    assert has_classes(flowers(names={0.0: 7.0, 1.0: 12.0}), "kind")
    assert not has_classes(sample.predictions(2), "y")
    counted = sample.predictions(2).assign(**{"truth:y": 3.0})
    assert not has_classes(counted, "y")


def test_effects_name_levels_in_full_and_show_dates_as_dates():
    columns = {"seed": 0, "output": "y", "value": [1.0, 2.0], "lower": 0.5, "upper": 2.5}
    level = ["Northern Heights East", "Harbour"]
    city = pd.DataFrame({"input": "city", "level": level, "x": [0.0, 1.0], **columns})
    sold = pd.DataFrame({"input": "sold", "level": "", "x": [17_897.0, 19_400.0], **columns})
    table = pd.concat([city.assign(is_date=False), sold.assign(is_date=True)])
    values = pd.DataFrame({"seed": 0, "input": ["sold"], "x": [18_000.0]})
    figure = figures.effects(table, ["city", "sold", "city"], values)
    stored(figure)
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_rotation() == 90 and text.get_text() != "y"]
    assert [text.get_text() for text in names] == level
    assert {"city", "sold", "2020", "2022"} <= {*texts(axes)}
    dots, line = axes.lines
    assert dots.get_ydata()[1] - dots.get_ydata()[0] > 0.5  # of 1.45 inches
    np.testing.assert_allclose(line.get_ydata(), dots.get_ydata())


def test_effects_on_classes_are_drawn_over_log_odds():
    columns = {"input": "age", "level": "", "x": [0.0, 1.0, 2.0], "lower": np.nan, "upper": np.nan}
    likely = np.array([0.001, 0.01, 0.1])
    parts = (("no", 1 - likely), ("yes", likely))
    rows = [pd.DataFrame({**columns, "output": name, "value": p, "ale": p}) for name, p in parts]
    table, quantiles = pd.concat(rows), pd.DataFrame({"input": ["age"] * 3, "x": [0.0, 1.0, 2.0]})
    (axes,) = figures.effects(table, ["age"], quantiles, "a remark", classes=True).axes
    line, ale = axes.lines
    odds = np.log(likely / (1 - likely))
    rises = np.diff(np.asarray(line.get_ydata(), dtype=float))
    assert rises[1] / rises[0] == pytest.approx(np.diff(odds)[1] / np.diff(odds)[0])
    np.testing.assert_allclose(ale.get_ydata(), line.get_ydata())
    assert {"0.01", "0.001", "probability of yes"} <= {*texts(axes)}


def test_pair_maps_share_colours_and_show_cells_at_their_places():
    x, y = (each.ravel() for each in np.meshgrid([0.0, 1.0], np.linspace(0, 4, 5), indexing="ij"))
    part = pd.DataFrame({"output": "y", "x": x, "y": y, "value": x + y, "rows": 1})
    table = pd.concat([part.assign(input_1=name, input_2="b") for name in ("a", "c")])
    figure = figures.pair_maps(table)
    stored(figure)
    axes, bar = figure.axes
    meshes = [item for item in axes.collections if isinstance(item, QuadMesh)]
    assert [mesh.get_clim() for mesh in meshes] == [(0, 5), (0, 5)]
    corners = meshes[0].get_coordinates()
    assert corners.shape == (6, 3, 2)
    heights = np.diff(corners[:, 0, 1])
    np.testing.assert_allclose(heights, 2.2 / 5)
    assert {"a", "b", "c", "0", "1", "2", "4"} <= {*texts(axes)}
    assert bar.get_ylabel() == "y"
