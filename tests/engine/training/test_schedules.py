"""Which grids a schedule names, and that a training follows them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN
from kanrun.engine.training import AdamOptions, Plan, Samples, TrainingData, fit
from kanrun.engine.training.schedules import (
    DoublingSchedule,
    ListSchedule,
    PlateauSchedule,
    Schedule,
    is_nested,
    threshold_intervals,
)
from kanrun.errors import UsageError

DOMAIN = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)


def data() -> TrainingData:
    x = torch.linspace(-1, 1, 90, dtype=torch.float64)[:, None]
    samples = Samples(x, torch.sin(4 * x) + 0.1 * x)
    return TrainingData(samples.part(torch.arange(0, 90, 2)), samples.part(torch.arange(1, 90, 4)))


def create(intervals: int, generator: Generator) -> KAN:
    return KAN.create([1, 1], intervals, EdgeSpec(), domain=DOMAIN, generator=generator)


def test_grids() -> None:
    assert DoublingSchedule(3, 50).grids == (3, 6, 12, 24, 48)
    assert DoublingSchedule(3, 31, nested=False).grids == (3, 7, 15, 31)
    assert DoublingSchedule(3, 3).grids == (3,)
    assert is_nested(DoublingSchedule(3, 50).grids)
    assert not is_nested(DoublingSchedule(3, 50, nested=False).grids)
    assert not is_nested((3, 5, 10))
    assert is_nested((4,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ListSchedule((3, 10, 5)), "shrinks from 10 to 5"),
        (lambda: ListSchedule((3, 3)), "has 3 twice"),
        (lambda: ListSchedule(()), "at least one grid"),
        (lambda: ListSchedule((0, 3)), "at least 1 interval"),
        (lambda: DoublingSchedule(0, 3), "cannot begin with 0"),
        (lambda: DoublingSchedule(8, 4), "shrinks"),
        (lambda: PlateauSchedule(ListSchedule((3,)), patience=0), "at least 1"),
    ],
)
def test_impossible_schedules_are_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_a_plan_follows_its_schedule() -> None:
    plan = Plan("lm", starts=1, weight=0.0)
    followed = ListSchedule((3, 6)).applied(plan)
    assert (followed.intervals, followed.steps, followed.patience) == ((3, 6), plan.steps, None)
    plateau = PlateauSchedule(DoublingSchedule(2, 9), patience=4, steps=50).applied(plan)
    assert (plateau.intervals, plateau.steps, plateau.patience, plateau.stop_early) == ((2, 4, 8), 50, 4, True)


@pytest.mark.parametrize(
    "schedule",
    [ListSchedule((3, 5, 11)), DoublingSchedule(3, 12), DoublingSchedule(3, 15, nested=False),
     PlateauSchedule(DoublingSchedule(3, 12), patience=2, steps=30)],
)  # fmt: skip
def test_training_visits_the_grids(schedule: Schedule) -> None:
    plan = schedule.applied(Plan("lm", starts=1, weight=0.0))
    trained = fit(partial(create, schedule.grids[0]), data(), plan, Generator().manual_seed(0))
    visited = tuple(stage.intervals for stage in trained.stages)
    assert visited == schedule.grids[: len(visited)]
    for stage in trained.stages[1:]:
        if stage.transfer.method == "insertion":
            assert stage.transfer.error <= 1e-12
    nested = is_nested(schedule.grids)
    assert {stage.transfer.method for stage in trained.stages[1:]} == ({"insertion"} if nested else {"least squares"})


def test_a_plateau_leaves_a_grid_when_validation_stalls() -> None:
    adam = Plan("adam", starts=1, weight=0.0, adam=AdamOptions(learning_rate=0.2))
    plan = PlateauSchedule(ListSchedule((3, 6)), patience=5, steps=400).applied(adam)
    trained = fit(partial(create, 3), data(), plan, Generator().manual_seed(0))
    assert all(stage.steps < 400 for stage in trained.stages)


def test_the_threshold_is_where_parameters_reach_the_points() -> None:
    edges, degree, points = 3, 3, 900
    first = threshold_intervals(lambda g: edges * (g + degree + 2), points)
    assert edges * (first + degree + 2) >= points > edges * (first - 1 + degree + 2)
    assert threshold_intervals(lambda g: 100 * g, 7) == 1
