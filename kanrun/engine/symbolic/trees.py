"""Functions of one variable as trees, which become graphs of one input, and edges that carry such a graph.

A tree is a `Joined` of parts: a `Call` is c f(a u + b) + d of what is inside it, a `Joined` inside another stands there
as it is. A formula of one edge is such a graph until `expanded` puts its nodes into the network's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.edges import Identity, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, Operation


@dataclass(frozen=True)
class Call:
    """`function` of `inner`, or of the variable itself."""

    function: Symbolic
    inner: Joined | None = None


@dataclass(frozen=True)
class Joined:
    """The sum or product of its parts."""

    operation: Operation
    parts: tuple[Call | Joined, ...]


Part: TypeAlias = Call | Joined


def graph_of(root: Joined) -> Graph:
    """The graph of one input with `root` as its output."""
    operations: list[Operation] = []
    edges: list[Edge] = []

    def build(joined: Joined) -> int:
        sources = []
        for part in joined.parts:
            inner = part if isinstance(part, Joined) else part.inner
            function = Identity() if isinstance(part, Joined) else part.function
            sources.append((build(inner) if inner is not None else 0, function))
        operations.append(joined.operation)
        edges.extend(Edge(source, len(operations), function) for source, function in sources)
        return len(operations)

    build(root)
    return Graph(1, tuple(operations), tuple(sorted(edges, key=lambda edge: (edge.target, edge.source))))


@dataclass(frozen=True)
class Subgraph:
    """An edge whose function is a `graph` of one input, with the `name` that tables show."""

    graph: Graph
    name: str

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

    edges = [Edge(moved(e.source), moved(e.target), e.function) for i, e in enumerate(graph.edges) if i != index]
    edges += [Edge(number[e.source], number[e.target], e.function) for e in inner.edges]
    if not joins:
        edges.append(Edge(at + new - 1, at + new, Identity()))
    where, first = at - graph.inputs, max(*(graph.mark(n) for n in range(graph.output + 1)), graph.output) + 1
    operations = (*graph.operations[:where], *inner.operations[:new], *graph.operations[where:])
    marks = [graph.mark(node) for node in range(graph.inputs, graph.output + 1)]
    marks[where:where] = range(first, first + new)
    return Graph(graph.inputs, operations, tuple(sorted(edges, key=lambda e: (e.target, e.source))), tuple(marks))
