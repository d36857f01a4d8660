"""The freedom between a product and a sum: alpha + phi psi is (alpha - k phi) + phi (psi + k), whatever k is, for alpha
and phi of the same node. Of a trained network any k comes out; one brings alpha to what a formula has there."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, TWINS, Array, Candidate
from kanrun.engine.symbolic.edge_matching import ROUNDING, grid_values, thinned
from kanrun.engine.symbolic.edges import Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.regression import covered
from kanrun.engine.symbolic.search_problem import MatchingPolicy, SearchProblem


def variants(graph: Graph, problem: SearchProblem) -> list[Graph]:
    """The same function in a few forms, those first in which every alpha is nearest to a candidate; `graph` alone where
    no product has such freedom."""
    states = [(0.0, 0, graph)]
    for alpha, phi, psi in _product_pairs(graph):
        found: list[tuple[float, int, Graph]] = []
        for score, _, each in states:
            values, outs = each.edge_outputs(problem.data.x)
            t = values[each.edges[alpha].source]
            for candidate in problem.candidates:
                shift = _shift(t, outs[alpha], outs[phi], candidate, problem.policy.matching)
                if shift is not None:
                    found.append(
                        (score + shift[0], len(found), _shifted(each, alpha, phi, psi, shift[1]))
                    )
        states = (
            sorted(found, key=lambda entry: entry[:2])[: problem.policy.selection.variants]
            or states
        )
    return [each for *_, each in states]


def _product_pairs(graph: Graph) -> list[tuple[int, int, int]]:
    """Edges alpha, phi and psi, all splines: alpha goes into the sum into which the product of phi and psi goes."""
    found = []
    for carry in graph.edges:
        node = carry.source
        if (
            not isinstance(carry.function, Identity)
            or node < graph.inputs
            or graph.operation(node) != "product"
        ):
            continue
        factors = graph.into(node)
        if (
            len(factors) != 2
            or len(graph.out_of(node)) != 1
            or graph.operation(carry.target) != "sum"
        ):
            continue
        for phi, psi in (factors, factors[::-1]):
            for alpha in graph.into(carry.target):
                same = (
                    graph.edges[alpha].source == graph.edges[phi].source != graph.edges[psi].source
                )
                if same and all(
                    isinstance(graph.edges[i].function, Spline) for i in (alpha, phi, psi)
                ):
                    found.append((alpha, phi, psi))
    return found


def _shift(
    t: Array, alpha: Array, phi: Array, candidate: Candidate, policy: MatchingPolicy
) -> tuple[float, float] | None:
    """The score of alpha as k phi + c f(a t + b) + d, with f the candidate, and k; None where that is not defined."""
    t, alpha, phi = thinned(policy.points, t, alpha, phi)
    grid, f = grid_values(candidate, policy.coarse)
    spread, half = float(np.std(alpha)), (t[-1] - t[0]) / 2
    if (
        spread == 0.0
        or half == 0.0
        or not len(grid)
        or candidate is CONSTANT
        or candidate.name in TWINS
    ):
        return None
    tau = np.linspace(t[0], t[-1], policy.coarse)
    basis = np.linalg.qr(np.stack([np.ones_like(tau), np.interp(tau, t, phi)], axis=1))[0]
    a, b = grid[int(np.argmax(covered(np.interp(tau, t, alpha), f, basis)[0]))].tolist()
    begun = Symbolic(candidate, (a / half, b - a * (t[0] + half) / half, 1.0, 0.0), candidate.free)
    design = np.stack([begun.value(t), phi, np.ones_like(t)], axis=1)
    if not np.isfinite(design).all():
        return None
    c, k, d = np.linalg.lstsq(design, alpha, rcond=None)[0].tolist()
    line = Symbolic(IDENTITY, (1.0, 0.0, k, 0.0), "c")
    both = Graph(2, ("sum",), (Edge(0, 2, begun.changed(c=c, d=d)), Edge(1, 2, line)))
    fitted = refit(
        both, np.stack([t, phi], axis=1), alpha, RefitSettings(steps=30, gain=1e-3, damping=1e-4)
    )
    function, line = (edge.function for edge in fitted.graph.edges)  # type: ignore[assignment]
    if not (isinstance(function, Symbolic) and np.isfinite(fitted.rmse) and function.allows(t)):
        return None
    return float(
        np.log10(max((fitted.rmse / spread) ** 2, ROUNDING))
    ) + 0.5 * candidate.complexity, line.constants[2]


def _shifted(graph: Graph, alpha: int, phi: int, psi: int, k: float) -> Graph:
    """alpha - k phi and psi + k in place of alpha and psi."""
    first, factor, other = (graph.edges[i].function for i in (alpha, phi, psi))
    assert isinstance(first, Spline)
    assert isinstance(factor, Spline)
    assert isinstance(other, Spline)
    if (first.low, first.high, first.intervals) != (factor.low, factor.high, factor.intervals):
        factor = factor.refined(first.intervals, first.low, first.high)
    graph = graph.with_function(
        alpha, first.with_parameters(first.parameters - k * factor.parameters)
    )
    return graph.with_function(psi, other.shifted(k))
