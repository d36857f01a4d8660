"""Every rule of training can be switched off, and training still learns."""

from __future__ import annotations

import pytest
from kanrun.experiments.bench.ablation import RULES, ablate

from kanrun.config import KANConfig, LBFGSSolver, NamedTarget, SamplingConfig

SMALL = {"model": KANConfig(hidden=[2], intervals=[3]), "sampling": SamplingConfig(train=60, test=40)}


@pytest.mark.parametrize("rule", RULES)
def test_training_without_a_rule(rule: str) -> None:
    solver = LBFGSSolver(steps=40) if "LBFGS" in rule else None
    row = ablate(rule, NamedTarget("runge"), 0, solver=solver, **SMALL)
    assert row["solver"] == ("lbfgs" if solver else "lm")
    assert row["error"] < 0.5


def test_a_rule_that_is_off_changes_the_training() -> None:
    errors = {rule: ablate(rule, NamedTarget("runge"), 0, **SMALL)["error"] for rule in ("full", "several starts")}
    assert errors["full"] != errors["several starts"]
