"""KANs against MLPs of the same parameters, FLOPs or seconds; and how parameters grow with size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from kanrun.experiments.compare_mlp.cases import (
    Case,
    Cell,
    Model,
    NetworkComparison,
    cases_of,
    inference_seconds,
    kan_name,
    kan_of,
    kan_settings,
    page_network,
    result,
    steps_of,
    train,
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
from kanrun.runs.records import Note, Record, Row
from kanrun.study.build import factory
from kanrun.study.resources import generator

#: Multiplications of one second-order step of an MLP whose time is matched: hours begin there.
MAX_WORK = 1e9
#: Sizes that are counted where the setting growth leaves them out.
GROWTH: dict[str, list[int]] = {"widths": [8, 16, 32], "depths": [2, 4], "intervals": [5]}


class Matched(NetworkComparison):
    """KANs with the MLPs that match them, and MLPs of given widths."""

    def cells(self, cfg: CompareMLPConfig) -> list[dict[str, Any]]:
        """Return each KAN, its matched MLPs, MLPs of given widths, and the sizes to be counted.

        A cell of an MLP has its activation, and either its width or the KAN that it matches.
        """
        found: list[dict[str, Any]] = []
        kinds = [{"depth": d, "activation": a} for d in cfg.depths for a in cfg.activations]
        for case in cases_of(cfg):
            pairs = itertools.product(case["shapes"], cfg.grids)
            kans = [{"case": case, "hidden": hidden, "grid": grid} for hidden, grid in pairs]
            found += kans
            if cfg.match is not None:
                found += [{**kan, **kind} for kan in kans for kind in kinds]
            found += [
                {"case": case, "width": width, **kind} for width in cfg.widths for kind in kinds
            ]
        return found + ([{"growth": dict(cfg.growth)}] if cfg.growth else [])

    def refuse(self, cfg: CompareMLPConfig) -> None:
        """Raise UsageError for MLPs that can match no KAN or are not there, and unknown sizes."""
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

    def model(self, cfg: CompareMLPConfig, case: Case, cell: Cell) -> Model:
        """Return the settings of a KAN, or of an MLP before its width is matched."""
        if "activation" in cell:
            return MLPConfig([cell.get("width", 1)] * cell["depth"], cell["activation"])
        return kan_settings(cfg, cell["hidden"], cell["grid"])

    def run(self, cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int) -> Iterator[Record]:
        """Train one network; count the parameters of a KAN by every convention."""
        marks: dict[str, Any] = {"match": cfg.match, "degree": cfg.model.degree}
        model = self.model(cfg, case, cell)
        if isinstance(model, MLPConfig):
            yield from _run_mlp(cfg, case, cell, seed, marks)
            return
        network, name = kan_of(case, model), kan_name(case, model, cfg)
        trained = train(case, model, seed)
        yield result(cfg, case, trained, **marks, kan=name, activation=model.base)
        if seed == cfg.seed:
            counts: dict[str, Any] = {"target": case.name, "kan": name, "exact": network.count()}
            for one in CONVENTIONS:
                words = {"convention": one.name, "formula": one.formula, "source": one.source}
                count = {**network.flops(), **words, "count": one.count(size_of(network))}
                yield Row("counts", {**counts, **count})
            yield from page_network(case, trained, cell["grid"], seed)


def _run_mlp(
    cfg: CompareMLPConfig, case: Case, cell: Cell, seed: int, marks: dict[str, Any]
) -> Iterator[Record]:
    depth, activation, kan, off = cell["depth"], cell["activation"], None, None
    if "width" in cell:
        hidden = [cell["width"]] * depth
        steps = steps_without_kan(cfg, case, cell["case"]["shapes"])
    else:
        model = kan_settings(cfg, cell["hidden"], cell["grid"])
        steps, kan = steps_of(case, model), kan_name(case, model, cfg)
        match = matched(str(cfg.match), case, kan_of(case, model), depth, activation)
        hidden, off = list(match.hidden), match.off
        if not match.close and seed == cfg.seed:
            nodes = " and ".join(map(str, hidden))
            yield Note(
                f"{case.name}: no MLP of depth {depth} matches {kan} in {cfg.match}; "
                f"the nearest has {nodes} nodes and is off by {off:+.0%}",
                warning=True,
            )
    trained = train(case, MLPConfig(hidden, activation), seed, steps)
    yield result(cfg, case, trained, **marks, kan=kan, activation=activation, off=off)


def steps_without_kan(cfg: CompareMLPConfig, case: Case, shapes: list[list[int]]) -> int:
    """Return the largest budget of the case's KANs, for MLPs that are matched to none."""
    kans = itertools.product(shapes, cfg.grids)
    return max(steps_of(case, kan_settings(cfg, hidden, grid)) for hidden, grid in kans)


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
    inputs, outputs, data = case.problem.inputs, case.problem.outputs, case.problem.data
    if not SOLVERS[case.settings.solver.kind].second_order or data.task == "classification":
        return WIDEST
    rows = len(data.train) * outputs
    for width in itertools.count(2):
        parameters = mlp_parameters((inputs, *[width] * depth, outputs))
        if second_order_work(rows, parameters) > MAX_WORK:
            break
    return width - 1


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
