"""Grids of each kind of schedule, and trainings that follow them."""

import pytest
import torch
from cases import cases
from kanrun.experiments.extend_grid import Schedule, schedule_of
from made_kan import kan
from torch import Generator

from kanrun.engine.training import Plan, Samples, TrainingData, fit
from kanrun.errors import UsageError
from kanrun.model.settings import AdamSolver


@pytest.mark.parametrize(
    "entry, grids, exact, name",
    cases("""
        {'kind': 'doubling', 'first': 3, 'last': 50} | (3, 6, 12, 24, 48) | True | doubling, nested
        {'kind': 'doubling', 'first': 3, 'last': 31, 'nested': False} | (3, 7, 15, 31) | False | doubling, not nested
        {'kind': 'doubling', 'first': 3, 'last': 3} | (3,) | True | G = 3 alone
        {'intervals': [3, 5, 10]} | (3, 5, 10) | False | list, not nested
    """),  # noqa: E501
)
def test_schedules_give_these_grids(entry, grids, exact, name):
    schedule = schedule_of(entry)
    assert (schedule.grids, schedule.exact, schedule.name) == (grids, exact, name)


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
    data = TrainingData(samples.part(slice(0, 90, 2)), samples.part(slice(1, 90, 4)))
    adam = Plan("adam", (3, 6), weight=0.0, settings=AdamSolver(learning_rate=0.2))
    plan = Schedule([3, 6], "plateau", patience=5, steps=400).applied(adam)
    trained = fit(lambda drawn: kan([1, 1], 3, generator=drawn), data, plan, Generator())
    assert all(stage.steps < 400 for stage in trained.stages)
