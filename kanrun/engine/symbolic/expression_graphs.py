"""Expressions as graphs, whose constants are refitted, rounded and certified like a network's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import sympy

from kanrun.engine.symbolic.candidates import IDENTITY, TABLE, Candidate, X, power
from kanrun.engine.symbolic.edge_functions import CONSTANTS, EdgeFunction, Identity, Symbolic
from kanrun.engine.symbolic.edge_matching import standardised
from kanrun.engine.symbolic.graph import Edge, Graph, Operation
from kanrun.errors import KanrunError

#: A term: the node whose value it takes, and its function of that.
_Term = tuple[int, EdgeFunction]


def graph_of_expression(expression: sympy.Expr, inputs: int, *, wide: bool = False) -> Graph:
    """Return the graph of an expression in x0, x1, ..., of this many inputs.

    Every number in it but 0, 1 and -1 is free. With `wide` each of its functions has all constants
    that a candidate has. Raises KanrunError for a function that is not a candidate, and if a number
    is not finite or not real.
    """
    if expression.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise KanrunError("A number of the expression is not finite.")
    builder = _Builder(inputs, wide=wide)
    builder.sum_of(expression.replace(lambda e: e.is_number and not e.is_Number, _decimal))
    return builder.graph()


def _decimal(number: sympy.Expr) -> sympy.Float:
    value = number.evalf(20)
    if not value.is_Number:
        raise KanrunError(f"The number {number} of the expression is not real.")
    return sympy.Float(value, 17)


def composed(
    variables: tuple[sympy.Expr, ...], factor: sympy.Expr, inner: Graph, inputs: int
) -> tuple[Graph, int]:
    """Return factor(x) * inner(u(x)) as one graph, and the place of inner's first edge in it."""
    builder = _Builder(inputs, free=False)
    number = {i: builder.node_of(each) for i, each in enumerate(variables)}
    first = len(builder.edges)
    for node in range(inner.inputs, inner.output + 1):
        into = [inner.edges[i] for i in inner.into(node)]
        number[node] = builder.add(
            inner.operation(node), [(number[edge.source], edge.function) for edge in into]
        )
    if factor != 1:
        builder.add("product", [(number[inner.output], Identity()), *builder.factors(factor)])
    return builder.graph(), first


@dataclass
class _Builder:
    inputs: int
    free: bool = True  # whether numbers are constants that a fit may move
    wide: bool = (
        False  # whether those that are 0, 1 or -1 are as well, but where that would be redundant
    )
    operations: list[Operation] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    known: dict[sympy.Expr, int] = field(default_factory=dict)

    def graph(self) -> Graph:
        ordered = sorted(self.edges, key=lambda edge: edge.target)
        return Graph(self.inputs, tuple(self.operations), tuple(ordered))

    def add(self, operation: Operation, terms: list[_Term]) -> int:
        """Add a node of these terms and return it."""
        self.operations.append(operation)
        node = self.inputs + len(self.operations) - 1
        self.edges += [Edge(source, node, function) for source, function in terms]
        return node

    def node_of(self, expression: sympy.Expr) -> int:
        """Return the node with the expression's value: an input, or one that is made for it."""
        if expression.is_Symbol:
            return int(str(expression)[1:])
        if expression not in self.known:
            self.known[expression] = (
                self.add("product", self.factors(expression))
                if expression.is_Mul
                else self.sum_of(expression)
            )
        return self.known[expression]

    def sum_of(self, expression: sympy.Expr) -> int:
        """Return a sum node of the expression's terms; a constant goes into the first of them."""
        constant, rest = expression.as_coeff_Add()
        terms = [self.term(each) for each in sympy.Add.make_args(rest)]
        if constant != 0:
            source, function = terms[0]
            terms[0] = source, self.shifted(function, float(constant))
        return self.add("sum", terms)

    def factors(self, expression: sympy.Expr) -> list[_Term]:
        """Return the factors of a product, its coefficient in the first of them."""
        coefficient, rest = _apart(expression)
        parts = [self.term(each) for each in sympy.Mul.make_args(rest)]
        if coefficient != 1:
            source, function = parts[0]
            parts[0] = source, self.scaled(function, float(coefficient))
        return parts

    def term(self, expression: sympy.Expr) -> _Term:
        """Return the expression as a function of one node."""
        coefficient, rest = _apart(expression)
        if rest == 1:
            raise KanrunError("A constant is no term of a graph.")
        if rest.is_Symbol:
            return self.node_of(rest), self.line(float(coefficient))
        base, exponent = rest.as_base_exp()
        if rest.is_Mul or rest.is_Add:
            return self.node_of(rest), self.line(
                float(coefficient)
            ) if coefficient != 1 else Identity()
        known = rest.is_Pow and exponent.is_Rational and exponent.q <= _ROOTS
        for candidate in [power(exponent)] if known else TABLE.values():
            if (argument := _argument(rest, candidate)) is not None:
                return self._called(candidate, argument, float(coefficient))
        if rest.is_Pow:  # u^v = exp(v log u)
            return self._called(TABLE["exp"], exponent * sympy.log(base), float(coefficient))
        raise KanrunError(f"{rest} is no candidate.")

    def line(self, slope: float) -> Symbolic:
        """Return slope * t."""
        fixed = not self.free or (slope in (1.0, -1.0) and not self.wide)
        return Symbolic(IDENTITY, (1.0, 0.0, slope, 0.0), "" if fixed else "c")

    def scaled(self, function: EdgeFunction, factor: float) -> EdgeFunction:
        if not isinstance(function, Symbolic):
            return self.line(factor)
        scaled = function.scaled(factor)
        keeps = not self.free or "c" in scaled.free or "c" not in scaled.candidate.free
        return scaled if keeps else replace(scaled, free=scaled.free + "c")

    def shifted(self, function: EdgeFunction, constant: float) -> Symbolic:
        function = function if isinstance(function, Symbolic) else self.line(1.0)
        shifted = function.shifted(constant)
        return shifted if self.free else replace(shifted, free=function.free)

    def _called(self, candidate: Candidate, argument: sympy.Expr, coefficient: float) -> _Term:
        """Return coefficient * f(a node + b)."""
        b, rest = argument.as_coeff_Add()
        a, inner = rest.as_coeff_Mul()
        if inner.is_Add:
            a, inner = sympy.Integer(1), rest
        constants = (float(a), float(b), coefficient, 0.0)
        simple = standardised(Symbolic(candidate, constants, ""))
        moves = {
            name
            for name, value in zip(CONSTANTS, simple.constants, strict=True)
            if value not in (0.0, 1.0, -1.0)
        }
        if self.wide:
            moves |= {"a", "c"} if candidate.homogeneous and inner.is_Symbol else {"a", "b", "c"}
        own = "".join(name for name in candidate.free if name in moves)
        return self.node_of(inner), replace(simple, free=own if self.free else "")


#: The largest root that is a candidate; other powers are exp(p log x), whose exponents a fit can
#: move.
_ROOTS = 6


def _apart(product: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Return the constant factors of a product, and the rest."""
    return product.as_independent(*product.free_symbols, as_Add=False)  # type: ignore[no-any-return]


def _argument(expression: sympy.Expr, candidate: Candidate) -> sympy.Expr | None:
    """Return u if the expression is f(u), else None."""
    if candidate in (IDENTITY,) or not candidate.expression.has(X):
        return None
    form = candidate.expression
    if form.is_Pow and expression.is_Pow and form.exp == expression.exp and form.base == X:
        return expression.base
    if form.is_Function and expression.func == form.func and form.args == (X,):
        return expression.args[0]
    return None
