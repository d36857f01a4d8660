"""Figures of `kanrun curves`, tested by the data that they draw."""

import numpy as np
from kanrun.experiments.curves import plots as curves
from numpy.testing import assert_allclose, assert_array_equal
from pandas import DataFrame
from sample_tables import stored


def drawn(axes, label):
    """Return the points of the line with this label."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xydata())


def test_interpolation_shows_the_first_the_middle_and_the_last_number_of_points():
    x = np.linspace(-1, 1, 101)
    table = DataFrame({"points": np.repeat(np.arange(4.0, 9), 101), "x": np.tile(x, 5)})
    table = table.assign(truth=table["x"] ** 2, polynomial=table["x"] + table["points"])
    axes = stored(curves.interpolation(table.assign(spline=table["x"])))
    assert [ax.get_title() for ax in axes[:3]] == ["N = 4", "N = 6", "N = 8"]
    assert_allclose(drawn(axes[1], "polynomial")[:, 1], x + 6)
    assert len(axes[2].get_lines()[-1].get_xdata()) == 8
    assert_allclose(axes[3].get_lines()[0].get_ydata(), np.abs(x + 4 - x**2))


def test_errors_name_the_order_that_was_recorded_and_draw_the_theorys():
    n = np.array([10, 20, 40, 80])
    fits = DataFrame({"curve": "spline", "degree": 3, "points": n, "max_error": 2.0 * n**-4.0})
    summary = DataFrame({"curve": "polynomial", "degree": 9, "points": n, "max_error": 0.1 * n})
    orders = DataFrame({"degree": [3], "order": [4.04], "last_points": [80]})
    (axes,) = stored(curves.errors(summary, fits, orders))
    assert_allclose(drawn(axes, "polynomial")[:, 1], 0.1 * n)
    assert_allclose(drawn(axes, "spline, k = 3: order 4.0")[:, 1], 2.0 * n**-4.0)
    x, theory = np.asarray(axes.get_lines()[3].get_xydata()).T
    assert_allclose(theory, 2.0 * x**-4)


def test_a_basis_function_is_drawn_where_it_is_not_zero_and_a_knot_as_often_as_it_counts():
    values = {"t": np.linspace(0, 1, 5), "value": [0.0, 0.0, 0.0, 0.5, 1.0]}
    knots = DataFrame({"knot": [0.0, 1.0], "multiplicity": [1, 3]})
    (axes,) = stored(curves.bspline_basis(DataFrame({"function": 0.0, **values}), knots))
    line, first, last = axes.get_lines()
    assert_array_equal(line.get_ydata(), [np.nan, np.nan, 0.0, 0.5, 1.0])
    assert [len(first.get_xdata()), len(last.get_xdata())] == [1, 3]
