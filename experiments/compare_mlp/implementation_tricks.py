"""The lecture's three implementation tricks of KANs, each switched off in turn.

All parameters have to be trained for that, and the model needs a base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from kanrun.experiments.compare_mlp import matched_run
from kanrun.experiments.compare_mlp.verdicts import complete, judge
from torch import Generator

from kanrun.config import CompareMLPConfig
from kanrun.engine.networks import Network
from kanrun.engine.training import fit
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record
from kanrun.study.build import Create, factory
from kanrun.study.resources import generator

Cell = Mapping[str, Any]
#: What is switched off, by the name it has in tables.
VARIANTS: dict[str, dict[str, Any]] = {
    "all tricks": {},
    "no residual base": {"base": "zero"},
    "no initial scales": {"unscaled": True},
    "no grid update": {"update_grid": False},
    "no tricks": {"base": "zero", "unscaled": True, "update_grid": False},
}


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Every variant of every KAN."""
    return [
        {"case": case, "hidden": hidden, "grid": grid, "variant": variant}
        for case in matched_run.cases_of(cfg)
        for hidden in case["shapes"]
        for grid in cfg.grids
        for variant in VARIANTS
    ]


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for a KAN that cannot be built, or a solver that would not use its base."""
    for cell in cells(cfg):
        case = matched_run.case_of(cfg, cell["case"], cfg.seed)
        plan, _ = matched_run.budget_of(
            case, matched_run.kan_settings(cfg, cell["hidden"], cell["grid"])
        )
        if plan.solver == "lm":
            raise UsageError(
                "comparison=implementation_tricks needs a solver that trains w_b and w_s, and solver=lm keeps w_s "
                "where it starts; use solver=lbfgs or solver=adam."
            )
        if cfg.model.base == "zero":
            raise UsageError(
                "comparison=implementation_tricks switches the residual base off, and model.base=zero has none; "
                "use model.base=silu."
            )


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train one variant, with the same starts, steps and data as the others."""
    case = matched_run.case_of(cfg, cell["case"], seed)
    off = dict(VARIANTS[cell["variant"]])
    unscaled = off.pop("unscaled", False)
    model = replace(matched_run.kan_settings(cfg, cell["hidden"], cell["grid"]), **off)
    plan, _ = matched_run.budget_of(case, model)
    create = factory(model, case.problem, plan.solver)
    chosen = partial(_unscaled, create) if unscaled else create
    trained = fit(chosen, case.problem.data, plan, generator(seed, "training"))
    marks = {"comparison": cfg.comparison, "variant": cell["variant"], "activation": model.base}
    yield matched_run.result(case, trained, marks)


def _unscaled(create: Create, random: Generator) -> Network:
    """A fresh network whose coefficients and base weights are standard normal, whatever the layer's width."""
    network = create(random)
    with torch.no_grad():
        for layer in network.edge_layers:
            for name, parameter in layer.named_parameters():
                if name in ("coefficients", "base_weight", "weight"):
                    parameter.copy_(
                        torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                    )
    return network


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """Switching a trick off costs accuracy, on the targets together and with a bootstrap interval."""
    summary = tables["summary"]
    summary = summary.assign(
        log=np.log10(summary["error"]), pair=summary["target"] + " " + summary["shape"]
    )
    logs: Any = summary.groupby(["variant", "seed", "pair"])["log"].agg(
        lambda each: each.mean(skipna=False)
    )
    there = set(summary["variant"])
    found = []
    for variant in list(VARIANTS)[1:]:
        if not {variant, "all tricks"} <= there:
            continue
        off, on = logs[variant], logs["all tricks"]
        both = off.index.intersection(on.index)
        differences = complete(off[both] - on[both])
        if differences.size:
            verdict = judge(differences)
            sentence = f"{variant}: test error over that with all tricks"
            found.append(
                Claim(sentence, verdict.ratio, "interval above 1", verdict.above, verdict.interval)
            )
    return found
