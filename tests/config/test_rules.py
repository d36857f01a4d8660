"""Rules of settings: what they reject, in which words; every setting has a sentence."""

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest

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
    models,
    setting,
)
from kanrun.config.rules import Rule
from kanrun.errors import UsageError


@dataclass
class Settings:
    count: int = setting(3, "number of things", minimum=1, maximum=5)
    share: float = setting(0.5, "a share", above=0, below=1)
    kinds: list[str] = setting(["a"], "kinds of things", choices=("a", "b"), least=1, distinct=True)
    grid: int | list[int] | str | None = setting(
        [1, 2], "a grid", minimum=1, words=("auto",), increasing=True
    )
    pairs: list[list[float]] = setting([[1, 2]], "pairs", width=2, minimum=0)
    three: list[int] = setting([1, 2, 3], "three numbers", length=3)
    size: float = setting(1.0, "a size", minimum=0)
    other: Any = setting(1, "anything", minimum=0)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"count": 0}, "count=0 must be from 1 to 5 (number of things)."),
        ({"share": 1.0}, "share=1.0 must be above 0 and below 1 (a share)."),
        ({"kinds": ["c"]}, "kinds=['c'] has 'c', which is not one of a, b (kinds of things)."),
        ({"kinds": []}, "kinds=[] needs at least 1 entry of a, b (kinds of things)."),
        ({"kinds": ["a", "a"]}, "kinds has a twice or more; name each once (kinds of things)."),
        ({"grid": 1.5}, "grid=1.5 is not a whole number or auto (a grid)."),
        ({"grid": True}, "grid=true is not a whole number or auto (a grid)."),
        ({"grid": [3, 3]}, "grid=[3, 3] must increase from entry to entry (a grid)."),
        ({"grid": [0, 3]}, "grid=[0, 3] has 0, which must be at least 1, or auto (a grid)."),
        ({"grid": [1, 2.5]}, "grid=[1,2.5] has 2.5, which is not a whole number or auto (a grid)."),
        ({"pairs": [[1]]}, "pairs has [1.0], where a list of 2 is needed (pairs)."),
        ({"pairs": [[1, -1]]}, "pairs=[[1.0, -1.0]] has -1.0, which must be at least 0 (pairs)."),
        ({"three": [1]}, "three=[1] must have 3 entries (three numbers)."),
        ({"other": "x"}, "other=x must be at least 0 (anything)."),
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
    for one in fields(settings):
        if one.name != "kind":
            rule = one.metadata["rule"]
            assert isinstance(rule, Rule)
            assert rule.about
            assert rule.about.endswith("...") or not rule.about.endswith(".")
        assert is_dataclass(settings)


def test_choices_are_those_of_the_engine():
    from kanrun.engine.layers import BASES
    from kanrun.engine.networks import ACTIVATIONS

    assert set(models.BASES) == set(BASES)
    assert set(models.ACTIVATIONS) == set(ACTIVATIONS)
