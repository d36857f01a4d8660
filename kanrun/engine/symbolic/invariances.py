"""Changes of a graph that keep its function: redundant constants, and the freedom between a product and a sum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kanrun.engine.symbolic.candidates import CONSTANT, IDENTITY, TWINS, Array, Candidate
from kanrun.engine.symbolic.description_length import SearchData
from kanrun.engine.symbolic.edge_matching import ROUNDING, grid_values, standardised
from kanrun.engine.symbolic.edges import EdgeFunction, Identity, Spline, Symbolic
from kanrun.engine.symbolic.graph import Edge, Graph, renumbered, without_edges
from kanrun.engine.symbolic.refit import RefitSettings, refit
from kanrun.engine.symbolic.search_problem import SearchProblem

#: log(s u) = log s + log u moves a constant of this size at most into s.
_LARGEST_SHIFT = 30.0


def canonical(graph: Graph) -> Graph:
    """`graph` without redundant constants, linear detours taken out; equal up to rounding wherever it is defined."""
    graph = _without_linear_detours(_without_constants(graph))
    for node in range(graph.output, graph.inputs - 1, -1):
        for i in graph.into(node):
            graph = _absorb_argument(graph, i)
        graph = _one_constant(graph, node) if graph.operation(node) == "sum" else _one_scale(graph, node)
    return graph


def _set(graph: Graph, index: int, **constants: float) -> Graph:
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    values = dict(zip("abcd", function.constants, strict=True)) | constants
    return graph.with_function(index, replace(function, constants=(values["a"], values["b"], values["c"], values["d"])))


def _fix(graph: Graph, index: int, names: str) -> Graph:
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    return graph.with_function(index, replace(function, free="".join(n for n in function.free if n not in names)))


def _without_constants(graph: Graph) -> Graph:
    """Constant edges of a sum put into its other terms."""
    dead = set()
    for node in range(graph.inputs, graph.output + 1):
        into = graph.into(node)
        constant = [i for i in into if _is(graph, i, CONSTANT.name)]
        others = [i for i in into if i not in constant and not isinstance(graph.edges[i].function, Identity)]
        if not constant or not others:
            continue
        value = [graph.edges[i].function.constants[3] for i in constant]  # type: ignore[attr-defined]
        if graph.operation(node) == "sum":
            graph = shift_edge(graph, others[0], float(np.sum(value)))
        else:
            graph = scale_edge(graph, others[0], float(np.prod(value)))
        dead |= set(constant)
    return without_edges(graph, dead) if dead else graph


def _is(graph: Graph, index: int, name: str) -> bool:
    function = graph.edges[index].function
    return isinstance(function, Symbolic) and function.candidate.name == name


def _without_linear_detours(graph: Graph) -> Graph:
    """A hidden sum that goes on as c x + d only is taken out: its terms go where it went."""
    for node in range(graph.inputs, graph.output):
        out = graph.out_of(node)
        if len(out) != 1 or graph.operation(node) != "sum" or not _is(graph, out[0], IDENTITY.name):
            continue
        target = graph.edges[out[0]].target
        _, _, c, d = graph.edges[out[0]].function.constants  # type: ignore[attr-defined]
        into = graph.into(node)
        if not into or (graph.operation(target) == "product" and len(into) > 1):
            continue
        graph = scale_node(graph, node, c, d)
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
    if graph.operation(node) == "product":
        first = next((i for i in into if not isinstance(graph.edges[i].function, Identity)), into[0])
        return scale_edge(graph, first, factor)
    for i in into:
        graph = scale_edge(graph, i, factor)
    if shift != 0.0:
        best = sorted(into, key=lambda i: isinstance(graph.edges[i].function, Identity))[0]
        graph = shift_edge(graph, best, shift)
    return graph


def scale_edge(graph: Graph, index: int, factor: float) -> Graph:
    """The graph in which edge `index` gives factor * its old value."""
    function = graph.edges[index].function
    new: EdgeFunction
    if isinstance(function, Spline):
        new = function.with_parameters(function.parameters * factor)
    elif isinstance(function, Symbolic):
        a, b, c, d = function.constants
        new = replace(function, constants=(a, b, c * factor, d * factor))
    elif factor == 1.0:
        return graph
    else:
        source = graph.edges[index].source
        if source >= graph.inputs and len(graph.out_of(source)) == 1:
            return scale_node(graph, source, factor)
        new = Symbolic(IDENTITY, (1.0, 0.0, factor, 0.0), "cd")
    return graph.with_function(index, new)


def shift_edge(graph: Graph, index: int, shift: float) -> Graph:
    """The graph in which edge `index` gives its old value + shift."""
    function = graph.edges[index].function
    if isinstance(function, Spline):
        return graph.with_function(index, function.with_parameters(function.parameters + shift))
    if isinstance(function, Symbolic):
        free = function.free if "d" in function.free else function.free + "d"
        moved = replace(function, free=free)
        return _set(graph.with_function(index, moved), index, d=function.constants[3] + shift)
    return graph.with_function(index, Symbolic(IDENTITY, (1.0, 0.0, 1.0, shift), "d"))


def _absorb_argument(graph: Graph, index: int) -> Graph:
    """a and b of an edge out of a node that leads nowhere else go into the node; then the edge's own redundancy."""
    edge = graph.edges[index]
    function, node = edge.function, edge.source
    if not isinstance(function, Symbolic) or node < graph.inputs or len(graph.out_of(node)) > 1:
        return graph
    if function.candidate is CONSTANT or not graph.into(node):
        return graph
    a, b, _, _ = function.constants
    if graph.operation(node) == "sum":
        graph = _fix(_set(scale_node(graph, node, a, b), index, a=1.0, b=0.0), index, "ab")
    else:
        graph = _fix(_set(scale_node(graph, node, a), index, a=1.0), index, "a")
    return _absorb_scale(graph, index, node)


def _absorb_scale(graph: Graph, index: int, node: int) -> Graph:
    """c of a power, c of exp and d of log, at the edge `index` out of `node`, go into the node."""
    function = graph.edges[index].function
    assert isinstance(function, Symbolic)
    _, b, c, d = function.constants
    name = function.candidate.name
    is_sum = graph.operation(node) == "sum"
    if c == 0.0 or (function.candidate is IDENTITY and is_sum):
        return graph
    if function.candidate.homogeneous:
        value = function.candidate.value(np.array([1.0, 2.0]))
        factor = abs(c) ** (1 / float(np.log2(value[1] / value[0])))
        graph = _set(scale_node(graph, node, factor), index, c=float(np.sign(c)), b=b * factor)
        return _fix(graph, index, "c")
    if name == "exp" and is_sum:
        return _fix(_set(scale_node(graph, node, 1.0, float(np.log(abs(c)))), index, c=float(np.sign(c))), index, "c")
    if name == "log" and abs(d / c) < _LARGEST_SHIFT:
        factor = float(np.exp(d / c))
        return _fix(_set(scale_node(graph, node, factor), index, d=0.0, b=b * factor), index, "d")
    return graph


def _one_constant(graph: Graph, node: int) -> Graph:
    """The constants of a sum's terms gathered in one of them: a spline if there is one."""
    into = graph.into(node)
    symbolic = [i for i in into if isinstance(graph.edges[i].function, Symbolic)]
    splines = [i for i in into if isinstance(graph.edges[i].function, Spline)]
    carrier = splines[0] if splines else next((i for i in symbolic if "d" in _free(graph, i)), None)
    if carrier is None:
        return graph
    for i in symbolic:
        if i == carrier:
            continue
        constant = graph.edges[i].function.constants[3]  # type: ignore[attr-defined]
        graph = _fix(_set(graph, i, d=0.0), i, "d")
        graph = shift_edge(graph, carrier, constant)
    return graph


def _one_scale(graph: Graph, node: int) -> Graph:
    """The scales of a product's factors gathered in the first of them; the others get c = 1."""
    into = [i for i in graph.into(node) if not isinstance(graph.edges[i].function, Identity)]
    for i in into[1:]:
        function = graph.edges[i].function
        if isinstance(function, Symbolic) and "c" in function.free and function.constants[2] != 0.0:
            c, d = function.constants[2:]
            graph = _fix(_set(graph, i, c=1.0, d=d / c), i, "c")
            graph = scale_edge(graph, into[0], c)
    return graph


def _free(graph: Graph, index: int) -> str:
    function = graph.edges[index].function
    return function.free if isinstance(function, Symbolic) else ""


def released(graph: Graph) -> Graph:
    """The graph with every candidate's own constants free again, before other edges change."""
    for i, edge in enumerate(graph.edges):
        if isinstance(edge.function, Symbolic):
            function = standardised(edge.function)
            graph = graph.with_function(i, replace(function, free=function.candidate.free, exact=()))
    return graph


@dataclass(frozen=True)
class ProductPair:
    """Edges of the same source: `alpha` into a sum, and `phi` into a product of two that goes into that sum; `psi` is
    the product's other edge."""

    alpha: int
    phi: int
    psi: int


def product_pairs(graph: Graph) -> list[ProductPair]:
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
                    found.append(ProductPair(alpha, phi, psi))
    return found


def straightened(graph: Graph, data: SearchData) -> Graph:
    """The same function with every alpha as straight as its k can make it."""
    for pair in product_pairs(graph):
        graph = shifted(graph, pair, _straightening(graph, pair, data))
    return graph


def variants(graph: Graph, problem: SearchProblem) -> list[Graph]:
    """The same function in a few forms: the straightened one, then those in which an alpha is nearest to a
    candidate."""
    straight, limit = straightened(graph, problem.data), problem.policy.selection.clear
    found = []
    for pair in product_pairs(straight):
        values, outs = straight.edge_outputs(problem.data.x)
        t = values[straight.edges[pair.alpha].source]
        for score, k in _candidate_shifts(t, outs[pair.alpha], outs[pair.phi], problem):
            if score < limit:
                found.append((score, shifted(straight, pair, k)))
    best = sorted(found, key=lambda entry: entry[0])[: problem.policy.selection.variants]
    return [straight, *(each for _, each in best)]


def _candidate_shifts(t: Array, alpha: Array, phi: Array, problem: SearchProblem) -> list[tuple[float, float]]:
    """(score, k) for each candidate f with alpha near k phi + c f(a t + b) + d."""
    policy = problem.policy.matching
    thin = np.argsort(t, kind="stable")[np.linspace(0, t.size - 1, min(t.size, policy.points)).astype(int)]
    t, alpha, phi = t[thin], alpha[thin], phi[thin]
    spread = float(np.std(alpha))
    shifts = []
    for candidate in problem.candidates:
        if spread == 0.0 or candidate is CONSTANT or candidate.name in TWINS or candidate is IDENTITY:
            continue
        begun = _begun(t, alpha, phi, candidate, policy.coarse)
        if begun is None:
            continue
        settings = RefitSettings(steps=30, gain=1e-3, damping=1e-4)
        fitted = refit(begun, np.stack([t, phi], axis=1), alpha, settings)
        f, line = fitted.graph.edges[0].function, fitted.graph.edges[1].function
        if isinstance(f, Symbolic) and isinstance(line, Symbolic) and np.isfinite(fitted.rmse) and f.allows(t):
            loss = max((fitted.rmse / spread) ** 2, ROUNDING)
            shifts.append((float(np.log10(loss)) + 0.5 * candidate.complexity, line.constants[2]))
    return shifts


def _begun(t: Array, alpha: Array, phi: Array, candidate: Candidate, steps: int) -> Graph | None:
    """k phi + c f(a t + b) + d at the best point of f's grid."""
    middle, half = float(t.max() + t.min()) / 2, float(t.max() - t.min()) / 2
    grid, f, _ = grid_values(candidate, steps)
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


def shifted(graph: Graph, pair: ProductPair, k: float) -> Graph:
    """alpha - k phi and psi + k in place of alpha and psi."""
    alpha, phi, psi = (graph.edges[i].function for i in (pair.alpha, pair.phi, pair.psi))
    assert isinstance(alpha, Spline)
    assert isinstance(phi, Spline)
    assert isinstance(psi, Spline)
    on_same = phi.refined(alpha.intervals, alpha.low, alpha.high) if _differs(alpha, phi) else phi
    graph = graph.with_function(pair.alpha, alpha.with_parameters(alpha.parameters - k * on_same.parameters))
    return graph.with_function(pair.psi, psi.with_parameters(psi.parameters + k))


def moved_into_product(graph: Graph, index: int, data: SearchData) -> Graph:
    """The graph with as much as possible of edge `index` moved into a product beside it, if there is one."""
    values, outs = graph.edge_outputs(data.x)
    for pair in product_pairs(graph):
        if pair.alpha == index:
            design = np.stack([outs[pair.phi], np.ones(values[0].size)], axis=1)
            k = float(np.linalg.lstsq(design, outs[index], rcond=None)[0][0])
            return shifted(graph, pair, k)
    return graph


def _straightening(graph: Graph, pair: ProductPair, data: SearchData) -> float:
    """k with alpha - k phi nearest to a line, over the data's arguments."""
    values, outs = graph.edge_outputs(data.x)
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
