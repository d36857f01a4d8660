"""Comparisons with what theory and the lecture say.

- universal approximation: how wide one hidden layer must be for a given error;
- Kolmogorov-Arnold: the theorem's shape [n, 2n + 1, 1] on continuous functions of n variables;
- no activation: an MLP without activations is one linear map, however deep, compared with least
  squares and with the product of its matrices;
- implementation tricks: the lecture's three tricks of KANs, each switched off in turn. All
  parameters have to be trained for that, and the model needs a base.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Cell,
    ComparisonSubject,
    budget_of,
    case_of,
    cases_of,
    check_once,
    kan_settings,
    page_network,
    result,
    schedule_text,
    train_kan,
    train_mlp,
)
from torch import Generator, Tensor, nn

from kanrun.config import SOLVERS, CompareMLPConfig, MLPConfig
from kanrun.engine.networks import MLP, Network
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    TrainingData,
    fit,
    output_scale,
)
from kanrun.errors import UsageError
from kanrun.runs.records import Record, Row, Value
from kanrun.study.build import Create, factory, make_plan
from kanrun.study.resources import generator

#: Maximum number of solver steps of each MLP: the universal approximation theorem is about the best
#: weights, not about those found soon; a linear map needs fewer.
STEPS, LINEAR_STEPS = 300, 100
#: Numbers are rounded to multiples of this, and clipped, to compare bits: all products and sums of
#: them are exact.
GRAIN, LARGEST = 2.0**-16, 8
#: Samples on which the bits of a layer's outputs are compared.
SAMPLES = 64
#: Settings that switch off the tricks of each variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "all tricks": {},
    "no residual base": {"base": "zero"},
    "no initial scales": {"unscaled": True},
    "no grid update": {"update_grid": False},
    "no tricks": {"base": "zero", "unscaled": True, "update_grid": False},
}


def _check_mlps(cfg: CompareMLPConfig, cells: Iterable[Cell]) -> None:
    for cell in cells:
        case = case_of(cfg, cell["case"], cfg.seed)
        make_plan(_mlp(cell), case.settings.solver, case.problem)


def _mlp(cell: Cell) -> MLPConfig:
    return MLPConfig(list(cell["hidden"]), cell["activation"])


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


def append_one(x: Tensor) -> Tensor:
    """Return x with a column of ones, shape (samples, inputs + 1)."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def bits_that_differ(network: MLP, seed: int) -> int:
    """Count outputs of the layers that are not x W^T + b to the last bit.

    Rounding depends on the order of additions, which no library promises. On multiples of GRAIN
    there is none, so that any difference would be a difference of formula.
    """
    wrong, layers = 0, list[Any](network.linear)
    for number, layer in enumerate(layers):
        size = layer.in_features, layer.out_features
        exact = nn.utils.skip_init(nn.Linear, *size, dtype=torch.float64)
        random = generator(seed, f"bits {number}")
        x = torch.randn(SAMPLES, layer.in_features, dtype=torch.float64, generator=random)
        weight, bias, x = (
            (each.detach().clamp(-LARGEST, LARGEST) / GRAIN).round() * GRAIN
            for each in (layer.weight, layer.bias, x)
        )
        exact.load_state_dict({"weight": weight, "bias": bias})
        with torch.no_grad():
            wrong += int((exact(x) != (x[:, None, :] * weight).sum(-1) + bias).sum())
    return wrong


def _unscaled(create: Create, random: Generator) -> Network:
    """Return a network whose coefficients and base weights are standard normal at any width."""
    network = create(random)
    with torch.no_grad():
        for layer in network.edge_layers:
            for name, parameter in layer.named_parameters():
                if name in ("coefficients", "base_weight", "weight"):
                    normal: Any = {"generator": random, "dtype": torch.float64}
                    parameter.copy_(torch.randn(parameter.shape, **normal))
    return network


class UniversalApproximation:
    """Width of one hidden layer that decreasing errors need."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [
            {"case": case, "activation": activation, "hidden": [width]}
            for case in cases_of(cfg)
            for activation in cfg.activations
            for width in cfg.widths
        ]

    def check(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for what cannot be trained."""
        if not cfg.errors:
            raise UsageError(
                f"errors={cfg.errors} must list relative errors to be reached, such as [0.1, 0.01]."
            )
        if not cfg.widths:
            raise UsageError("widths=[] names no width; give some, such as widths=[1,2,4,8,16].")
        _check_mlps(cfg, self.cells(cfg))

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one width; yield its relative error and which of the wanted errors it reaches."""
        case = case_of(cfg, cell["case"], seed)
        trained = train_mlp(case, _mlp(cell), STEPS, seed)
        marks = {"comparison": cfg.comparison, "activation": cell["activation"]}
        marks["width"] = cell["hidden"][0]
        row = result(case, trained, marks)
        yield row
        reached = {"target": case.name, **marks, "relative_error": row.values["relative_error"]}
        for error in cfg.errors:
            yield Row("reached", {**reached, "wanted": error})


class KolmogorovArnold:
    """The theorem's shape [n, 2n + 1, 1] on continuous functions of n variables."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [{"case": case, "grid": grid} for case in cases_of(cfg) for grid in cfg.grids]

    def check(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for what cannot be trained."""
        networks = []
        for cell in self.cells(cfg):
            case = case_of(cfg, cell["case"], cfg.seed)
            budget_of(case, kan_settings(cfg, [2 * case.problem.inputs + 1], cell["grid"]))
            networks.append(f"{case.name} with G = {schedule_text(cell['grid'])}")
        check_once(networks)

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train the theorem's shape on one function."""
        case = case_of(cfg, cell["case"], seed)
        model = kan_settings(cfg, [2 * case.problem.inputs + 1], cell["grid"])
        trained = train_kan(case, model, seed)
        marks: dict[str, Any] = {"comparison": cfg.comparison, "activation": model.base}
        marks |= {"bound": cell["case"]["bound"], "grid": schedule_text(cell["grid"])}
        yield result(case, trained, marks)
        if seed == cfg.seed:
            yield from page_network(case, trained, cell["grid"], seed)


class NoActivation:
    """MLPs without activations, compared with least squares and their matrix product."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return one cell per network."""
        return [
            {"case": case, "activation": "identity", "hidden": cfg.widths * depth}
            for case in cases_of(cfg)
            for depth in cfg.depths
        ]

    def check(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for what cannot be trained."""
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
        _check_mlps(cfg, self.cells(cfg))

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one depth, then compare it with the exact linear map."""
        case = case_of(cfg, cell["case"], seed)
        trained = train_mlp(case, _mlp(cell), LINEAR_STEPS, seed)
        network, data = trained.network, case.problem.data
        assert isinstance(network, MLP)
        train_to_the_end(network, data)
        depth = len(cell["hidden"])
        marks: dict[str, Value] = {"comparison": cfg.comparison, "activation": "identity"}
        marks["depth"] = depth
        yield result(case, trained, marks)
        points = data.everything
        one = append_one(points.x)
        least = torch.linalg.lstsq(one, points.y, driver="gelsd").solution
        with torch.no_grad():
            ours = network(points.x)
        exact = {"from_least_squares": one @ least, "from_product": one @ product(network).T}
        differences = {
            name: float((ours - other).abs().max() / other.abs().max())
            for name, other in exact.items()
        }
        bits = bits_that_differ(network, seed)
        marks = {"target": case.name, "depth": depth, "bits_that_differ": bits}
        yield Row("linear", {**marks, **differences})


class ImplementationTricks:
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

    def check(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for what cannot be trained."""
        for cell in self.cells(cfg):
            case = case_of(cfg, cell["case"], cfg.seed)
            plan, _ = budget_of(case, kan_settings(cfg, cell["hidden"], cell["grid"]))
            if SOLVERS[plan.solver].second_order:
                raise UsageError(
                    "comparison=implementation_tricks needs a solver that trains w_b and w_s, and "
                    "solver=lm keeps w_s where it starts; use solver=lbfgs or solver=adam."
                )
            if cfg.model.base == "zero":
                raise UsageError(
                    "comparison=implementation_tricks switches the residual base off, and "
                    "model.base=zero has none; use model.base=silu."
                )

    def run(self, cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one variant, with the same starts, steps and data as the others."""
        case = case_of(cfg, cell["case"], seed)
        off = dict(VARIANTS[cell["variant"]])
        unscaled = off.pop("unscaled", False)
        model = replace(kan_settings(cfg, cell["hidden"], cell["grid"]), **off)
        plan, _ = budget_of(case, model)
        create = factory(model, case.problem, plan.solver)
        chosen = partial(_unscaled, create) if unscaled else create
        trained = fit(chosen, case.problem.data, plan, generator(seed, "training"))
        marks = {"comparison": cfg.comparison, "variant": cell["variant"], "activation": model.base}
        yield result(case, trained, marks)


STUDIES: Mapping[str, ComparisonSubject] = {
    "universal_approximation": UniversalApproximation(),
    "kolmogorov_arnold": KolmogorovArnold(),
    "no_activation": NoActivation(),
    "implementation_tricks": ImplementationTricks(),
}
