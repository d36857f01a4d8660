"""KANs against MLPs with equal numbers of parameters or FLOPs, and the growth of parameters."""

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
from kanrun.model.settings import KANConfig, MLPConfig
from kanrun.points import Array
from kanrun.runs.records import Note, Records, Row
from kanrun.study import Cell, Claims, Tables
from kanrun.study.suite import claim_at_most, claim_near, exponent

from .cases import (
    Case,
    judge,
    kan_name,
    kan_of,
    kan_settings,
    log_ratios,
    model_of,
    result,
    steps_of,
    train,
)
from .config import CompareMLPConfig

#: Numbers of nodes per layer of the networks whose parameters are counted.
WIDTHS = (4, 8, 16, 32)
#: Numbers of layers of the networks whose parameters are counted.
DEPTHS = (2, 4, 8)
#: Numbers of grid intervals of the networks whose parameters are counted; None stands for an MLP.
GRIDS = (None, 5, 10, 20, 40)
#: Largest accepted difference between a measured exponent of growth and the exponent in the
#: lecture's law. The laws omit biases and scales; with 16 nodes, or 20 functions per edge, these
#: are a smaller fraction of all parameters than this.
GROWTH_TOLERANCE = 0.1
#: Growth laws: the model, the column that grows, the power, and how claims describe the growth.
LAWS = (
    ("mlp", "width", 2, "an MLP grow with N nodes a layer"),
    ("mlp", "depth", 1, "an MLP grow with L layers"),
    ("kan", "width", 2, "a KAN grow with N nodes a layer"),
    ("kan", "depth", 1, "a KAN grow with L layers"),
    ("kan", "functions", 1, "a KAN grow with G + k functions an edge"),
)
FIGURES = ("pareto", "scaling", "growth")


def networks(cfg: CompareMLPConfig, case: Cell) -> list[Cell]:
    """Return the KANs of a case, the MLPs matched to each KAN, and MLPs with the given widths."""
    if min(cfg.depths) < 1:
        raise UsageError(
            f"depths={cfg.depths}: only an MLP with hidden layers can match; use depths from 1 on."
        )
    product = itertools.product
    kans = [{"hidden": h, "grid": g} for h, g in product(case["shapes"], cfg.grids)]
    mlps = [{"depth": d, "activation": a} for d, a in product(cfg.depths, cfg.activations)]
    equal = [{"matches": kan, **mlp} for kan in kans for mlp in mlps]
    return [*kans, *equal, *({**mlp, "width": w} for w in cfg.widths for mlp in mlps)]


def run(case: Case, cell: Cell, seed: int) -> Records:
    """Train a KAN, the MLP that is nearest to a KAN in size, or an MLP with given widths.

    For a KAN, also count its parameters by every published convention.
    """
    cfg = case.cfg
    first = seed == cfg.seed
    model = model_of(case, cell)
    marks: dict[str, Any] = {"match": cfg.match, "degree": cfg.model.degree, "kan": None}
    steps = None
    if "matches" in cell or isinstance(model, KANConfig):
        settings = cell.get("matches", cell)
        kan = kan_settings(cfg, settings["hidden"], settings["grid"])
        network = kan_of(case, kan)
        marks["kan"] = name = kan_name(case, kan)
    if "matches" in cell:
        match = matched(case, network, cell)
        model = MLPConfig(list(match.hidden), cell["activation"])
        steps = steps_of(case, kan)
        marks["off"] = match.off
        if not match.close and first:
            yield Note(
                f"{case.name}: no MLP of depth {cell['depth']} matches {name} in {cfg.match}; the "
                f"nearest has {' and '.join(map(str, match.hidden))} nodes and is off by "
                f"{match.off:+.0%}",
                warning=True,
            )
    elif isinstance(model, MLPConfig):
        steps = steps_without_kan(case, cell["case"]["shapes"])
    trained = yield from train(case, model, seed, steps)
    yield result(case, trained, **marks, activation=cell.get("activation", cfg.model.base))
    for convention in CONVENTIONS if first and isinstance(model, KANConfig) else ():
        count = {"count": convention.count(size_of(network)), "exact": network.count()}
        source = {"formula": convention.formula, "source": convention.source}
        marks = {"target": case.name, "kan": name, "convention": convention.name}
        yield Row("counts", {**marks, **source, **count, **network.flops()})


def steps_without_kan(case: Case, shapes: list[list[int]]) -> int:
    """Return the number of steps of MLPs that are not matched to a KAN.

    It is the largest number of steps of all KANs of the case.
    """
    kans = itertools.product(shapes, case.cfg.grids)
    return max(steps_of(case, kan_settings(case.cfg, hidden, grid)) for hidden, grid in kans)


def matched(case: Case, kan: Network, cell: Cell) -> SizeMatch:
    """Return the size of the MLP with the cell's depth that is nearest to the size of `kan`.

    Sizes are numbers of parameters, or of executed FLOPs if `match=flops`.
    """
    ends = case.problem.inputs, case.problem.outputs
    if case.cfg.match == "parameters":
        return match_parameters(*ends, cell["depth"], float(kan.count()))
    return match_flops(*ends, cell["depth"], cell["activation"], kan.flops()["flops"] or 0.0)


def growth_rows() -> Iterator[Row]:
    """Yield the numbers of parameters of networks with N nodes in each of L layers.

    Each row has the number that is counted in a module, and the number that the formula gives.
    """
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
    if "growth" in tables:  # an interrupted run may not have this table
        yield from growth_claims(tables["growth"])


def verdict_claims(summary: pd.DataFrame, match: str) -> Claims:
    """Claim for each target that the KAN has a lower test error than an MLP of equal size."""
    targets: Any = summary.groupby("target", sort=False)
    for target, rows in targets:
        logs = matched_logs(rows)
        if logs.size:
            verdict = judge(logs)
            spread = f"{verdict.interval}: {verdict.winner}"
            off = rows["off"].dropna() if "off" in rows else pd.Series(dtype=float)
            if off.abs().max() > TOLERANCE:
                spread += f"; the MLPs are off by {off.min():+.0%} to {off.max():+.0%}"
            sentence = f"{target}: at equal {match} the KAN's test error is below the MLP's"
            yield verdict.claim(sentence, "MLP's over KAN's, interval above 1", spread)


def matched_logs(rows: pd.DataFrame) -> Array:
    """Return log10 of (MLP's test error / KAN's test error) on one target, shape (seeds, KANs).

    For each seed and KAN, the matched MLP with the lowest validation error is used (the lowest
    training error if there are no validation points). Test errors are not used to choose it.
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
    """Claim that MLPs have O(N^2 L) parameters and KANs O(N^2 L (G + k)).

    The exponents are fitted to the larger half of the sizes.
    """
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
