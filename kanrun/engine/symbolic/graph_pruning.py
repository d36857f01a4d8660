"""Smaller graphs: edges removed, splines merged, functions replaced by lines and constants.

Every change is followed by a refit, and kept if the validation error or the description length
allows it.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY
from kanrun.engine.symbolic.description_length import SearchData, description_length
from kanrun.engine.symbolic.edge_functions import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered, without_edges
from kanrun.engine.symbolic.invariances import canonicalise, scale_edge, shift_edge
from kanrun.engine.symbolic.refit import RefitSettings, refit, refit_on_grids, refit_to
from kanrun.engine.symbolic.search_problem import PruningPolicy


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


def eliminate(graph: Graph, data: SearchData, policy: PruningPolicy, penalty: float) -> Graph:
    """Remove hidden sums, then edges, as long as the error allows it, the least important first.

    An edge may go if the validation error after a refit is at most (1 + tolerance) times the
    smallest so far, or at most `floor`. Parallel nodes share a function that one node could have.
    The others need more steps to take it over, and while the network is accurate its error may grow
    several times: finer grids win that back.
    """
    best = data.error(graph)
    kept: set[tuple[int, int, int, int]] = set()
    while True:
        scores, tolerance = edge_scores(graph, data), 1 + policy.tolerance
        order = [i for i in np.argsort(scores).tolist() if np.isfinite(scores[i])]
        nodes = [i for i in order if _is_only_way_of_a_sum(graph, i)]
        growth = tolerance if best > policy.accurate else policy.accurate_growth
        limits = [
            (nodes, policy.node_steps, max(growth * best, policy.accurate)),
            (order, policy.edge_steps, max(tolerance * best, policy.floor)),
        ]
        for i, steps, limit in ((i, steps, limit) for some, steps, limit in limits for i in some):
            # An edge that must stay is tried again only after nodes have changed.
            key = graph.edges[i].source, graph.edges[i].target, len(graph.operations), steps
            if key in kept:
                continue
            kept.add(key)
            trial = without(graph, i, data)
            if trial.edges and len(trial.edges) < len(graph.edges):
                settings = RefitSettings(steps=steps, penalty=penalty, gain=1e-2)
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


def merge_splines(graph: Graph, data: SearchData, policy: PruningPolicy, penalty: float) -> Graph:
    """Replace two splines in a row, g(f(t)), by one wherever the error after a refit allows it.

    The division of a function between two edges is arbitrary: their composition can be a candidate
    if neither is.
    """
    kept: set[int] = set()
    settings = RefitSettings(steps=policy.edge_steps, penalty=penalty, gain=1e-2)
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
            points = np.linspace(first.low, first.high, 6 * (intervals + first.degree))
            values = second.value(first.value(points))
            ends = first.low, first.high
            one = Spline.through(points, values, ends, intervals, first.degree)
            others = [edge for i, edge in enumerate(graph.edges) if i not in (into[0], out[0])]
            edge = Edge(graph.edges[into[0]].source, graph.edges[out[0]].target, one)
            trial = refit(renumbered(graph, [*others, edge]), data.x, data.y, settings).graph
            if data.error(trial) <= max((1 + policy.tolerance) * data.error(graph), policy.floor):
                graph = trial
                break
            kept.add(graph.mark(node))
    return graph


def drop_terms(graph: Graph, data: SearchData, policy: PruningPolicy = PruningPolicy()) -> Graph:
    """Replace functions by lines and constants while that shortens the description.

    Two replacements together may shorten it where one does not, as in exp(sqrt(x)) for a line.
    """
    settings = RefitSettings(steps=policy.node_steps, gain=1e-2)
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
