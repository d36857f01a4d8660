"""Graphs of one input joined from terms: polynomials, sums, and what such a graph is called and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kanrun.engine.symbolic.candidates import IDENTITY, TABLE, Array, power
from kanrun.engine.symbolic.dictionary import call
from kanrun.engine.symbolic.edges import Identity, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.trees import Call, Joined, Part


def polynomial_graph(powers: Sequence[int], coefficients: Array, scale: float, *, fixed: int | None = None) -> Joined:
    """sum c (t / scale)^p; the coefficient of the power `fixed` stays as it is."""
    calls, constant = [], 0.0
    for p, c in zip(powers, coefficients.tolist(), strict=True):
        if p == 0:
            constant = c
        else:
            calls.append(call(power(p), c=c / scale**p, free="" if p == fixed else "c"))
    free = 0 in powers and fixed != 0
    first = calls[0].function
    first = replace(first, free=first.free + "d" * free).changed(d=constant)
    return Joined("sum", (Call(first), *calls[1:]))


def with_constant(terms: Sequence[Part], constant: float) -> Joined:
    parts = list(terms)
    for i, part in enumerate(parts):
        if isinstance(part, Call):
            parts[i] = replace(part, function=part.function.shifted(constant))
            return Joined("sum", tuple(parts))
    return Joined("sum", (*parts, Call(Symbolic(TABLE["0"], (1.0, 0.0, 0.0, constant), "d"))))


def summed_graphs(graph: Graph, more: Graph) -> Graph:
    """The sum of two graphs of one input whose outputs are sums."""
    hidden = len(graph.operations) - 1

    def moved(node: int) -> int:
        return node + hidden if node else 0

    last = graph.output
    shift = len(more.operations) - 1
    edges = [Edge(e.source, e.target + shift if e.target == last else e.target, e.function) for e in graph.edges]
    edges += [Edge(moved(e.source), moved(e.target), e.function) for e in more.edges]
    operations = (*graph.operations[:-1], *more.operations[:-1], "sum")
    return Graph(1, operations, tuple(sorted(edges, key=lambda e: (e.target, e.source))))


def graph_name(graph: Graph) -> str:
    """The functions of a graph of one input, such as `sin(x^2) * cos + x`."""
    shown: list[str] = [""]
    for node in range(1, graph.output + 1):
        parts = []
        for i in graph.into(node):
            edge = graph.edges[i]
            inner = shown[edge.source]
            name = "" if isinstance(edge.function, Identity) else getattr(edge.function, "candidate", IDENTITY).name
            if not name or (name == "x" and inner):
                parts.append(f"({inner})" if graph.operation(node) == "product" and " + " in inner else inner)
            elif name != "0":
                parts.append(f"{name}({inner})" if inner else name)
        shown.append((" + " if graph.operation(node) == "sum" else " * ").join(parts))
    return shown[-1]


def graph_complexity(graph: Graph) -> float:
    """Of the functions, one more for every one beyond the first, and one for every free constant beyond c and d."""
    functions = [edge.function for edge in graph.edges if isinstance(edge.function, Symbolic)]
    return sum(f.candidate.complexity for f in functions) + max(len(functions) - 1, 0)
