"""Networks of each comparison, and the records that it adds to their rows.

- matched: KANs against MLPs of the same parameters or FLOPs, and how parameters grow;
- universal approximation: how wide one hidden layer must be for a given error;
- Kolmogorov-Arnold: the theorem's shape [n, 2n + 1, 1] on continuous functions of n variables;
- no activation: an MLP without activations is one linear map, however deep, compared with least
  squares and with the product of its matrices;
- implementation tricks: the lecture's three tricks of KANs, each switched off in turn. All
  parameters have to be trained for that, and the model needs a base.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Case,
    Model,
    kan_name,
    kan_of,
    kan_settings,
    plan_of,
    result,
    schedule_text,
    steps_of,
    train,
)
from torch import Generator, Tensor, nn

from kanrun.config import SOLVERS, CompareMLPConfig, MLPConfig
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP, Network
from kanrun.engine.networks.counting import (
    CONVENTIONS,
    SizeMatch,
    kan_parameters,
    match_flops,
    match_parameters,
    mlp_parameters,
    size_of,
)
from kanrun.engine.training import (
    DataFitting,
    LevenbergMarquardt,
    Objective,
    output_scale,
)
from kanrun.errors import UsageError
from kanrun.runs.records import Note, Records, Row, Value

Cell = Mapping[str, Any]
#: Maximum number of solver steps of each MLP: the universal approximation theorem is about the best
#: weights, not about those found soon; a linear map needs fewer.
STEPS, LINEAR_STEPS = 300, 100
#: Sizes that are counted where the setting growth leaves them out.
GROWTH: dict[str, list[int]] = {"widths": [8, 16, 32], "depths": [2, 4], "intervals": [5]}
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


def refuse(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for settings that the comparison cannot use."""
    kind = SOLVERS[cfg.solver.kind]
    if cfg.comparison == "matched":
        if cfg.match is not None and min(cfg.depths) < 1:
            raise UsageError(
                f"depths={cfg.depths}: only an MLP with hidden layers can match; use depths from 1 "
                "on."
            )
        if cfg.match is None and not cfg.widths:
            raise UsageError(
                "match=null compares MLPs of given widths; add some, such as widths=[8,16,32]."
            )
        if unknown := sorted(dict(cfg.growth).keys() - GROWTH.keys()):
            raise UsageError(f"growth has no {unknown[0]}; it takes widths, depths and intervals.")
    if cfg.comparison == "universal_approximation":
        if not cfg.errors:
            raise UsageError(
                f"errors={cfg.errors} must list relative errors to be reached, such as [0.1, 0.01]."
            )
        if not cfg.widths:
            raise UsageError("widths=[] names no width; give some, such as widths=[1,2,4,8,16].")
    if cfg.comparison == "no_activation":
        if len(cfg.widths) != 1:
            raise UsageError(
                f"widths={cfg.widths} must be the one width of the hidden layers, such as [8]."
            )
        if not (kind.second_order and kind.builder):
            raise UsageError(
                f"solver={cfg.solver.kind} does not end exactly at the least squares solution; "
                "use solver=lm."
            )


def model_of(case: Case, cell: Cell) -> Model:
    """Return the network of a cell: a KAN, or an MLP, before its widths are matched to a KAN."""
    if "activation" in cell:
        return MLPConfig(cell.get("hidden", [1] * cell.get("depth", 0)), cell["activation"])
    # Without widths, those of the theorem.
    hidden = cell.get("hidden", [2 * case.problem.inputs + 1])
    model = kan_settings(case.cfg, hidden, cell["grid"])
    if "variant" not in cell:
        return model
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


# -------------------- comparisons


def compare_matched(case: Case, cell: Cell, seed: int) -> Records:
    """Train one network; count the parameters of a KAN by every convention."""
    cfg, model, first = case.cfg, model_of(case, cell), seed == case.cfg.seed
    marks: dict[str, Any] = {"match": cfg.match, "degree": cfg.model.degree}
    if isinstance(model, MLPConfig):
        widths, activation, kan, off = model.hidden, model.activation, None, None
        if "matches" in cell:
            opponent = kan_settings(cfg, **cell["matches"])
            steps, kan = steps_of(case, opponent), kan_name(case, opponent)
            match = matched(case, kan_of(case, opponent), cell["depth"], activation)
            widths, off = list(match.hidden), match.off
            if not match.close and first:
                nodes = " and ".join(map(str, widths))
                yield Note(
                    f"{case.name}: no MLP of depth {len(widths)} matches {kan} in {cfg.match}; "
                    f"the nearest has {nodes} nodes and is off by {off:+.0%}",
                    warning=True,
                )
        else:
            steps = steps_without_kan(case, cell["case"]["shapes"])
        trained = train(case, MLPConfig(widths, activation), seed, steps)
        yield result(case, trained, **marks, kan=kan, activation=activation, off=off)
        return
    network, name = kan_of(case, model), kan_name(case, model)
    trained = train(case, model, seed)
    yield result(case, trained, **marks, kan=name, activation=model.base)
    counts: dict[str, Any] = {"target": case.name, "kan": name, "exact": network.count()}
    for one in CONVENTIONS if first else ():
        words = {"convention": one.name, "formula": one.formula, "source": one.source}
        count = {**network.flops(), **words, "count": one.count(size_of(network))}
        yield Row("counts", {**counts, **count})


def steps_without_kan(case: Case, shapes: list[list[int]]) -> int:
    """Return the largest budget of the case's KANs, for MLPs that are matched to none."""
    kans = itertools.product(shapes, case.cfg.grids)
    return max(steps_of(case, kan_settings(case.cfg, hidden, grid)) for hidden, grid in kans)


def matched(case: Case, kan: Network, depth: int, activation: str) -> SizeMatch:
    """Return the MLP nearest to `kan` in parameters or executed FLOPs."""
    inputs, outputs = case.problem.inputs, case.problem.outputs
    if case.cfg.match == "parameters":
        return match_parameters(inputs, outputs, depth, float(kan.count()))
    return match_flops(inputs, outputs, depth, activation, kan.flops()["flops"] or 0.0)


def growth_rows(widths: list[int], depths: list[int], intervals: list[int]) -> Iterator[Row]:
    """Yield parameters of real modules with N nodes in each of L layers, next to the formulas."""
    domain, spec = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), EdgeSpec(base="silu")
    random = torch.Generator().manual_seed(0)
    for width, depth, grid in itertools.product(widths, depths, (None, *intervals)):
        shape, functions = [width] * (depth + 1), None
        network: Network
        if grid is None:
            network = MLP(shape, "tanh", generator=random)
            formula = mlp_parameters(shape)
        else:
            options: Any = {"domain": domain.expand(width, 2), "generator": random}
            network = KAN.create(shape, grid, spec, **options)
            formula = kan_parameters(size_of(network), spec)
            functions = network.edge_layers[0].grid.functions
        size = {"width": width, "depth": depth, "intervals": grid, "functions": functions}
        counts = {"parameters": network.count(), "formula": formula}
        yield Row("growth", {"model": network.kind, **size, **counts})


def approximate(case: Case, cell: Cell, seed: int) -> Records:
    """Train one width; yield its relative error and which of the wanted errors it reaches."""
    trained = train(case, model_of(case, cell), seed, STEPS)
    marks = {"activation": cell["activation"], "width": cell["hidden"][0]}
    row = result(case, trained, **marks)
    yield row
    reached = {"target": case.name, **marks, "relative_error": row.values["relative_error"]}
    yield from (Row("reached", {**reached, "wanted": error}) for error in case.cfg.errors)


def represent(case: Case, cell: Cell, seed: int) -> Records:
    """Train the shape of the Kolmogorov-Arnold theorem on one function."""
    trained = train(case, model_of(case, cell), seed)
    marks = {"bound": cell["case"]["bound"], "grid": schedule_text(cell["grid"])}
    yield result(case, trained, activation=case.cfg.model.base, **marks)


def collapse(case: Case, cell: Cell, seed: int) -> Records:
    """Train one depth until no step lowers the error; compare it with the exact linear map."""
    trained = train(case, model_of(case, cell), seed, LINEAR_STEPS)
    network, points = trained.network, case.problem.data.everything
    assert isinstance(network, MLP)
    solver = LevenbergMarquardt(
        DataFitting(network, Objective(points, output_scale(points, "regression")))
    )
    for _ in range(LINEAR_STEPS):
        solver.step()
        if solver.converged:
            break
    depth = len(cell["hidden"])
    yield result(case, trained, activation="identity", depth=depth)
    one = nn.functional.pad(points.x, (0, 1), value=1.0)
    least = torch.linalg.lstsq(one, points.y, driver="gelsd").solution
    with torch.no_grad():
        ours = network(points.x)
    exact = {"from_least_squares": one @ least, "from_product": one @ product(network).T}
    differences: dict[str, Value] = {
        name: float((ours - other).abs().max() / other.abs().max()) for name, other in exact.items()
    }
    yield Row("linear", {"target": case.name, "depth": depth, **differences})


def product(network: MLP) -> Tensor:
    """Return slopes and offset of the linear map of all layers, shape (outputs, inputs + 1)."""
    whole = torch.eye(network.shape[0], network.shape[0] + 1, dtype=torch.float64)
    for layer in list[Any](network.linear):
        whole = layer.weight.detach() @ whole
        whole[:, -1] += layer.bias.detach()
    return whole


def switch_off(case: Case, cell: Cell, seed: int) -> Records:
    """Train one variant, with the same starts, steps and data as the others."""
    model, variant = model_of(case, cell), cell["variant"]
    begin: Any = {"begin": unscaled} if variant in UNSCALED else {}
    trained = train(case, model, seed, **begin)
    yield result(case, trained, variant=variant, activation=vars(model)["base"])


def unscaled(network: Network, random: Generator) -> Network:
    """Return the network with coefficients and base weights standard normal at any width."""
    with torch.no_grad():
        for layer in network.edge_layers:
            for name, parameter in layer.named_parameters():
                if name in ("coefficients", "base_weight", "weight"):
                    normal: Any = {"generator": random, "dtype": torch.float64}
                    parameter.copy_(torch.randn(parameter.shape, **normal))
    return network


STUDIES: Mapping[str, Callable[[Case, Cell, int], Records]] = {
    "matched": compare_matched,
    "universal_approximation": approximate,
    "kolmogorov_arnold": represent,
    "no_activation": collapse,
    "implementation_tricks": switch_off,
}
