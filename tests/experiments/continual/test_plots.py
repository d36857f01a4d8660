"""Figures of continual learning: where phases lie, colours, and numbers in cells."""

import itertools

import numpy as np
from kanrun.experiments.continual import plots as drawn
from matplotlib.colors import to_rgb
from pandas import DataFrame

from kanrun.figures.style import BLUE, VERMILLION

AXIS = np.linspace(-1, 1, 9)


def functions(phases, learners):
    rows = itertools.product(learners, range(1, phases + 1), AXIS)
    table = DataFrame(list(rows), columns=["learner", "after", "x0"])
    table["kind"] = np.where(table["learner"] == "MLP", "mlp", "kan")
    return table.assign(truth=table["x0"], output=0.5)


#: The points of two adjacent phases.
DATA = DataFrame({"seed": 0, "y": 0.0, "phase": [1, 1, 1, 2, 2, 2], "x0": [-1, -0.5, 0, 0, 0.5, 1]})


def test_colours_go_by_what_a_learner_is_and_not_by_its_name():
    panels = drawn.phases(functions(1, ("spline", "MLP")), DATA[:3]).axes
    assert [panel.lines[1].get_color() for panel in panels[1:]] == [BLUE, VERMILLION]
    coloured = np.isfinite(np.asarray(panels[1].lines[1].get_ydata(), dtype=float))
    assert list(coloured) == list(AXIS <= 0)  # phase 1 covers [-1, 0]; the rest is grey


def test_every_learner_has_a_row_although_its_table_is_of_another_cell():
    known = functions(2, ("KAN", "MLP")).assign(seed=0)
    known["cell"] = (known["learner"] == "MLP").astype(int)
    ((name, draw),) = drawn.figures_of({"functions": known, "data": DATA})
    labels = [panel.get_ylabel() for panel in draw().axes[::2]]
    assert (name, labels) == ("phases", ["data", "KAN", "MLP"])


def test_cells_carry_their_numbers_in_a_colour_that_can_be_read():
    columns = {"after": [1, 1, 2, 2], "on": [1, 2] * 2, "error": [2.1e-6, 0.352, 12.0, np.nan]}
    (axes, *_) = drawn.matrices(DataFrame({"learner": "KAN", **columns})).axes
    assert [text.get_text() for text in axes.texts] == ["2e-6", "0.35", "12"]
    assert [to_rgb(text.get_color())[0] > 0.5 for text in axes.texts] == [False, True, True]
