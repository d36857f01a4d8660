"""Edges that carry a graph of one input: a formula of one edge, until `expanded` puts its nodes into the network's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Identity, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph


@dataclass(frozen=True)
class Subgraph:
    """An edge whose function is a `graph` of one input."""

    graph: Graph

    @property
    def name(self) -> str:
        """The functions of the graph as tables show them, such as `sin(x^2) * cos + x`."""
        shown: list[str] = [""]
        for node in range(1, self.graph.output + 1):
            parts = []
            for edge in (self.graph.edges[i] for i in self.graph.into(node)):
                inner = shown[edge.source]
                name = edge.function.candidate.name if isinstance(edge.function, Symbolic) else ""
                if not name or (name == "x" and inner):
                    parts.append(
                        f"({inner})"
                        if self.graph.operation(node) == "product" and " + " in inner
                        else inner
                    )
                elif name != "0":
                    parts.append(f"{name}({inner})" if inner else name)
            shown.append((" + " if self.graph.operation(node) == "sum" else " * ").join(parts))
        return shown[-1]

    @property
    def parameters(self) -> Array:
        return self.graph.parameters

    def with_parameters(self, parameters: Array) -> Subgraph:
        return replace(self, graph=self.graph.with_parameters(parameters))

    def value(self, t: Array) -> Array:
        return self.graph(t[:, None])

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        value, slopes, jacobian = self.graph.derivatives(t[:, None])
        return value, slopes[0], jacobian


def sound(graph: Graph, t: Array) -> bool:
    """Whether every function is defined, without a pole, on the whole range of what reaches it."""
    values = graph.node_values(t[:, None])
    functions = ((edge.function, values[edge.source]) for edge in graph.edges)
    return all(function.allows(u) for function, u in functions if isinstance(function, Symbolic))


def expanded(graph: Graph) -> Graph:
    """The graph with the nodes and edges of every `Subgraph` its own."""
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Subgraph):
            return expanded(_spliced(graph, i, edge.function.graph))
    return graph


def _spliced(graph: Graph, index: int, inner: Graph) -> Graph:
    """The nodes of `inner` just before the target of edge `index`; its terms go into that node where both add."""
    edge = graph.edges[index]
    at, joins = edge.target, inner.operation(inner.output) == graph.operation(edge.target) == "sum"
    new = len(inner.operations) - joins
    number = {0: edge.source, **{node: at + node - 1 for node in range(1, inner.output + 1)}}

    def moved(node: int) -> int:
        return node + new if node >= at else node

    edges = [
        Edge(moved(e.source), moved(e.target), e.function)
        for i, e in enumerate(graph.edges)
        if i != index
    ]
    edges += [Edge(number[e.source], number[e.target], e.function) for e in inner.edges]
    if not joins:
        edges.append(Edge(at + new - 1, at + new, Identity()))
    where, first = (
        at - graph.inputs,
        max(*(graph.mark(n) for n in range(graph.output + 1)), graph.output) + 1,
    )
    operations = (*graph.operations[:where], *inner.operations[:new], *graph.operations[where:])
    marks = [graph.mark(node) for node in range(graph.inputs, graph.output + 1)]
    marks[where:where] = range(first, first + new)
    return Graph(
        graph.inputs,
        operations,
        tuple(sorted(edges, key=lambda e: (e.target, e.source))),
        tuple(marks),
    )
