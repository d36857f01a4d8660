"""Removal of edges, nodes and terms of a graph.

Each is followed by a refit, and kept if the validation error or the description length allows it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import CARRY, CONSTANT, IDENTITY
from kanrun.engine.symbolic.conversions import canonicalise
from kanrun.engine.symbolic.edge_functions import Symbolic, standardised
from kanrun.engine.symbolic.graph import Graph, without_edges
from kanrun.engine.symbolic.problem import SearchData, description_length
from kanrun.engine.symbolic.refit import (
    PENALTY,
    QUICK,
    RefitSettings,
    refit_on_grids,
    refit_to,
)

#: Factor of the smallest error so far that a removal may cause, and an error that is no loss.
_GROWTH, _NEGLIGIBLE_ERROR = 1.3, 1e-7
#: Steps of the refit without an edge, and without a node or a term of a formula.
EDGE_STEPS, _NODE_STEPS = 12, 40
#: Error below which a network is accurate, and the factor by which it may then grow without a node.
_ACCURATE, _ACCURATE_GROWTH = 3e-3, 6.0


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
        if edge.carries:
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
    sources = [each.source for each in graph.edges]
    sums = {
        graph.edges[i].source
        for i in graph.into(edge.target)
        if graph.edges[i].source >= graph.inputs and graph.operation(graph.edges[i].source) == "sum"
    }
    return edge.source in sums and len(sums) > 1 and sources.count(edge.source) == 1


def without(graph: Graph, index: int, data: SearchData) -> Graph:
    """Remove edge `index`; another edge into its node takes over its mean.

    Identity edges have no room for a mean.
    """
    node = graph.edges[index].target
    mean = float(np.mean(graph.edge_outputs(data.x)[1][index]))
    heirs = [i for i in graph.into(node) if i != index and not graph.edges[i].carries]
    if heirs:
        function = graph.edges[heirs[0]].function
        assert not isinstance(function, Graph), "networks have none"
        is_sum = graph.operation(node) == "sum"
        function = function.shifted(mean) if is_sum else function.scaled(mean or 1.0)
        graph = graph.with_function(heirs[0], function)
    return without_edges(graph, {index})


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
            if not isinstance(edge.function, Symbolic) or edge.function.candidate in (
                CONSTANT,
                CARRY,
            ):
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
