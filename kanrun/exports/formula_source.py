"""Formulas of `kanrun interpret` as text, LaTeX, Python or C, with the names of the user's inputs.

A formula that a run folder holds is read again by the whitelist of `kanrun.formulas` before any
source is printed from it. The splines f1, f2, ... of partly numeric formulas become piecewise
polynomials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from math import factorial
from pathlib import Path

import numpy as np
import sympy
from scipy.interpolate import BSpline as ScipySpline
from sympy.core.function import AppliedUndef

from kanrun.config.registry import Plain
from kanrun.errors import UsageError, printable
from kanrun.formulas import KnownFunction, parse, to_latex, to_python, variable

#: Digits of a constant in sources; decimals are read as exact fractions.
DIGITS = 17
#: Fractions of integers up to this one are written as such; others are decimals that were read.
MAX_DENOMINATOR = 1000
#: Names that parameters of a C function cannot have, besides the functions of formulas.
_C_NAMES = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|"
    "inline|int|long|register|restrict|return|short|signed|sizeof|static|struct|switch|typedef|"
    "union|unsigned|void|volatile|while|pow|fabs|fmin|fmax|cbrt|hypot|expm1|log1p|exp2|jn"
)
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_LANGUAGES = {".tex": "latex", ".py": "python", ".c": "c"}
_COMMENTS = {"text": "", "latex": "% ", "python": "# ", "c": "// "}


def formula_bytes(stored: Sequence[Plain], form: str, file: str | Path, name: str) -> bytes:
    """Return the content of `file`; `stored` describes the formula of each output.

    `form` is `formula` (LaTeX for .tex, Python for .py, C for .c, else text), `python` or `c`.
    Besides the description that a run stores, `stored` may have the `domain` (inputs, 2), the
    `units` of inputs and outputs by name, and `splines`: (knots, coefficients) by name. Raises
    UsageError for other forms, and where the text is not a formula.
    """
    suffix = Path(file).suffix.lower()
    kind = _LANGUAGES.get(suffix, "text") if form == "formula" else form
    if kind not in _COMMENTS:
        raise UsageError(
            f"a formula has no form --format {form}; export it as formula, python or c."
        )
    lines = [f"{_COMMENTS[kind]}{line}" for line in _described(stored)]
    if kind == "text":
        equations = [
            f"{json.dumps(one['output'])} = {printable(one['formula']['text'])}" for one in stored
        ]
        return ("\n".join([*equations, *lines]) + "\n").encode()
    parts = [
        _source(one, kind, name if len(stored) == 1 else f"{name}_{o}")
        for o, one in enumerate(stored)
    ]
    if kind == "c":
        lines += ["/* Formulas found by kanrun, as C99; compile with -lm. */", "#include <math.h>"]
    return "\n".join([*lines, *parts]).encode()


def _described(stored: Sequence[Plain]) -> list[str]:
    """Return a line for each input and output of which more is known than the formula says."""
    first, units = stored[0], stored[0].get("units") or {}
    domain = first.get("domain") or [None] * len(first["inputs"])
    lines = []
    for v, name, ends in zip(first["variables"], first["inputs"], domain, strict=True):
        known = [json.dumps(name)] if v != name or ends or name in units else []
        known += [f"in {printable(units[name])}"] if name in units else []
        known += [f"from {ends[0]:.6g} to {ends[1]:.6g}"] if ends else []
        lines += [f"{printable(v)}: {', '.join(known)}"] if known else []
    outputs = [one["output"] for one in stored if one["output"] in units]
    return [*lines, *(f"{json.dumps(name)}: in {printable(units[name])}" for name in outputs)]


def _source(one: Plain, kind: str, name: str) -> str:
    """Return the source of the formula of one output, after those of its splines."""
    given, splines = [str(each) for each in one["variables"]], one.get("splines") or {}
    functions = {each: KnownFunction(sympy.Function(each, real=True)) for each in splines}
    try:
        expression = parse(str(one["formula"]["text"]), given, functions)
    except UsageError as error:
        raise UsageError(
            f"the formula of {json.dumps(one['output'])} is text alone ({str(error).rstrip('.')}); "
            "export it with --format formula to a file that ends with .txt."
        ) from error
    usable = all(_NAME.fullmatch(each) and not _C_NAMES.fullmatch(each) for each in given)
    names = given if usable else [f"x{i}" for i in range(len(given))]
    changed = dict(zip(map(variable, given), map(variable, names), strict=True))
    for fraction in expression.atoms(sympy.Rational):
        if fraction.q > MAX_DENOMINATOR:
            changed[fraction] = _decimal(fraction)
    expression = expression.xreplace(changed)
    pieces = {each: _piecewise(*spline) for each, spline in splines.items()}
    if kind == "latex":
        left = one["output"] if _NAME.fullmatch(one["output"]) else "y"
        equations = [f"{sympy.latex(sympy.Symbol(left))} = {to_latex(expression)}\n"]
        for each, piece in pieces.items():
            call = sympy.Function(each)(_T)
            equations.append(f"{sympy.latex(call)} = {to_latex(piece)}\n")
        return "".join(equations)
    write = to_python if kind == "python" else _in_c
    before = [write(piece, ["t"], f"{name}_{each}") for each, piece in pieces.items()]
    own = {
        call: sympy.Function(f"{name}_{call.func.__name__}")(*call.args)
        for call in expression.atoms(AppliedUndef)
    }
    return "\n".join([*before, write(expression.subs(own), names, name)])


_T = variable("t")
_decimal = partial(sympy.Float, dps=DIGITS)


def _piecewise(knots: Sequence[float], coefficients: Sequence[float]) -> sympy.Expr:
    """Return a spline of t in polynomials around the middle of each interval, linear beyond."""
    degree = len(knots) - len(coefficients) - 1
    spline = ScipySpline(np.array(knots), np.array(coefficients), degree)
    grid = spline.t[degree : len(coefficients) + 1]
    middles = [(middle, degree) for middle in (grid[1:] + grid[:-1]) / 2]
    polynomials = [
        sum(
            _decimal(float(spline(at, nu=m)) / factorial(m)) * (_T - _decimal(at)) ** m
            for m in range(powers + 1)
        )
        for at, powers in [(grid[0], 1), *middles, (grid[-1], 1)]
    ]
    ends = [*(_decimal(end) > _T for end in grid), True]
    return sympy.Piecewise(*zip(polynomials, ends, strict=True))


def _in_c(expression: sympy.Expr, names: Sequence[str], name: str) -> str:
    # C99 has no M_PI.
    named = {number: number.evalf(DIGITS) for number in expression.atoms(sympy.NumberSymbol)}
    own = {call.func.__name__: call.func.__name__ for call in expression.atoms(AppliedUndef)}
    body = sympy.ccode(expression.xreplace(named), standard="c99", user_functions=own)
    if "Not supported" in body:
        raise UsageError(f"{name} has a function that C99 does not; take python.")
    unused = "".join(f"(void){v}; " for v in names if variable(v) not in expression.free_symbols)
    head = f"double {name}({', '.join(f'double {v}' for v in names)})"
    return f"\n{head};\n\n{head}\n{{\n    {unused}return {body};\n}}\n"
