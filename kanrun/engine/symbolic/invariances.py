"""Changes of a graph that keep its function: redundant constants taken out, values scaled and shifted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, Candidate
from kanrun.engine.symbolic.edge_matching import standardised
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered, without_edges

#: log(s u) = log s + log u moves a constant of this size at most into s.
_LARGEST_SHIFT = 30.0


def canonicalise(graph: Graph) -> Graph:
    """`graph` without redundant constants, linear detours taken out; equal up to rounding wherever it is defined.

    A sum's value may be scaled and shifted when the functions after it undo that, the terms of a sum share one
    constant, the factors of a product one scale, and a power's scale, exp's shift and log's scale can be taken over by
    what feeds them. What is left free is determined by the data, which is what makes a constant worth rounding.
    """
    graph = _without_linear_detours(_without_constants(graph))
    for node in range(graph.output, graph.inputs - 1, -1):
        for i in graph.into(node):
            graph = _absorb_argument(graph, i)
        graph = (
            _one_constant(graph, node)
            if graph.operation(node) == "sum"
            else _one_scale(graph, node)
        )
    return graph


def _symbolic(graph: Graph, index: int, candidate: Candidate | None = None) -> Symbolic | None:
    """The function of an edge if it is symbolic, and of this candidate."""
    function = graph.edges[index].function
    found = isinstance(function, Symbolic) and candidate in (None, function.candidate)
    return function if isinstance(function, Symbolic) and found else None


def _carriers(graph: Graph, edges: list[int]) -> list[int]:
    """Those edges that have constants of their own."""
    return [i for i in edges if not isinstance(graph.edges[i].function, Identity)]


def _without_constants(graph: Graph) -> Graph:
    """Constant edges put into the other terms of their sum, or factors of their product."""
    dead: set[int] = set()
    for node in range(graph.inputs, graph.output + 1):
        constants = {
            i: each.constants[3]
            for i in graph.into(node)
            if (each := _symbolic(graph, i, CONSTANT))
        }
        others = _carriers(graph, [i for i in graph.into(node) if i not in constants])
        if not constants or not others:
            continue
        values = list(constants.values())
        if graph.operation(node) == "sum":
            graph = shift_edge(graph, others[0], float(np.sum(values)))
        else:
            graph = scale_edge(graph, others[0], float(np.prod(values)))
        dead |= set(constants)
    return without_edges(graph, dead) if dead else graph


def _without_linear_detours(graph: Graph) -> Graph:
    """A hidden sum that goes on as c x + d only is taken out: its terms go where it went."""
    for node in range(graph.inputs, graph.output):
        out, into = graph.out_of(node), graph.into(node)
        line = (
            _symbolic(graph, out[0], IDENTITY)
            if len(out) == 1 and graph.operation(node) == "sum"
            else None
        )
        if line is None or not into:
            continue
        target = graph.edges[out[0]].target
        if graph.operation(target) == "product" and len(into) > 1:
            continue
        graph = scale_node(graph, node, *line.constants[2:])
        edges = [
            Edge(edge.source, target if i in into else edge.target, edge.function)
            for i, edge in enumerate(graph.edges)
            if i != out[0]
        ]
        return _without_linear_detours(renumbered(graph, edges))
    return graph


def scale_node(graph: Graph, node: int, factor: float, shift: float = 0.0) -> Graph:
    """The graph in which `node` (a sum, or a product without shift) has the value factor * old + shift."""
    into = graph.into(node)
    first = next(iter(_carriers(graph, into)), into[0])
    if graph.operation(node) == "product":
        return scale_edge(graph, first, factor)
    for i in into:
        graph = scale_edge(graph, i, factor)
    return shift_edge(graph, first, shift) if shift != 0.0 else graph


def scale_edge(graph: Graph, index: int, factor: float) -> Graph:
    """The graph in which edge `index` gives factor * its old value; scale and shift that were fixed are free then."""
    function, source = graph.edges[index].function, graph.edges[index].source
    if isinstance(function, Symbolic) and abs(factor) != 1.0:
        freed = "c" + "d" * (function.constants[3] != 0.0)
        more = "".join(
            name for name in freed if name in function.candidate.free and name not in function.free
        )
        function = replace(function, free=function.free + more)
    if isinstance(function, Spline | Symbolic):
        return graph.with_function(index, function.scaled(factor))
    if factor == 1.0:
        return graph
    if source >= graph.inputs and len(graph.out_of(source)) == 1:
        return scale_node(graph, source, factor)
    return graph.with_function(index, Symbolic(IDENTITY, (1.0, 0.0, factor, 0.0), "cd"))


def shift_edge(graph: Graph, index: int, shift: float) -> Graph:
    """The graph in which edge `index` gives its old value + shift."""
    function = graph.edges[index].function
    if isinstance(function, Spline | Symbolic):
        return graph.with_function(index, function.shifted(shift))
    return graph.with_function(index, Symbolic(IDENTITY, (1.0, 0.0, 1.0, shift), "d"))


def _absorb_argument(graph: Graph, index: int) -> Graph:
    """a and b of an edge out of a node that leads nowhere else go into the node; then c of a power, c of exp and d of
    log."""
    function, node = _symbolic(graph, index), graph.edges[index].source
    if function is None or node < graph.inputs or len(graph.out_of(node)) > 1:
        return graph
    if function.candidate is CONSTANT or not graph.into(node):
        return graph
    a, b, c, d = function.constants
    is_sum = graph.operation(node) == "sum"
    if is_sum:
        graph, function, b = (
            scale_node(graph, node, a, b),
            function.changed("ab", a=1.0, b=0.0),
            0.0,
        )
    else:
        graph, function = scale_node(graph, node, a), function.changed("a", a=1.0)
    candidate, factor, shift = function.candidate, 1.0, 0.0
    if c == 0.0 or (candidate is IDENTITY and is_sum):
        pass
    elif candidate.homogeneous:
        value = candidate.value(np.array([1.0, 2.0]))
        factor = abs(c) ** (1 / float(np.log2(value[1] / value[0])))
        function = function.changed("c", c=float(np.sign(c)), b=b * factor)
    elif candidate.name == "exp" and is_sum:
        shift = float(np.log(abs(c)))
        function = function.changed("c", c=float(np.sign(c)))
    elif candidate.name == "exp" and abs(b) < _LARGEST_SHIFT:  # of a product, which takes no shift
        function = replace(
            function, constants=(function.constants[0], 0.0, c * float(np.exp(b)), d)
        )
    elif candidate.name == "log" and abs(d / c) < _LARGEST_SHIFT:
        factor = float(np.exp(d / c))
        function = function.changed("d", d=0.0, b=b * factor)
    if factor != 1.0 or shift != 0.0:
        graph = scale_node(graph, node, factor, shift)
        moves = function.constants[1] != 0.0 and "b" not in function.free
        function = replace(function, free=function.free + "b" * (moves and "b" in candidate.free))
    return graph.with_function(index, function)


def _one_constant(graph: Graph, node: int) -> Graph:
    """The constants of a sum's terms gathered in one of them: a spline if there is one."""
    into = graph.into(node)
    symbolic = {i: function for i in into if (function := _symbolic(graph, i))}
    splines = [i for i in into if isinstance(graph.edges[i].function, Spline)]
    carrier = next(
        (i for i in [*splines, *symbolic] if i in splines or "d" in symbolic[i].free), None
    )
    for i, function in symbolic.items() if carrier is not None else ():
        if carrier is not None and i != carrier:
            graph = shift_edge(
                graph.with_function(i, function.changed("d", d=0.0)), carrier, function.constants[3]
            )
    return graph


def _one_scale(graph: Graph, node: int) -> Graph:
    """The scales of a product's factors gathered in the first of them; the others get c = 1."""
    first, *others = _carriers(graph, graph.into(node)) or [0]
    for i in others:
        function = _symbolic(graph, i)
        if function is not None and "c" in function.free and function.constants[2] != 0.0:
            c, d = function.constants[2:]
            graph = scale_edge(
                graph.with_function(i, function.changed("c", c=1.0, d=d / c)), first, c
            )
    return graph


def free_constants(graph: Graph) -> Graph:
    """The graph with every candidate's own constants free again, before other edges change."""
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Symbolic):
            function = standardised(edge.function)
            graph = graph.with_function(
                i, replace(function, free=function.candidate.free, exact=())
            )
    return graph
