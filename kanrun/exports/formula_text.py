"""The formula of `kanrun interpret` as text, LaTeX, a Python module or a C file.

What a run folder holds is read again by the whitelist of `kanrun.formulas` before any source is
printed from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy

from kanrun.errors import UsageError
from kanrun.formulas import parse, to_latex, to_python

#: Digits of a constant in sources; decimals are read as exact fractions.
DIGITS = 17


def formula_bytes(
    stored: Sequence[Mapping[str, Any]], form: str, file: str | Path, name: str
) -> bytes:
    """Return the content of `file`; `stored` describes the formula of each output.

    `form` is `formula` (LaTeX for .tex, Python for .py, else text), `python` or `c`. Raises
    UsageError for others, and where sources are asked of a formula that has splines in it.
    """
    kinds = {".tex": "latex", ".py": "python"}
    kind = kinds.get(Path(file).suffix.lower(), "text") if form == "formula" else form
    if kind not in ("text", "latex", "python", "c"):
        raise UsageError(
            f"a formula has no form --format {form}; export it as formula, python or c."
        )
    if kind == "text":
        lines = [
            f"{json.dumps(one['output'])} = {_printable(one['formula']['text'])}" for one in stored
        ]
        pairs = zip(stored[0]["variables"], stored[0]["inputs"], strict=True)
        lines += [f"{_printable(v)}: {json.dumps(i)}" for v, i in pairs if v != i]
        return ("\n".join(lines) + "\n").encode()
    parts = [
        _source(one, kind, name if len(stored) == 1 else f"{name}_{o}")
        for o, one in enumerate(stored)
    ]
    if kind == "c":
        parts.insert(
            0, "/* Formulas found by kanrun, as C99; compile with -lm. */\n\n#include <math.h>\n"
        )
    return "\n".join(parts).encode()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def _source(one: Mapping[str, Any], kind: str, name: str) -> str:
    try:
        given = [str(variable) for variable in one["variables"]]
        expression = parse(str(one["formula"]["text"]), given)
    except UsageError as error:
        raise UsageError(
            f"the formula of {json.dumps(one['output'])} is text alone ({str(error).rstrip('.')}); "
            "export it with --format formula to a file that ends with .txt."
        ) from error
    names = [f"x{i}" for i in range(len(given))]
    symbols = {
        symbol: sympy.Symbol(names[given.index(str(symbol))], real=True)
        for symbol in expression.free_symbols
    }
    exact = {
        number: sympy.Float(number, DIGITS)
        for number in expression.atoms(sympy.Rational)
        if number.q > 1000
    }
    expression = expression.xreplace(symbols | exact)
    if kind == "latex":
        return f"{to_latex(expression)}\n"
    if kind == "python":
        source = to_python(expression, names)
        return source if name == "formula" else source.replace("def formula(", f"def {name}(")
    named = {
        number: number.evalf(DIGITS) for number in expression.atoms(sympy.NumberSymbol)
    }  # C99 has no M_PI
    body = sympy.ccode(expression.xreplace(named), standard="c99")
    if "Not supported" in body:
        raise UsageError(
            f"the formula of {json.dumps(one['output'])} has a function that C99 does not; take "
            "python."
        )
    unused = "".join(
        f"(void){v}; " for v in names if sympy.Symbol(v, real=True) not in expression.free_symbols
    )
    parameters = ", ".join(f"double {v}" for v in names)
    head = f"double {name}({parameters})"
    return f"\n{head};\n\n{head}\n{{\n    {unused}return {body};\n}}\n"
