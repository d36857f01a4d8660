"""The edges of a network at each stage, placed for its diagram: what was pruned stays as a ghost where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kanrun.experiments.interpret.result import Array

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
#: What is written at an edge that carries a value on as it is.
PLAIN = "="

Key = tuple[int, int]  # marks of source and target
Rows = list[dict[str, Any]]


@dataclass
class _Places:
    """Where the nodes of a graph stand: level and place within it, by mark; and relays of edges that skip levels."""

    level: dict[int, int]
    place: dict[int, int]
    relays: dict[tuple[Key, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> _Places:
        depth = depths(graph)
        count = [0] * (max(depth) + 1)
        level, place = {}, {}
        for node in range(graph.output + 1):
            mark, at = graph.mark(node), depth[node]
            level[mark], place[mark] = at, count[at]
            count[at] += 1
        places = cls(level, place)
        for edge in graph.edges:
            key = _key(graph, edge)
            for at in range(level[key[0]] + 1, level[key[1]]):
                places.relays[key, at] = count[at]
                count[at] += 1
        return places

    @property
    def last(self) -> int:
        return max(self.level.values())


def edge_tables(steps: Sequence[SearchStage], samples: SearchData, names: tuple[str, ...], output: str) -> Table | None:
    """The edges of the chosen structure at each stage, with the columns of the network diagram and `stage`.

    A graph whose edges are among the first stage's stands as that does, with the others as ghosts (`pruned`).
    """
    if not steps:
        return None
    first = steps[0].graph
    known = {_key(first, edge) for edge in first.edges}
    rows: Rows = []
    curves = _curves(first, samples)
    for number, step in enumerate(steps):
        keys = {_key(step.graph, edge) for edge in step.graph.edges}
        places = _Places.of(first if keys <= known else step.graph)
        here = _curves(step.graph, samples)
        ghosts = (
            {key: {**row, "pruned": True} for key, row in curves.items() if key not in keys} if keys <= known else {}
        )
        stage = {"stage": f"{number + 1} {step.stage}"}
        for key, row in {**here, **ghosts}.items():
            rows += [{**stage, **each} for each in _placed(key, row, places, names, output)]
    columns = {
        key: np.concatenate([row[key] if key in "xy" else np.full(_POINTS, row[key]) for row in rows])
        for key in rows[0]
    }
    return Table("edges", columns)


def _key(graph: Graph, edge: Edge) -> Key:
    return graph.mark(edge.source), graph.mark(edge.target)


def _curves(graph: Graph, samples: SearchData) -> dict[Key, dict[str, Any]]:
    """What each edge looks like and how much it matters, without its place; edges beside one another as one."""
    values = graph.node_values(samples.x)
    rows: dict[Key, dict[str, Any]] = {}
    for edge, score in zip(graph.edges, edge_scores(graph, samples), strict=True):
        low, high = float(values[edge.source].min()), float(values[edge.source].max())
        t = np.linspace(low, high, _POINTS) if np.isfinite(high - low) else np.linspace(0.0, 1.0, _POINTS)
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
    """Two edges between the same nodes, such as those of x exp(x), as the diagram's one."""
    is_sum = first["operation"] == "sum"
    names = ["x" if row["symbolic"] == PLAIN else row["symbolic"] for row in (first, second)]
    return {
        **first,
        "y": first["y"] + second["y"] if is_sum else first["y"] * second["y"],
        "score": max(first["score"], second["score"]),
        "symbolic": (" + " if is_sum else " * ").join(names) if all(names) else "",
    }


def label(function: object) -> str:
    """A symbolic function's name, empty for a spline."""
    if isinstance(function, Symbolic):
        return function.candidate.name
    if isinstance(function, Subgraph):
        return function.name
    return PLAIN if isinstance(function, Identity) else ""


def _placed(key: Key, row: dict[str, Any], places: _Places, names: tuple[str, ...], output: str) -> Rows:
    """The edge's row, and one more for every level that it skips."""
    source, target = key
    begin, end = places.level[source], places.level[target]
    stations = [places.relays[key, at] for at in range(begin + 1, end)]
    stops = [places.place[source], *stations, places.place[target]]
    t: Array = row["y"]
    found = []
    for hop in range(end - begin):
        passed = {} if hop == 0 else {"x": t, "y": t, "symbolic": PLAIN}
        layer = begin + hop
        found.append(
            {
                **row,
                **passed,
                "operation": row["operation"] if layer + 1 == end else "sum",
                "layer": layer,
                "out": stops[hop + 1],
                "in": stops[hop],
                "input_name": names[source] if layer == 0 and source < len(names) else "",
                "output_name": output if layer + 1 == places.last else "",
            }
        )
    return found
