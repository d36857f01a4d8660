"""The freedom between a product and the sum beside it, used to make the sum's terms plain.

In alpha(x) + phi(x) psi(y) a constant k may move: (alpha - k phi)(x) + phi(x) (psi + k)(y) is the same function.
Training leaves
k anywhere; matching wants the alpha that is nearest to a straight line, which is often no term at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanrun.engine.symbolic.edges import Identity, Spline
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.samples import Samples


@dataclass(frozen=True)
class Pair:
    """Edges of the same source: `alpha` into a sum, `phi` into a product of two that goes into that sum; `psi` the
    other."""

    alpha: int
    phi: int
    psi: int


def pairs(graph: Graph) -> list[Pair]:
    """All such pairs whose functions are splines."""
    found = []
    for carry in graph.edges:
        node = carry.source
        if not isinstance(carry.function, Identity) or node < graph.inputs or graph.operation(node) != "product":
            continue
        factors = graph.into(node)
        if len(factors) != 2 or len(graph.out_of(node)) != 1 or graph.operation(carry.target) != "sum":
            continue
        for phi, psi in (factors, factors[::-1]):
            for alpha in graph.into(carry.target):
                same = graph.edges[alpha].source == graph.edges[phi].source
                splines = all(isinstance(graph.edges[i].function, Spline) for i in (alpha, phi, psi))
                if same and splines and graph.edges[alpha].source != graph.edges[psi].source:
                    found.append(Pair(alpha, phi, psi))
    return found


def plain_gauge(graph: Graph, samples: Samples) -> Graph:
    """The same function with every alpha as straight as its k can make it."""
    for pair in pairs(graph):
        graph = shifted(graph, pair, _straightening(graph, pair, samples))
    return graph


def shifted(graph: Graph, pair: Pair, k: float) -> Graph:
    """alpha - k phi and psi + k in place of alpha and psi."""
    alpha, phi, psi = (graph.edges[i].function for i in (pair.alpha, pair.phi, pair.psi))
    assert isinstance(alpha, Spline)
    assert isinstance(phi, Spline)
    assert isinstance(psi, Spline)
    on_same = phi.refined(alpha.intervals, alpha.low, alpha.high) if _differs(alpha, phi) else phi
    graph = graph.with_function(pair.alpha, alpha.with_parameters(alpha.parameters - k * on_same.parameters))
    return graph.with_function(pair.psi, psi.with_parameters(psi.parameters + k))


def removing(graph: Graph, index: int, samples: Samples) -> Graph:
    """The graph with as much as possible of edge `index` moved into a product beside it, if there is one."""
    values, outs = graph.edge_outputs(samples.x)
    for pair in pairs(graph):
        if pair.alpha == index:
            design = np.stack([outs[pair.phi], np.ones(values[0].size)], axis=1)
            k = float(np.linalg.lstsq(design, outs[index], rcond=None)[0][0])
            return shifted(graph, pair, k)
    return graph


def _straightening(graph: Graph, pair: Pair, samples: Samples) -> float:
    """k with alpha - k phi nearest to a line, over the data's arguments."""
    values, outs = graph.edge_outputs(samples.x)
    t = values[graph.edges[pair.alpha].source]
    design = np.stack([outs[pair.phi], t, np.ones_like(t)], axis=1)
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    line = design[:, 1:] / scale[1:]
    bent = outs[pair.phi] - line @ np.linalg.lstsq(line, outs[pair.phi], rcond=None)[0]
    if np.linalg.norm(bent) < 1e-6 * np.linalg.norm(outs[pair.phi]):
        return float(np.linalg.lstsq(design[:, [0, 2]], outs[pair.alpha], rcond=None)[0][0])
    return float(np.linalg.lstsq(design / scale, outs[pair.alpha], rcond=None)[0][0] / scale[0])


def _differs(first: Spline, second: Spline) -> bool:
    return (first.low, first.high, first.intervals) != (second.low, second.high, second.intervals)
