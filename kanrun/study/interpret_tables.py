"""What an interpretation leaves in tables: stages, edges of each stage as figures draw them, candidates of each
edge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanrun.engine.symbolic import Edge, Graph, Identity, Samples, Step, Symbolic, Tried
from kanrun.engine.symbolic.elimination import edge_scores
from kanrun.engine.symbolic.sparsity import depths
from kanrun.runs.records import Row, Table
from kanrun.study.interpret import Check

Array = NDArray[np.float64]

_POINTS = 81


def stage_row(step: Step, samples: Samples, check: Check) -> Row:
    """One stage of one structure: what it is, how large, how good, how long it took."""
    with np.errstate(all="ignore"):
        train = float(np.sqrt(np.mean((step.graph(samples.x) - samples.y) ** 2)))
        test = float(np.sqrt(np.mean((step.graph(check.x) - check.y) ** 2)))
    return Row(
        "stages",
        {
            "stage": step.stage,
            "structure": step.name,
            "shape": shape_of(step.graph),
            "active_edges": step.graph.active_edges,
            "parameters": int(step.graph.parameters.size),
            "train_rmse": train,
            "validation_rmse": step.error * samples.spread,
            "test_rmse": test,
            "seconds": step.seconds,
        },
    )


def shape_of(graph: Graph) -> str:
    """Widths of the layers, inputs in use first, such as 2-1-1; a layer with products says how many: 2-1+1p-1."""
    depth = depths(graph)
    used = {edge.source for edge in graph.edges}
    widths = [str(sum(1 for node in range(graph.inputs) if node in used))]
    for layer in range(1, max(depth) + 1):
        nodes = [n for n in range(graph.inputs, graph.output + 1) if depth[n] == layer]
        products = sum(graph.operation(node) == "product" for node in nodes)
        sums = len(nodes) - products
        widths.append(f"{sums}" if not products else f"{products}p" if not sums else f"{sums}+{products}p")
    return "-".join(widths)


def edge_tables(steps: list[Step], samples: Samples, names: tuple[str, ...], output: str) -> Table | None:
    """The edges of the chosen structure at each stage, with the columns of the network diagram and `stage`."""
    if not steps:
        return None
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        rows += _edges(step.graph, samples, names, output, f"{number + 1} {step.stage}")
    columns = {
        key: np.concatenate([row[key] if key in "xy" else np.full(_POINTS, row[key]) for row in rows])
        for key in rows[0]
    }
    return Table("edges", columns)


def _edges(graph: Graph, samples: Samples, names: tuple[str, ...], output: str, stage: str) -> list[dict[str, Any]]:
    depth = depths(graph)
    place = _places(graph, depth)
    scores = edge_scores(graph, samples)
    values = graph.node_values(samples.x)
    last = max(depth)
    rows: list[dict[str, Any]] = []
    for edge, score in zip(graph.edges, scores, strict=True):
        t = np.linspace(float(values[edge.source].min()), float(values[edge.source].max()), _POINTS)
        curve = edge.function.evaluate(t, columns=False)[0]
        layer = depth[edge.target] - 1
        rows.append(
            {
                "stage": stage,
                "layer": layer,
                "out": place[edge.target],
                "in": place[edge.source] if depth[edge.source] == layer else _relay(place, edge, layer),
                "x": t,
                "y": curve,
                "score": float(score) if np.isfinite(score) else 1.0,
                "pruned": False,
                "symbolic": _label(graph, edge),
                "input_name": names[edge.source] if edge.source < graph.inputs and layer == 0 else "",
                "output_name": output if layer == last - 1 else "",
            }
        )
    return rows


def _places(graph: Graph, depth: list[int]) -> dict[int, int]:
    """The number of every node within its layer."""
    place: dict[int, int] = {}
    for layer in range(max(depth) + 1):
        inside = [n for n in range(graph.output + 1) if depth[n] == layer]
        place |= {node: i for i, node in enumerate(inside)}
    return place


def _relay(place: dict[int, int], edge: Edge, layer: int) -> int:
    """Where an edge that skips layers starts in the diagram: at a place of its own beyond the layer's nodes."""
    return 8 * layer + place[edge.source]


def _label(graph: Graph, edge: Edge) -> str:
    if isinstance(edge.function, Symbolic):
        return edge.function.candidate.name
    if isinstance(edge.function, Identity) and edge.source >= graph.inputs:
        return "product" if graph.operation(edge.source) == "product" else "="
    return ""


def candidate_rows(tried: Tried) -> Iterator[Row]:
    """Every match of every edge of the pruned network: R^2, complexity, and whether the edge is clear or stays
    numeric."""
    for index, matches in tried.matches.items():
        edge = tried.network.edges[index]
        for rank, match in enumerate(matches):
            yield Row(
                "candidates",
                {
                    "edge": f"{_node(tried.network, edge.source)} to {_node(tried.network, edge.target)}",
                    "index": index,
                    "candidate": match.name,
                    "r2": match.r2,
                    "one_minus_r2": match.loss,
                    "complexity": match.complexity,
                    "rank": rank,
                },
            )


def _node(graph: Graph, node: int) -> str:
    return f"x{node}" if node < graph.inputs else f"node {node - graph.inputs}" if node < graph.output else "output"
