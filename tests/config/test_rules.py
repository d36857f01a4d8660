"""Rules of settings: what they reject, in which words; every setting has a sentence."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from kanrun.config import (
    EXPERIMENTS,
    GROUPS,
    AdamSolver,
    BezierConfig,
    BSplineConfig,
    ExecutorConfig,
    FitConfig,
    KANConfig,
    TableTarget,
    check,
    copied,
    models,
    settings_of,
)
from kanrun.config.conversion import typed
from kanrun.config.rules import DISTINCT, INCREASING, Count, NonNegative
from kanrun.errors import UsageError


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
    three: Annotated[list[int], Meta(min_length=3, max_length=3), "three numbers"] = copied(
        [1, 2, 3]
    )
    shapes: Annotated[dict[str, Literal["up"]], "shapes"] = copied({})
    size: Annotated[NonNegative, "a size"] = 1.0
    other: Annotated[Any, "anything"] = 1


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"count": 0}, "count=0 must be from 1 to 5 (number of things)."),
        ({"count": 2.5}, "count=2.5 is not a whole number (number of things)."),
        ({"share": 1.0}, "share=1 must be above 0 and below 1 (a share)."),
        ({"kinds": ["c"]}, "kinds=[c] has c, which is not one of a, b (kinds of things)."),
        (
            {"kinds": "a"},
            "kinds=a is not a list (kinds of things). Write it in brackets: kinds=[a].",
        ),
        ({"kinds": []}, "kinds=[] needs at least 1 entry of a, b (kinds of things)."),
        (
            {"kinds": ["a", "a"]},
            "kinds=[a,a] has a twice or more; name each once (kinds of things).",
        ),
        ({"grid": 1.5}, "grid=1.5 is not a whole number or auto (a grid)."),
        ({"grid": True}, "grid=true is not a whole number or auto (a grid)."),
        ({"grid": "otto"}, "grid=otto is not a whole number or auto (a grid); did you mean auto?"),
        ({"grid": [3, 3]}, "grid=[3,3] must increase from entry to entry (a grid)."),
        ({"grid": [0, 3]}, "grid=[0,3] has 0, which must be at least 1 (a grid)."),
        ({"grid": [1, 2.5]}, "grid=[1,2.5] has 2.5, which is not a whole number (a grid)."),
        ({"pairs": [[1]]}, "pairs=[[1]] has [1], which must have 2 entries (pairs)."),
        ({"pairs": [[1, -1]]}, "pairs=[[1,-1]] has -1, which must be at least 0 (pairs)."),
        ({"three": [1]}, "three=[1] must have 3 entries (three numbers)."),
        ({"shapes": {"x": "down"}}, "shapes={x: down} has down, which is not one of up (shapes)."),
        ({"shapes": 5}, "shapes=5 is not a mapping, such as {name: value} (shapes)."),
        ({"size": math.inf}, "size=inf must be finite and at least 0 (a size)."),
        ({"pairs": [[1, math.nan]]}, "pairs.0.1=nan is not a number."),
    ],
)
def test_sentences(change, sentence):
    check(Settings())
    with pytest.raises(UsageError) as caught:
        check(Settings(**change))
    assert str(caught.value) == sentence


def test_words_and_null_are_accepted():
    for grid in ("auto", None, (3, 5)):
        check(Settings(grid=grid))


def test_whole_numbers_may_have_a_point_and_names_may_be_numbers():
    made = typed(Settings, {"count": 3.0, "grid": [2.0, 3], "size": 2})
    assert (made.count, made.grid, made.size) == (3, [2, 3], 2.0)
    assert [type(one) for one in (made.count, *made.grid, made.size)] == [int, int, int, float]
    assert typed(TableTarget, {"path": "x", "outputs": [2024, True]}).outputs == ["2024", "true"]


def test_defaults_are_not_shared():
    first, second = Settings(), Settings()
    first.kinds.append("b")
    assert second.kinds == ["a"]


@pytest.mark.parametrize(
    "settings, at, sentence",
    [
        (KANConfig(degree=21), "model.", "model.degree=21 must be from 0 to 20 (degree of the spl"),
        (
            KANConfig(intervals="otto"),
            "model.",
            "model.intervals=otto is not a whole number or auto",
        ),
        (KANConfig(base="slu"), "model.", "did you mean silu?"),
        (KANConfig(intervals=[10**400]), "model.", "model.intervals.0 has too many digits"),
        (FitConfig(max_cpu_seconds=10**400), "", "max_cpu_seconds has too many digits"),
        (BezierConfig(control_points=1), "model.", "model.control_points=1 must be from 2 to 1001"),
        (
            BSplineConfig(3, 3),
            "model.",
            "model.control_points=3 is too few: a B-spline of degree 3",
        ),
        (FitConfig(seed=2**32 - 1, n_seeds=2), "", "goes beyond 4294967295, the largest seed"),
        (FitConfig(device="mps"), "", "device=mps has no float64; add precision=float32"),
        (ExecutorConfig("cloud"), "executor.", "executor=cloud is not one of serial, local, dask"),
        (ExecutorConfig("serial", 2), "executor.", "executor.workers=2 is for executor=local"),
        (ExecutorConfig("dask"), "executor.", "executor=dask needs executor.address"),
        (ExecutorConfig("local", address="x"), "executor.", "executor.address=x is for executor=d"),
        (
            AdamSolver(smoothness_weight=True),
            "solver.",
            "solver.smoothness_weight=true is not a number or auto",
        ),
        (
            FitConfig(target=TableTarget("x.csv", ["a"], ["a"])),
            "",
            "the column 'a' is both in target.inputs and",
        ),
    ],
)
def test_settings_of_kanrun(settings, at, sentence):
    with pytest.raises(UsageError) as caught:
        check(settings, at)
    assert sentence in str(caught.value)


def all_settings():
    for table in (*GROUPS.values(), EXPERIMENTS):
        yield from (kind.settings for kind in table.values())


@pytest.mark.parametrize("settings", list(all_settings()), ids=lambda settings: settings.__name__)
def test_every_setting_has_a_sentence(settings):
    for one in settings_of(settings).values():
        if one.name != "kind":
            assert one.about
            assert one.about.endswith("...") or not one.about.endswith(".")


def test_choices_are_those_of_the_engine():
    from kanrun.engine.layers import BASES
    from kanrun.engine.networks import ACTIVATIONS

    assert set(models.BASES) == set(BASES)
    assert set(models.ACTIVATIONS) == set(ACTIVATIONS)
