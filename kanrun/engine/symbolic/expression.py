"""From a graph of symbolic edges to one sympy expression, and its simplification within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sympy
from sympy.core.function import AppliedUndef

from kanrun.engine.symbolic.candidates import CONSTANT, Array, X
from kanrun.engine.symbolic.deadline import OutOfTime, within
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
    """Values (N,) at x (N, inputs) of an expression in which `functions` occur by name, with arguments (N,)."""
    names, columns, replaced = list(names), [x], {}
    outermost = [call for call in expression.atoms(AppliedUndef) if not _inside_another(call, expression)]
    for number, call in enumerate(outermost):
        inner = numeric_value(call.args[0], names[: x.shape[1]], x, functions)
        columns.append(functions[call.func.__name__](inner)[:, None])
        names.append(f"value_of_call_{number}")
        replaced[call] = variable(names[-1])
    return to_numpy(expression.xreplace(replaced), names)(np.concatenate(columns, axis=1))


def _inside_another(call: sympy.Expr, expression: sympy.Expr) -> bool:
    return any(other != call and other.has(call) for other in expression.atoms(AppliedUndef))


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


def simplified(expression: sympy.Expr, names: Sequence[str], points: Array, seconds: float) -> sympy.Expr:
    """The shortest of several equivalent forms that could be found within `seconds`.

    A form counts only if it gives the values of `expression` at `points` (N, d), to rounding.
    """
    best, reference = expression, to_numpy(expression, names)(points)
    best_size = size(expression)
    deadline = within(seconds)
    for transform in _TRANSFORMS:
        for start in dict.fromkeys([best, expression]):
            try:
                form = deadline(transform, start)
                if size(form) < best_size and _same(form, names, points, reference):
                    best, best_size = form, size(form)
            except OutOfTime:
                return best
            except (
                ArithmeticError,
                AttributeError,
                KanrunError,
                NotImplementedError,
                RecursionError,
                TypeError,
                ValueError,
            ):
                continue  # sympy has forms that it cannot take; the expression as it is stands
    return best


def _expanded_functions(expression: sympy.Expr) -> sympy.Expr:
    return sympy.expand(expression, trig=True, power_exp=True, log=True, deep=True)


def _powers(expression: sympy.Expr) -> sympy.Expr:
    return sympy.powsimp(sympy.expand_power_exp(expression), deep=True)


def _positive(expression: sympy.Expr) -> sympy.Expr:
    """Simplified as if the variables were positive; the values at the points decide whether that was allowed."""
    positive = {s: sympy.Symbol(s.name, positive=True) for s in expression.free_symbols}
    back = {new: old for old, new in positive.items()}
    return sympy.simplify(sympy.expand_log(expression.xreplace(positive), force=True)).xreplace(back)


def _exponentials(expression: sympy.Expr) -> sympy.Expr:
    """tanh and atanh written with exp and log, which products inside them may undo."""
    written = expression.replace(sympy.tanh, lambda u: 1 - 2 / (sympy.exp(2 * u) + 1))
    written = written.replace(sympy.atanh, lambda u: sympy.log(sympy.together((1 + u) / (1 - u))) / 2)
    return sympy.simplify(sympy.expand(written, power_exp=True))


_TRANSFORMS: tuple[Callable[[sympy.Expr], sympy.Expr], ...] = (
    sympy.expand,
    _powers,
    _expanded_functions,
    lambda e: sympy.together(_expanded_functions(e)),
    lambda e: sympy.cancel(sympy.together(_expanded_functions(e))),
    _exponentials,
    sympy.factor_terms,
    sympy.factor,
    sympy.simplify,
    _positive,
)


def size(expression: sympy.Expr) -> float:
    """Operations, functions counting twice and numbers by whether they are short."""
    numbers = sum(1.0 if isinstance(a, sympy.Float) else 0.2 for a in expression.atoms(sympy.Number))
    functions = sum(1 for a in sympy.preorder_traversal(expression) if isinstance(a, sympy.Function))
    return float(sympy.count_ops(expression)) + functions + numbers


def _same(form: sympy.Expr, names: Sequence[str], points: Array, reference: Array) -> bool:
    value = to_numpy(form, names)(points)
    scale = float(np.max(np.abs(reference), initial=1e-300))
    return bool(np.all(np.abs(value - reference) <= 1e-11 * scale))
