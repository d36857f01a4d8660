"""Figures of classification: labels by their own names, no differences of labels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas
import pytest
import sample_tables as sample

from kanrun import figures
from kanrun.figures.classes import has_classes

NAMES = {0.0: "setosa", 1.0: "virginica"}


def flowers(inputs: int = 3, names: Mapping[float, Any] = NAMES) -> pandas.DataFrame:
    """Labels as runs record them: setosa below the diagonal, 10% of the test points wrong."""
    table = sample.predictions(inputs, lattice=True).drop(columns=["truth:y", "prediction:y"])
    kind = (table[[f"input:x{i}" for i in range(inputs)]].sum(axis=1) > 0).astype(float)
    wrong = (table["split"] == "test") & (np.arange(len(table)) % 10 == 0)
    truth = kind.where(table["split"] != "grid")
    found = kind.where(~wrong, 1 - kind)
    return table.assign(**{"truth:kind": truth.map(names), "prediction:kind": found.map(names)})


def test_labels_stand_in_a_confusion_matrix() -> None:
    axes = figures.predictions(flowers()).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["setosa", "virginica"]
    counts = np.asarray(axes.images[0].get_array())
    assert counts.sum() == 60
    assert counts[0, 1] + counts[1, 0] == 6
    assert axes.get_title() == "kind, test: 90.0% correct"


def test_labels_that_are_numbers_are_labels_too() -> None:
    axes = figures.predictions(flowers(names={0.0: 7.0, 1.0: 12.0})).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["7", "12"]


def test_two_inputs_give_a_map_of_the_labels() -> None:
    figure = figures.predictions(flowers(2))
    plane = figure.axes[0]
    legend = plane.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "setosa",
        "virginica",
        "misclassified",
    ]
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("x0", "x1")
    assert len(np.asarray(plane.collections[-1].get_offsets())) == 6
    figure.savefig(io.BytesIO(), dpi=50)


def test_in_place_of_residuals_stands_how_many_points_are_wrong() -> None:
    (axes,) = figures.residuals(flowers()).axes
    assert axes.get_xlabel() == "misclassified points (%)"
    train, test = axes.containers
    assert [bar.get_width() for bar in train] == [0, 0]
    first = flowers().query("seed == 0 and split == 'test'")
    wrong = [
        100 * (first.loc[first["truth:kind"] == name, "prediction:kind"] != name).mean()
        for name in NAMES.values()
    ]
    assert [bar.get_width() for bar in test] == pytest.approx(wrong)


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_odd_tables_of_classes_can_be_drawn(inputs: int) -> None:
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
            figure.savefig(io.BytesIO(), dpi=50)


def test_only_whole_numbers_on_both_sides_are_classes() -> None:
    assert has_classes(flowers(), "kind")
    assert has_classes(flowers(names={0.0: 7.0, 1.0: 12.0}), "kind")
    assert not has_classes(sample.predictions(2), "y")
    counted = sample.predictions(2).assign(**{"truth:y": 3.0})
    assert not has_classes(counted, "y")
