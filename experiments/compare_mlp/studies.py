"""Comparisons with what theory and the lecture say.

- universal approximation: how wide one hidden layer must be for a given error;
- Kolmogorov-Arnold: the theorem's shape [n, 2n + 1, 1] on continuous functions of n variables;
- no activation: an MLP without activations is one linear map, however deep, compared with least
  squares and with the product of its matrices;
- implementation tricks: the lecture's three tricks of KANs, each switched off in turn. All
  parameters have to be trained for that, and the model needs a base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Case,
    Cell,
    NetworkComparison,
    cases_of,
    kan_settings,
    page_network,
    plan_of,
    result,
    schedule_text,
    train,
    unchanged,
)
from kanrun.experiments.compare_mlp.matched import Matched
from torch import Generator, Tensor, nn

from kanrun.config import SOLVERS, CompareMLPConfig, KANConfig
from kanrun.engine.networks import MLP, Network
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    output_scale,
)
from kanrun.errors import UsageError
from kanrun.runs.records import Record, Row, Value

#: Maximum number of solver steps of each MLP: the universal approximation theorem is about the best
#: weights, not about those found soon; a linear map needs fewer.
STEPS, LINEAR_STEPS = 300, 100
#: Settings that switch off the tricks of each variant, and the variants without initial scales,
#: which are no setting.
VARIANTS: dict[str, dict[str, Any]] = {
    "all tricks": {},
    "no residual base": {"base": "zero"},
    "no initial scales": {},
    "no grid update": {"update_grid": False},
    "no tricks": {"base": "zero", "update_grid": False},
}
UNSCALED = {"no initial scales", "no tricks"}


def product(network: MLP) -> Tensor:
    """Return slopes and offset of the linear map of all layers, shape (outputs, inputs + 1)."""
    whole = torch.eye(network.shape[0], network.shape[0] + 1, dtype=torch.float64)
    for layer in list[Any](network.linear):
        whole = layer.weight.detach() @ whole
        whole[:, -1] += layer.bias.detach()
    return whole


def unscaled(network: Network, random: Generator) -> Network:
    """Return the network with coefficients and base weights standard normal at any width."""
    with torch.no_grad():
        for layer in network.edge_layers:
            for name, parameter in layer.named_parameters():
                if name in ("coefficients", "base_weight", "weight"):
                    normal: Any = {"generator": random, "dtype": torch.float64}
                    parameter.copy_(torch.randn(parameter.shape, **normal))
    return network


class UniversalApproximation(NetworkComparison):
    """Width of one hidden layer that decreasing errors need."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [
            {"case": case, "activation": activation, "hidden": [width]}
            for case in cases_of(cfg)
            for activation in cfg.activations
            for width in cfg.widths
        ]

    def refuse(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError without errors to be reached, and without widths."""
        if not cfg.errors:
            raise UsageError(
                f"errors={cfg.errors} must list relative errors to be reached, such as [0.1, 0.01]."
            )
        if not cfg.widths:
            raise UsageError("widths=[] names no width; give some, such as widths=[1,2,4,8,16].")

    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one width; yield its relative error and which of the wanted errors it reaches."""
        trained = train(case, self.model(cfg, case, cell), seed, STEPS)
        marks = {"activation": cell["activation"], "width": cell["hidden"][0]}
        row = result(cfg, case, trained, **marks)
        yield row
        reached = {"target": case.name, **marks, "relative_error": row.values["relative_error"]}
        yield from (Row("reached", {**reached, "wanted": error}) for error in cfg.errors)


class KolmogorovArnold(NetworkComparison):
    """Shape of the theorem, [n, 2n + 1, 1] on continuous functions of n variables."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [{"case": case, "grid": grid} for case in cases_of(cfg) for grid in cfg.grids]

    def model(self, cfg: CompareMLPConfig, case: Case, cell: Cell) -> KANConfig:
        """Return the KAN of the theorem's shape."""
        return kan_settings(cfg, [2 * case.problem.inputs + 1], cell["grid"])

    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train the theorem's shape on one function."""
        trained = train(case, self.model(cfg, case, cell), seed)
        marks = {"bound": cell["case"]["bound"], "grid": schedule_text(cell["grid"])}
        yield result(cfg, case, trained, activation=cfg.model.base, **marks)
        if seed == cfg.seed:
            yield from page_network(case, trained, cell["grid"], seed)


class NoActivation(NetworkComparison):
    """MLPs without activations, compared with least squares and their matrix product."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [
            {"case": case, "activation": "identity", "hidden": cfg.widths * depth}
            for case in cases_of(cfg)
            for depth in cfg.depths
        ]

    def refuse(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for several widths, and for a solver that ends near the solution."""
        if len(cfg.widths) != 1:
            raise UsageError(
                f"widths={cfg.widths} must be the one width of the hidden layers, such as [8]."
            )
        kind = SOLVERS[cfg.solver.kind]
        if not (kind.second_order and kind.builder):
            raise UsageError(
                f"solver={cfg.solver.kind} does not end exactly at the least squares solution; "
                "use solver=lm."
            )

    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one depth until no step lowers the error; compare it with the exact linear map."""
        trained = train(case, self.model(cfg, case, cell), seed, LINEAR_STEPS)
        network, points = trained.network, case.problem.data.everything
        assert isinstance(network, MLP)
        solver = LevenbergMarquardt(
            DataFitting(network, points, output_scale(points, "regression"))
        )
        for _ in range(LINEAR_STEPS):
            solver.step()
            if solver.converged:
                break
        depth = len(cell["hidden"])
        yield result(cfg, case, trained, activation="identity", depth=depth)
        one = nn.functional.pad(points.x, (0, 1), value=1.0)
        least = torch.linalg.lstsq(one, points.y, driver="gelsd").solution
        with torch.no_grad():
            ours = network(points.x)
        exact = {"from_least_squares": one @ least, "from_product": one @ product(network).T}
        differences: dict[str, Value] = {
            name: float((ours - other).abs().max() / other.abs().max())
            for name, other in exact.items()
        }
        yield Row("linear", {"target": case.name, "depth": depth, **differences})


class ImplementationTricks(NetworkComparison):
    """Three tricks of KANs from the lecture, each switched off in turn."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [
            {"case": case, "hidden": hidden, "grid": grid, "variant": variant}
            for case in cases_of(cfg)
            for hidden in case["shapes"]
            for grid in cfg.grids
            for variant in VARIANTS
        ]

    def model(self, cfg: CompareMLPConfig, case: Case, cell: Cell) -> KANConfig:
        """Return the KAN of a variant, whose initial scales are switched off later."""
        model = kan_settings(cfg, cell["hidden"], cell["grid"])
        if SOLVERS[plan_of(case, model).solver].second_order:
            raise UsageError(
                "comparison=implementation_tricks needs a solver that trains w_b and w_s, and "
                "solver=lm keeps w_s where it starts; use solver=lbfgs or solver=adam."
            )
        if model.base == "zero":
            raise UsageError(
                "comparison=implementation_tricks switches the residual base off, and "
                "model.base=zero has none; use model.base=silu."
            )
        return replace(model, **VARIANTS[cell["variant"]])

    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one variant, with the same starts, steps and data as the others."""
        model, variant = self.model(cfg, case, cell), cell["variant"]
        trained = train(case, model, seed, begin=unscaled if variant in UNSCALED else unchanged)
        yield result(cfg, case, trained, variant=variant, activation=model.base)


STUDIES: Mapping[str, NetworkComparison] = {
    "matched": Matched(),
    "universal_approximation": UniversalApproximation(),
    "kolmogorov_arnold": KolmogorovArnold(),
    "no_activation": NoActivation(),
    "implementation_tricks": ImplementationTricks(),
}
