"""Rules of settings: what they reject, with which message, and that all settings are described."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from cases import cases
from msgspec import Meta

from kanrun.config import check, copied
from kanrun.config.conversion import typed
from kanrun.config.rules import DISTINCT, INCREASING, Count, NonNegative
from kanrun.errors import UsageError
from kanrun.model import settings
from kanrun.targets.settings import TableTarget


@dataclass
class Settings:
    count: Annotated[int, Meta(ge=1, le=5), "number of things"] = 3
    share: Annotated[float, Meta(gt=0, lt=1), "a share"] = 0.5
    kinds: Annotated[list[Literal["a", "b"]], Meta(min_length=1), "kinds of things", DISTINCT] = (
        copied(["a"])
    )
    grid: Annotated[Count | list[Count] | Literal["auto"] | None, "a grid", INCREASING] = copied(
        [1, 2]
    )
    pairs: Annotated[
        list[Annotated[list[NonNegative], Meta(min_length=2, max_length=2)]], "pairs"
    ] = copied([[1, 2]])
    shapes: Annotated[dict[str, Literal["up"]], "shapes"] = copied({})
    size: Annotated[NonNegative, "a size"] = 1.0
    other: Annotated[Any, "anything"] = 1


#: Rules in words, by the name that stands for them in the table below.
RULES = {
    "GRID": "a whole number at least 1, a list of whole numbers at least 1, auto or null, "
    "increasing",
    "KINDS": "a non-empty list of a, b, each once (kinds of things)",
    "PAIRS": "a list of lists of 2 numbers at least 0 (pairs)",
}
REFUSED = cases("""
    {'count': 0} | count=0 must be a whole number from 1 to 5 (number of things).
    {'count': 2.5} | count=2.5 must be a whole number from 1 to 5 (number of things).
    {'share': 1.0} | share=1 must be a number above 0 and below 1 (a share).
    {'kinds': ['c']} | kinds=[c] must be KINDS.
    {'kinds': 'a'} | kinds=a must be KINDS. Write it in brackets: kinds=[a].
    {'kinds': []} | kinds=[] must be KINDS.
    {'kinds': ['a', 'a']} | kinds=[a,a] must be KINDS.
    {'grid': True} | grid=true must be GRID (a grid).
    {'grid': 'otto'} | grid=otto must be GRID (a grid); did you mean auto?
    {'grid': [3, 3]} | grid=[3,3] must be GRID (a grid).
    {'grid': [0, 3]} | grid=[0,3] must be GRID (a grid).
    {'pairs': [[1]]} | pairs=[[1]] must be PAIRS.
    {'pairs': [[1, -1]]} | pairs=[[1,-1]] must be PAIRS.
    {'shapes': {'x': 'down'}} | shapes={x: down} must be a mapping {name: value} with up
    {'size': 1e999} | size has a number that is not finite, or too large for float64.
""")
TOO_LARGE = [
    ({"pairs": [[1, math.nan]]}, "pairs has a number that is not finite, or too large"),
    ({"grid": [10**400]}, "grid has a number that is not finite, or too large for float64."),
]


@pytest.mark.parametrize("change, sentence", [*REFUSED, *TOO_LARGE])
def test_values_against_a_rule_are_refused_with_its_sentence(change, sentence):
    for grid in (5, "auto", None, (3, 5)):
        check(Settings(grid=grid))
    with pytest.raises(UsageError) as caught:
        check(Settings(**change))
    for name, rule in RULES.items():
        sentence = sentence.replace(name, rule)
    assert str(caught.value).startswith(sentence)


def test_whole_numbers_may_have_a_point_and_names_may_be_numbers():
    made = typed(Settings, {"count": 3.0, "grid": [2.0, 3], "size": 2})
    assert (made.count, made.grid, made.size) == (3, [2, 3], 2.0)
    assert [type(one) for one in (made.count, *made.grid, made.size)] == [int, int, int, float]
    assert typed(TableTarget, {"path": "x", "outputs": [2024, True]}).outputs == ["2024", "true"]


def test_defaults_are_not_shared():
    first = Settings()
    second = Settings()
    first.kinds.append("b")
    assert second.kinds == ["a"]


def test_choices_are_those_of_the_engine():
    from kanrun.engine.layers import BASES
    from kanrun.engine.networks import ACTIVATIONS

    assert set(settings.BASES) == set(BASES)
    assert set(settings.ACTIVATIONS) == set(ACTIVATIONS)
