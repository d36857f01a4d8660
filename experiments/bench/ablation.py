"""The part `ablation`: what each rule of training is worth, by training without it on the same points and seeds.

Targets are functions of scipy.special, Feynman formulas, ten functions with steps, peaks and waves (Rigas et al., arXiv
2601.18672), noisy formulas and tables; every third is held back: a rule is chosen on the others, and the choice tested
on these. Networks are small, so that a training takes seconds. Rules about a single network are measured from one
start, which a seed makes the same with and without the rule; rules about starts, from the starts of `solver=auto`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf
from typing import Any

import numpy as np
from pandas import DataFrame

from kanrun.config import (
    AutoSolver,
    BenchConfig,
    BundledTarget,
    ExperimentConfig,
    ExpressionTarget,
    FeynmanTarget,
    KANConfig,
    LBFGSSolver,
    MLPConfig,
    SamplingConfig,
    SpecialTarget,
)
from kanrun.engine.training import Plan, baseline_error, fit
from kanrun.errors import UsageError
from kanrun.monitoring import time_limit_reached
from kanrun.runs.records import Note, Record, Row
from kanrun.study.build import factory, make_plan
from kanrun.study.problem import make_problem
from kanrun.study.resources import generator

UNIT, FULL = [0, 1], "full"
POINTS = SamplingConfig(train=250, test=1000)
NOISY = replace(POINTS, noise=0.05)


@dataclass(frozen=True)
class AblationCase:
    """A training: what is learned from which points, by which model and solver."""

    target: Any
    sampling: SamplingConfig = field(default_factory=lambda: POINTS)
    model: Any = field(default_factory=lambda: KANConfig(hidden=[2], intervals=[5, 10, 20]))
    solver: Any = field(default_factory=AutoSolver)

    @property
    def kind(self) -> str:
        return (
            "MLP"
            if isinstance(self.model, MLPConfig)
            else "LBFGS"
            if isinstance(self.solver, LBFGSSolver)
            else "KAN"
        )


def _formula(formula: str, domain: Any = None) -> ExpressionTarget:
    return ExpressionTarget(formula, domain)


_PEAK = "exp(-{}*((x0-{})^2+(x1-{})^2))"
_SQUARES = "+".join(f"(x{i}-(x0+x1+x2+x3)/4)^2" for i in range(4))
_BY_LBFGS, _BY_MLP = LBFGSSolver(starts=1), MLPConfig(hidden=[8])
_ALL_ROWS = SamplingConfig(train=None, test=None, validation=0.2)

_FEYNMAN = ("I.6.2", "I.12.11", "I.18.4", "I.29.16", "II.6.15a", "III.9.52")
CASES: dict[str, AblationCase] = {
    **{
        name: AblationCase(SpecialTarget(name))
        for name in ("ellipj", "ellipkinc", "jv", "lpmv_1", "sph_harm_1_1")
    },
    **{name: AblationCase(FeynmanTarget(name)) for name in _FEYNMAN},
    "f1": AblationCase(_formula(f"100*{_PEAK.format(100, 0.3, 0.7)}+5*sin(2*pi*x0)*cos(2*pi*x1)")),
    "f2": AblationCase(_formula("tanh(50*x0)")),
    "f3": AblationCase(
        _formula(
            f"50*{_PEAK.format(80, 0.2, 0.2)}+30*{_PEAK.format(60, 0.8, 0.3)}+80*{_PEAK.format(100, 0.5, 0.8)}",
            UNIT,
        )
    ),
    "f4": AblationCase(_formula("1/(1+25*x0^2)")),
    "f5": AblationCase(_formula("sin(10*pi*x0^2)", UNIT)),
    "f6": AblationCase(_formula("x0-exp(-50*(1-x0))", UNIT)),
    "f7": AblationCase(_formula("sqrt(x0^2+x1^2+0.01)", UNIT)),
    "f8": AblationCase(_formula("tanh(30*x0)+tanh(30*(x0-1))", UNIT)),
    "f9": AblationCase(_formula("sin(pi*x0*x1)+cos(pi*x2*x3)+x4*x5")),
    "f10": AblationCase(_formula(f"10*exp(-20*({_SQUARES}))", UNIT)),
    "f4, noise": AblationCase(_formula("1/(1+25*x0^2)"), NOISY),
    "f7, noise": AblationCase(_formula("sqrt(x0^2+x1^2+0.01)", UNIT), NOISY),
    "I.6.2, noise": AblationCase(FeynmanTarget("I.6.2"), NOISY),
    "diabetes": AblationCase(BundledTarget("diabetes"), _ALL_ROWS),
    "linnerud": AblationCase(BundledTarget("linnerud"), _ALL_ROWS),
    "wine": AblationCase(BundledTarget("wine"), _ALL_ROWS, solver=_BY_LBFGS),
    "f5, LBFGS": AblationCase(_formula("sin(10*pi*x0^2)", UNIT), solver=_BY_LBFGS),
    "f7, LBFGS": AblationCase(_formula("sqrt(x0^2+x1^2+0.01)", UNIT), solver=_BY_LBFGS),
    "I.29.16, LBFGS": AblationCase(FeynmanTarget("I.29.16"), solver=_BY_LBFGS),
    "jv, LBFGS": AblationCase(SpecialTarget("jv"), solver=_BY_LBFGS),
    "f4, MLP": AblationCase(_formula("1/(1+25*x0^2)"), model=_BY_MLP),
    "f7, MLP": AblationCase(_formula("sqrt(x0^2+x1^2+0.01)", UNIT), model=_BY_MLP),
    "ellipkinc, MLP": AblationCase(SpecialTarget("ellipkinc"), model=_BY_MLP),
}
"""By name. The last third are of those whose rules others do not meet: LBFGS's and the MLP's."""

HELD_BACK = frozenset(list(CASES)[2::3])


@dataclass(frozen=True)
class TrainingRule:
    """`without` is the plan that lacks it; `of` the kind of case that meets it; `starts` whether it is about starts."""

    without: Callable[[Plan], Plan]
    of: str = "KAN"
    starts: bool = False


def _policy(part: str, **changes: Any) -> Callable[[Plan], Plan]:
    """The plan with these fields of a part of its policy changed; `lm` is both of its solvers."""

    def changed(plan: Plan) -> Plan:
        names = ("lm", "lm_without_grid") if part == "lm" else (part,)
        new = {name: replace(getattr(plan.policy, name), **changes) for name in names}
        return replace(plan, policy=replace(plan.policy, **new))

    return changed


def _policy_itself(**changes: Any) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, policy=replace(plan.policy, **changes))


RULES: dict[str, TrainingRule] = {
    "geodesic acceleration": TrainingRule(_policy("lm", geodesic=False)),
    "search of the damping": TrainingRule(_policy("lm", thorough=False)),
    "largest column norms": TrainingRule(_policy("lm", largest_columns=False), of="MLP"),
    "faint coefficients held": TrainingRule(_policy_itself(farthest=0.0)),
    "several starts": TrainingRule(lambda plan: replace(plan, starts=1), starts=True),
    "further batches of starts": TrainingRule(_policy("multistart", batches=1), starts=True),
    "rounds after thinning": TrainingRule(_policy("multistart", rounds_after=0), starts=True),
    "settling of one start": TrainingRule(_policy("multistart", settles=False)),
    "selection of a width": TrainingRule(
        lambda plan: replace(plan, select_width=False), starts=True
    ),
    "weight search": TrainingRule(_policy("penalty", searches=False)),
    "weights upwards": TrainingRule(_policy("penalty", upwards=False)),
    "second differences": TrainingRule(_policy("penalty", noisy=inf)),
    "stalled grids left": TrainingRule(_policy("grids", stalled=0.0, hardly=0.0)),
    "filled hidden grids kept": TrainingRule(_policy("grids", filled=1.0)),
    "settling of LBFGS": TrainingRule(_policy("grids", settling=0), of="LBFGS"),
    "final fit": TrainingRule(_policy_itself(final_steps=0)),
}


def ablate(rule: str, case: AblationCase, seed: int, *, starts: bool = False) -> dict[str, Any]:
    """Errors and CPU seconds of one training without `rule` (`full`: with all), from several starts or from one.

    `error` is the test error relative to the spread of the outputs.
    """
    problem = make_problem(ExperimentConfig(seed=seed), case.target, case.sampling, seed)
    plan, _ = make_plan(case.model, case.solver, problem)
    plan = plan if starts or plan.solver != "lm" else replace(plan, starts=1)
    plan = plan if rule == FULL else RULES[rule].without(plan)
    before = time.process_time()
    trained = fit(
        factory(case.model, problem, plan.solver), problem.data, plan, generator(seed, "training")
    )
    seconds, test = time.process_time() - before, trained.errors.test
    return {
        "rule": rule,
        "starts": starts,
        "training_seed": seed,
        "solver": plan.solver,
        "error": None if test is None else test / baseline_error(problem.data),
        "validation_rmse": trained.errors.validation,
        "intervals": trained.chosen.intervals,
        "seconds": seconds,
    }


def check_ablation(cfg: BenchConfig) -> None:
    """Raise UsageError for a rule or a case that does not exist."""
    for key, named, known in (("rules", cfg.rules, RULES), ("cases", cfg.cases, CASES)):
        if unknown := [name for name in named if name not in known]:
            raise UsageError(f"{key}={named}: {unknown[0]!r} is not one of {', '.join(known)}.")


def ablation(cfg: BenchConfig, seed: int) -> Iterator[Record]:
    """Every case without each rule that it meets, one of `repeats` seeds after the other; then each rule's ratios."""
    rows: list[dict[str, Any]] = []
    for number, (name, case) in product(range(seed, seed + cfg.repeats), CASES.items()):
        rules = [
            rule for rule in RULES if RULES[rule].of == case.kind and rule in (cfg.rules or RULES)
        ]
        if not rules or name not in (cfg.cases or CASES):
            continue
        for starts in (False, True):
            met = [rule for rule in rules if RULES[rule].starts == starts]
            for rule in [FULL, *met] if met else []:
                found = ablate(rule, case, number, starts=starts)
                if time_limit_reached():  # in the middle of this training
                    break
                rows.append({"case": name, "held_back": name in HELD_BACK, **found})
                yield Row("ablation", rows[-1])
        yield Note(f"ablation: {name}, seed {number}")
    for row in summary(DataFrame(rows)).to_dict("records"):
        yield Row("rules", {str(key): value for key, value in row.items()})


def summary(table: DataFrame) -> DataFrame:
    """Each rule's ratios of error and time, without it to with it, on the cases that it was chosen on and on others.

    Of each case the median over seeds, of cases the geometric mean, and how many got better or worse by a tenth.
    """
    error = np.maximum(table["error"].astype(float), 1e-13)  # rounding is all that is left there
    table = table.assign(error=np.log(error), seconds=np.log(table["seconds"].astype(float)))
    keys = ["case", "starts", "training_seed"]
    full = table[table["rule"] == FULL].set_index(keys)[["error", "seconds"]]
    rows: list[dict[str, Any]] = []
    for rule in (rule for rule in RULES if rule in set(table["rule"])):
        mine = table[table["rule"] == rule]
        ratios = mine.set_index(keys)[["error", "seconds"]] - full
        middle = ratios.dropna().groupby("case").median()
        row: dict[str, Any] = {"rule": rule}
        for group, held in (("chosen_on", False), ("held_back", True)):
            some = middle[[(name in HELD_BACK) == held for name in middle.index]]
            row |= {
                f"{group}_cases": len(some),
                f"{group}_error": float(np.exp(some["error"].mean())),
                f"{group}_worse": int((some["error"] > np.log(1.1)).sum()),
                f"{group}_better": int((some["error"] < -np.log(1.1)).sum()),
                f"{group}_seconds": float(np.exp(some["seconds"].mean())),
            }
        rows.append(row)
    return DataFrame(rows)
