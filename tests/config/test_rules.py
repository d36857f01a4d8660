"""Settings: the types of their values, their defaults, and the choices of the engine."""

import pytest

from kanrun.config import check
from kanrun.config.rules import typed
from kanrun.engine.layers import BASES
from kanrun.engine.networks import ACTIVATIONS
from kanrun.model import settings
from kanrun.targets.settings import TableTarget


@pytest.mark.parametrize("intervals", [5, "auto", (3, 5)])
def test_a_setting_may_have_values_of_several_types(intervals):
    check(settings.KANConfig(intervals=intervals))


def test_whole_numbers_may_have_a_point_and_names_may_be_numbers():
    made = typed(settings.KANConfig, {"degree": 3.0, "intervals": [2.0, 3], "grid_eps": 1})
    assert (made.degree, made.intervals, made.grid_eps) == (3, [2, 3], 1.0)
    numbers = made.degree, *made.intervals, made.grid_eps
    assert [*map(type, numbers)] == [int, int, int, float]
    assert typed(TableTarget, {"path": "x", "outputs": [2024, True]}).outputs == ["2024", "true"]


def test_defaults_are_not_shared():
    settings.KANConfig().intervals.append(100)
    assert 100 not in settings.KANConfig().intervals


def test_choices_are_those_of_the_engine():
    assert set(settings.BASES) == set(BASES)
    assert set(settings.ACTIVATIONS) == set(ACTIVATIONS)
