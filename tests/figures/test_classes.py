"""Curves of a classifier: their points and areas, by the data drawn."""

import numpy as np
import pandas as pd
import pytest

from kanrun.figures import class_curves


def drawn(likely, truth):
    table = {"seed": 0, "split": "held out", "truth:y": np.where(truth, "b", "a")}
    table |= {"probability:a": 1 - np.array(likely), "probability:b": likely}
    return class_curves(pd.DataFrame(table)).axes


def test_curves_of_two_classes_are_those_of_the_second():
    truth = np.array([False, False, True, False, True, True, True, True])
    roc, recall, calibration = drawn(np.linspace(0.1, 0.8, 8), truth)
    label = roc.get_legend_handles_labels()[1]
    assert label == ["b, area 0.933"]  # 14 of 15 pairs are in order
    assert recall.get_legend_handles_labels()[1][0].startswith("mean 0.9")
    middle, observed = calibration.lines[0].get_data()
    np.testing.assert_allclose(observed, truth)
    np.testing.assert_allclose(middle, np.linspace(0.1, 0.8, 8))


@pytest.mark.parametrize(("sign", "area"), [(1, "1"), (-1, "0")])
def test_areas_of_perfect_and_reversed_orders(sign, area):
    truth = np.arange(10) > 4
    roc, *_ = drawn(0.5 + sign * (truth - 0.5) * 0.8, truth)
    assert roc.get_legend_handles_labels()[1] == [f"b, area {area}"]
