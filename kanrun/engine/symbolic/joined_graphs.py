"""Graphs of one input joined from terms: polynomials, their quotients, sums; what such a graph is called and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kanrun.engine.symbolic.candidates import IDENTITY, TABLE, Array, power
from kanrun.engine.symbolic.dictionary import call
from kanrun.engine.symbolic.edges import Identity, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph
from kanrun.engine.symbolic.trees import Call, Joined, Part


def polynomial_graph(powers: Sequence[int], coefficients: Array, scale: float, *, fixed: int | None = None) -> Joined:
    """sum c (t / scale)^p; the coefficient of the power `fixed` stays as it is."""
    calls, constant = [], 0.0
    for p, c in zip(powers, coefficients.tolist(), strict=True):
        if p == 0:
            constant = c
        else:
            calls.append(call(power(p), c=c / scale**p, free="" if p == fixed else "c"))
    free = 0 in powers and fixed != 0
    first = calls[0].function
    first = replace(first, free=first.free + "d" * free).changed(d=constant)
    return Joined("sum", (Call(first), *calls[1:]))


def quotient_of_polynomials(t: Array, y: Array, above: int, below: int) -> Joined:
    """P / Q of degrees `above` and `below` for y = P / Q at t, as the linear equation y Q = P gives them, without the
    terms that are zero."""
    scale = float(np.abs(t).max())
    p_powers, q_powers = list(range(above + 1)), list(range(below + 1))
    while True:
        up = np.stack([(t / scale) ** k for k in p_powers], axis=1)
        down = np.stack([(t / scale) ** k for k in q_powers], axis=1)
        system = np.concatenate([up, -y[:, None] * down], axis=1)
        norms = np.linalg.norm(system, axis=0)
        null = np.linalg.svd(system / norms, full_matrices=False)[2][-1]
        share = np.abs(null)
        least = int(np.argmin(share))
        if share[least] > _ZERO * share.max() or len(share) <= _FEWEST:
            break
        if least < len(p_powers):
            p_powers.pop(least)
        else:
            q_powers.pop(least - len(p_powers))
    null = null / norms
    p, q = null[: len(p_powers)], null[len(p_powers) :]
    if p_powers == [0]:
        inverse = Symbolic(TABLE["1/x"], (1.0, 0.0, float(p[0] / np.abs(q).max()), 0.0), "c")
        return Joined("sum", (Call(inverse, polynomial_graph(q_powers, q / np.abs(q).max(), scale)),))
    fixed = 0 if q_powers[0] == 0 else q_powers[-1]
    unit = q[q_powers.index(fixed)] / scale**fixed
    denominator = polynomial_graph(q_powers, q / unit, scale, fixed=fixed)
    inverse = Symbolic(TABLE["1/x"], (1.0, 0.0, 1.0, 0.0), "")
    return Joined(
        "sum", (Joined("product", (polynomial_graph(p_powers, p / unit, scale), Call(inverse, denominator))),)
    )


#: Share of the largest coefficient that counts as zero, and the coefficients that a quotient has at least.
_ZERO, _FEWEST = 1e-7, 3


def with_constant(terms: Sequence[Part], constant: float) -> Joined:
    parts = list(terms)
    for i, part in enumerate(parts):
        if isinstance(part, Call):
            parts[i] = replace(part, function=part.function.shifted(constant))
            return Joined("sum", tuple(parts))
    return Joined("sum", (*parts, Call(Symbolic(TABLE["0"], (1.0, 0.0, 0.0, constant), "d"))))


def summed_graphs(graph: Graph, more: Graph) -> Graph:
    """The sum of two graphs of one input whose outputs are sums."""
    hidden = len(graph.operations) - 1

    def moved(node: int) -> int:
        return node + hidden if node else 0

    last = graph.output
    shift = len(more.operations) - 1
    edges = [Edge(e.source, e.target + shift if e.target == last else e.target, e.function) for e in graph.edges]
    edges += [Edge(moved(e.source), moved(e.target), e.function) for e in more.edges]
    operations = (*graph.operations[:-1], *more.operations[:-1], "sum")
    return Graph(1, operations, tuple(sorted(edges, key=lambda e: (e.target, e.source))))


def graph_name(graph: Graph) -> str:
    """The functions of a graph of one input, such as `sin(x^2) * cos + x`."""
    shown: list[str] = [""]
    for node in range(1, graph.output + 1):
        parts = []
        for i in graph.into(node):
            edge = graph.edges[i]
            inner = shown[edge.source]
            name = "" if isinstance(edge.function, Identity) else getattr(edge.function, "candidate", IDENTITY).name
            if not name or (name == "x" and inner):
                parts.append(f"({inner})" if graph.operation(node) == "product" and " + " in inner else inner)
            elif name != "0":
                parts.append(f"{name}({inner})" if inner else name)
        shown.append((" + " if graph.operation(node) == "sum" else " * ").join(parts))
    return shown[-1]


def graph_complexity(graph: Graph) -> float:
    """Of the functions, one more for every one beyond the first, and one for every free constant beyond c and d."""
    functions = [edge.function for edge in graph.edges if isinstance(edge.function, Symbolic)]
    return sum(f.candidate.complexity for f in functions) + max(len(functions) - 1, 0)
