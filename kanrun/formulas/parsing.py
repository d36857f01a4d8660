"""Parser from text to sympy expressions. It accepts a few nodes of Python's `ast`, runs no code.

Decimal numbers become exact rationals: 0.5 becomes 1/2. With sympy's Float, constants would have
15 digits only, and 0.5*x0 would not be equal to x0/2. With rationals, both are equal, and x0**0.5
becomes sqrt(x0). The sizes of formulas and numbers are limited before anything is computed, so that
no text can keep the program busy.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import sympy
from sympy import Expr

from kanrun.errors import UsageError
from kanrun.formulas.vocabulary import (
    CONSTANTS,
    FUNCTIONS,
    INDEXED,
    KnownFunction,
    similar_names,
    step,
    variable,
)

# The constants from here to _EXPONENT limit formulas, and are checked before anything is computed.
# This one is the largest number of characters.
_CHARACTERS = 20_000
_NODES = 12_000  # largest number of nodes of Python's syntax tree
_NESTING = 100  # largest number of levels of nested operators
# Number of levels that a call or an exponent counts as, because sympy is slow in nested calls.
_CALL_LEVELS = 10
_INDEX = 9_999  # largest number of a variable such as x0
_PAIRS = 300  # largest number of pairs of terms in min and max; sympy compares 300 pairs in 3 s
_DIGITS = 5_000  # largest number of digits of a power that is computed exactly
_EXPONENT = 1_000  # largest exponent of a power whose base contains a variable
_MAGNITUDE = 1e300  # constants lie between 1 / _MAGNITUDE and _MAGNITUDE, well within float64
PRECISION = 20  # number of digits with which constants are evaluated
_QUOTED = 80  # number of characters of a formula that messages quote
_CODE = 40  # number of characters of rejected code that messages quote

_NUMBER_THEN_NAME = re.compile(r"(?<![\w.])(?>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[^\W\d])")
_NOT_REAL = (sympy.I, sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)
_ABSURD = "it holds a number of absurd size"


class _Refused(Exception):
    """Reason why text is not a formula; converted to a UsageError that quotes the text."""


def parse(
    text: str,
    variables: Sequence[str] | None = None,
    functions: Mapping[str, KnownFunction] | None = None,
) -> Expr:
    """Parse a formula to a sympy expression in real symbols.

    A formula consists of numbers, variables, constants, + - * / ^, parentheses and functions. `^`
    and `**` both mean power. Numbers are exact.

    Args:
        text: The formula.
        variables: Names of the variables, which take precedence over the constants pi and e. None
            allows the variables x0, x1, ...
        functions: Functions by name, in addition to `FUNCTIONS`. A function called `.name` is
            written after its argument, as in `(x0^2).name`.

    Raises:
        UsageError: If the formula contains anything else, has no variable, is too large, or has a
            constant that is not real and finite.
    """
    expression = parse_expression(text, variables, functions)
    if not expression.free_symbols:
        hint = "x0, x1, ..." if variables is None else ", ".join(variables)
        raise UsageError(f"formula {_quoted(text)} does not depend on any variable; use {hint}")
    return expression


def parse_expression(
    text: str,
    names: Sequence[str] | None,
    functions: Mapping[str, KnownFunction] | None = None,
    what: str = "formula",
) -> Expr:
    """Parse a formula as in `parse`, but accept constant formulas as well.

    Error messages call the formula `what`.
    """
    try:
        return _Reader(names, functions or {}).read_all(_tree(text))
    except _Refused as refusal:
        raise UsageError(f"{what} {_quoted(text)}: {refusal}") from None


def constant(value: object, known: Mapping[str, float] | None = None) -> float:
    """Convert a number, or a constant formula such as `0.4*pi`, to a float.

    Args:
        value: Number or text.
        known: Names that the text may contain, with their values.

    Raises:
        UsageError: If the value is not a finite number.
    """
    if isinstance(value, str):
        known = known or {}
        put = {variable(name): sympy.Rational(repr(number)) for name, number in known.items()}
        value_of = parse_expression(value, tuple(known), what="number")
        return float(value_of.subs(put).evalf(PRECISION))
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{value!r} is not a number; write one such as 2, -0.5 or 0.4*pi")
    if not math.isfinite(value):
        raise UsageError(f"{value} is not a finite number")
    return float(value)


def variables_in(text: str) -> tuple[str, ...]:
    """Return the variables x0, x1, ... up to the highest index in `text`.

    A variable counts even if it cancels, as x2 does in 0*x2.
    """
    indices = [int(match[1]) for name in names_in(text) if (match := INDEXED.fullmatch(name))]
    return tuple(f"x{i}" for i in range(max(indices, default=-1) + 1))


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in a formula that are neither functions nor constants, sorted."""
    try:
        nodes = list(ast.walk(_tree(text)))
    except _Refused as refusal:
        raise UsageError(f"formula {_quoted(text)}: {refusal}") from None
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    return tuple(sorted(names - CONSTANTS.keys()))


def _quoted(text: object) -> str:
    shown = str(text)
    return repr(shown if len(shown) <= _QUOTED else f"{shown[: _QUOTED - 3]}...")


def _tree(text: object) -> ast.Expression:
    """Return Python's syntax tree of a formula, in which `^` means power.

    Raises:
        _Refused: If `text` has no valid syntax or is too long.
    """
    if not isinstance(text, str) or not text.strip():
        raise _Refused("a text such as exp(-x0)*sin(3*x1) is needed")
    if len(text) > _CHARACTERS:
        raise _Refused(f"it has {len(text)} characters, at most {_CHARACTERS} are allowed")
    source = " ".join(text.split())
    if match := _NUMBER_THEN_NAME.search(source):
        raise _Refused(
            f"a name follows the number {match[0]} at once; write a product as {match[0]}*..."
        )
    try:
        with warnings.catch_warnings():
            # Python warns about dubious code; such code is rejected below anyway.
            warnings.simplefilter("ignore")
            tree = ast.parse(source.replace("^", "**"), mode="eval")
    except SyntaxError as error:
        raise _Refused(
            f"it cannot be read {_place(source, error.offset or 0)} ({error.msg}); write products "
            "with * and close parentheses"
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise _Refused(
            "it cannot be read: it is nested too deeply or has unreadable characters"
        ) from None
    if sum(1 for _ in ast.walk(tree)) > _NODES:
        raise _Refused("it has too many terms")
    return tree


def _place(source: str, offset: int) -> str:
    """Describe the position of a syntax error for a message.

    `offset` is the position that Python reports, in which `^` counts as two characters; 0 means the
    end of the formula.
    """
    lengths = (len(source[:end].replace("^", "**")) for end in range(len(source)))
    start = next((end for end, length in enumerate(lengths) if length >= offset - 1), len(source))
    if offset and (rest := source[start:].strip()):
        return f"from {_quoted(rest)} on"
    return f"at its end, after {source.strip()[-1:]!r}"


class _Reader:
    """Converts a syntax tree to an expression, and checks each constant before it is used."""

    def __init__(
        self, variables: Sequence[str] | None, functions: Mapping[str, KnownFunction]
    ) -> None:
        self.functions = FUNCTIONS | dict(functions)
        self.variables = None if variables is None else frozenset(variables)
        self.pairs = 0  # Number of pairs of terms in min and max so far.

    def read_all(self, tree: ast.Expression) -> Expr:
        """Convert the whole tree to an expression.

        Exponents and numbers are checked again at the end, because sympy may have combined several
        numbers to a larger number.
        """
        expression = self.read(tree.body, 0)
        for power in expression.atoms(sympy.Pow):
            _check_exponent(power.exp, power.base)
        if any(abs(number) >= _MAGNITUDE for number in expression.atoms(sympy.Number)):
            raise _Refused(_ABSURD)
        return expression

    def read(self, node: ast.AST, depth: int) -> Expr:
        if depth > _NESTING:
            raise _Refused(
                f"it is nested too deeply (at most {_NESTING // _CALL_LEVELS} functions inside "
                "each other)"
            )
        match node:
            case ast.Constant():
                return _number(node.value)
            case ast.Name():
                return self._name(node.id)
            case ast.UnaryOp(op=ast.USub()):
                return -self.read(node.operand, depth + 1)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.read(node.operand, depth + 1)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                return self._chain(node, depth)
            case ast.BinOp(op=ast.Pow()):
                base = self.read(node.left, depth + 1)
                exponent = self.read(node.right, depth + _CALL_LEVELS)
                _check_exponent(exponent, base)
                return _checked(base**exponent)
            case ast.Compare(ast.expr() as small, [ast.Lt() | ast.LtE()], [large]):
                return step(self.read(large, depth + 1) - self.read(small, depth + 1))
            case ast.Compare(ast.expr() as large, [ast.Gt() | ast.GtE()], [small]):
                return step(self.read(large, depth + 1) - self.read(small, depth + 1))
            case ast.Call():
                return self._call(node, depth)
            case ast.Attribute() if f".{node.attr}" in self.functions:
                argument = self.read(node.value, depth + _CALL_LEVELS)
                return _built(self.functions[f".{node.attr}"], argument)
        raise _Refused(
            f"{ast.unparse(node)[:_CODE]!r} is not allowed; use numbers, variables, + - * / ^ and "
            "functions"
        )

    def _chain(self, node: ast.BinOp, depth: int) -> Expr:
        """Convert a sum or product of any length at once, instead of term by term."""
        is_sum = isinstance(node.op, ast.Add | ast.Sub)
        operators = (ast.Add, ast.Sub) if is_sum else (ast.Mult, ast.Div)
        terms: list[Expr] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and isinstance(left.op, operators):
            term = self.read(left.right, depth + 1)
            if isinstance(left.op, ast.Sub):
                term = -term
            elif isinstance(left.op, ast.Div):
                term = _checked(1 / term)
            terms.append(term)
            left = left.left
        terms.append(self.read(left, depth + 1))
        return _checked((sympy.Add if is_sum else sympy.Mul)(*reversed(terms)))

    def _is_variable(self, name: str) -> bool:
        if self.variables is not None:
            return name in self.variables
        return INDEXED.fullmatch(name) is not None

    def _name(self, name: str) -> Expr:
        if self._is_variable(name):
            if self.variables is None and len(name) > len(f"x{_INDEX}"):
                raise _Refused(
                    f"the variable {name} has too high a number; at most x{_INDEX} is allowed"
                )
            return variable(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            raise _Refused(f"{name} is a function; write {name}(...)")
        if self.variables is not None and not self.variables:
            raise _Refused(
                f"unknown name {name!r}; only numbers, pi, e and functions of them are allowed"
            )
        variables = sorted(self.variables or ())
        suggestion = similar_names(name, [*variables, *CONSTANTS, *FUNCTIONS])
        use = (
            f"the variables are {', '.join(variables)}"
            if variables
            else "use x0, x1, ... for variables"
        )
        raise _Refused(f"unknown name {name!r}{suggestion}; {use}")

    def _call(self, node: ast.Call, depth: int) -> Expr:
        if not isinstance(node.func, ast.Name):
            raise _Refused(
                f"{ast.unparse(node.func)[:_CODE]!r} cannot be called; write products with *"
            )
        name = node.func.id
        if self._is_variable(name):
            raise _Refused(f"the variable {name} cannot be called; write products with *")
        if name not in self.functions:
            suggestion = similar_names(name, FUNCTIONS) or f"; known are {', '.join(FUNCTIONS)}"
            raise _Refused(f"unknown function {name!r}{suggestion}")
        if node.keywords:
            raise _Refused(f"{name} takes no named arguments")
        function = self.functions[name]
        arguments = [self.read(argument, depth + _CALL_LEVELS) for argument in node.args]
        wanted = function.arguments
        if len(arguments) < 2 if wanted is None else len(arguments) != wanted:
            many = "1 argument" if wanted == 1 else f"{wanted or 'two or more'} arguments"
            raise _Refused(f"{name} takes {many}, not {len(arguments)}")
        if wanted is None:  # sympy compares all terms in min and max, including nested ones.
            joined = [
                argument for argument in arguments if isinstance(argument, sympy.Min | sympy.Max)
            ]
            terms = len(arguments) + sum(len(argument.args) - 1 for argument in joined)
            self.pairs += terms * (terms - 1) // 2
            if self.pairs > _PAIRS:
                raise _Refused("it has too many terms in min and max")
        return _built(function, *arguments)


def _built(function: KnownFunction, *arguments: Expr) -> Expr:
    try:
        return _checked(function.build(*arguments))
    except ValueError as error:
        raise _Refused(str(error)) from None


def _number(value: Any) -> Expr:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused(f"{value!r} is not a number")
    if value and not _is_ordinary(value):
        raise _Refused(_ABSURD)
    return sympy.Integer(value) if isinstance(value, int) else sympy.Rational(repr(value))


def _check_exponent(exponent: Expr, base: Expr) -> None:
    """Raise `_Refused` if a power is expensive to compute or has a huge value."""
    if not exponent.is_number:
        return
    size = abs(float(exponent.evalf(PRECISION)))
    if base.free_symbols and size > _EXPONENT:
        raise _Refused(f"the exponent {size:.3g} is too large; at most {_EXPONENT} is allowed")
    numbers = [integer for atom in base.atoms(sympy.Rational) for integer in (atom.p, atom.q)]
    digits = max((len(str(number)) for number in numbers), default=1)
    if digits > 1 and size * digits > _DIGITS:
        raise _Refused(_ABSURD)
    magnitude = abs(float(base.evalf(PRECISION))) if base.is_number else 1.0
    if magnitude > 0 and size * abs(math.log10(magnitude)) > math.log10(_MAGNITUDE):
        raise _Refused(_ABSURD)


def _checked(value: Expr) -> Expr:
    """Return `value`; raise `_Refused` if it is a constant that is not real, not finite or huge."""
    if value.has(*_NOT_REAL):
        raise _Refused(
            "it is not finite and real (a division by zero, or a root or log of a number out of "
            "range)"
        )
    if value.free_symbols or value == 0:
        return value
    number = value.evalf(PRECISION)
    if not number.is_Number:
        raise _Refused(f"{value} is not a real number")
    if not _is_ordinary(number):
        raise _Refused(_ABSURD)
    return value


def _is_ordinary(number: Any) -> bool:
    return bool(1 / _MAGNITUDE < abs(number) < _MAGNITUDE)
