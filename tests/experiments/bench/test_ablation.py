"""Every rule of training can be switched off, and training still learns; ratios are paired by case and seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kanrun.experiments.bench.ablation import (
    CASES,
    FULL,
    HELD_BACK,
    RULES,
    AblationCase,
    ablate,
    summary,
)
from pandas import DataFrame

from kanrun.config import (
    BenchConfig,
    KANConfig,
    LBFGSSolver,
    MLPConfig,
    NamedTarget,
    SamplingConfig,
)
from kanrun.errors import UsageError
from kanrun.study.execute import check

KAN = AblationCase(
    NamedTarget("runge"), SamplingConfig(train=60, test=40), KANConfig(hidden=[2], intervals=[3])
)
SMALL = {
    "KAN": KAN,
    "LBFGS": replace(KAN, solver=LBFGSSolver(steps=40)),
    "MLP": replace(KAN, model=MLPConfig([4])),
}


@pytest.mark.parametrize("rule", RULES)
def test_training_without_a_rule(rule: str) -> None:
    kind = RULES[rule].of
    assert SMALL[kind].kind == kind
    row = ablate(rule, SMALL[kind], 1, starts=RULES[rule].starts)
    assert row["solver"] == ("lbfgs" if kind == "LBFGS" else "lm")
    assert row["error"] < 0.5
    assert "seed" not in row  # which is the recorder's column


def test_a_rule_that_is_off_changes_the_training() -> None:
    errors = {rule: ablate(rule, KAN, 0, starts=True)["error"] for rule in (FULL, "several starts")}
    assert errors[FULL] != errors["several starts"]


def test_ratios_are_those_of_the_same_case_and_seed() -> None:
    chosen, held = (
        next(name for name in CASES if (name in HELD_BACK) == held) for held in (False, True)
    )
    rule = "final fit"
    errors = {
        (chosen, FULL): (1e-3, 1e-1),
        (chosen, rule): (2e-3, 2e-1),
        (held, FULL): (1.0, 1.0),
        (held, rule): (0.5, 0.5),
    }
    rows = [
        {
            "case": case,
            "rule": name,
            "starts": False,
            "training_seed": seed,
            "error": error,
            "seconds": 1.0,
        }
        for (case, name), found in errors.items()
        for seed, error in enumerate(found)
    ]
    (row,) = summary(DataFrame(rows)).to_dict("records")
    assert row["chosen_on_error"] == pytest.approx(2.0)
    assert row["held_back_error"] == pytest.approx(0.5)
    assert (row["chosen_on_worse"], row["held_back_better"], row["chosen_on_seconds"]) == (
        1,
        1,
        1.0,
    )


@pytest.mark.parametrize(("key", "name"), [("rules", "luck"), ("cases", "f11")])
def test_rules_and_cases_are_known(key: str, name: str) -> None:
    from kanrun.experiments import bench

    cfg = BenchConfig(part="ablation", device="cpu", layers=[[1, 1, 1, 1]], **{key: [name]})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{key}=.*{name}"):
        check(bench, cfg)
