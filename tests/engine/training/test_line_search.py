"""The line search meets the strong Wolfe conditions, or says that nothing lower was found."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log

import pytest
import torch

from kanrun.engine.training import lbfgs
from kanrun.engine.training.lbfgs import ENOUGH, REMAINING, LinePoint, search

Line = Callable[[float], tuple[float, float]]


def _at(line: Line) -> Callable[[float], LinePoint]:
    def look(t: float) -> LinePoint:
        value, slope = line(t)
        return LinePoint(t, value, torch.tensor([slope]), slope)

    return look


def _quadratic(t: float) -> tuple[float, float]:
    return (t - 3) ** 2, 2 * (t - 3)


def _barrier(t: float) -> tuple[float, float]:
    """Falls towards a wall at t = 1, beyond which nothing is defined."""
    return (-t - 0.01 * log(1 - t), -1 + 0.01 / (1 - t)) if t < 1 else (inf, inf)


@pytest.mark.parametrize("line", [_quadratic, _barrier])
@pytest.mark.parametrize("first", [1e-4, 1.0, 50.0])
def test_what_is_found_descends_enough_and_is_flat_enough(line: Line, first: float) -> None:
    look = _at(line)
    start = look(0.0)
    found = search(look, start, first)
    assert found.value <= start.value + ENOUGH * found.t * start.slope
    assert abs(found.slope) <= REMAINING * abs(start.slope)


def test_a_line_that_only_rises_gives_back_the_start() -> None:
    look = _at(lambda t: (1 + t, 1.0))
    start = LinePoint(
        0.0, 1.0, torch.tensor([-1.0]), -1.0
    )  # a slope that the values belie, as rounding makes them
    assert search(look, start, 1.0) is start


def test_no_more_points_are_looked_at_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look(t: float) -> LinePoint:
        looked.append(t)
        return LinePoint(t, -t, torch.tensor([-1.0]), -1.0)

    monkeypatch.setattr(lbfgs, "EVALUATIONS", 7)
    assert search(look, LinePoint(0.0, 0.0, torch.tensor([-1.0]), -1.0), 1.0).value < 0
    assert len(looked) == 7
