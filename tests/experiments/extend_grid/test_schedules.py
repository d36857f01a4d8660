"""Grids of each kind of schedule, and trainings that follow them."""

import made_kan
import pytest
import torch
from cases import cases
from kanrun.experiments.extend_grid.extension import Schedule, schedule_of
from torch import Generator

from kanrun.engine.training import Plan, Samples, TrainingData, fit
from kanrun.errors import UsageError
from kanrun.model.settings import AdamSolver


def doubled(first, last, **more):
    return Schedule(kind="doubling", first=first, last=last, **more)


def test_schedules_give_these_grids():
    assert doubled(3, 50).grids == (3, 6, 12, 24, 48)
    assert doubled(3, 31, nested=False).grids == (3, 7, 15, 31)
    assert doubled(3, 3).grids == (3,)
    schedules = doubled(3, 50), doubled(3, 50, nested=False), Schedule([3, 5, 10]), Schedule([4])
    assert [schedule.exact for schedule in schedules] == [True, False, False, True]
    names = ["doubling, nested", "doubling, not nested", "list, not nested", "G = 4 alone"]
    assert [schedule.name for schedule in schedules] == names


@pytest.mark.parametrize(
    "entry, message",
    cases("""
        {'intervals': [3, 10, 5]} | schedules.intervals=.3,10,5. must be .*, increasing
        {'intervals': [3, 3]} | , increasing
        {'intervals': []} | a non-empty list
        {'intervals': [0, 3]} | must be a non-empty list of whole numbers at least 1
        {'kind': 'doubling', 'first': 0, 'last': 3} | first=0 must be a whole number at least 1
        {'kind': 'doubling', 'first': 8, 'last': 4} | last=4 is less than
        {'kind': 'plateau', 'intervals': [3], 'patience': 0} | patience=0 must be a whole number at least 1
    """),  # noqa: E501
)
def test_impossible_schedules_are_refused(entry, message):
    with pytest.raises(UsageError, match=message):
        schedule_of(entry)


def test_a_plateau_leaves_a_grid_when_validation_stalls():
    x = torch.linspace(-1, 1, 90, dtype=torch.float64)[:, None]
    samples = Samples(x, torch.sin(4 * x) + 0.1 * x)
    data = TrainingData(*(samples.part(torch.arange(*each)) for each in ((0, 90, 2), (1, 90, 4))))
    adam = Plan("adam", (3, 6), weight=0.0, settings=AdamSolver(learning_rate=0.2))
    plan = Schedule([3, 6], "plateau", patience=5, steps=400).applied(adam)

    def create(generator):
        return made_kan.kan([1, 1], 3, generator=generator)

    trained = fit(create, data, plan, Generator().manual_seed(0))
    assert all(stage.steps < 400 for stage in trained.stages)
