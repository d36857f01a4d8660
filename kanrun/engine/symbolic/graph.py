"""A formula as a graph: inputs, nodes that add or multiply, and a function on every edge.

A pruned KAN is a graph with only sums. Multiplication nodes are those of KAN 2.0 (Liu et al., arXiv
2408.10205, section 3.1). Numeric, partly symbolic and symbolic networks differ only in their edge
functions, so evaluation, Jacobian and refit are the same for all.

Functions on the edges of a graph: splines, and candidates with their constants.

Both classes are immutable. `value` maps arguments (N,) to values (N,). `evaluate` returns values
(N,), derivatives with respect to the argument (N,), and derivatives with respect to the parameters
of the edge (N, parameters).
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import sympy
from scipy.interpolate import BSpline

from kanrun.engine.symbolic.budget import COSTS, LEAST_SQUARES, count_work
from kanrun.engine.symbolic.candidates import CARRY, CONSTANT, TINY, Array, Candidate, X, number

CONSTANTS = "abcd"


@dataclass(frozen=True)
class Spline:
    """A spline phi on G equal intervals of [low, high]; outside, it continues as a straight line.

    `parameters` (G + degree,) are its B-spline coefficients.
    """

    low: float
    high: float
    parameters: Array
    degree: int = 3

    #: Name of the candidate, which a spline does not have.
    label: ClassVar[str] = ""

    @classmethod
    def through(
        cls, points: Array, values: Array, ends: tuple[float, float], intervals: int, degree: int
    ) -> Spline:
        """Fit a spline on `intervals` equal intervals between `ends` by least squares.

        The spline is fitted to values (N,) at points (N,). If the points do not determine all
        coefficients, those of minimum norm are returned.
        """
        # Singular values of a fit count as zero if they are below this fraction of the largest.
        rcond = 1e-13
        size = intervals + degree
        count_work(points.size * size * (COSTS.entry + COSTS.product * LEAST_SQUARES * size))
        empty = cls(*ends, np.zeros(size), degree)
        solution = np.linalg.lstsq(empty.evaluate(points)[2], values, rcond=rcond)[0]
        return empty.with_parameters(np.asarray(solution, dtype=np.float64))

    @property
    def intervals(self) -> int:
        return self.parameters.size - self.degree

    @property
    def complexity(self) -> float:
        return 10.0  # a line has complexity 1

    def with_parameters(self, parameters: Array) -> Spline:
        return replace(self, parameters=parameters)

    def scaled(self, factor: float) -> Spline:
        """Return factor * phi."""
        return self.with_parameters(self.parameters * factor)

    def shifted(self, shift: float) -> Spline:
        """Return phi + shift; B-splines sum to one."""
        return self.with_parameters(self.parameters + shift)

    @property
    def knots(self) -> Array:
        """Extended knots: equally spaced, with `degree` knots beyond each end."""
        steps = np.arange(-self.degree, self.intervals + self.degree + 1) / self.intervals
        return self.low + (self.high - self.low) * steps

    def value(self, t: Array) -> Array:
        inside = np.clip(t, self.low, self.high)
        spline = BSpline(self.knots, self.parameters, self.degree)
        beyond = t - inside
        inner = np.asarray(spline(inside))
        return inner + beyond * spline(inside, 1) if beyond.any() else inner

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        inside = np.clip(t, self.low, self.high)
        every = _basis(tuple(self.knots), self.degree)
        basis, slopes = (functions(inside) for functions in every)
        columns = basis + (t - inside)[:, None] * slopes
        return columns @ self.parameters, slopes @ self.parameters, columns

    def refined(self, intervals: int, ends: tuple[float, float]) -> Spline:
        """Return the least-squares approximation of this spline on a new grid.

        The grid consists of `intervals` equal intervals between `ends`.
        """
        # Number of points per coefficient at which a spline is fitted to another spline.
        points_each = 6
        points = np.linspace(*ends, points_each * (intervals + self.degree) + 1)
        return Spline.through(points, self.value(points), ends, intervals, self.degree)


@lru_cache(maxsize=1024)
def _basis(knots: tuple[float, ...], degree: int) -> tuple[BSpline, BSpline]:
    """Return all B-splines on these knots as one vector-valued function, and its derivative."""
    functions = BSpline(np.array(knots), np.eye(len(knots) - degree - 1), degree)
    return functions, functions.derivative()


@dataclass(frozen=True)
class Symbolic:
    """A candidate f with its constants: phi(t) = c f(a t + b) + d.

    Attributes:
        candidate: f.
        constants: a, b, c, d.
        free: Letters of the constants that a fit may change.
        exact: Letters and exact values of the constants that were rounded.
    """

    candidate: Candidate
    constants: tuple[float, float, float, float]
    free: str = CONSTANTS
    exact: tuple[tuple[str, sympy.Expr], ...] = ()

    @property
    def parameters(self) -> Array:
        return np.array([self.constants[CONSTANTS.index(name)] for name in self.free])

    def with_parameters(self, parameters: Array) -> Symbolic:
        return self.changed(**dict(zip(self.free, parameters.tolist(), strict=True)))

    @property
    def complexity(self) -> float:
        return self.candidate.complexity

    @property
    def label(self) -> str:
        """Name of the candidate."""
        return self.candidate.name

    def constant(self, name: str) -> float:
        return self.constants[CONSTANTS.index(name)]

    def value(self, t: Array) -> Array:
        a, b, c, d = self.constants
        return c * self.candidate.value(a * t + b) + d

    def evaluate(self, t: Array) -> tuple[Array, Array, Array]:
        a, b, c, d = self.constants
        argument = a * t + b
        f = self.candidate.value(argument)
        slope = self.candidate.slope(argument)
        columns = {"a": c * slope * t, "b": c * slope, "c": f, "d": np.ones_like(t)}
        chosen = [columns[name] for name in self.free]
        return c * f + d, c * a * slope, np.array(chosen).reshape(len(chosen), t.size).T

    def changed(self, fixed: str = "", **constants: float) -> Symbolic:
        """Return the function with other constants; those named in `fixed` are no longer free."""
        pairs = zip(CONSTANTS, self.constants, strict=True)
        a, b, c, d = (constants.get(name, value) for name, value in pairs)
        free = "".join(name for name in self.free if name not in fixed)
        return replace(self, constants=(a, b, c, d), free=free)

    def expression(self, argument: sympy.Expr = X) -> sympy.Expr:
        """Return c f(a u + b) + d as a sympy expression, for the argument u."""
        exact = dict(self.exact)
        pairs = zip(CONSTANTS, self.constants, strict=True)
        a, b, c, d = (exact.get(name, number(value)) for name, value in pairs)
        if self.candidate is CONSTANT:
            return d
        return c * self.candidate.expression.xreplace({X: a * argument + b}) + d

    def scaled(self, factor: float) -> Symbolic:
        """Return factor * phi."""
        return self.changed(c=self.constants[2] * factor, d=self.constants[3] * factor)

    def shifted(self, shift: float) -> Symbolic:
        """Return phi + shift, with the constant d as a free constant."""
        free = self.free if "d" in self.free else self.free + "d"
        return replace(self, free=free).changed(d=self.constants[3] + shift)

    def allows(self, t: Array) -> bool:
        """Return whether the candidate is defined on the whole range of t, without a pole."""
        a, b, _, _ = self.constants
        ends = np.sort(a * np.array([t.min(), t.max()]) + b)
        return bool(self.candidate.domain.allows(*ends))


def standardised(function: Symbolic) -> Symbolic:
    """Return the same function with its redundant constants in standard form.

    For powers and log, a is 1 or -1; for exp, b is 0; for odd and even functions, a is positive.
    """
    a, b, c, d = function.constants
    candidate = function.candidate
    if candidate is CONSTANT:
        return function
    if "a" not in candidate.free and a != 0.0:
        size = abs(a)
        if candidate.name == "log":
            d += c * float(np.log(size))
        else:
            c *= float(candidate.value(np.array([size]))[0] / candidate.value(np.ones(1))[0])
        a = a / size
        b = b / size
        if candidate.name == "x":
            d = d + c * b
            b = 0.0
    elif "b" not in candidate.free:
        c = c * float(np.exp(b))
        b = 0.0
    if a < 0 and candidate.parity:
        a = -a
        b = -b
        c = c * candidate.parity
    return replace(function, constants=(a, b, c, d))


#: The function of an edge that passes a value unchanged.
IDENTITY_EDGE = Symbolic(CARRY, (1.0, 0.0, 1.0, 0.0), "")


def flat(value: float) -> Symbolic:
    """Return the constant function with this value."""
    return Symbolic(CONSTANT, (1.0, 0.0, 0.0, value), "d")


Operation = Literal["sum", "product"]
EdgeFunction: TypeAlias = Spline | Symbolic
#: Value of 1 - R^2 below which only float64 rounding errors are left.
ROUNDING = 1e-14


@dataclass(frozen=True)
class Edge:
    """An edge from node `source` to node `target`."""

    source: int
    target: int
    function: EdgeFunction

    @property
    def carries(self) -> bool:
        """True if the edge is the identity."""
        return isinstance(self.function, Symbolic) and self.function.candidate is CARRY


@dataclass(frozen=True)
class Graph:
    """A directed acyclic graph that computes one output.

    Attributes:
        inputs: Number of inputs; nodes 0 to inputs - 1 are the inputs.
        operations: Operation of each further node: node inputs + i adds or multiplies the values of
            its incoming edges. The last node is the output.
        edges: Edges from lower to higher nodes, sorted by target.
    """

    inputs: int
    operations: tuple[Operation, ...]
    edges: tuple[Edge, ...]

    @property
    def output(self) -> int:
        return self.inputs + len(self.operations) - 1

    @property
    def parameters(self) -> Array:
        return (
            np.concatenate([edge.function.parameters for edge in self.edges])
            if self.edges
            else np.zeros(0)
        )

    def parameter_slices(self) -> list[slice]:
        """Return, for each edge, the slice of its parameters in `parameters`."""
        ends = np.cumsum([0, *(edge.function.parameters.size for edge in self.edges)]).tolist()
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    def with_parameters(self, parameters: Array) -> Graph:
        edges = [
            replace(edge, function=edge.function.with_parameters(parameters[columns]))
            for edge, columns in zip(self.edges, self.parameter_slices(), strict=True)
        ]
        return replace(self, edges=tuple(edges))

    def with_function(self, index: int, function: EdgeFunction) -> Graph:
        edges = list(self.edges)
        edges[index] = replace(edges[index], function=function)
        return replace(self, edges=tuple(edges))

    def into(self, node: int) -> list[int]:
        """Return the indices of the edges that lead to `node`."""
        return [i for i, edge in enumerate(self.edges) if edge.target == node]

    def operation(self, node: int) -> Operation:
        return self.operations[node - self.inputs]

    def __call__(self, x: Array) -> Array:
        """Return the output (N,) at x (N, inputs); nan or inf where an edge is not defined."""
        return self.edge_outputs(x)[0][self.output]

    def linearise(self, x: Array) -> tuple[Array, list[Array], Array]:
        """Return the output at x (N, inputs) with its derivatives.

        Returns:
            The output (N,), its derivatives with respect to each input (one array (N,) per input),
            and its Jacobian with respect to the parameters (N, parameters).
        """
        count_work(COSTS.linearised(len(self.edges), self.parameters.size, x.shape[0]))
        values, parts = self._forward(x, lambda function, t: function.evaluate(t))
        upstream = [np.zeros(x.shape[0]) for _ in values]
        upstream[self.output] = np.ones(x.shape[0])
        blocks: list[Array] = [np.zeros((x.shape[0], 0))] * len(self.edges)
        for node in range(self.output, self.inputs - 1, -1):
            into = self.into(node)
            for i in into:
                carried = upstream[node]
                if self.operation(node) == "product":
                    for j in into:
                        carried = carried * parts[j][0] if j != i else carried
                blocks[i] = carried[:, None] * parts[i][2]
                source = self.edges[i].source
                upstream[source] = upstream[source] + carried * parts[i][1]
        jacobian = np.concatenate([np.zeros((x.shape[0], 0)), *blocks], axis=1)
        return values[self.output], upstream[: self.inputs], jacobian

    def edge_outputs(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Return the values (N,) of every node and of every edge function at x (N, inputs)."""
        values, outs = self._forward(x, lambda function, t: (function.value(t),))
        return values, [out for (out,) in outs]

    def _forward(
        self, x: Array, of: Callable[[EdgeFunction, Array], tuple[Array, ...]]
    ) -> tuple[list[Array], list[tuple[Array, ...]]]:
        """Evaluate the graph at x (N, inputs).

        Args:
            x: Inputs, shape (N, inputs).
            of: Function that evaluates an edge function at arguments (N,); the first array that it
                returns holds the values of the edge.

        Returns:
            The values (N,) of every node, and the results of `of` for every edge.
        """
        count_work(COSTS.evaluated(len(self.edges), len(self.numeric_edges()), x.shape[0]))
        values: list[Array] = [x[:, i] for i in range(self.inputs)]
        outs: list[tuple[Array, ...]] = []
        at = 0
        for node in range(self.inputs, self.output + 1):
            first = at
            while at < len(self.edges) and self.edges[at].target == node:
                outs.append(of(self.edges[at].function, values[self.edges[at].source]))
                at += 1
            is_product = self.operation(node) == "product"
            neutral = np.full(x.shape[0], float(is_product))
            combine = operator.mul if is_product else operator.add
            values.append(reduce(combine, (out[0] for out in outs[first:at]), neutral))
        return values, outs

    def numeric_edges(self) -> list[int]:
        return [i for i, edge in enumerate(self.edges) if isinstance(edge.function, Spline)]

    @property
    def active_edges(self) -> int:
        return sum(not edge.carries for edge in self.edges)

    @property
    def complexity(self) -> float:
        """Sum of the complexities of the functions."""
        return sum(edge.function.complexity for edge in self.edges)


@dataclass(frozen=True)
class EdgeMatch:
    """A candidate `function` fitted to an edge, and its `loss` 1 - R^2."""

    function: Symbolic
    loss: float

    @property
    def name(self) -> str:
        return self.function.label

    @property
    def complexity(self) -> float:
        return self.function.complexity

    @property
    def r2(self) -> float:
        return 1.0 - self.loss

    @property
    def score(self) -> float:
        """log10(1 - R^2) plus a penalty for complexity; lower is better."""
        # Number of decimal digits by which 1 - R^2 must decrease to justify one more unit of
        # complexity.
        digits_per_unit = 0.5
        return float(np.log10(max(self.loss, ROUNDING))) + digits_per_unit * self.complexity


def without_edges(graph: Graph, dead: set[int]) -> Graph:
    """Remove the edges with indices `dead`, and nodes that no longer connect inputs to the output.

    A removed edge contributes 0 to a sum and 1 to a product. A node with a single incoming and a
    single outgoing edge is removed too if one of these edges is the identity.
    """
    edges = [edge for i, edge in enumerate(graph.edges) if i not in dead]
    changed = True
    while changed:
        changed = False
        sources = {edge.source for edge in edges}
        targets = {edge.target for edge in edges}
        kept = [
            edge
            for edge in edges
            if (edge.target == graph.output or edge.target in sources)
            and (edge.source < graph.inputs or edge.source in targets)
        ]
        if len(kept) < len(edges):
            edges = kept
            changed = True
            continue
        for node in range(graph.inputs, graph.output):
            into = [edge for edge in edges if edge.target == node]
            out = [edge for edge in edges if edge.source == node]
            if len(into) != 1 or len(out) != 1:
                continue
            if into[0].carries or out[0].carries:
                function = (out if into[0].carries else into)[0].function
                edges = [edge for edge in edges if edge is not into[0] and edge is not out[0]]
                edges.append(Edge(into[0].source, out[0].target, function))
                changed = True
                break
    return renumbered(graph, edges)


def renumbered(graph: Graph, edges: Sequence[Edge]) -> Graph:
    """Return a graph with these edges, without the nodes that no edge leads to, renumbered.

    The inputs and the output of `graph` are kept even if they are not used.
    """
    inputs = graph.inputs
    used = sorted({edge.target for edge in edges} | {graph.output})
    number = {node: inputs + i for i, node in enumerate(used)} | {i: i for i in range(inputs)}
    moved = [Edge(number[edge.source], number[edge.target], edge.function) for edge in edges]
    return Graph(
        inputs,
        tuple(graph.operation(node) for node in used),
        tuple(sorted(moved, key=lambda edge: (edge.target, edge.source))),
    )


def depths(graph: Graph) -> list[int]:
    """Return the layer of every node: the length of the longest path to it from an input."""
    depth = [0] * (graph.output + 1)
    for edge in graph.edges:
        depth[edge.target] = max(depth[edge.target], depth[edge.source] + 1)
    return depth


def shape_of(graph: Graph) -> str:
    """Return the widths of the layers as text, such as 2-1-1.

    The first width is the number of inputs in use. Products are counted separately: 1+1p is a layer
    with one sum and one product.
    """
    depth = depths(graph)
    widths = [str(len({e.source for e in graph.edges if e.source < graph.inputs}))]
    for layer in range(1, max(depth) + 1):
        nodes = [n for n in range(graph.inputs, graph.output + 1) if depth[n] == layer]
        products = sum(graph.operation(node) == "product" for node in nodes)
        counts = {"": len(nodes) - products, "p": products}
        widths.append("+".join(f"{count}{sign}" for sign, count in counts.items() if count))
    return "-".join(widths)


def edge_name(graph: Graph, index: int, inputs: Sequence[str]) -> str:
    """Return the name of an edge, such as `size to node 2`."""
    names = []
    for node in (graph.edges[index].source, graph.edges[index].target):
        inner = "output" if node == graph.output else f"node {node - graph.inputs}"
        names.append(inputs[node] if node < graph.inputs else inner)
    return " to ".join(names)


def sound(graph: Graph, x: Array) -> bool:
    """Return whether all candidates are defined on their arguments, and no constants have diverged.

    A candidate must have no pole in the range of its argument. Constants diverge if a candidate
    approximates another function only in the limit of large constants, so that c f and d cancel.
    """
    # The constants of an edge count as diverged if c f is this many times as large as c f + d.
    diverged = 1e7
    with np.errstate(all="ignore"):
        values, outs = graph.edge_outputs(x)
        for edge, out in zip(graph.edges, outs, strict=True):
            if isinstance(edge.function, Symbolic):
                size = np.abs(out - edge.function.constants[3]).max()
                is_allowed = edge.function.allows(values[edge.source])
                if not is_allowed or size > diverged * np.abs(out).max():
                    return False
    return True


def fitted_grids(
    graph: Graph, x: Array, *, intervals: int | None = None, margin: float = 0.02, keep: bool = True
) -> Graph:
    """Adapt the grid of every spline to the range of its argument.

    Edges are adapted one after another, in the order of their nodes.

    Args:
        graph: The graph.
        x: Inputs, shape (N, inputs), which determine the ranges.
        intervals: Number of intervals of the new grids; None keeps the numbers.
        margin: Fraction of the range by which a grid extends beyond it on either side.
        keep: Whether splines keep their functions (refitted by least squares). Otherwise they keep
            their coefficients, so that the functions are stretched.
    """
    for i in range(len(graph.edges)):
        function = graph.edges[i].function
        if isinstance(function, Spline):
            ends = covering(graph.edge_outputs(x)[0][graph.edges[i].source], margin)
            new = replace(function, low=ends[0], high=ends[1])
            if keep:
                new = function.refined(intervals or function.intervals, ends)
            graph = graph.with_function(i, new)
    return graph


def covering(t: Array, margin: float) -> tuple[float, float]:
    """Return the range of t, widened on either side by `margin` times its width.

    If t is constant, the range is widened by 0.5 on either side.
    """
    low = float(t.min())
    high = float(t.max())
    width = high - low
    pad = margin * width if width > 1e-12 * max(abs(low), abs(high), TINY) else 0.5
    return low - pad, high + pad
