"""An MLP without activations is a single linear map, however many layers it has.

Its outputs are compared with ordinary least squares, and with the product of its weight matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kanrun.config import SOLVERS
from kanrun.engine.networks import MLP
from kanrun.engine.training import DataFitting, LevenbergMarquardt, Objective, output_scale
from kanrun.errors import UsageError
from kanrun.runs.records import Records, Row, Value
from kanrun.study import Cell, Claims, Tables
from kanrun.study.suite import claim_at_most

from .cases import Case, model_of, result, train
from .config import CompareMLPConfig

#: Largest number of solver steps. A linear map needs few.
STEPS = 100
#: Largest accepted relative difference from the product of the matrices. It covers the rounding of
#: float64 for ill-conditioned matrices.
EXACT = 1e-12
#: Largest accepted relative difference between the trained MLP and least squares.
SOLVED = 1e-8
#: For each column of differences, its description in claims, and the bound.
LINEAR = {
    "from_least_squares": ("is ordinary least squares", SOLVED),
    "from_product": ("is the product of its matrices", EXACT),
}
FIGURES = ("differences",)


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return an MLP without activations for each depth.

    Raises UsageError unless there is exactly one width and a second-order solver.
    """
    if len(cfg.widths) != 1:
        raise UsageError(
            f"widths={cfg.widths} must be the one width of the hidden layers, such as [8]."
        )
    kind = SOLVERS[cfg.solver.kind]
    if not (kind.second_order and kind.kind != "auto"):
        raise UsageError(
            f"solver={cfg.solver.kind} does not end exactly at the least squares solution; "
            "use solver=lm."
        )
    (width,) = cfg.widths
    return [{"activation": "identity", "width": width, "depth": depth} for depth in cfg.depths]


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train one MLP until no step lowers the error, and compare it with the exact linear map."""
    trained = yield from train(case, model_of(case, cell), seed, STEPS)
    network = trained.network
    points = case.problem.data.everything
    assert isinstance(network, MLP)
    objective = Objective(points, output_scale(points, "regression"))
    solver = LevenbergMarquardt(DataFitting(network, objective))
    for _ in range(STEPS):
        solver.step()
        if solver.converged:
            break
    depth = cell["depth"]
    yield result(case, trained, activation="identity", depth=depth)
    design = nn.functional.pad(points.x, (0, 1), value=1.0)
    least = torch.linalg.lstsq(design, points.y, driver="gelsd").solution
    with torch.no_grad():
        ours = network(points.x)
    exact = {"from_least_squares": design @ least, "from_product": design @ product(network).T}
    differences: dict[str, Value] = {
        name: float((ours - other).abs().max() / other.abs().max()) for name, other in exact.items()
    }
    yield Row("linear", {"target": case.name, "depth": depth, **differences})


def product(network: MLP) -> Tensor:
    """Return the product of all layers as one linear map, shape (outputs, inputs + 1).

    The last column is the offset.
    """
    whole = torch.eye(network.shape[0], network.shape[0] + 1, dtype=torch.float64)
    for layer in list[Any](network.linear):
        whole = layer.weight.detach() @ whole
        whole[:, -1] += layer.bias.detach()
    return whole


def claims(tables: Tables) -> Claims:
    """Claim that an MLP without activations is one linear map, whatever its depth."""
    rows = tables["linear"]
    depths = f"with {rows['depth'].min()} to {rows['depth'].max()} hidden layers"
    for column, (what, bound) in LINEAR.items():
        sentence = f"An MLP without activations {depths} {what}"
        yield claim_at_most(sentence, rows[column], bound, of="networks")
