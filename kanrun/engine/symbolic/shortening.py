"""Edges that a formula does without: each is tried as a constant and as a line, and stays so where that says the same
in fewer words."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY
from kanrun.engine.symbolic.canonical import canonical
from kanrun.engine.symbolic.description import description_length
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples

_STEPS = 40


def shortened(graph: Graph, samples: Samples) -> Graph:
    """`graph`, all of whose edges are symbolic, without the functions that lengthen its description."""
    length = description_length(graph, samples)
    while True:
        trials = [(description_length(trial, samples), trial) for trial in _trials(graph, samples)]
        best = min(trials, key=lambda entry: entry[0], default=None)
        if best is None or best[0] >= length:
            return graph
        length, graph = best


def _trials(graph: Graph, samples: Samples) -> list[Graph]:
    """The graph with one edge simpler, for every edge and way, refitted."""
    values, outs = graph.edge_outputs(samples.x)
    trials = []
    for i, edge in enumerate(graph.edges):
        function = edge.function
        if not isinstance(function, Symbolic) or function.candidate is CONSTANT:
            continue
        t, out = values[edge.source], outs[i]
        simpler = [Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(out.mean())), "d")]
        if function.candidate is not IDENTITY and np.ptp(t) > 0:
            slope, height = np.polyfit(t, out, 1).tolist()
            simpler.append(Symbolic(IDENTITY, (1.0, 0.0, slope, height), "cd"))
        for other in simpler:
            trial = canonical(graph.with_function(i, other))
            trials.append(refit(trial, samples.x, samples.y, Settings(steps=_STEPS, gain=1e-2)).graph)
    return trials
