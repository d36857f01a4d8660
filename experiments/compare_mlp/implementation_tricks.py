"""The lecture's three implementation tricks of KANs, each switched off in turn.

The tricks are the residual base function, the initial scales and the grid update. The comparison
needs a solver that trains all parameters, and a model with a base function.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Generator

from kanrun.config import SOLVERS
from kanrun.engine.networks import Network
from kanrun.errors import UsageError
from kanrun.runs.records import Records
from kanrun.study import Cell, Claims, Tables

from . import cases
from .cases import Case, Model, judge, log_ratios, result, train, training_of
from .config import CompareMLPConfig

#: For each variant, the settings that switch off its tricks.
VARIANTS: dict[str, dict[str, Any]] = {
    "all tricks": {},
    "no residual base": {"base": "zero"},
    "no initial scales": {},
    "no grid update": {"update_grid": False},
    "no tricks": {"base": "zero", "update_grid": False},
}
#: Variants without initial scales. There is no setting for that; see `unscaled`.
UNSCALED = {"no initial scales", "no tricks"}
FIGURES = ("variants",)


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return one cell for each variant of each KAN of a case."""
    listed = itertools.product(case["shapes"], cfg.grids, VARIANTS)
    return [{"hidden": hidden, "grid": grid, "variant": name} for hidden, grid, name in listed]


def model_of(case: Case, cell: Cell) -> Model:
    """Return the settings of a cell's KAN in its variant.

    Raises UsageError if the solver does not train all parameters, or if there is no base function.
    """
    model = cases.model_of(case, cell)
    if SOLVERS[training_of(case, model).plan.solver].second_order:
        raise UsageError(
            "comparison=implementation_tricks needs a solver that trains w_b and w_s, and "
            "solver=lm keeps w_s where it starts; use solver=lbfgs or solver=adam."
        )
    if vars(model)["base"] == "zero":
        raise UsageError(
            "comparison=implementation_tricks switches the residual base off, and "
            "model.base=zero has none; use model.base=silu."
        )
    return replace(model, **VARIANTS[cell["variant"]])


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train one variant, with the same data, number of starts and number of steps as the others."""
    model = model_of(case, cell)
    variant = cell["variant"]
    begin = unscaled if variant in UNSCALED else None
    trained = yield from train(case, model, seed, begin=begin)
    yield result(case, trained, variant=variant, activation=vars(model)["base"])


def unscaled(network: Network, random: Generator) -> Network:
    """Set coefficients and base weights to standard normal numbers, and return the network.

    Unlike the usual initial values, they are not scaled with the width of the layers.
    """
    with torch.no_grad():
        for layer in network.edge_layers:
            for name, parameter in layer.named_parameters():
                if name in ("coefficients", "base_weight", "weight"):
                    normal: Any = {"generator": random, "dtype": torch.float64}
                    parameter.copy_(torch.randn(parameter.shape, **normal))
    return network


def claims(tables: Tables) -> Claims:
    """Claim that each variant is less accurate than the KAN with all tricks, over all targets."""
    summary = tables["summary"]
    pair = summary["target"] + " " + summary["shape"]
    log = np.log10(summary["error"])
    groups = log.groupby([summary["variant"], summary["seed"], pair])
    # Take the geometric mean of the errors over the schedules of grids for each target and shape.
    errors = 10 ** groups.agg(lambda logs_of_pair: logs_of_pair.mean(skipna=False))
    for variant in summary["variant"].unique():
        if variant == "all tricks" or "all tricks" not in errors:
            continue
        logs = log_ratios(errors[variant], errors["all tricks"])
        if logs.size:
            verdict = judge(logs)
            sentence = f"{variant}: test error over that with all tricks"
            yield verdict.claim(sentence, "interval above 1", verdict.interval)
