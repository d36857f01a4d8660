"""KANs against MLPs of the same parameters, FLOPs or seconds; and how parameters grow with width, depth and grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from kanrun.experiments.compare_mlp import matched_run
from kanrun.experiments.compare_mlp.matched_run import Case
from kanrun.experiments.compare_mlp.verdicts import verdict_claims

from kanrun.config import CompareMLPConfig, MLPConfig
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
from kanrun.runs import Claim
from kanrun.runs.records import Note, Record, Row, Value
from kanrun.study.build import factory, make_plan, network_shape
from kanrun.study.resources import generator
from kanrun.study.statistics import exponent, maximum

Cell = Mapping[str, Any]
#: How far the exponents of growth may be from the lecture's: it leaves out what is of lower order, biases and scales,
#: less than this share at 16 nodes or 20 functions an edge.
GROWTH = 0.1
#: Multiplications that one second-order step of an MLP may cost where time is matched: hours of training begin there.
MOST_WORK = 1e9


def cells(cfg: CompareMLPConfig) -> list[dict[str, Any]]:
    """Each KAN and, for each, the MLPs that match it; then MLPs of given widths, and the counts of growth."""
    found: list[dict[str, Any]] = []
    for case in matched_run.cases_of(cfg):
        kans = [
            {"case": case, "hidden": hidden, "grid": g}
            for hidden in case["shapes"]
            for g in cfg.grids
        ]
        kinds: list[dict[str, Any]] = [
            {"depth": d, "activation": a} for d in cfg.depths for a in cfg.activations
        ]
        found += [{"model": "kan", **kan} for kan in kans]
        if cfg.match is not None:
            found += [{"model": "mlp", **kan, **kind} for kan in kans for kind in kinds]
        found += [
            {"model": "mlp", "case": case, "widths": [width] * kind["depth"], **kind}
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
    kans = []
    for cell in cells(cfg):
        if cell["model"] == "growth":
            continue
        case = matched_run.case_of(cfg, cell["case"], cfg.seed)
        if cell["model"] == "kan":
            model = matched_run.kan_settings(cfg, cell["hidden"], cell["grid"])
            matched_run.budget_of(case, model)
            shape = network_shape(model, case.problem.inputs, case.problem.outputs)
            kans.append((case.name, shape, cell["grid"]))
        else:
            mlp = MLPConfig(list(cell.get("widths", [1])), cell["activation"])
            make_plan(mlp, case.settings.solver, case.problem)
    matched_run.check_once(
        f"{target}: the KAN {name_of(shape, grid, cfg.grids)}" for target, shape, grid in kans
    )


def run(cfg: CompareMLPConfig, cell: Cell, seed: int) -> Iterator[Record]:
    """Train one network, or count."""
    if cell["model"] == "growth":
        if seed == cfg.seed:
            yield from growth_rows(cell)
        return
    case = matched_run.case_of(cfg, cell["case"], seed)
    marks = {"comparison": cfg.comparison, "match": cfg.match, "degree": cfg.model.degree}
    if cell["model"] == "kan":
        model = matched_run.kan_settings(cfg, cell["hidden"], cell["grid"])
        network = matched_run.kan_of(case, model)
        trained = matched_run.train_kan(case, model, seed)
        name = name_of(network.shape, cell["grid"], cfg.grids)
        yield matched_run.result(case, trained, {**marks, "kan": name, "activation": model.base})
        if seed == cfg.seed:
            yield from count_rows(case, network, name)
            yield from matched_run.page_network(case, trained, cell["grid"], seed)
        return
    yield from _mlp(cfg, cell, case, seed, marks)


def _mlp(
    cfg: CompareMLPConfig, cell: Cell, case: Case, seed: int, marks: dict[str, Any]
) -> Iterator[Record]:
    activation, kan, off = cell["activation"], None, None
    if "widths" in cell:
        hidden, steps = list(cell["widths"]), steps_without_kan(cfg, case, cell["case"]["shapes"])
    else:
        model = matched_run.kan_settings(cfg, cell["hidden"], cell["grid"])
        _, steps = matched_run.budget_of(case, model)
        network = matched_run.kan_of(case, model)
        match = matched(str(cfg.match), case, network, cell["depth"], activation)
        hidden, kan, off = (
            list(match.hidden),
            name_of(network.shape, cell["grid"], cfg.grids),
            match.off,
        )
        if not match.close and seed == cfg.seed:
            layers = f"no MLP of depth {cell['depth']} matches {kan} in {cfg.match}"
            nearest = (
                f"the nearest has {' and '.join(map(str, hidden))} nodes and is off by {off:+.0%}"
            )
            yield Note(f"{case.name}: {layers}; {nearest}", warning=True)
    trained = matched_run.train_mlp(case, MLPConfig(hidden, activation), steps, seed)
    yield matched_run.result(
        case, trained, {**marks, "kan": kan, "activation": activation, "off": off}
    )


def steps_without_kan(cfg: CompareMLPConfig, case: Case, shapes: list[list[int]]) -> int:
    """The largest budget of the case's KANs, for MLPs that are matched to none."""
    kans = itertools.product(shapes, cfg.grids)
    return max(
        matched_run.budget_of(case, matched_run.kan_settings(cfg, hidden, grid))[1]
        for hidden, grid in kans
    )


def matched(match: str, case: Case, kan: Network, depth: int, activation: str) -> SizeMatch:
    """The MLP of this depth and activation nearest to `kan` in parameters, executed FLOPs, or seconds a pass.

    Seconds are measured anew in each training, so that seeds, or a run that is resumed, may get other widths for one
    cell.
    """
    inputs, outputs = case.problem.inputs, case.problem.outputs
    if match == "parameters":
        return match_parameters(inputs, outputs, depth, kan.count())
    if match == "flops":
        return match_flops(inputs, outputs, depth, activation, kan.flops()["flops"] or 0.0)
    x = case.problem.data.train.x

    def seconds(hidden: tuple[int, ...]) -> float:
        mlp = factory(MLPConfig(list(hidden), activation), case.problem)(generator(0, "size"))
        return matched_run.inference_seconds(mlp, x)

    return match_time(seconds, depth, matched_run.inference_seconds(kan, x), widest(case, depth))


def widest(case: Case, depth: int) -> int:
    """The widest MLP of this depth whose steps the case's solver can pay; an MLP's pass is cheap for its size."""
    inputs, outputs = case.problem.inputs, case.problem.outputs
    rows, width = len(case.problem.data.train) * outputs, 1
    if (
        case.settings.solver.kind not in ("auto", "lm")
        or case.problem.data.task == "classification"
    ):
        return WIDEST
    while (
        second_order_work(rows, mlp_parameters((inputs, *[width + 1] * depth, outputs)))
        <= MOST_WORK
    ):
        width += 1
    return width


def name_of(shape: Sequence[int], grid: Any, grids: list[Any]) -> str:
    """A KAN by its shape and last grid; by all of its grids where another of `grids` ends on the same one."""
    last = [matched_run.schedule_of(other)[-1] for other in grids]
    own = matched_run.schedule_of(grid)[-1]
    return f"[{','.join(map(str, shape))}] G = {own if last.count(own) == 1 else matched_run.words_of(grid)}"


def count_rows(case: Case, kan: Network, name: str) -> Iterator[Row]:
    """The KAN's parameters by every convention, beside what its modules hold and its FLOPs by both counts."""
    size, exact = size_of(kan), kan.count()
    for convention in CONVENTIONS:
        marks: dict[str, Value] = {"target": case.name, "kan": name, "exact": exact, **kan.flops()}
        words: dict[str, Value] = {"convention": convention.name, "formula": convention.formula}
        yield Row(
            "counts",
            {**marks, **words, "source": convention.source, "count": convention.count(size)},
        )


def growth_rows(cell: Cell) -> Iterator[Row]:
    """Parameters of real modules with N nodes in each of L layers, beside the formulas."""
    domain = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    for width, depth in itertools.product(
        cell.get("widths", [8, 16, 32]), cell.get("depths", [2, 4])
    ):
        shape = [width] * (depth + 1)
        mlp = MLP(shape, "tanh", generator=torch.Generator())
        marks: dict[str, Value] = {"width": width, "depth": depth}
        counted = {"parameters": mlp.count(), "formula": mlp_parameters(shape)}
        yield Row(
            "growth", {"model": "mlp", **marks, "intervals": None, "functions": None, **counted}
        )
        for intervals in cell.get("intervals", [5]):
            kan = KAN.create(
                shape, intervals, EdgeSpec(base="silu"), domain=domain.expand(width, 2), generator=random
            )
            counted = {
                "parameters": kan.count(),
                "formula": kan_parameters(size_of(kan), EdgeSpec(base="silu")),
            }
            functions = kan.edge_layers[0].grid.functions
            yield Row(
                "growth",
                {
                    "model": "kan",
                    **marks,
                    "intervals": intervals,
                    "functions": functions,
                    **counted,
                },
            )


def claims(tables: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """Who wins at equal size, and the growth laws."""
    summary = tables["summary"]
    match = summary["match"].iloc[0]
    found = list(verdict_claims(summary, str(match))) if isinstance(match, str) else []
    return [*found, *(growth_claims(tables["growth"]) if "growth" in tables else ())]


def growth_claims(growth: pd.DataFrame) -> Iterator[Claim]:
    """O(N^2 L) of the MLP and O(N^2 L (G + k)) of the KAN, on the larger half of each range, of two values at least."""
    wrong = maximum((growth["parameters"] - growth["formula"]).abs())
    yield Claim(
        "Formulas of parameters against the modules: largest difference", wrong, "at most 0", wrong == 0
    )
    for model, name, law in (
        ("mlp", "width", 2),
        ("mlp", "depth", 1),
        ("kan", "width", 2),
        ("kan", "depth", 1),
        ("kan", "functions", 1),
    ):
        rows = growth[growth["model"] == model]
        others = [column for column in ("width", "depth", "functions") if column != name]
        for column in others:
            rows = rows[rows[column].isna() | (rows[column] == rows[column].max())]
        values = sorted(rows[name].unique())
        if len(values) < 2:
            continue
        upper = rows[rows[name].isin(values[-max(2, (len(values) + 1) // 2) :])]
        measured = exponent(upper[name], upper["parameters"])
        what = {
            "width": "N nodes a layer",
            "depth": "L layers",
            "functions": "G + k functions an edge",
        }[name]
        sentence = (
            f"Parameters of {'an MLP' if model == 'mlp' else 'a KAN'} grow with {what} to the power"
        )
        yield Claim(sentence, measured, f"{law} +- {GROWTH}", abs(measured - law) <= GROWTH)
