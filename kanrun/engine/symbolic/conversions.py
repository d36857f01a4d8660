"""Convert sympy expressions to graphs, and graphs to expressions.

As a graph, an expression can be refitted, rounded and certified in the same way as a network.

Convert trained networks to graphs, in which every edge that is not pruned becomes a spline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import sympy
import torch
from sympy import Expr

from kanrun.engine.layers import SplineLayer
from kanrun.engine.networks import Network
from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import (
    CONSTANT,
    DIGITS,
    IDENTITY,
    TABLE,
    TINY,
    Array,
    Candidate,
    X,
    apart,
    input_symbols,
    number,
    power,
)
from kanrun.engine.symbolic.graph import (
    CONSTANTS,
    IDENTITY_EDGE,
    Edge,
    EdgeFunction,
    Graph,
    Operation,
    Spline,
    Symbolic,
    covering,
    standardised,
    without_edges,
)
from kanrun.errors import KanrunError
from kanrun.formulas.parsing import variable

_Simple: TypeAlias = Spline | Symbolic
#: A term of a sum, or a factor of a product: the index of a node, and a function of its value.
_Term = tuple[int, _Simple]


def graph_of_expression(expression: Expr, inputs: int) -> Graph:
    """Convert an expression in x0, x1, ... to a graph with `inputs` inputs.

    All numbers become free constants, except 0, 1, -1 and exponents that are simple fractions.

    Raises:
        KanrunError: If a function is not a candidate, or a number is not finite or not real.
    """
    if expression.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise KanrunError("A number of the expression is not finite.")

    def decimal(number: Expr) -> sympy.Float:
        value = number.evalf(DIGITS)
        if not value.is_Number:
            raise KanrunError(f"The number {number} of the expression is not real.")
        return value

    builder = _GraphBuilder(inputs)
    builder.sum_of(expression.replace(lambda e: e.is_number and not e.is_Number, decimal))
    count_work(COSTS.operation * len(builder.edges))
    return builder.graph()


def canonicalise(graph: Graph) -> Graph:
    """Remove redundant constants, redundant linear edges and repeated subgraphs.

    The function stays the same. The constants of a sum are combined into one summand, and those of
    a product into one factor. A sum inside a power, a logarithm or a product is divided by its
    leading coefficient; the constant of a sum inside exp becomes a factor of exp. Each remaining
    free constant can then be determined from data, so it makes sense to round it. Numbers that are
    0, 1 or -1 are no longer free.
    """
    count_work(COSTS.operation * len(graph.edges))
    builder = _GraphBuilder(graph.inputs)
    expression = _opaque(graph, input_symbols(graph.inputs), builder.calls)
    if expression.is_Number:
        constant = Symbolic(CONSTANT, (1.0, 0.0, 0.0, float(expression)), "d")
        return Graph(graph.inputs, ("sum",), (Edge(0, graph.inputs, constant),))
    builder.sum_of(expression)
    return builder.graph()


def _opaque(graph: Graph, inputs: Sequence[Expr], calls: dict[str, Candidate | Spline]) -> Expr:
    """Return the graph as an expression whose functions sympy does not know.

    Sympy therefore does not transform the functions. Each function is added to the mapping `calls`,
    under the name that the expression uses.
    """
    values = list(inputs)
    for node in range(graph.inputs, graph.output + 1):
        parts = []
        for edge in (graph.edges[i] for i in graph.into(node)):
            u = values[edge.source]
            function = edge.function
            if u.is_Number:
                u = number(float(function.value(np.array([float(u)]))[0]))
            elif isinstance(function, Symbolic):
                u = _opaque_call(function, u, calls)
            else:
                calls[name := f"spline {len(calls)}"] = function
                u = sympy.Function(name)(u)
            parts.append(u)
        if graph.operation(node) == "product":
            parts = [each for part in parts for each in _scaled(part)]
        values.append((sympy.Add if graph.operation(node) == "sum" else sympy.Mul)(*parts))
    return values[graph.output]


def _opaque_call(function: Symbolic, u: Expr, calls: dict[str, Candidate | Spline]) -> Expr:
    """Return c f(a u + b) + d, where f is an undefined function for sympy.

    A redundant scale or shift of the argument is moved to c or d.
    """
    # A shift b in exp(u + b) is written as the factor exp(b) if |b| is smaller than this.
    largest_shift = 30.0
    candidate = function.candidate
    (a, b, c, d) = function.constants
    if candidate is CONSTANT:
        return number(d)
    argument = number(a) * u + number(b)
    if candidate.expression == X:
        return number(c) * argument + number(d)
    if argument.is_Number:
        return number(float(function.value(np.zeros(1))[0]))
    calls[candidate.name] = candidate
    scale, rest = _scaled(argument)
    if candidate.homogeneous:
        argument = rest
        c = c * float(candidate.value(np.array([float(scale)]))[0])
    elif candidate.name == "log":
        argument = rest
        d = d + c * float(np.log(float(scale)))
    elif candidate.name == "exp" and abs(shift := argument.as_coeff_Add()[0]) < largest_shift:
        argument = argument - shift
        c = c * float(np.exp(float(shift)))
    return number(c) * sympy.Function(candidate.name)(argument) + number(d)


def _scaled(expression: Expr) -> tuple[Expr, Expr]:
    """Divide the expression by the absolute value of its leading coefficient.

    If the leading coefficient is negligible, the largest coefficient is used instead.

    Returns:
        The divisor, and the quotient.
    """
    # A coefficient is negligible if it is below this fraction of the largest coefficient of its
    # sum.
    faint = 1e-6
    constant, rest = expression.as_coeff_Add()
    sizes = [abs(float(apart(term)[0])) for term in rest.as_ordered_terms()]
    largest = max(*sizes, abs(float(constant)), TINY)
    size = number(sizes[0] if sizes[0] > faint * largest else largest)
    return size, expression / size


@dataclass
class _GraphBuilder:
    inputs: int
    operations: list[Operation] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    known: dict[Expr, int] = field(default_factory=dict)
    calls: dict[str, Candidate | Spline] = field(default_factory=dict)  # functions by their names

    def graph(self) -> Graph:
        ordered = sorted(self.edges, key=lambda edge: edge.target)
        return Graph(self.inputs, tuple(self.operations), tuple(ordered))

    def add(self, operation: Operation, terms: Sequence[tuple[int, EdgeFunction]]) -> int:
        """Add a node that combines these terms by `operation`, and return its index."""
        self.operations.append(operation)
        node = self.inputs + len(self.operations) - 1
        self.edges += [Edge(source, node, function) for source, function in terms]
        return node

    def node_of(self, expression: Expr) -> int:
        """Return the index of the node that computes the expression; add nodes if there is none."""
        if expression.is_Symbol:
            return int(str(expression)[1:])
        if expression not in self.known:
            self.known[expression] = (
                self.add("product", self.factors(expression))
                if expression.is_Mul
                else self.sum_of(expression)
            )
        return self.known[expression]

    def sum_of(self, expression: Expr) -> int:
        """Add a sum node with the expression's terms; its constant is added to the first term."""
        constant, rest = expression.as_coeff_Add()
        (source, function), *terms = self.terms(sympy.Add.make_args(rest))
        if constant != 0:
            function = self.shifted(function, float(constant))
        return self.add("sum", [(source, function), *terms])

    def factors(self, expression: Expr) -> list[_Term]:
        """Return the factors of a product; its coefficient is included in the first factor."""
        coefficient, rest = apart(expression)
        (source, function), *others = self.terms(sympy.Mul.make_args(rest))
        if coefficient != 1:
            function = self.scaled(function, float(coefficient))
        return [(source, function), *others]

    def terms(self, parts: Sequence[Expr]) -> list[_Term]:
        """Write each expression as a function of a single node; return those with splines first."""
        terms = [self.term(each) for each in parts]
        return sorted(terms, key=lambda term: not isinstance(term[1], Spline))

    def term(self, expression: Expr) -> _Term:
        """Write the expression as a function of a single node."""
        # Largest denominator of an exponent that stays fixed. Other powers are written as exp(p log
        # x), so that p can be fitted.
        roots = 6
        coefficient, rest = apart(expression)
        if rest == 1:
            raise KanrunError("A constant cannot be a term of a graph.")
        if rest.is_Symbol:
            return self.node_of(rest), self.line(float(coefficient))
        base, exponent = rest.as_base_exp()
        if rest.is_Mul or rest.is_Add:
            line = IDENTITY_EDGE if coefficient == 1 else self.line(float(coefficient))
            return self.node_of(rest), line
        if rest.is_Pow and exponent.is_Rational and exponent.q <= roots:
            return self._called(power(exponent), base, float(coefficient))
        called = self.calls.get(str(rest.func))
        if isinstance(called, Spline):
            return self.node_of(rest.args[0]), called.scaled(float(coefficient))
        if called is not None:
            return self._called(called, rest.args[0], float(coefficient))
        for candidate in TABLE.values():
            form = candidate.expression
            if form.is_Function and form.args == (X,) and rest.func == form.func:
                return self._called(candidate, rest.args[0], float(coefficient))
        if rest.is_Pow:  # u^v = exp(v log u)
            return self._called(TABLE["exp"], exponent * sympy.log(base), float(coefficient))
        raise KanrunError(f"{rest} is not a candidate.")

    def line(self, slope: float) -> Symbolic:
        """Return the linear function slope * t of its argument t."""
        fixed = slope in (1.0, -1.0)
        return Symbolic(IDENTITY, (1.0, 0.0, slope, 0.0), "" if fixed else "c")

    def scaled(self, function: _Simple, factor: float) -> _Simple:
        if function is IDENTITY_EDGE:
            return self.line(factor)
        scaled = function.scaled(factor)
        if isinstance(scaled, Spline):
            return scaled
        keeps = "c" in scaled.free or "c" not in scaled.candidate.free
        return scaled if keeps else replace(scaled, free=scaled.free + "c")

    def shifted(self, function: _Simple, constant: float) -> _Simple:
        function = self.line(1.0) if function is IDENTITY_EDGE else function
        return function.shifted(constant)

    def _called(self, candidate: Candidate, argument: Expr, coefficient: float) -> _Term:
        """Return the term coefficient * f(argument), with argument = a * node + b."""
        b, rest = argument.as_coeff_Add()
        a, inner = rest.as_coeff_Mul()
        if inner.is_Add:
            a = sympy.Integer(1)
            inner = rest
        constants = (float(a), float(b), coefficient, 0.0)
        simple = standardised(Symbolic(candidate, constants, ""))
        moves = {
            name
            for name, value in zip(CONSTANTS, simple.constants, strict=True)
            if value not in (0.0, 1.0, -1.0)
        }
        own = "".join(name for name in candidate.free if name in moves)
        return self.node_of(inner), replace(simple, free=own)


def to_expression(graph: Graph, names: Sequence[str]) -> Expr:
    """Return the graph as one expression in the variables `names`.

    Splines become undefined functions f1, f2, ... (see `numeric_names`).
    """
    values: list[Expr] = [variable(name) for name in names]
    numeric = numeric_names(graph)
    for node in range(graph.inputs, graph.output + 1):
        terms = []
        for i in graph.into(node):
            argument = values[graph.edges[i].source]
            function = graph.edges[i].function
            if i in numeric:
                argument = sympy.Function(numeric[i])(argument)
            if isinstance(function, Symbolic):
                argument = function.expression(argument)
            terms.append(argument)
        values.append(sympy.Add(*terms) if graph.operation(node) == "sum" else sympy.Mul(*terms))
    return values[graph.output]


def numeric_names(graph: Graph) -> dict[int, str]:
    """Return the names f1, f2, ... of the spline edges, by the index of the edge."""
    return {index: f"f{number + 1}" for number, index in enumerate(graph.numeric_edges())}


def values_of(network: Network, output: int) -> Callable[[Array], Array]:
    """Return output number `output` of the network as a function from (N, inputs) to (N,)."""

    def values(x: Array) -> Array:
        with torch.no_grad():
            out = network(torch.as_tensor(x).to(network.edge_layers[0].knots))[:, output]
        return np.asarray(out.double().cpu().numpy())

    return values


def graph_of(network: Network, x: Array, output: int) -> Graph:
    """Return output number `output` of `network` as a graph, without its pruned edges.

    Every edge, including its base function, is approximated by a spline by least squares. The
    spline covers the grid of the edge if the grid is uniform and contains the arguments of the edge
    at all points x (N, inputs). Otherwise the spline covers the range of these arguments.
    """
    layers = network.edge_layers
    with torch.no_grad():
        activations = network.activations(torch.as_tensor(x).to(layers[0].knots))
    edges: list[Edge] = []
    nodes: list[Operation] = []
    sources = list(range(layers[0].inputs))  # nodes that are the inputs of the layer
    for layer, products, values in zip(layers, network.products, activations, strict=False):
        first = layers[0].inputs + len(nodes)
        arguments = values.double().cpu().numpy()
        sums = [output] if layer is layers[-1] else list(range(layer.outputs))
        for target, o in enumerate(sums, first):
            for i in range(layer.inputs):
                if bool(layer.mask[o, i]):
                    spline = _spline(layer, o, i, arguments[:, i])
                    edges.append(Edge(sources[i], target, spline))
        nodes += ["sum"] * len(sums)
        nodes += ["product"] * products
        after = first + len(sums)
        for product in range(products):
            factor = after - 2 * (products - product)
            edges += [Edge(factor + k, after + product, IDENTITY_EDGE) for k in (0, 1)]
        sources = [*range(first, after - 2 * products), *range(after, after + products)]
    edges.sort(key=lambda edge: (edge.target, edge.source))
    return without_edges(Graph(layers[0].inputs, tuple(nodes), tuple(edges)), set())


def _spline(layer: SplineLayer, out: int, into: int, arguments: Array) -> Spline:
    """Return the spline that approximates the edge from input `into` to output `out` of a layer."""
    # Smallest number of intervals of a spline that is fitted to an edge.
    min_intervals = 20
    # Number of points per interval at which a spline is fitted to an edge and its base function.
    points_per_interval = 6
    degree = max(layer.spec.degree, 1)
    own = layer.grid.intervals
    knots = layer.knots[into].double().cpu().numpy()
    ends = float(knots[layer.spec.degree]), float(knots[-layer.spec.degree - 1])
    if layer.uniform and ends[0] <= float(arguments.min()) and float(arguments.max()) <= ends[1]:
        intervals = own * -(-min_intervals // own)
    else:
        ends = covering(arguments, 0.0)
        intervals = max(min_intervals, own)
    points = np.linspace(*ends, points_per_interval * (intervals + degree))
    at = torch.zeros(points.size, layer.inputs, dtype=torch.float64)
    at[:, into] = torch.as_tensor(points)
    with torch.no_grad():
        values = layer.edge_values(at.to(layer.knots))[:, out, into].double().cpu().numpy()
    return Spline.through(points, values, ends, intervals, degree)
