"""KANs against MLPs of the same parameters, FLOPs or seconds; and how parameters grow with size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Case,
    Cell,
    budget_of,
    case_of,
    cases_of,
    check_once,
    inference_seconds,
    kan_of,
    kan_settings,
    last_grid,
    page_network,
    result,
    schedule_text,
    train_kan,
    train_mlp,
)

from kanrun.config import SOLVERS, CompareMLPConfig, MLPConfig
from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP, Network
from kanrun.engine.networks.counting import (
    CONVENTIONS,
    WIDEST,
    SizeMatch,
    kan_parameters,
    match_flops,
    match_parameters,
    match_time,
    mlp_parameters,
    size_of,
)
from kanrun.engine.training.plan import second_order_work
from kanrun.errors import UsageError
from kanrun.runs.records import Note, Record, Row, Value
from kanrun.study.build import factory, make_plan, network_shape
from kanrun.study.resources import generator

#: Multiplications of one second-order step of an MLP whose time is matched: hours begin there.
MAX_WORK = 1e9


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Return each KAN with its matched MLPs, MLPs of given widths, and the counts of growth."""
    found: list[dict[str, Any]] = []
    kinds = [{"depth": d, "activation": a} for d in cfg.depths for a in cfg.activations]
    for case in cases_of(cfg):
        pairs = itertools.product(case["shapes"], cfg.grids)
        kans = [{"case": case, "hidden": hidden, "grid": grid} for hidden, grid in pairs]
        found += [{"model": "kan", **kan} for kan in kans]
        if cfg.match is not None:
            found += [{"model": "mlp", **kan, **kind} for kan in kans for kind in kinds]
        found += [
            {"model": "mlp", "case": case, "widths": [width] * kind["depth"], **kind}  # type: ignore[operator]
            for width in cfg.widths
            for kind in kinds
        ]
    return found + ([{"model": "growth", **dict(cfg.growth)}] if cfg.growth else [])


def check(cfg: CompareMLPConfig) -> None:
    """Raise UsageError for what cannot be compared."""
    if cfg.match is not None and min(cfg.depths) < 1:
        raise UsageError(
            f"depths={cfg.depths}: only an MLP with hidden layers can match; use depths from 1 on."
        )
    if cfg.match is None and not cfg.widths:
        raise UsageError(
            "match=null compares MLPs of given widths; add some, such as widths=[8,16,32]."
        )
    if unknown := sorted(dict(cfg.growth).keys() - {"widths", "depths", "intervals"}):
        raise UsageError(f"growth has no {unknown[0]}; it takes widths, depths and intervals.")
    kans = []  # Named after all were checked, because a name depends on every entry of grids.
    for cell in cells(cfg):
        if cell["model"] == "growth":
            continue
        case = case_of(cfg, cell["case"], cfg.seed)
        if cell["model"] == "kan":
            model = kan_settings(cfg, cell["hidden"], cell["grid"])
            budget_of(case, model)
            shape = network_shape(model, case.problem.inputs, case.problem.outputs)
            kans.append((case.name, shape, cell["grid"]))
        else:
            mlp = MLPConfig(list(cell.get("widths", [1])), cell["activation"])
            make_plan(mlp, case.settings.solver, case.problem)
    check_once(f"{case}: the KAN {kan_name(shape, grid, cfg.grids)}" for case, shape, grid in kans)


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train one network, or count."""
    if cell["model"] == "growth":
        if seed == cfg.seed:
            yield from growth_rows(cell)
        return
    case = case_of(cfg, cell["case"], seed)
    marks = {"comparison": cfg.comparison, "match": cfg.match, "degree": cfg.model.degree}
    if cell["model"] == "mlp":
        yield from _run_mlp(cfg, cell, case, seed, marks)
        return
    model = kan_settings(cfg, cell["hidden"], cell["grid"])
    network = kan_of(case, model)
    trained = train_kan(case, model, seed)
    name = kan_name(network.shape, cell["grid"], cfg.grids)
    yield result(case, trained, {**marks, "kan": name, "activation": model.base})
    if seed == cfg.seed:
        counts: dict[str, Value] = {"target": case.name, "kan": name, "exact": network.count()}
        size = size_of(network)
        for one in CONVENTIONS:
            words = {"convention": one.name, "formula": one.formula, "source": one.source}
            yield Row("counts", {**counts, **network.flops(), **words, "count": one.count(size)})
        yield from page_network(case, trained, cell["grid"], seed)


def _run_mlp(
    cfg: CompareMLPConfig, cell: Cell, case: Case, seed: int, marks: dict[str, Any]
) -> Iterator[Record]:
    kan, off = None, None
    if "widths" in cell:
        hidden, steps = list(cell["widths"]), steps_without_kan(cfg, case, cell["case"]["shapes"])
    else:
        model = kan_settings(cfg, cell["hidden"], cell["grid"])
        _, steps = budget_of(case, model)
        network = kan_of(case, model)
        match = matched(str(cfg.match), case, network, cell["depth"], cell["activation"])
        kan = kan_name(network.shape, cell["grid"], cfg.grids)
        hidden, off = list(match.hidden), match.off
        if not match.close and seed == cfg.seed:
            nodes = " and ".join(map(str, hidden))
            yield Note(
                f"{case.name}: no MLP of depth {cell['depth']} matches {kan} in {cfg.match}; "
                f"the nearest has {nodes} nodes and is off by {off:+.0%}",
                warning=True,
            )
    trained = train_mlp(case, MLPConfig(hidden, cell["activation"]), steps, seed)
    marks = {**marks, "kan": kan, "activation": cell["activation"], "off": off}
    yield result(case, trained, marks)


def steps_without_kan(cfg: CompareMLPConfig, case: Case, shapes: list[list[int]]) -> int:
    """Return the largest budget of the case's KANs, for MLPs that are matched to none."""
    kans = itertools.product(shapes, cfg.grids)
    return max(budget_of(case, kan_settings(cfg, hidden, grid))[1] for hidden, grid in kans)


def matched(match: str, case: Case, kan: Network, depth: int, activation: str) -> SizeMatch:
    """Return the MLP nearest to `kan` in parameters, executed FLOPs, or seconds a pass.

    Seconds are measured again in each training, so that seeds, or a resumed run, may get other
    widths.
    """
    inputs, outputs = case.problem.inputs, case.problem.outputs
    if match == "parameters":
        return match_parameters(inputs, outputs, depth, float(kan.count()))
    if match == "flops":
        return match_flops(inputs, outputs, depth, activation, kan.flops()["flops"] or 0.0)
    x = case.problem.data.train.x

    def seconds(hidden: tuple[int, ...]) -> float:
        mlp = factory(MLPConfig(list(hidden), activation), case.problem)(generator(0, "size"))
        return inference_seconds(mlp, x)

    return match_time(seconds, depth, inference_seconds(kan, x), widest(case, depth))


def widest(case: Case, depth: int) -> int:
    """Return the widest MLP whose steps the solver can pay; an MLP's pass is cheap for its size."""
    inputs, outputs = case.problem.inputs, case.problem.outputs
    rows, width = len(case.problem.data.train) * outputs, 1
    if (
        not SOLVERS[case.settings.solver.kind].second_order
        or case.problem.data.task == "classification"
    ):
        return WIDEST
    while (
        second_order_work(rows, mlp_parameters((inputs, *[width + 1] * depth, outputs))) <= MAX_WORK
    ):
        width += 1
    return width


def kan_name(shape: Sequence[int], grid: Any, grids: list[Any]) -> str:
    """Return a KAN's shape and last grid; all its grids if another of `grids` ends on that one."""
    last = [last_grid(other) for other in grids]
    unique = last.count(last_grid(grid)) == 1
    return f"[{','.join(map(str, shape))}] G = {last_grid(grid) if unique else schedule_text(grid)}"


def growth_rows(cell: Cell) -> Iterator[Row]:
    """Yield parameters of real modules with N nodes in each of L layers, next to the formulas."""
    domain, spec = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), EdgeSpec(base="silu")
    random = torch.Generator().manual_seed(0)
    widths, depths = cell.get("widths", [8, 16, 32]), cell.get("depths", [2, 4])
    for width, depth in itertools.product(widths, depths):
        shape = [width] * (depth + 1)
        for intervals in (None, *cell.get("intervals", [5])):
            network: Network
            if intervals is None:
                network = MLP(shape, "tanh", generator=torch.Generator())
                formula, functions = mlp_parameters(shape), None
            else:
                options: Any = {"domain": domain.expand(width, 2), "generator": random}
                network = KAN.create(shape, intervals, spec, **options)
                formula = kan_parameters(size_of(network), spec)
                functions = network.edge_layers[0].grid.functions
            size = {"width": width, "depth": depth, "intervals": intervals, "functions": functions}
            counts = {"parameters": network.count(), "formula": formula}
            yield Row("growth", {"model": network.kind, **size, **counts})
