"""KANs against MLPs of the same parameters or FLOPs, and how parameters grow with the shape."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from kanrun.engine.layers import EdgeSpec
from kanrun.engine.networks import KAN, MLP, Network
from kanrun.engine.networks.counting import (
    CONVENTIONS,
    TOLERANCE,
    SizeMatch,
    kan_parameters,
    match_flops,
    match_parameters,
    mlp_parameters,
    size_of,
)
from kanrun.errors import UsageError
from kanrun.model.settings import MLPConfig
from kanrun.points import Array
from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Claims, Tables
from kanrun.study.suite import claim_at_most, claim_near, exponent

from .cases import (
    Case,
    kan_name,
    kan_of,
    kan_settings,
    model_of,
    result,
    steps_of,
    train,
)
from .config import CompareMLPConfig
from .verdict import judge, log_ratios

#: Widths of the networks whose parameters are counted.
WIDTHS = (4, 8, 16, 32)
#: Numbers of layers of these networks.
DEPTHS = (2, 4, 8)
#: Intervals of the KANs among them; None stands for an MLP.
GRIDS = (None, 5, 10, 20, 40)
#: Largest accepted difference between a measured exponent of growth and its law. The lecture's laws
#: omit biases and scales, which are less than this fraction at 16 nodes or 20 functions per edge.
GROWTH_TOLERANCE = 0.1
#: Growth laws: the model, the column that grows, its power, and a description of the column.
LAWS = (
    ("mlp", "width", 2, "an MLP grow with N nodes a layer"),
    ("mlp", "depth", 1, "an MLP grow with L layers"),
    ("kan", "width", 2, "a KAN grow with N nodes a layer"),
    ("kan", "depth", 1, "a KAN grow with L layers"),
    ("kan", "functions", 1, "a KAN grow with G + k functions an edge"),
)
FIGURES = ("pareto", "scaling", "growth")


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return the KANs of a case, the MLPs that match each of them, and MLPs of given widths."""
    if min(cfg.depths) < 1:
        raise UsageError(
            f"depths={cfg.depths}: only an MLP with hidden layers can match; use depths from 1 on."
        )
    kans = [{"hidden": h, "grid": g} for h, g in itertools.product(case["shapes"], cfg.grids)]
    kinds = list(itertools.product(cfg.depths, cfg.activations))
    equal = [{"matches": kan, "depth": d, "activation": a} for kan in kans for d, a in kinds]
    given = [{"hidden": [w] * d, "activation": a} for w in cfg.widths for d, a in kinds]
    return [*kans, *equal, *given]


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train one network; count the parameters of a KAN by every convention."""
    cfg = case.cfg
    model = model_of(case, cell)
    first = seed == case.cfg.seed
    marks: dict[str, Any] = {"match": cfg.match, "degree": cfg.model.degree}
    if isinstance(model, MLPConfig):
        yield from _mlp(case, cell, seed, marks)
        return
    network = kan_of(case, model)
    name = kan_name(case, model)
    trained = yield from train(case, model, seed)
    yield result(case, trained, **marks, kan=name, activation=model.base)
    counts: dict[str, Any] = {"target": case.name, "kan": name, "exact": network.count()}
    for one in CONVENTIONS if first else ():
        words = {"convention": one.name, "formula": one.formula, "source": one.source}
        count = {**network.flops(), **words, "count": one.count(size_of(network))}
        yield Row("counts", {**counts, **count})


def _mlp(case: Case, cell: Cell, seed: int, marks: dict[str, Any]) -> Records:
    """Train an MLP of given widths, or the one that is nearest to a KAN in size."""
    activation = cell["activation"]
    if "matches" not in cell:
        steps = steps_without_kan(case, cell["case"]["shapes"])
        trained = yield from train(case, model_of(case, cell), seed, steps)
        yield result(case, trained, **marks, kan=None, activation=activation, off=None)
        return
    opponent = kan_settings(case.cfg, **cell["matches"])
    name = kan_name(case, opponent)
    match = matched(case, kan_of(case, opponent), cell)
    widths = list(match.hidden)
    if not match.close and seed == case.cfg.seed:
        yield Note(
            f"{case.name}: no MLP of depth {len(widths)} matches {name} in {case.cfg.match}; the "
            f"nearest has {' and '.join(map(str, widths))} nodes and is off by {match.off:+.0%}",
            warning=True,
        )
    trained = yield from train(case, MLPConfig(widths, activation), seed, steps_of(case, opponent))
    yield result(case, trained, **marks, kan=name, activation=activation, off=match.off)


def steps_without_kan(case: Case, shapes: list[list[int]]) -> int:
    """Return the largest budget of the case's KANs, for MLPs that are matched to none."""
    kans = itertools.product(shapes, case.cfg.grids)
    return max(steps_of(case, kan_settings(case.cfg, hidden, grid)) for hidden, grid in kans)


def matched(case: Case, kan: Network, cell: Cell) -> SizeMatch:
    """Return the MLP of a cell's depth nearest to `kan` in parameters or executed FLOPs."""
    ends = case.problem.inputs, case.problem.outputs
    if case.cfg.match == "parameters":
        return match_parameters(*ends, cell["depth"], float(kan.count()))
    return match_flops(*ends, cell["depth"], cell["activation"], kan.flops()["flops"] or 0.0)


def growth_rows() -> Iterator[Row]:
    """Yield parameters of real modules with N nodes in each of L layers, next to the formulas."""
    domain = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    spec = EdgeSpec(base="silu")
    random = torch.Generator().manual_seed(0)
    for width, depth, grid in itertools.product(WIDTHS, DEPTHS, GRIDS):
        shape = [width] * (depth + 1)
        functions = None
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


def claims(tables: Tables) -> Claims:
    """Return the claims on which network has the lower error, and on how parameters grow."""
    summary = tables["summary"]
    yield from verdict_claims(summary, summary["match"].iloc[0])
    if "growth" in tables:  # an interrupted run may end before
        yield from growth_claims(tables["growth"])


def verdict_claims(summary: pd.DataFrame, match: str) -> Claims:
    """Claim, for each target, that at equal size the KAN's test error is below the MLPs'."""
    targets: Any = summary.groupby("target", sort=False)
    for target, rows in targets:
        logs = matched_logs(rows)
        if logs.size:
            verdict = judge(logs)
            spread = f"{verdict.interval}: {verdict.winner}"
            off = rows["off"].dropna() if "off" in rows else pd.Series(dtype=float)
            if off.abs().max() > TOLERANCE[match]:
                spread += f"; the MLPs are off by {off.min():+.0%} to {off.max():+.0%}"
            sentence = f"{target}: at equal {match} the KAN's test error is below the MLP's"
            yield verdict.claim(sentence, "MLP's over KAN's, interval above 1", spread)


def matched_logs(rows: pd.DataFrame) -> Array:
    """Return log10(MLP's error / KAN's) of all rows of one target, shape (seeds, KANs).

    Of the MLPs matched to a KAN, the one with the lowest validation error of each seed counts
    (training error if nothing is held out): test errors choose nothing.
    """
    keys = ["seed", "kan"]
    held_out = rows["validation_rmse"].notna().any()
    ranked = rows.sort_values("validation_rmse" if held_out else "train_rmse").dropna(subset="kan")
    mlps, kans = (
        ranked[ranked["model"] == model].drop_duplicates(keys).set_index(keys)["error"]
        for model in ("mlp", "kan")
    )
    return log_ratios(mlps, kans)


def growth_claims(growth: pd.DataFrame) -> Claims:
    """Claim O(N^2 L) parameters of MLPs and O(N^2 L (G + k)) of KANs, on larger sizes."""
    from .plots import along

    wrong = (growth["parameters"] - growth["formula"]).abs()
    sentence = "Formulas of parameters against the modules: largest difference"
    yield claim_at_most(sentence, wrong, 0, of="modules")
    for model, name, law, what in LAWS:
        rows = along(growth[growth["model"] == model], name)
        values = np.unique(rows[name])
        if len(values) > 1:
            upper = rows[rows[name] >= values[-max(2, (len(values) + 1) // 2)]]
            measured = exponent(upper[name], upper["parameters"])
            yield claim_near(f"Parameters of {what} to the power", measured, law, GROWTH_TOLERANCE)
