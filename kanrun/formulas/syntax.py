"""Syntax of formulas: text is read as a tree of sums, products, powers and calls.

Python's `ast` splits the text; no code is run, and sympy is not needed. Names, numbers of arguments
and sizes are checked here, so that no text can keep the program busy; `parsing` checks the values.

Formulas may contain the functions and constants that are listed here, and the names that the caller
of the parser adds; all other names are rejected. This module does not load sympy.
"""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from kanrun.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from sympy import Expr

# Number of levels that a call or an exponent counts as, because sympy is slow in nested calls.
_CALL_LEVELS = 10
_CODE = 40  # number of characters of rejected code that messages quote

_NUMBER_THEN_NAME = re.compile(r"(?<![\w.])(?>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[^\W\d])")


class Refused(Exception):
    """Reason why text is not a formula; converted to a UsageError that quotes the text."""


@dataclass(frozen=True)
class Node:
    """Part of a formula.

    Attributes:
        kind: "number", "variable", "constant", "sum", "product", "negative", "reciprocal", "power"
            (base and exponent) or "call".
        value: The number; the name of a variable or constant; or the function that is called.
        parts: The operands, or the arguments of the call.
    """

    kind: str
    value: Any = None
    parts: tuple[Node, ...] = ()


def read(
    text: str,
    variables: Sequence[str] | None,
    functions: Mapping[str, KnownFunction] | None = None,
    what: str = "formula",
) -> Node:
    """Read a formula as a tree.

    Args:
        text: The formula.
        variables: Names of the variables, which take precedence over the constants pi and e. None
            allows the variables x0, x1, ...
        functions: Functions by name, in addition to `FUNCTIONS`. A function called `.name` is
            written after its argument, as in `(x0^2).name`.
        what: Word for the formula in error messages.

    Raises:
        UsageError: If the text is no formula, uses an unknown name, or is too large.
    """
    with quoting(text, what):
        return _Reader(variables, functions or {}).read(_tree(text).body, 0)


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a formula that are neither functions nor constants, sorted."""
    with quoting(text):
        nodes = list(ast.walk(_tree(text)))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    return tuple(sorted(names - set(CONSTANT_NAMES)))


def variables_in(text: str) -> tuple[str, ...]:
    """Return the variables x0, x1, ... up to the highest index in `text`.

    A variable counts even if it cancels, as x2 does in 0*x2.
    """
    indices = [int(match[1]) for name in names_in(text) if (match := INDEXED.fullmatch(name))]
    return tuple(f"x{i}" for i in range(max(indices, default=-1) + 1))


@contextlib.contextmanager
def quoting(text: object, what: str = "formula") -> Iterator[None]:
    """Convert a `Refused` of the body to a UsageError that quotes the formula `text`.

    The message calls the formula `what`.
    """
    try:
        yield
    except Refused as refusal:
        raise UsageError(f"{what} {quoted(text)}: {refusal}") from None


def quoted(text: object) -> str:
    """Quote the beginning of a formula for a message."""
    # number of characters of a formula that messages quote
    quoted = 80
    shown = str(text)
    return repr(shown if len(shown) <= quoted else f"{shown[: quoted - 3]}...")


def _tree(text: object) -> ast.Expression:
    """Return Python's syntax tree of a formula, in which `^` means power.

    Raises:
        Refused: If `text` has no valid syntax or is too long.
    """
    # largest number of nodes of Python's syntax tree
    nodes = 12_000
    # largest number of characters of a formula
    characters = 20_000
    if not isinstance(text, str) or not text.strip():
        raise Refused("a text such as exp(-x0)*sin(3*x1) is needed")
    if len(text) > characters:
        raise Refused(f"it has {len(text)} characters, at most {characters} are allowed")
    source = " ".join(text.split())
    if match := _NUMBER_THEN_NAME.search(source):
        raise Refused(
            f"a name follows the number {match[0]} at once; write a product as {match[0]}*..."
        )
    try:
        with warnings.catch_warnings():
            # Python warns about dubious code; such code is rejected below anyway.
            warnings.simplefilter("ignore")
            tree = ast.parse(source.replace("^", "**"), mode="eval")
    except SyntaxError as error:
        raise Refused(
            f"it cannot be read {_place(source, error.offset or 0)} ({error.msg}); write products "
            "with * and close parentheses"
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise Refused(
            "it cannot be read: it is nested too deeply or has unreadable characters"
        ) from None
    if sum(1 for _ in ast.walk(tree)) > nodes:
        raise Refused("it has too many terms")
    return tree


def _place(source: str, offset: int) -> str:
    """Describe the position of a syntax error for a message.

    `offset` is the position that Python reports, in which `^` counts as two characters; 0 means the
    end of the formula.
    """
    lengths = (len(source[:end].replace("^", "**")) for end in range(len(source)))
    start = next((end for end, length in enumerate(lengths) if length >= offset - 1), len(source))
    if offset and (rest := source[start:].strip()):
        return f"from {quoted(rest)} on"
    return f"at its end, after {source.strip()[-1:]!r}"


class _Reader:
    """Converts Python's syntax tree to a tree of `Node`, and checks names and sizes."""

    def __init__(
        self, variables: Sequence[str] | None, functions: Mapping[str, KnownFunction]
    ) -> None:
        self.functions = FUNCTIONS | dict(functions)
        self.variables = None if variables is None else frozenset(variables)

    def read(self, node: ast.expr, depth: int) -> Node:
        # largest number of levels of nested operators
        nesting = 100
        if depth > nesting:
            raise Refused(
                f"it is nested too deeply (at most {nesting // _CALL_LEVELS} functions inside "
                "each other)"
            )
        match node:
            case ast.Constant():
                if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                    raise Refused(f"{node.value!r} is not a number")
                return Node("number", node.value)
            case ast.Name():
                return self._name(node.id)
            case ast.UnaryOp(op=ast.USub()):
                return Node("negative", parts=(self.read(node.operand, depth + 1),))
            case ast.UnaryOp(op=ast.UAdd()):
                return self.read(node.operand, depth + 1)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                return self._chain(node, depth)
            case ast.BinOp(op=ast.Pow()):
                base = self.read(node.left, depth + 1)
                return Node("power", parts=(base, self.read(node.right, depth + _CALL_LEVELS)))
            case ast.Compare(small, [ast.Lt() | ast.LtE()], [large]):
                return self._is_larger(large, small, depth)
            case ast.Compare(large, [ast.Gt() | ast.GtE()], [small]):
                return self._is_larger(large, small, depth)
            case ast.Call():
                return self._call(node, depth)
            case ast.Attribute() if f".{node.attr}" in self.functions:
                argument = self.read(node.value, depth + _CALL_LEVELS)
                return Node("call", self.functions[f".{node.attr}"], (argument,))
        raise Refused(
            f"{ast.unparse(node)[:_CODE]!r} is not allowed; use numbers, variables, + - * / ^ and "
            "functions"
        )

    def _is_larger(self, large: ast.expr, small: ast.expr, depth: int) -> Node:
        """Return the step function of the difference of two parts."""
        less = Node("negative", parts=(self.read(small, depth + 1),))
        difference = Node("sum", parts=(self.read(large, depth + 1), less))
        return Node("call", FUNCTIONS["heaviside"], (difference,))

    def _chain(self, node: ast.BinOp, depth: int) -> Node:
        """Read a sum or product of any length as one node."""
        is_sum = isinstance(node.op, ast.Add | ast.Sub)
        operators = (ast.Add, ast.Sub) if is_sum else (ast.Mult, ast.Div)
        parts: list[Node] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and isinstance(left.op, operators):
            part = self.read(left.right, depth + 1)
            if isinstance(left.op, ast.Sub | ast.Div):
                part = Node("negative" if is_sum else "reciprocal", parts=(part,))
            parts.append(part)
            left = left.left
        parts.append(self.read(left, depth + 1))
        return Node("sum" if is_sum else "product", parts=tuple(reversed(parts)))

    def _is_variable(self, name: str) -> bool:
        if self.variables is not None:
            return name in self.variables
        return INDEXED.fullmatch(name) is not None

    def _name(self, name: str) -> Node:
        # largest number of a variable such as x0
        index = 9_999
        if self._is_variable(name):
            if self.variables is None and len(name) > len(f"x{index}"):
                raise Refused(
                    f"the variable {name} has too high a number; at most x{index} is allowed"
                )
            return Node("variable", name)
        if name in CONSTANT_NAMES:
            return Node("constant", name)
        if name in FUNCTIONS:
            raise Refused(f"{name} is a function; write {name}(...)")
        if self.variables is not None and not self.variables:
            raise Refused(
                f"unknown name {name!r}; only numbers, pi, e and functions of them are allowed"
            )
        variables = sorted(self.variables or ())
        suggestion = similar_names(name, [*variables, *CONSTANT_NAMES, *FUNCTIONS])
        use = (
            f"the variables are {', '.join(variables)}"
            if variables
            else "use x0, x1, ... for variables"
        )
        raise Refused(f"unknown name {name!r}{suggestion}; {use}")

    def _call(self, node: ast.Call, depth: int) -> Node:
        if not isinstance(node.func, ast.Name):
            raise Refused(
                f"{ast.unparse(node.func)[:_CODE]!r} cannot be called; write products with *"
            )
        name = node.func.id
        if self._is_variable(name):
            raise Refused(f"the variable {name} cannot be called; write products with *")
        if name not in self.functions:
            suggestion = similar_names(name, FUNCTIONS) or f"; known are {', '.join(FUNCTIONS)}"
            raise Refused(f"unknown function {name!r}{suggestion}")
        if node.keywords:
            raise Refused(f"{name} takes no named arguments")
        function = self.functions[name]
        wanted = function.arguments
        count = len(node.args)
        if count < 2 if wanted is None else count != wanted:
            many = "1 argument" if wanted == 1 else f"{wanted or 'two or more'} arguments"
            raise Refused(f"{name} takes {many}, not {count}")
        arguments = (self.read(argument, depth + _CALL_LEVELS) for argument in node.args)
        return Node("call", function, tuple(arguments))


#: Functions that are reciprocals of other functions, such as cot = 1/tan. Formulas may contain
#: them, because sympy's simplification produces them.
RECIPROCALS = {
    "cot": "tan",
    "sec": "cos",
    "csc": "sin",
    "coth": "tanh",
    "sech": "cosh",
    "csch": "sinh",
}
#: Names of the constants.
CONSTANT_NAMES = ("pi", "e", "E")
#: Pattern of a variable's name that consists of x and a number, such as x0.
INDEXED = re.compile(r"x(0|[1-9]\d*)")


@dataclass(frozen=True)
class KnownFunction:
    """Function that formulas may call.

    Attributes:
        definition: Name of the same function in sympy; a formula in its arguments x0, x1, ...; or a
            Python function that maps the arguments to the sympy expression.
        arguments: Number of arguments; None for two or more.
    """

    definition: str | Callable[..., Expr]
    arguments: int | None = 1


def _logarithm(argument: Expr, base: int) -> Expr:
    import sympy

    return sympy.log(argument, base)


def _bessel(order: Expr, argument: Expr) -> Expr:
    """Return the Bessel function J_order(argument), for orders whose values were tested.

    Raises:
        ValueError: If the order is not a whole number from 0 to 8.
    """
    import sympy

    if not order.is_Integer or not 0 <= order <= 8:
        raise ValueError("the order of besselj must be a whole number from 0 to 8")
    return sympy.besselj(order, argument)


def _table() -> dict[str, KnownFunction]:
    circular = ("sin", "cos", "tan")
    hyperbolic = ("sinh", "cosh", "tanh")
    inverses = [f"a{name}" for name in (*circular, *hyperbolic)]
    further = ("exp", "log", "sqrt", "sign", "erf", "floor", "Abs")
    names = (*circular, *hyperbolic, *inverses, *RECIPROCALS, *further)
    unary: dict[str, str | Callable[..., Expr]] = {name: name for name in names}
    unary |= {f"arc{name}": f"a{name}" for name in (*circular, "tanh")}
    unary |= {
        "ln": "log",
        "log10": partial(_logarithm, base=10),
        "log2": partial(_logarithm, base=2),
        "abs": "Abs",
        "sigmoid": "1/(1 + exp(-x0))",
        "gaussian": "exp(-x0^2)",
        "heaviside": "(1 + sign(x0))/2",
        "j0": "besselj(0, x0)",
        "j1": "besselj(1, x0)",
    }
    table = {name: KnownFunction(definition) for name, definition in unary.items()}
    table["besselj"] = KnownFunction(_bessel, 2)
    table["where"] = KnownFunction("x2 + (x1 - x2)*x0", 3)
    for name in ("Min", "Max"):
        table[name] = table[name.lower()] = KnownFunction(name, None)
    return table


#: Functions by name, including aliases such as arcsin and ln. sympy's own spellings (Abs, Max) are
#: included as well, so that the text of an expression can be parsed again. sigmoid(x) is
#: 1/(1 + exp(-x)), gaussian(x) is exp(-x^2), heaviside(x) is 1/2 at 0, and where(x < 0.5, 1, 0) is
#: 1 below 0.5 and 0 above.
FUNCTIONS: dict[str, KnownFunction] = _table()


def similar_names(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with names similar to `name`, or "" if there are none.

    There are no suggestions for a single letter, because it resembles every short name.
    """
    return did_you_mean(name, known) if len(name) > 1 else ""
