"""From text to a sympy expression: a whitelist over Python's `ast`; nothing is evaluated as code.

A decimal such as 0.5 becomes the exact rational 1/2. A sympy Float would carry 15 digits that
`N(expr, 17)` cannot add to, and 0.5*x0 would not compare equal to x0/2; a rational does both, and
x0**0.5 is sqrt(x0). Sizes are bounded before anything is computed, so that no text can keep the
program busy.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import sympy

from kanrun.errors import UsageError, did_you_mean

#: Reciprocal to the function it is the reciprocal of. sympy's simplification writes these, and so
#: may a formula.
RECIPROCALS: dict[Any, Any] = {
    sympy.cot: sympy.tan,
    sympy.sec: sympy.cos,
    sympy.csc: sympy.sin,
    sympy.coth: sympy.tanh,
    sympy.sech: sympy.cosh,
    sympy.csch: sympy.sinh,
}


def variable(name: str) -> sympy.Symbol:
    """Return the symbol of an input. It is real, so that sqrt(x0**2) is |x0|.

    Expressions that are compared with parsed ones must be built from it.
    """
    return sympy.Symbol(name, real=True)


@dataclass(frozen=True)
class KnownFunction:
    """A function of formulas: `build(*arguments)`, with `arguments` of them (None: two or more)."""

    build: Callable[..., sympy.Expr]
    arguments: int | None = 1


def _bessel(order: sympy.Expr, argument: sympy.Expr) -> sympy.Expr:
    """Return J_order(argument); values of orders above 8 were not compared with 30 digits."""
    if not order.is_Integer or not 0 <= order <= 8:
        raise ValueError("the order of besselj must be a whole number from 0 to 8")
    return sympy.besselj(order, argument)


def _table() -> dict[str, KnownFunction]:
    circular, hyperbolic = ("sin", "cos", "tan"), ("sinh", "cosh", "tanh")
    inverses = [f"a{name}" for name in (*circular, *hyperbolic)]
    others = ("exp", "log", "sqrt", "sign", "erf", "floor")
    names = (
        *circular,
        *hyperbolic,
        *inverses,
        *(function.__name__ for function in RECIPROCALS),
        *others,
    )
    unary: dict[str, Callable[..., Any]] = {name: getattr(sympy, name) for name in names}
    unary |= {f"arc{name}": getattr(sympy, f"a{name}") for name in (*circular, "tanh")}
    unary |= {
        "ln": sympy.log,
        "log10": lambda argument: sympy.log(argument, 10),
        "log2": lambda argument: sympy.log(argument, 2),
        "abs": sympy.Abs,
        "Abs": sympy.Abs,
        "sigmoid": lambda argument: 1 / (1 + sympy.exp(-argument)),
        "gaussian": lambda argument: sympy.exp(-(argument**2)),
        "j0": lambda argument: sympy.besselj(0, argument),
        "j1": lambda argument: sympy.besselj(1, argument),
    }
    table = {name: KnownFunction(build) for name, build in unary.items()}
    table["besselj"] = KnownFunction(_bessel, 2)
    for name, build in {"min": sympy.Min, "max": sympy.Max}.items():
        table[name] = table[name.capitalize()] = KnownFunction(build, None)
    return table


#: Functions by name. Aliases (arcsin, ln, ...) and sympy's spellings (Abs, Max) are included, so
#: that the text of an expression reads back as that expression. sigmoid(x) is 1/(1 + exp(-x)),
#: gaussian(x) is exp(-x^2).
FUNCTIONS: dict[str, KnownFunction] = _table()

CONSTANTS: dict[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}


@dataclass(frozen=True)
class FormulaLimits:
    """Maximum sizes of a formula, checked before anything is computed."""

    characters: int = 20_000
    #: Nodes of Python's syntax tree.
    nodes: int = 12_000
    #: Levels of operators.
    nesting: int = 100
    #: Levels per call or exponent: sympy takes exponential time in exp(-exp(-...)).
    call_levels: int = 10
    #: Index of a variable.
    index: int = 9_999
    #: Pairs of terms in min and max, which sympy compares: about 3 seconds.
    pairs: int = 300
    #: Digits of a number that is computed exactly.
    digits: int = 5_000
    #: Exponent of a power with a variable in its base.
    exponent: int = 1_000
    #: Constants lie between 1/magnitude and magnitude, so that float64 contains them.
    magnitude: float = 1e300


_INDEXED = re.compile(r"x(0|[1-9]\d*)")
_NUMBER_THEN_NAME = re.compile(r"(?<![\w.])(?>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=[^\W\d])")
_NOT_REAL = (sympy.I, sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)
_ABSURD = "it holds a number of absurd size"


class _Refused(Exception):
    """The reason why a text is not a formula; becomes a UsageError that quotes the text."""


def parse(
    text: str, variables: Sequence[str] | None = None, limits: FormulaLimits = FormulaLimits()
) -> sympy.Expr:
    """Parse a formula to an expression in real symbols.

    Variables are x0, x1, ..., or exactly `variables` where given: a declared name wins over the
    constants pi and e. `^` and `**` both mean power; numbers are exact. Raises UsageError for
    anything but numbers, variables, constants, + - * / ^, parentheses and the functions of
    `FUNCTIONS`; for a formula without a variable; and for one beyond `limits` or whose constants
    are not real.
    """
    expression = _read(text, variables, limits, what="formula")
    if not expression.free_symbols:
        hint = "x0, x1, ..." if variables is None else ", ".join(variables)
        raise UsageError(f"formula {_quoted(text)} does not depend on any variable; use {hint}")
    return expression


def parse_expression(
    text: str, names: Sequence[str], limits: FormulaLimits = FormulaLimits()
) -> sympy.Expr:
    """Parse a formula in the variables `names`, or in none."""
    return _read(text, names, limits, what="formula")


def constant(value: object, known: Mapping[str, float] | None = None) -> float:
    """Return a finite number from a number, or from text such as "0.4*pi" with `known` names."""
    if isinstance(value, str):
        put = {
            variable(name): sympy.Rational(repr(number)) for name, number in (known or {}).items()
        }
        return float(
            _read(value, tuple(known or ()), FormulaLimits(), what="number").subs(put).evalf(20)
        )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{value!r} is not a number; write one such as 2, -0.5 or 0.4*pi")
    if not math.isfinite(value):
        raise UsageError(f"{value} is not a finite number")
    return float(value)


def variables_in(text: str, limits: FormulaLimits = FormulaLimits()) -> tuple[str, ...]:
    """Return x0, x1, ... up to the highest index in `text`, also if it cancels as in 0*x2."""
    indices = [
        int(match[1]) for name in names_in(text, limits) if (match := _INDEXED.fullmatch(name))
    ]
    return tuple(f"x{i}" for i in range(max(indices, default=-1) + 1))


def names_in(text: str, limits: FormulaLimits = FormulaLimits()) -> tuple[str, ...]:
    """Return the variables in `text`, sorted: the names that are neither called nor constants."""
    try:
        nodes = list(ast.walk(_tree(text, limits)))
    except _Refused as refusal:
        raise UsageError(f"formula {_quoted(text)}: {refusal}") from None
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}
    return tuple(sorted(names - CONSTANTS.keys()))


def as_variables(names: Sequence[str]) -> tuple[str, ...]:
    """Return `names` if formulas can contain all of them as variables, else x0, x1, ...

    Python's keywords, functions and constants of formulas, their splines f1, f2, ..., and x0, x1,
    ... out of order are not possible.
    """
    taken = {*FUNCTIONS, *CONSTANTS, *keyword.kwlist, "numpy", "scipy"}
    numbered = tuple(f"x{i}" for i in range(len(names)))

    def usable(name: str, own: str) -> bool:
        numbered_otherwise = name != own and re.fullmatch(r"[fx]\d+", name)
        return (
            name.isascii() and name.isidentifier() and name not in taken and not numbered_otherwise
        )

    return tuple(names) if all(map(usable, names, numbered)) else numbered


def _read(
    text: str, variables: Sequence[str] | None, limits: FormulaLimits, what: str
) -> sympy.Expr:
    try:
        return _Reader(variables, limits).read_all(_tree(text, limits))
    except _Refused as refusal:
        raise UsageError(f"{what} {_quoted(text)}: {refusal}") from None


def _quoted(text: object) -> str:
    shown = str(text)
    return repr(shown if len(shown) <= 80 else shown[:77] + "...")


def _tree(text: object, limits: FormulaLimits) -> ast.Expression:
    """Return Python's syntax tree of a formula, with `^` read as a power and its size bounded."""
    if not isinstance(text, str) or not text.strip():
        raise _Refused("a text such as exp(-x0)*sin(3*x1) is needed")
    if len(text) > limits.characters:
        raise _Refused(f"it has {len(text)} characters, at most {limits.characters} are allowed")
    source = " ".join(text.split())
    if match := _NUMBER_THEN_NAME.search(source):
        number = source[match.start() : match.end()]
        raise _Refused(
            f"a name follows the number {number} at once; write a product as {number}*..."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Python's advice on odd code; such text is rejected anyway
            tree = ast.parse(source.replace("^", "**"), mode="eval")
    except SyntaxError as error:
        raise _Refused(
            f"it cannot be read ({error.msg}); write products with * and close parentheses"
        ) from None
    except (ValueError, RecursionError, MemoryError):
        raise _Refused(
            "it cannot be read: it is nested too deeply or has unreadable characters"
        ) from None
    if sum(1 for _ in ast.walk(tree)) > limits.nodes:
        raise _Refused("it has too many terms")
    return tree


class _Reader:
    """A reader of the tree from the leaves up.

    Every constant is checked before it enters the next one.
    """

    def __init__(self, variables: Sequence[str] | None, limits: FormulaLimits) -> None:
        self.variables = None if variables is None else frozenset(variables)
        self.limits = limits
        self.pairs = 0  # of terms that min and max had to compare so far

    def read_all(self, tree: ast.Expression) -> sympy.Expr:
        """Return the whole expression.

        Sympy may have joined powers and numbers to larger ones than written.
        """
        expression = self.read(tree.body, 0)
        for power in expression.atoms(sympy.Pow):
            self._check_exponent(power.exp, power.base)
        if any(abs(number) >= self.limits.magnitude for number in expression.atoms(sympy.Number)):
            raise _Refused(_ABSURD)
        return expression

    def read(self, node: ast.AST, depth: int) -> sympy.Expr:
        if depth > self.limits.nesting:
            functions = self.limits.nesting // self.limits.call_levels
            raise _Refused(
                f"it is nested too deeply (at most {functions} functions inside each other)"
            )
        match node:
            case ast.Constant():
                return self._number(node.value)
            case ast.Name():
                return self._name(node.id)
            case ast.UnaryOp(op=ast.USub()):
                return -self.read(node.operand, depth + 1)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.read(node.operand, depth + 1)
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                return self._chain(node, (ast.Add, ast.Sub), sympy.Add, depth)
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                return self._chain(node, (ast.Mult, ast.Div), sympy.Mul, depth)
            case ast.BinOp(op=ast.Pow()):
                base = self.read(node.left, depth + 1)
                exponent = self.read(node.right, depth + self.limits.call_levels)
                self._check_exponent(exponent, base)
                return self._checked(base**exponent)
            case ast.Call():
                return self._call(node, depth)
        raise _Refused(
            f"{ast.unparse(node)[:40]!r} is not allowed; use numbers, variables, + - * / ^ and "
            "functions"
        )

    def _chain(
        self,
        node: ast.BinOp,
        operators: tuple[type, type],
        build: Callable[..., sympy.Expr],
        depth: int,
    ) -> sympy.Expr:
        """Return a sum or product of any length, built once."""
        parts: list[sympy.Expr] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and isinstance(left.op, operators):
            part = self.read(left.right, depth + 1)
            if isinstance(left.op, ast.Sub):
                part = -part
            elif isinstance(left.op, ast.Div):
                part = self._checked(1 / part)
            parts.append(part)
            left = left.left
        parts.append(self.read(left, depth + 1))
        return self._checked(build(*reversed(parts)))

    def _number(self, value: Any) -> sympy.Expr:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Refused(f"{value!r} is not a number")
        if value and not self._is_ordinary(value):
            raise _Refused(_ABSURD)
        return sympy.Integer(value) if isinstance(value, int) else sympy.Rational(repr(value))

    def _is_variable(self, name: str) -> bool:
        if self.variables is not None:
            return name in self.variables
        return _INDEXED.fullmatch(name) is not None

    def _name(self, name: str) -> sympy.Expr:
        if self._is_variable(name):
            if self.variables is None and len(name) > len(str(self.limits.index)) + 1:
                raise _Refused(
                    f"the variable {name} has too high a number; at most x{self.limits.index} is "
                    "allowed"
                )
            return variable(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            raise _Refused(f"{name} is a function; write {name}(...)")
        if self.variables is None:
            known = _suggestion(name, [*CONSTANTS, *FUNCTIONS])
            raise _Refused(f"unknown name {name!r}{known}; use x0, x1, ... for variables")
        if not self.variables:
            raise _Refused(
                f"unknown name {name!r}; only numbers, pi, e and functions of them are allowed"
            )
        raise _Refused(
            f"unknown name {name!r}{_suggestion(name, [*self.variables, *CONSTANTS, *FUNCTIONS])}; "
            f"the variables are {', '.join(sorted(self.variables))}"
        )

    def _call(self, node: ast.Call, depth: int) -> sympy.Expr:
        if not isinstance(node.func, ast.Name):
            raise _Refused(
                f"{ast.unparse(node.func)[:40]!r} cannot be called; write products with *"
            )
        name = node.func.id
        if self._is_variable(name):
            raise _Refused(f"the variable {name} cannot be called; write products with *")
        if name not in FUNCTIONS:
            known = _suggestion(name, FUNCTIONS) or f"; known are {', '.join(FUNCTIONS)}"
            raise _Refused(f"unknown function {name!r}{known}")
        if node.keywords:
            raise _Refused(f"{name} takes no named arguments")
        function, arguments = (
            FUNCTIONS[name],
            [self.read(part, depth + self.limits.call_levels) for part in node.args],
        )
        if len(arguments) != function.arguments and (
            function.arguments is not None or len(arguments) < 2
        ):
            wanted = "two or more" if function.arguments is None else function.arguments
            raise _Refused(
                f"{name} takes {wanted} argument{'' if wanted == 1 else 's'}, not {len(arguments)}"
            )
        if function.arguments is None:
            self._count_pairs(arguments)
        try:
            return self._checked(function.build(*arguments))
        except ValueError as error:
            raise _Refused(str(error)) from None

    def _count_pairs(self, arguments: Sequence[sympy.Expr]) -> None:
        """Reject min and max that would take long; one inside another joins its terms."""
        terms = sum(
            len(each.args) if isinstance(each, sympy.Min | sympy.Max) else 1 for each in arguments
        )
        self.pairs += terms * (terms - 1) // 2
        if self.pairs > self.limits.pairs:
            raise _Refused("it has too many terms in min and max")

    def _check_exponent(self, exponent: sympy.Expr, base: sympy.Expr) -> None:
        """Reject powers that would need a huge computation or a huge number."""
        if not exponent.is_number:
            return
        size = abs(float(exponent.evalf(20)))
        if base.free_symbols and size > self.limits.exponent:
            raise _Refused(
                f"the exponent {size:.3g} is too large; at most {self.limits.exponent} is allowed"
            )
        digits = max(
            (len(str(part)) for atom in base.atoms(sympy.Rational) for part in (atom.p, atom.q)),
            default=1,
        )
        if digits > 1 and size * digits > self.limits.digits:
            raise _Refused(_ABSURD)
        magnitude = abs(float(base.evalf(20))) if base.is_number else 1.0
        if magnitude > 0 and size * abs(math.log10(magnitude)) > math.log10(self.limits.magnitude):
            raise _Refused(_ABSURD)

    def _checked(self, value: sympy.Expr) -> sympy.Expr:
        """Return `value`; reject a constant that is not real, not finite or of absurd size."""
        if value.has(*_NOT_REAL):
            raise _Refused(
                "it is not finite and real (a division by zero, or a root or log of a number out "
                "of range)"
            )
        if value.free_symbols or value == 0:
            return value
        number = value.evalf(20)
        if not number.is_Number:
            raise _Refused(f"{value} is not a real number")
        if not self._is_ordinary(number):
            raise _Refused(_ABSURD)
        return value

    def _is_ordinary(self, number: Any) -> bool:
        return bool(1 / self.limits.magnitude < abs(number) < self.limits.magnitude)


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return similar names; one letter resembles any of the short names of functions."""
    return did_you_mean(name, known) if len(name) > 1 else ""
