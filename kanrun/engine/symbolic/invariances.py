"""Changes of a graph that keep its function.

Redundant constants removed, values scaled and shifted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, Candidate
from kanrun.engine.symbolic.edge_functions import Identity, Spline, Symbolic
from kanrun.engine.symbolic.edge_matching import standardised
from kanrun.engine.symbolic.graph import Graph, renumbered, without_edges

#: Largest exponent that becomes a factor: log(s u) = log(s) + log(u), exp(u + b) = exp(b) exp(u).
_LARGEST_SHIFT = 30.0


def canonicalise(graph: Graph) -> Graph:
    """Remove redundant constants and linear detours; the function stays the same up to rounding.

    A sum may be scaled and shifted if the functions after it undo that. The terms of a sum share
    one constant, the factors of a product one scale. The scale of a power and of log move into the
    node before, the shift of exp into its scale. The data determine every constant that remains
    free, so that rounding it makes sense.
    """
    graph = _without_linear_detours(_without_constants(graph))
    for node in range(graph.output, graph.inputs - 1, -1):
        for i in graph.into(node):
            graph = _absorb_argument(graph, i)
        graph = _share_constants(graph, node)
    return graph


def _symbolic(graph: Graph, index: int, candidate: Candidate | None = None) -> Symbolic | None:
    """Return the function of an edge if it is symbolic (and this candidate), else None."""
    function = graph.edges[index].function
    is_symbolic = isinstance(function, Symbolic) and candidate in (None, function.candidate)
    return function if is_symbolic else None  # type: ignore[return-value]


def _without_constants(graph: Graph) -> Graph:
    """Move constant edges into another term of their sum, or factor of their product."""
    dead: set[int] = set()
    for node in range(graph.inputs, graph.output + 1):
        into = graph.into(node)
        constants = {i: each.constants[3] for i in into if (each := _symbolic(graph, i, CONSTANT))}
        others = [i for i in into if i not in constants and not graph.is_identity(i)]
        if constants and others:
            values = list(constants.values())
            if graph.operation(node) == "sum":
                graph = shift_edge(graph, others[0], float(np.sum(values)))
            else:
                graph = scale_edge(graph, others[0], float(np.prod(values)))
            dead |= set(constants)
    return without_edges(graph, dead) if dead else graph


def _without_linear_detours(graph: Graph) -> Graph:
    """Remove hidden sums that are used only as c x + d: their terms join the node after them."""
    for node in range(graph.inputs, graph.output):
        out, into = graph.out_of(node), graph.into(node)
        if len(out) != 1 or graph.operation(node) != "sum" or not into:
            continue
        line, target = _symbolic(graph, out[0], IDENTITY), graph.edges[out[0]].target
        if line is None or (graph.operation(target) == "product" and len(into) > 1):
            continue
        graph = scale_node(graph, node, *line.constants[2:])
        edges = [
            replace(edge, target=target) if i in into else edge
            for i, edge in enumerate(graph.edges)
            if i != out[0]
        ]
        return _without_linear_detours(renumbered(graph, edges))
    return graph


def scale_node(graph: Graph, node: int, factor: float, shift: float = 0.0) -> Graph:
    """Change the value of `node` to factor * value + shift; a product takes no shift."""
    into = graph.into(node)
    first = next((i for i in into if not graph.is_identity(i)), into[0])
    for i in into if graph.operation(node) == "sum" else [first]:
        graph = scale_edge(graph, i, factor)
    return shift_edge(graph, first, shift) if shift != 0.0 else graph


def scale_edge(graph: Graph, index: int, factor: float) -> Graph:
    """Multiply edge `index` by `factor`.

    Its scale and shift become free if the candidate has them.
    """
    function, source = graph.edges[index].function, graph.edges[index].source
    if isinstance(function, Identity):
        if factor == 1.0:
            return graph
        if source >= graph.inputs and len(graph.out_of(source)) == 1:
            return scale_node(graph, source, factor)
        return graph.with_function(index, Symbolic(IDENTITY, (1.0, 0.0, factor, 0.0), "cd"))
    if isinstance(function, Symbolic) and abs(factor) != 1.0:
        freed = "c" + "d" * (function.constants[3] != 0.0)
        more = [name for name in freed if name in set(function.candidate.free) - set(function.free)]
        function = replace(function, free=function.free + "".join(more))
    assert isinstance(function, Spline | Symbolic)
    return graph.with_function(index, function.scaled(factor))


def shift_edge(graph: Graph, index: int, shift: float) -> Graph:
    """Add `shift` to the value of edge `index`."""
    function = graph.edges[index].function
    if isinstance(function, Spline | Symbolic):
        return graph.with_function(index, function.shifted(shift))
    return graph.with_function(index, Symbolic(IDENTITY, (1.0, 0.0, 1.0, shift), "d"))


def _absorb_argument(graph: Graph, index: int) -> Graph:
    """Move constants of an edge into its source if that feeds nothing else.

    These are a and b, then the scale c of a power and the shift d of log.
    """
    function, node = _symbolic(graph, index), graph.edges[index].source
    if function is None or function.candidate is CONSTANT:
        return graph
    if node < graph.inputs or len(graph.out_of(node)) > 1 or not graph.into(node):
        return graph
    a, b, c, d = function.constants
    is_sum = graph.operation(node) == "sum"
    graph = scale_node(graph, node, a, b if is_sum else 0.0)
    function = function.changed("ab", a=1.0, b=0.0) if is_sum else function.changed("a", a=1.0)
    b = 0.0 if is_sum else b
    candidate, factor = function.candidate, 1.0
    if c == 0.0 or (candidate is IDENTITY and is_sum):
        return graph.with_function(index, function)
    if candidate.homogeneous:
        value = candidate.value(np.array([1.0, 2.0]))
        factor = abs(c) ** (1 / float(np.log2(value[1] / value[0])))
        function = function.changed("c", c=float(np.sign(c)), b=b * factor)
    elif candidate.name == "exp" and abs(b) < _LARGEST_SHIFT:
        function = function.changed(b=0.0, c=c * float(np.exp(b)))
    elif candidate.name == "log" and abs(d / c) < _LARGEST_SHIFT:
        factor = float(np.exp(d / c))
        function = function.changed("d", d=0.0, b=b * factor)
    if factor != 1.0:
        graph = scale_node(graph, node, factor)
        if function.constants[1] != 0.0 and "b" in candidate.free and "b" not in function.free:
            function = replace(function, free=function.free + "b")
    return graph.with_function(index, function)


def _share_constants(graph: Graph, node: int) -> Graph:
    """Gather the constants of a sum in one term, the scales of a product in one factor."""
    into = graph.into(node)
    symbolic = {i: function for i in into if (function := _symbolic(graph, i))}
    if graph.operation(node) == "sum":
        splines = [i for i in into if isinstance(graph.edges[i].function, Spline)]
        carrier = next(iter([*splines, *(i for i in symbolic if "d" in symbolic[i].free)]), None)
        for i, function in symbolic.items():
            if carrier is not None and i != carrier:
                graph = graph.with_function(i, function.changed("d", d=0.0))
                graph = shift_edge(graph, carrier, function.constants[3])
        return graph if carrier is None else _shift_to_scale(graph, node, carrier)
    first, *others = [i for i in into if not graph.is_identity(i)] or [-1]
    for i in others:
        if i in symbolic and "c" in symbolic[i].free and symbolic[i].constants[2] != 0.0:
            c, d = symbolic[i].constants[2:]
            graph = graph.with_function(i, symbolic[i].changed("c", c=1.0, d=d / c))
            graph = scale_edge(graph, first, c)
    return graph


def _shift_to_scale(graph: Graph, node: int, carrier: int) -> Graph:
    """Move the constant of a sum that feeds exp alone into the scale of exp.

    Exp(u + d) = exp(d) exp(u).
    """
    out, inner = graph.out_of(node), _symbolic(graph, carrier)
    outer = _symbolic(graph, out[0]) if len(out) == 1 else None
    if inner is None or outer is None or outer.candidate.name != "exp":
        return graph
    shift = inner.constant("d")
    if outer.constants[:2] != (1.0, 0.0) or abs(shift) > _LARGEST_SHIFT:
        return graph
    graph = graph.with_function(carrier, inner.changed("d", d=0.0))
    outer = outer.changed(c=outer.constant("c") * float(np.exp(shift)))
    free = outer.free if "c" in outer.free else outer.free + "c"
    return graph.with_function(out[0], replace(outer, free=free))


def free_constants(graph: Graph) -> Graph:
    """Free all constants of the candidates again, before other edges change."""
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Symbolic):
            function = standardised(edge.function)
            function = replace(function, free=function.candidate.free, exact=())
            graph = graph.with_function(i, function)
    return graph
