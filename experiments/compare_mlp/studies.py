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
from functools import partial
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Case,
    Cell,
    NetworkComparison,
    case_of,
    cases_of,
    kan_settings,
    page_network,
    plan_of,
    result,
    schedule_text,
    train,
)
from torch import Generator, Tensor, nn

from kanrun.config import SOLVERS, CompareMLPConfig, KANConfig
from kanrun.engine.networks import MLP, Network
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    TrainingData,
    fit,
    output_scale,
)
from kanrun.errors import UsageError
from kanrun.runs.records import Record, Row
from kanrun.study.build import Create, factory
from kanrun.study.resources import generator

#: Maximum number of solver steps of each MLP: the universal approximation theorem is about the best
#: weights, not about those found soon; a linear map needs fewer.
STEPS, LINEAR_STEPS = 300, 100
#: Numbers are rounded to multiples of this, and clipped, to compare bits: all products and sums of
#: them are exact.
GRAIN, LARGEST = 2.0**-16, 8
#: Samples on which the bits of a layer's outputs are compared.
SAMPLES = 64
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


def train_to_the_end(network: MLP, data: TrainingData) -> None:
    """Take Levenberg-Marquardt steps on all points until none lowers the error."""
    points = data.everything
    solver = LevenbergMarquardt(DataFitting(network, points, output_scale(points, data.task)))
    for _ in range(LINEAR_STEPS):
        solver.step()
        if solver.converged:
            return


def product(network: MLP) -> Tensor:
    """Return slopes and offset of the linear map of all layers, shape (outputs, inputs + 1)."""
    whole = torch.eye(network.shape[0], network.shape[0] + 1, dtype=torch.float64)
    layers: list[Any] = list(network.linear)
    for layer in layers:
        whole = layer.weight.detach() @ whole
        whole[:, -1] += layer.bias.detach()
    return whole


def bits_that_differ(network: MLP, seed: int) -> int:
    """Count outputs of the layers that are not x W^T + b to the last bit.

    Rounding depends on the order of additions, which no library promises. On multiples of GRAIN
    there is none, so that any difference would be a difference of formula.
    """
    wrong, layers = 0, list[Any](network.linear)
    for number, layer in enumerate(layers):
        random: Any = {"dtype": torch.float64, "generator": generator(seed, f"bits {number}")}
        weight, bias, x = (
            (each.detach().clamp(-LARGEST, LARGEST) / GRAIN).round() * GRAIN
            for each in (
                layer.weight,
                layer.bias,
                torch.randn(SAMPLES, layer.in_features, **random),
            )
        )
        exact = (x[:, None, :] * weight).sum(-1) + bias
        wrong += int((nn.functional.linear(x, weight, bias) != exact).sum())
    return wrong


def unscaled(create: Create, random: Generator) -> Network:
    """Return a network whose coefficients and base weights are standard normal at any width."""
    network = create(random)
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

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one width; yield its relative error and which of the wanted errors it reaches."""
        case = case_of(cfg, cell["case"], seed)
        trained = train(case, self.model(cfg, case, cell), seed, STEPS)
        marks = {"activation": cell["activation"], "width": cell["hidden"][0]}
        row = result(case, trained, {"comparison": cfg.comparison, **marks})
        yield row
        reached = {"target": case.name, **marks, "relative_error": row.values["relative_error"]}
        yield from (Row("reached", {**reached, "wanted": error}) for error in cfg.errors)


class KolmogorovArnold(NetworkComparison):
    """The theorem's shape [n, 2n + 1, 1] on continuous functions of n variables."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [{"case": case, "grid": grid} for case in cases_of(cfg) for grid in cfg.grids]

    def model(self, cfg: CompareMLPConfig, case: Case, cell: Cell) -> KANConfig:
        """Return the KAN of the theorem's shape."""
        return kan_settings(cfg, [2 * case.problem.inputs + 1], cell["grid"])

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train the theorem's shape on one function."""
        case = case_of(cfg, cell["case"], seed)
        model = self.model(cfg, case, cell)
        trained = train(case, model, seed)
        marks: dict[str, Any] = {"comparison": cfg.comparison, "activation": model.base}
        marks |= {"bound": cell["case"]["bound"], "grid": schedule_text(cell["grid"])}
        yield result(case, trained, marks)
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

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one depth, then compare it with the exact linear map."""
        case = case_of(cfg, cell["case"], seed)
        trained = train(case, self.model(cfg, case, cell), seed, LINEAR_STEPS)
        network, data = trained.network, case.problem.data
        assert isinstance(network, MLP)
        train_to_the_end(network, data)
        depth, points = len(cell["hidden"]), data.everything
        marks: dict[str, Any] = {
            "comparison": cfg.comparison,
            "activation": "identity",
            "depth": depth,
        }
        yield result(case, trained, marks)
        one = nn.functional.pad(points.x, (0, 1), value=1.0)
        least = torch.linalg.lstsq(one, points.y, driver="gelsd").solution
        with torch.no_grad():
            ours = network(points.x)
        exact = {"from_least_squares": one @ least, "from_product": one @ product(network).T}
        differences = {
            name: float((ours - other).abs().max() / other.abs().max())
            for name, other in exact.items()
        }
        bits = bits_that_differ(network, seed)
        yield Row(
            "linear",
            {"target": case.name, "depth": depth, "bits_that_differ": bits, **differences},
        )


class ImplementationTricks(NetworkComparison):
    """The lecture's three tricks of KANs, each switched off in turn."""

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

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one variant, with the same starts, steps and data as the others."""
        case = case_of(cfg, cell["case"], seed)
        model = self.model(cfg, case, cell)
        plan = plan_of(case, model)
        create = factory(model, case.problem, plan.solver)
        if cell["variant"] in UNSCALED:
            create = partial(unscaled, create)
        trained = fit(create, case.problem.data, plan, generator(seed, "training"))
        marks = {"comparison": cfg.comparison, "variant": cell["variant"], "activation": model.base}
        yield result(case, trained, marks)


STUDIES: Mapping[str, NetworkComparison] = {
    "universal_approximation": UniversalApproximation(),
    "kolmogorov_arnold": KolmogorovArnold(),
    "no_activation": NoActivation(),
    "implementation_tricks": ImplementationTricks(),
}
