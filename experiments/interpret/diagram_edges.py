"""Edges of a network at each stage, placed for its diagram; pruned edges stay as ghosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kanrun.engine.symbolic import (
    Edge,
    Graph,
    Identity,
    SearchData,
    SearchStage,
    Subgraph,
    Symbolic,
    depths,
    edge_scores,
)
from kanrun.runs.records import Table

_POINTS = 81
#: Label of an identity edge.
PLAIN = "="

Key = tuple[int, int]  # marks of source and target


def _paths(graph: Graph) -> dict[Key, list[tuple[int, int]]]:
    """Return the places of the ends of each edge, and of a relay on every level that it skips."""
    depth, taken = depths(graph), Counter[int]()

    def stop(level: int) -> tuple[int, int]:
        taken[level] += 1
        return level, taken[level] - 1

    at = {graph.mark(node): stop(depth[node]) for node in range(graph.output + 1)}
    paths: dict[Key, list[tuple[int, int]]] = {}
    for key in dict.fromkeys(_key(graph, edge) for edge in graph.edges):
        begin, end = at[key[0]], at[key[1]]
        paths[key] = [begin, *map(stop, range(begin[0] + 1, end[0])), end]
    return paths


def edge_tables(
    steps: Sequence[SearchStage], samples: SearchData, names: tuple[str, ...], output: str
) -> Table | None:
    """Return the edges of the structure at each stage, with the columns of the network diagram.

    A graph whose edges are among those of the first stage is placed like it, with the other edges
    as ghosts (`pruned`).
    """
    if not steps:
        return None
    first, rows = steps[0].graph, list[dict[str, Any]]()
    curves = _curves(first, samples)
    for number, step in enumerate(steps):
        here = _curves(step.graph, samples)
        within = here.keys() <= curves.keys()
        paths = _paths(first if within else step.graph)
        top = max(path[-1][0] for path in paths.values())
        ghosts = {
            key: {**row, "pruned": True}
            for key, row in curves.items()
            if within and key not in here
        }
        for key, row in {**here, **ghosts}.items():
            ends = (
                names[key[0]] if key[0] < len(names) else "",
                output if paths[key][-1][0] == top else "",
            )
            rows += [
                {"stage": f"{number + 1} {step.stage}", **each}
                for each in _placed(row, paths[key], ends)
            ]
    columns = {
        key: np.concatenate(
            [row[key] if key in "xy" else np.full(_POINTS, row[key]) for row in rows]
        )
        for key in rows[0]
    }
    return Table("edges", columns)


def _key(graph: Graph, edge: Edge) -> Key:
    return graph.mark(edge.source), graph.mark(edge.target)


def _curves(graph: Graph, samples: SearchData) -> dict[Key, dict[str, Any]]:
    """Return the curve and the score of each edge, without its place; parallel edges become one."""
    values = graph.node_values(samples.x)
    rows: dict[Key, dict[str, Any]] = {}
    for edge, score in zip(graph.edges, edge_scores(graph, samples), strict=True):
        low, high = float(values[edge.source].min()), float(values[edge.source].max())
        t = (
            np.linspace(low, high, _POINTS)
            if np.isfinite(high - low)
            else np.linspace(0.0, 1.0, _POINTS)
        )
        row = {
            "x": t,
            "y": edge.function.value(t),
            "score": float(score) if np.isfinite(score) else 1.0,
            "pruned": False,
            "symbolic": label(edge.function),
            "operation": graph.operation(edge.target),
        }
        key = _key(graph, edge)
        rows[key] = _together(rows[key], row) if key in rows else row
    return rows


def _together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Join two edges between the same nodes, such as those of x exp(x)."""
    is_sum = first["operation"] == "sum"
    names = ["x" if row["symbolic"] == PLAIN else row["symbolic"] for row in (first, second)]
    return {
        **first,
        "y": first["y"] + second["y"] if is_sum else first["y"] * second["y"],
        "score": max(first["score"], second["score"]),
        "symbolic": (" + " if is_sum else " * ").join(names) if all(names) else "",
    }


def label(function: object) -> str:
    """Return the name of a symbolic function, empty for a spline."""
    if isinstance(function, Symbolic):
        return function.candidate.name
    if isinstance(function, Subgraph):
        return function.name
    return PLAIN if isinstance(function, Identity) else ""


def _placed(
    row: dict[str, Any], path: Sequence[tuple[int, int]], ends: tuple[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the edge's row, and one more for every level that it skips.

    `ends` names an input and an output.
    """
    for hop, ((layer, source), (_, target)) in enumerate(pairwise(path)):
        final = hop == len(path) - 2
        yield {
            **row,
            **({"x": row["y"], "symbolic": PLAIN} if hop else {}),
            "operation": row["operation"] if final else "sum",
            "layer": layer,
            "out": target,
            "in": source,
            "input_name": "" if hop else ends[0],
            "output_name": ends[1] if final else "",
        }
