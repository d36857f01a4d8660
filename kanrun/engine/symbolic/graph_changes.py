"""Changes of a graph: redundant constants, values scaled and shifted, edges and terms removed.

The first keep its function. Removals are followed by a refit, and kept if the validation error or
the description length allows it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, Candidate
from kanrun.engine.symbolic.edge_functions import Identity, Spline, Symbolic, standardised
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered, without_edges
from kanrun.engine.symbolic.problem import SearchData, description_length
from kanrun.engine.symbolic.refit import (
    PENALTY,
    QUICK,
    RefitSettings,
    refit,
    refit_on_grids,
    refit_to,
)

#: Factor of the smallest error so far that a removal may cause, and an error that is no loss.
_GROWTH, _NEGLIGIBLE_ERROR = 1.3, 1e-7
#: Steps of the refit without an edge, and without a node or a term of a formula.
EDGE_STEPS, _NODE_STEPS = 12, 40
#: Error below which a network is accurate, and the factor by which it may then grow without a node.
_ACCURATE, _ACCURATE_GROWTH = 3e-3, 6.0
#: Points per coefficient at which two splines in a row are fitted by one.
_POINTS_EACH = 6
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


def edge_scores(graph: Graph, data: SearchData) -> list[float]:
    """Return the RMS change of the output, relative to the std of y, if an edge gives its mean."""
    values, outs = graph.edge_outputs(data.x)
    scores = []
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Identity):
            scores.append(np.inf)
            continue
        change = (
            graph.with_function(i, _flat(float(np.mean(outs[i]))))(data.x) - values[graph.output]
        )
        scores.append(float(np.sqrt(np.mean(change**2))) / data.y_std)
    return scores


def _flat(value: float) -> Symbolic:
    return Symbolic(CONSTANT, (1.0, 0.0, 0.0, value), "d")


def eliminate(graph: Graph, data: SearchData) -> Graph:
    """Remove hidden sums, then edges, as long as the error allows it, the least important first.

    An edge may go if the validation error after a refit is at most (1 + tolerance) times the
    smallest so far, or at most `floor`. Parallel nodes share a function that one node could have.
    The others need more steps to take it over, and while the network is accurate its error may grow
    several times: finer grids win that back.
    """
    best = data.error(graph)
    kept: set[tuple[int, int, int, int]] = set()
    while True:
        scores = edge_scores(graph, data)
        order = [i for i in np.argsort(scores).tolist() if np.isfinite(scores[i])]
        nodes = [i for i in order if _is_only_way_of_a_sum(graph, i)]
        growth = _GROWTH if best > _ACCURATE else _ACCURATE_GROWTH
        limits = [
            (nodes, _NODE_STEPS, max(growth * best, _ACCURATE)),
            (order, EDGE_STEPS, max(_GROWTH * best, _NEGLIGIBLE_ERROR)),
        ]
        for i, steps, limit in ((i, steps, limit) for some, steps, limit in limits for i in some):
            # An edge that must stay is tried again only after nodes have changed.
            key = graph.edges[i].source, graph.edges[i].target, len(graph.operations), steps
            if key in kept:
                continue
            kept.add(key)
            trial = without(graph, i, data)
            if trial.edges and len(trial.edges) < len(graph.edges):
                settings = RefitSettings(steps, penalty=PENALTY, gain=QUICK)
                trial = refit_on_grids(trial, data, settings)
                error = data.error(trial)
                if error <= limit:
                    graph, best = trial, min(best, error)
                    break
        else:
            return graph


def _is_only_way_of_a_sum(graph: Graph, index: int) -> bool:
    """Return whether a hidden sum feeds this edge alone, and another sum feeds its target."""
    edge = graph.edges[index]
    sums = {
        graph.edges[i].source
        for i in graph.into(edge.target)
        if graph.edges[i].source >= graph.inputs and graph.operation(graph.edges[i].source) == "sum"
    }
    return edge.source in sums and len(sums) > 1 and len(graph.out_of(edge.source)) == 1


def without(graph: Graph, index: int, data: SearchData) -> Graph:
    """Remove edge `index`; another edge into its node takes over its mean.

    Identity edges have no room for a mean.
    """
    node = graph.edges[index].target
    mean = float(np.mean(graph.edge_outputs(data.x)[1][index]))
    heirs = [
        i
        for i in graph.into(node)
        if i != index and not isinstance(graph.edges[i].function, Identity)
    ]
    if heirs and graph.operation(node) == "sum":
        graph = shift_edge(graph, heirs[0], mean)
    elif heirs and mean != 0.0:
        graph = scale_edge(graph, heirs[0], mean)
    return without_edges(graph, {index})


def merge_splines(graph: Graph, data: SearchData) -> Graph:
    """Replace two splines in a row, g(f(t)), by one wherever the error after a refit allows it.

    The division of a function between two edges is arbitrary: their composition can be a candidate
    if neither is.
    """
    kept: set[int] = set()
    settings = RefitSettings(EDGE_STEPS, penalty=PENALTY, gain=QUICK)
    for _ in graph.operations:
        for node in range(graph.inputs, graph.output):
            into, out = graph.into(node), graph.out_of(node)
            if len(into) != 1 or len(out) != 1 or graph.mark(node) in kept:
                continue
            first, second = graph.edges[into[0]].function, graph.edges[out[0]].function
            if not (isinstance(first, Spline) and isinstance(second, Spline)):
                continue
            # The merged spline has the number of coefficients of the two splines.
            intervals = first.intervals + second.intervals + first.degree
            points = np.linspace(first.low, first.high, _POINTS_EACH * (intervals + first.degree))
            values = second.value(first.value(points))
            ends = first.low, first.high
            one = Spline.through(points, values, ends, intervals, first.degree)
            others = [edge for i, edge in enumerate(graph.edges) if i not in (into[0], out[0])]
            edge = Edge(graph.edges[into[0]].source, graph.edges[out[0]].target, one)
            trial = refit(renumbered(graph, [*others, edge]), data.x, data.y, settings).graph
            if data.error(trial) <= max(_GROWTH * data.error(graph), _NEGLIGIBLE_ERROR):
                graph = trial
                break
            kept.add(graph.mark(node))
    return graph


def drop_terms(graph: Graph, data: SearchData) -> Graph:
    """Replace functions by lines and constants while that shortens the description.

    Two replacements together may shorten it where one does not, as in exp(sqrt(x)) for a line.
    """
    settings = RefitSettings(_NODE_STEPS, gain=QUICK)
    best, missed = (description_length(graph, data), graph), 0
    while missed < 2:
        trials = []
        values, outs = graph.edge_outputs(data.x)
        for i, edge in enumerate(graph.edges):
            if not isinstance(edge.function, Symbolic) or edge.function.candidate is CONSTANT:
                continue
            t, out = values[edge.source], outs[i]
            simpler = [_flat(float(out.mean()))]
            if edge.function.candidate is not IDENTITY and np.ptp(t) > 0:
                slope, height = np.polyfit(t, out, 1).tolist()
                simpler.append(Symbolic(IDENTITY, (1.0, 0.0, slope, height), "cd"))
            for other in simpler:
                trial = refit_to(canonicalise(graph.with_function(i, other)), data, settings)
                trials.append((description_length(trial, data), trial))
        if not trials:
            break
        length, graph = min(trials, key=lambda entry: entry[0])
        missed = 0 if length < best[0] else missed + 1
        best = (length, graph) if missed == 0 else best
    return best[1]
