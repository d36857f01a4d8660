"""Marks in figures of grid extension where the number of parameters reaches that of points."""

import numpy as np
from kanrun.experiments.extend_grid import plots as drawn
from pandas import DataFrame
from sample_tables import legend

GRIDS = [5, 10, 20, 50]
MARKS = ["parameters = training points", "the paper's E·G = training points"]


def stages(**more):
    """Return the stages of one schedule for a KAN with E = 3 edges.

    E (G + 5) parameters reach the 90 training points at G = 25, and E G reaches them at G = 30.
    """
    same = {"seed": 0, "shape": "2-1-1", "schedule": "list, nested", "intervals": GRIDS}
    marked = {"threshold": 25, "paper_threshold": 30}
    errors = {"test_rmse": [1e-2, 1e-3, 1e-4, 1e-5], "test_root_median_square": 1e-3}
    return DataFrame({**same, **marked, **errors, "compared": True, **more})


def steps():
    stage = np.repeat(np.arange(4), 3)
    names = {"seed": 0, "shape": "2-1-1", "schedule": "list, nested", "stage": stage}
    errors = {"train_rmse": 1e-3, "test_rmse": 2e-3}
    return DataFrame({**names, "intervals": np.array(GRIDS)[stage], **errors})


def marks(panel):
    """Return the positions of the two marks, the only lines that are drawn behind all others."""
    return [line.get_xdata()[0] for line in panel.lines if line.get_zorder() == 0]


def test_the_staircase_is_marked_at_the_stage_that_crosses():
    figure = drawn.staircase(steps(), stages())
    assert marks(figure.axes[0]) == [10, 10]  # the fourth stage, G = 50, starts at the tenth step
    assert legend(figure) == ["train", "test", *MARKS]
    later = drawn.staircase(steps(), stages(threshold=60, paper_threshold=np.nan))
    assert marks(later.axes[0]) == []
    assert legend(later) == ["train", "test"]  # of what is drawn


def test_both_marks_are_on_the_axis_of_intervals():
    published = DataFrame({"shape": "2-1-1", "intervals": [5], "paper": [0.1], "pykan": [0.2]})
    figure = drawn.error_against_intervals(stages(), published)
    assert [marks(panel) for panel in figure.axes[:2]] == [[25, 30], [25, 30]]
    assert legend(figure)[1:] == [*MARKS, "paper, Figure 2.3", "pykan 0.2.8"]
