"""An MLP without activations is one linear map, however deep: against least squares and the product of its matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from kanrun.experiments.compare_mlp import matched_run
from torch import Tensor, nn

from kanrun.config import CompareMLPConfig, MLPConfig
from kanrun.engine.networks import MLP
from kanrun.engine.training import DataFitting, LevenbergMarquardt, TrainingData, output_scale
from kanrun.errors import UsageError
from kanrun.runs import Claim
from kanrun.runs.records import Record, Row
from kanrun.study.build import make_plan
from kanrun.study.resources import generator
from kanrun.study.statistics import maximum

Cell = Mapping[str, Any]
#: What rounding may leave of an identity (products of six matrices in float64, 1e-16 each, with room for their
#: condition), and what is required of the end of an iteration.
EXACT, SOLVED = 1e-12, 1e-8
STEPS = 100
#: Numbers are rounded to multiples of this for the comparison of bits: all products and sums of them are exact.
GRAIN = 2.0**-16


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Every depth, 0 for a single linear layer."""
    return [
        {"case": case, "depth": depth} for case in matched_run.cases_of(cfg) for depth in cfg.depths
    ]


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for more than one width, and for what the solver cannot train."""
    if len(cfg.widths) != 1:
        raise UsageError(
            f"widths={cfg.widths} must be the one width of the hidden layers, such as [8]."
        )
    if getattr(cfg.solver, "kind", "") != "lm":
        raise UsageError(
            f"solver={cfg.solver.kind} does not end exactly at the least squares solution; use solver=lm."
        )
    for cell in cells(cfg):
        case = matched_run.case_of(cfg, cell["case"], cfg.seed)
        make_plan(_model(cfg, cell), case.settings.solver, case.problem)


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train one depth, then compare."""
    case = matched_run.case_of(cfg, cell["case"], seed)
    trained = matched_run.train_mlp(case, _model(cfg, cell), STEPS, seed)
    network, data = trained.network, case.problem.data
    assert isinstance(network, MLP)
    to_the_end(network, data)
    marks = {"comparison": cfg.comparison, "activation": "identity", "depth": cell["depth"]}
    yield matched_run.result(case, trained, marks)
    points = data.everything
    one = with_one(points.x)
    least = torch.linalg.lstsq(one, points.y, driver="gelsd").solution
    with torch.no_grad():
        ours = network(points.x)
    differences = {
        "from_least_squares": relative(ours, one @ least),
        "from_product": relative(ours, one @ product(network).T),
        "bits_that_differ": bits_that_differ(network, seed),
    }
    yield Row("linear", {"target": case.name, "depth": cell["depth"], **differences})


def _model(cfg: CompareMLPConfig, cell: Cell) -> MLPConfig:
    return MLPConfig(cfg.widths * cell["depth"], "identity")


def to_the_end(network: MLP, data: TrainingData) -> None:
    """Levenberg-Marquardt steps on all points until none lowers the error: training stops where more hardly pays."""
    points = data.everything
    solver = LevenbergMarquardt(DataFitting(network, points, output_scale(points, data.task)))
    for _ in range(STEPS):
        solver.step()
        if solver.converged:
            return


def product(network: MLP) -> Tensor:
    """(outputs, inputs + 1): slopes and offset of the one linear map that the layers compose to."""
    whole = torch.eye(network.shape[0], network.shape[0] + 1, dtype=torch.float64)
    layers: list[Any] = list(network.linear)
    for layer in layers:
        whole = layer.weight.detach() @ whole
        whole[:, -1] += layer.bias.detach()
    return whole


def with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def relative(ours: Tensor, other: Tensor) -> float:
    return float((ours - other).abs().max() / other.abs().max())


def bits_that_differ(network: MLP, seed: int) -> int:
    """How many outputs of the layers are not x W^T + b to the last bit, on numbers for which both are exact.

    Rounding depends on the order of additions, which no library promises; on multiples of GRAIN there is none, so
    that any difference would be a difference of formula.
    """
    wrong, layers = 0, list[Any](network.linear)
    for number, layer in enumerate(layers):
        exact = nn.utils.skip_init(
            nn.Linear, layer.in_features, layer.out_features, dtype=torch.float64
        )
        x = torch.randn(
            64, layer.in_features, dtype=torch.float64, generator=generator(seed, f"bits {number}")
        )
        weight, bias, x = (
            (each.detach().clamp(-8, 8) / GRAIN).round() * GRAIN
            for each in (layer.weight, layer.bias, x)
        )
        exact.load_state_dict({"weight": weight, "bias": bias})
        with torch.no_grad():
            wrong += int((exact(x) != (x[:, None, :] * weight).sum(-1) + bias).sum())
    return wrong


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """One linear map, whatever the depth."""
    rows = tables["linear"]
    depths = f"with {rows['depth'].min()} to {rows['depth'].max()} hidden layers"
    found = []
    for column, text, bound in (
        (
            "from_least_squares",
            f"An MLP without activations {depths} is ordinary least squares",
            SOLVED,
        ),
        (
            "from_product",
            f"An MLP without activations {depths} is the product of its matrices",
            EXACT,
        ),
        ("bits_that_differ", "Outputs of a layer that are not x W^T + b to the last bit", 0),
    ):
        worst = maximum(rows[column])
        found.append(
            Claim(text, worst, f"at most {bound:g}", worst <= bound, f"largest of {len(rows)} networks")
        )
    return found
