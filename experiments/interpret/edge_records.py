"""Records of the edges of a network or formula: fitted candidates, decisions and curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from kanrun.engine.symbolic import (
    Decision,
    FittedStructure,
    Graph,
    SearchData,
    SearchStage,
    depths,
    edge_name,
    edge_scores,
)
from kanrun.engine.symbolic.candidates import CARRY
from kanrun.runs.records import Row, Table, Value

from .outcome import Interpretation

#: Number of points at which the function of an edge is evaluated for its curve.
_POINTS = 81


def finite_row(table: str, **values: Value) -> Row:
    """Return a row of `table` in which numbers that are not finite are replaced by None."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return Row(table, finite)


def match_rows(
    result: Interpretation, fit: FittedStructure, inputs: Sequence[str]
) -> Iterator[Row]:
    """Yield the fitted candidates of each edge, best first, and the decision about the edge.

    The edges are those of the pruned network. If a formula was accepted, it replaced all edges at
    once; otherwise each edge was decided alone.
    """
    decisions = {decision.index: decision for decision in result.decisions}
    for index, matches in fit.matches.items():
        named: dict[str, Value] = {"edge": edge_name(fit.network, index, inputs), "index": index}
        for rank, each in enumerate(matches):
            losses = {"r2": each.r2, "one_minus_r2": each.loss, "complexity": each.complexity}
            yield finite_row("candidates", **named, candidate=each.name, **losses, rank=rank)
        found = decisions.get(index)
        if found is None:
            found = Decision(index, False, "", np.nan, "no candidates fit the network together")
            if result.formula is not None and fit.snapped is not None:
                name = fit.snapped.edges[index].function.label
                r2 = next((each.r2 for each in matches if each.name == name), np.nan)
                why = "the formula is as good as the network"
                found = Decision(index, True, name, r2, why)
        yield finite_row(
            "decisions",
            **named,
            state="symbolic" if found.symbolic else "numeric",
            candidate=found.candidate,
            r2=found.r2,
            reason=found.reason,
        )


def edge_table(
    steps: Sequence[SearchStage], samples: SearchData, inputs: Sequence[str], output: str
) -> Table:
    """Return the curves of all edges at each stage as a table, which `network_diagram` can draw."""
    rows = [
        {**row, "stage": f"{number} {step.stage}", "pruned": False}
        for number, step in enumerate(steps, 1)
        for row in _stage_rows(step.graph, samples, inputs, output)
    ]
    table = pd.DataFrame(rows).explode(["x", "y"]).astype({"x": float, "y": float})
    return Table("edges", {str(name): table[name].to_numpy() for name in table})


def _stage_rows(
    graph: Graph, samples: SearchData, inputs: Sequence[str], output: str
) -> Iterator[dict[str, Any]]:
    """Yield a row per edge of a graph, with its layer and its positions in the two adjacent layers.

    An edge that skips layers is drawn as a chain of edges, so it has one row per layer.
    """
    depth = depths(graph)
    taken = Counter[int]()

    def stop(level: int) -> tuple[int, int]:
        taken[level] += 1
        return level, taken[level] - 1

    at = [stop(level) for level in depth]
    for (source, target), row in _curves(graph, samples).items():
        stops = [at[source], *map(stop, range(depth[source] + 1, depth[target])), at[target]]
        for hop, ((layer, into), (_, out)) in enumerate(pairwise(stops), 1):
            first = hop == 1
            last = hop == len(stops) - 1
            yield {
                **row,
                **({} if first else {"x": row["y"], "symbolic": CARRY.name}),
                "operation": row["operation"] if last else "sum",
                "layer": layer,
                "out": out,
                "in": into,
                "input_name": inputs[source] if first and source < len(inputs) else "",
                "output_name": output if last and target == graph.output else "",
            }


def _curves(graph: Graph, samples: SearchData) -> dict[tuple[int, int], dict[str, Any]]:
    """Return the curve and the score of each edge; keys are pairs (source node, target node).

    Parallel edges between the same nodes, as in x exp(x), are combined into one.
    """
    values = graph.edge_outputs(samples.x)[0]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for edge, score in zip(graph.edges, edge_scores(graph, samples), strict=True):
        low = float(values[edge.source].min())
        high = float(values[edge.source].max())
        t = np.linspace(*((low, high) if np.isfinite(high - low) else (0.0, 1.0)), _POINTS)
        operation = graph.operation(edge.target)
        label = edge.function.label
        y = edge.function.value(t)
        size = float(score) if np.isfinite(score) else 1.0
        other = rows.get((edge.source, edge.target))
        if other is not None:
            is_sum = operation == "sum"
            size = max(other["score"], size)
            y = other["y"] + y if is_sum else other["y"] * y
            labels = [name.replace(CARRY.name, "x") for name in (other["symbolic"], label)]
            label = (" + " if is_sum else " * ").join(labels) if all(labels) else ""
        row = {"x": t, "y": y, "score": size, "symbolic": label, "operation": operation}
        rows[edge.source, edge.target] = row
    return rows
