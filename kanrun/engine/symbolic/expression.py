"""From a graph of symbolic edges to one sympy expression, and the values of expressions with splines in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sympy
from sympy.core.function import AppliedUndef

from kanrun.engine.symbolic.candidates import CONSTANT, Array, X
from kanrun.engine.symbolic.edges import CONSTANTS, Identity, Symbolic
from kanrun.engine.symbolic.graph import Graph
from kanrun.errors import KanrunError
from kanrun.formulas import to_numpy, variable

#: Digits of a constant that was not rounded.
DIGITS = 17


def to_expression(graph: Graph, names: Sequence[str]) -> sympy.Expr:
    """The graph as one expression in the variables `names`; splines are functions by the names of `numeric_names`."""
    values: list[sympy.Expr] = [variable(name) for name in names]
    numeric = numeric_names(graph)
    for node in range(graph.inputs, graph.output + 1):
        terms = []
        for i in graph.into(node):
            argument = values[graph.edges[i].source]
            if i in numeric:
                terms.append(sympy.Function(numeric[i])(argument))
            else:
                terms.append(_edge_expression(graph.edges[i].function, argument))
        values.append(sympy.Add(*terms) if graph.operation(node) == "sum" else sympy.Mul(*terms))
    return values[graph.output]


def numeric_names(graph: Graph) -> dict[int, str]:
    """A name for each edge that is a spline: f1, f2, ..."""
    return {index: f"f{number + 1}" for number, index in enumerate(graph.numeric_edges())}


def numeric_value(
    expression: sympy.Expr, names: Sequence[str], x: Array, functions: Mapping[str, Callable[[Array], Array]]
) -> Array:
    """Values (N,) at x (N, inputs) of an expression in which `functions` occur by name, with arguments (N,).

    Calls are evaluated from the inside out, each once, wherever it stands: alone and inside others.
    """
    names, columns = list(names), [x]
    replaced: dict[sympy.Expr, sympy.Symbol] = {}
    for number, call in enumerate(sorted(expression.atoms(AppliedUndef), key=_size)):
        argument = to_numpy(call.args[0].xreplace(replaced), names)(np.concatenate(columns, axis=1))
        columns.append(functions[call.func.__name__](argument)[:, None])
        names.append(f"value_of_call_{number}")
        replaced[call] = variable(names[-1])
    return to_numpy(expression.xreplace(replaced), names)(np.concatenate(columns, axis=1))


def _size(call: sympy.Expr) -> tuple[int, str]:
    """What is inside another one is smaller; the name keeps the order the same in every process."""
    return sum(1 for _ in sympy.preorder_traversal(call)), str(call)


def _edge_expression(function: object, argument: sympy.Expr) -> sympy.Expr:
    if isinstance(function, Identity):
        return argument
    if not isinstance(function, Symbolic):
        raise KanrunError("An edge is still numeric: there is no formula of the whole network.")
    a, b, c, d = (_number(function, name) for name in CONSTANTS)
    if function.candidate is CONSTANT:
        return d
    return c * function.candidate.expression.subs(X, a * argument + b) + d


def _number(function: Symbolic, name: str) -> sympy.Expr:
    exact = dict(function.exact)
    value = function.constants[CONSTANTS.index(name)]
    if name in exact:
        return exact[name]
    return sympy.Integer(int(value)) if value in (-1.0, 0.0, 1.0) else sympy.Float(value, DIGITS)
