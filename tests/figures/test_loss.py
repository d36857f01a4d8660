"""The loss curve by the data that it draws."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kanrun.figures import loss_curve


def metrics(
    seeds: int = 1, schedule: Sequence[int] = (5, 10, 20), steps: int = 4, restart: bool = False
) -> pandas.DataFrame:
    rows = []
    for seed in range(seeds):
        for stage, intervals in enumerate(schedule):
            for step in range(steps):
                number = step if restart else stage * steps + step
                error = 10.0 ** -(stage + step / steps) * (1 + seed)
                errors = {"train_rmse": error, "validation_rmse": 2 * error, "test_rmse": 3 * error}
                rows.append(
                    {"seed": seed, "stage": stage, "step": number, "intervals": intervals, **errors}
                )
    return pandas.DataFrame(rows)


def stored(figure: Figure) -> None:
    """Draw the figure in both formats; matplotlib must have nothing to complain about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", "'.*deprecated", DeprecationWarning
        )  # of pyparsing, by older matplotlibs
        for kind in ("png", "svg"):
            figure.savefig(io.BytesIO(), format=kind, dpi=60)


def legend(axes: Axes) -> list[str]:
    drawn: Any = axes.get_legend()
    return [text.get_text() for text in drawn.get_texts()]


def test_the_loss_curve_has_the_errors_and_the_stages() -> None:
    table = metrics(seeds=3)
    figure = loss_curve(table)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 12]  # type: ignore[arg-type]
    assert len(curves) == 9
    np.testing.assert_array_equal(curves[0].get_ydata(), table.query("seed == 0")["train_rmse"])
    assert axes.get_yscale() == "log"
    assert sorted(line.get_xdata()[0] for line in axes.lines if line not in curves) == [4, 8]  # type: ignore[index]
    assert sorted(text.get_text() for text in axes.texts) == ["10", "20", "5"]
    assert legend(axes) == ["train", "test", "validation", "2 more seeds"]
    stored(figure)


def test_what_was_tried_and_not_kept_is_faint() -> None:
    table = metrics().assign(best=[True] * 10 + [False, True])
    table.loc[10, "train_rmse"] = 9.0
    (axes,) = loss_curve(table).axes
    path, tried = axes.lines[:2]
    expected = table["train_rmse"].to_numpy().copy()
    expected[10] = expected[9]
    np.testing.assert_array_equal(path.get_ydata(), expected)
    assert np.flatnonzero(np.isfinite(np.asarray(tried.get_ydata(), dtype=float))).tolist() == [10]
    assert (tried.get_alpha() or 1) < 0.5
    assert legend(axes) == ["train", "test", "validation", "tried, not kept"]


def test_steps_that_start_again_are_put_one_after_the_other() -> None:
    (axes,) = loss_curve(metrics(restart=True)).axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), np.arange(12))


def test_labels_of_many_stages_do_not_overlap() -> None:
    figure = loss_curve(metrics(schedule=list(range(2, 102)), steps=1))
    assert 10 < len(figure.axes[0].texts) < 30
    stored(figure)


def test_a_loss_curve_without_test_errors_or_stages_or_rows() -> None:
    table = metrics().assign(test_rmse=np.nan, validation_rmse=0.0, intervals=None)
    (axes,) = loss_curve(table).axes
    assert legend(axes) == ["train"]
    assert not axes.texts
    stored(loss_curve(table))
    stored(loss_curve(table.head(0)))


def test_the_loss_curve_says_what_its_errors_are() -> None:
    (axes,) = loss_curve(metrics(), "RMSE of the class probabilities").axes
    assert axes.get_ylabel() == "RMSE of the class probabilities"
