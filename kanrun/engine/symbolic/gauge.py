"""The freedom between a product and the sum beside it, used to make the sum's terms plain.

In alpha(x) + phi(x) psi(y) a constant k may move: (alpha - k phi)(x) + phi(x) (psi + k)(y) is the same function.
Training leaves k anywhere; matching wants the alpha that is nearest to a straight line, which is often no term at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, TWINS, Array, Candidate
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.matching import ROUNDING, grid_values
from kanrun.engine.symbolic.refit import Settings, refit
from kanrun.engine.symbolic.samples import Samples

#: Gauges tried beside the straight one, and the score (digits and complexity) that an alpha must reach in them.
_MOST_GAUGES, _CLEAR_SCORE = 3, -3.5


@dataclass(frozen=True)
class Pair:
    """Edges of the same source: `alpha` into a sum, and `phi` into a product of two that goes into that sum; `psi` is
    the product's other edge."""

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


def gauges(graph: Graph, samples: Samples, candidates: Sequence[Candidate]) -> list[Graph]:
    """The same function in a few gauges: the straight one, then those in which an alpha is nearest to a candidate."""
    straight = plain_gauge(graph, samples)
    found = []
    for pair in pairs(straight):
        values, outs = straight.edge_outputs(samples.x)
        t = values[straight.edges[pair.alpha].source]
        for score, k in _candidate_shifts(t, outs[pair.alpha], outs[pair.phi], candidates):
            found.append((score, shifted(straight, pair, k)))
    return [straight, *(each for _, each in sorted(found, key=lambda entry: entry[0])[:_MOST_GAUGES])]


def _candidate_shifts(t: Array, alpha: Array, phi: Array, candidates: Sequence[Candidate]) -> list[tuple[float, float]]:
    """(score, k) for each candidate f with alpha near k phi + c f(a t + b) + d, where that is better than chance."""
    thin = np.argsort(t, kind="stable")[np.linspace(0, t.size - 1, min(t.size, 120)).astype(int)]
    t, alpha, phi = t[thin], alpha[thin], phi[thin]
    spread = float(np.std(alpha))
    shifts = []
    for candidate in candidates:
        if spread == 0.0 or candidate is CONSTANT or candidate.name in TWINS or candidate is IDENTITY:
            continue
        begun = _begun(t, alpha, phi, candidate)
        if begun is None:
            continue
        fitted = refit(begun, np.stack([t, phi], axis=1), alpha, Settings(steps=30, gain=1e-3, damping=1e-4))
        f, line = fitted.graph.edges[0].function, fitted.graph.edges[1].function
        if isinstance(f, Symbolic) and isinstance(line, Symbolic) and np.isfinite(fitted.rmse) and f.allows(t):
            loss = max((fitted.rmse / spread) ** 2, ROUNDING)
            shifts.append((float(np.log10(loss)) + 0.5 * candidate.complexity, line.constants[2]))
    return [shift for shift in shifts if shift[0] < _CLEAR_SCORE]


def _begun(t: Array, alpha: Array, phi: Array, candidate: Candidate) -> Graph | None:
    """k phi + c f(a t + b) + d at the best point of f's grid."""
    middle, half = float(t.max() + t.min()) / 2, float(t.max() - t.min()) / 2
    grid, f, _ = grid_values(candidate)
    if half == 0.0 or not len(grid):
        return None
    tau = np.linspace(-1, 1, f.shape[1])
    order = (t - middle) / half
    beside = np.stack([np.ones_like(tau), np.interp(tau, order, phi)])
    basis = np.linalg.qr(beside.T)[0]
    rest = np.interp(tau, order, alpha)
    rest = rest - basis @ (basis.T @ rest)
    left = f - (f @ basis) @ basis.T
    power = np.einsum("gn,gn->g", left, left)
    usable = power > 1e-10 * np.einsum("gn,gn->g", f, f)
    cover = np.where(usable, (left @ rest) ** 2 / np.where(usable, power, 1.0), -1.0)
    a, b = grid[int(np.argmax(cover))]
    edge = Symbolic(candidate, (float(a) / half, float(b - a * middle / half), 1.0, 0.0), candidate.free)
    line = Symbolic(IDENTITY, (1.0, 0.0, 0.0, 0.0), "c")
    design = np.stack([edge.evaluate(t, columns=False)[0], phi, np.ones_like(t)], axis=1)
    if not np.isfinite(design).all():
        return None
    c, k, d = np.linalg.lstsq(design, alpha, rcond=None)[0].tolist()
    edge = replace(edge, constants=(*edge.constants[:2], c, d))
    return Graph(2, ("sum",), (Edge(0, 2, edge), Edge(1, 2, replace(line, constants=(1.0, 0.0, k, 0.0)))))


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
