"""Export of trained models, and of formulas of `kanrun interpret`, to files usable without kanrun.

Formulas are written as text, LaTeX, Python or C, with the names of the user's inputs. A formula
from a run folder is parsed again by `kanrun.formulas`, which accepts only listed functions, before
source code is generated from it. The splines f1, f2, ... of partly numeric formulas become
piecewise polynomials.

A JavaScript file consists of the text of `runtime.js` and the document that `in_pieces` returns.
"""

from __future__ import annotations

import inspect
import json
import keyword
import re
from collections.abc import Sequence
from functools import partial
from importlib import resources
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import sympy
from scipy.interpolate import BSpline as ScipySpline
from sympy.core.function import AppliedUndef

from kanrun.config.registry import Plain
from kanrun.errors import UsageError, printable
from kanrun.exports import runtime
from kanrun.exports.c_source import c_source
from kanrun.exports.document import (
    Document,
    Exportable,
    document_of,
    in_pieces,
    python_literal,
)
from kanrun.exports.runtime import encode, evaluate
from kanrun.formulas.conversion import as_variables, to_latex, to_python
from kanrun.formulas.parsing import parse, variable
from kanrun.formulas.syntax import KnownFunction
from kanrun.targets.datasets import check_known
from kanrun.targets.encoding import features_of, place_of
from kanrun.targets.table_text import canonical, days_from, is_number, number_from, text_of

FORMATS = ("c", "javascript", "onnx", "python")
TABLE_FORMATS = ("c", "javascript", "python")
"""Formats whose files encode the columns of a table themselves."""

_PREDICT = '''

def predict(table: Any) -> Array:
    """Outputs (rows, outputs) for a table or for rows of numbers; see the top of the file."""
    return evaluate(MODEL, encode(MODEL, table))
'''
#: Significant digits of the constants in source code.
DIGITS = 17
#: Names that parameters of an exported C function cannot have, besides the names of functions.
_C_NAMES = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while pow fabs fmin fmax cbrt hypot expm1 log1p exp2 jn"
)
_LANGUAGES = {".tex": "latex", ".py": "python", ".c": "c"}
_COMMENTS = {"text": "", "latex": "% ", "python": "# ", "c": "// "}


def export_bytes(model: Exportable, form: str, file: Path) -> bytes:
    """Return the content of `file`: the model in the format `form`.

    Raises UsageError if the format is unknown or cannot represent this kind of network, or if the
    package that writes the format is not installed.
    """
    check_known("format", form, FORMATS, "formats of a model")
    document = document_of(model)
    match form:
        case "c":
            return c_source(document, identifier(file.stem)).encode()
        case "javascript":
            return javascript_source(in_pieces(document)).encode()
        case "onnx":
            try:
                from kanrun.exports.onnx_graph import onnx_bytes
            except ImportError as error:
                raise UsageError(
                    "--format onnx needs onnx, which is not installed: pip install 'kanrun[onnx]'."
                ) from error
            return onnx_bytes(in_pieces(document))
    return _python_source(document).encode()


def _python_source(document: Document) -> str:
    """Return a Python file that needs only NumPy.

    It consists of the source of `runtime`, of the functions that `runtime` imports from kanrun, and
    the data of the model.
    """
    lines = inspect.getsource(runtime).splitlines(keepends=True)
    source = "".join(line for line in lines if not line.startswith("from kanrun."))
    used = (canonical, days_from, features_of, is_number, number_from, place_of, text_of)
    data = f"#: The data of the model.\nMODEL = {python_literal(in_pieces(document))}\n{_PREDICT}"
    helpers = (inspect.getsource(function) for function in used)
    return "\n\n".join([source, *helpers, data])


def identifier(text: str) -> str:
    """Convert `text` to a name that is valid in C and Python, and not a keyword of Python."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "model"
    return f"model_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def formula_bytes(stored: Sequence[Plain], form: str, file: str | Path, name: str) -> bytes:
    """Return the content of `file` with one formula per output, described by the dicts in `stored`.

    `form` is `python`, `c`, or `formula`: LaTeX if the name of `file` ends in .tex, Python for .py,
    C for .c, otherwise text. A description has the keys of a formula's checkpoint. It may also
    have `domain` (inputs, 2), `units` of inputs and outputs by name, and `splines`: pairs (knots,
    coefficients) by name. `name` is the name of the exported function, or its prefix if there are
    several. Raises UsageError if `form` is unknown, or if a stored text is not a formula.
    """
    suffix = Path(file).suffix.lower()
    kind = _LANGUAGES.get(suffix, "text") if form == "formula" else form
    if kind not in _COMMENTS:
        raise UsageError(f"--format {form} cannot export a formula; use formula, python or c.")
    # Add a comment for each input and output whose name, unit or range is not visible in the
    # formula.
    first = stored[0]
    units = stored[0].get("units") or {}
    comments = []
    domain = first.get("domain") or [None] * len(first["inputs"])
    names = [str(name_of_variable) for name_of_variable in first["variables"]]
    if kind == "c":
        names = list(as_variables(names, _C_NAMES.split(), ascii_only=True))
    for v, label, ends in zip(names, first["inputs"], domain, strict=True):
        facts = [_quoted(label)] if v != label or ends or label in units else []
        facts += [f"in {printable(units[label])}"] if label in units else []
        facts += [f"from {ends[0]:.6g} to {ends[1]:.6g}"] if ends else []
        comments += [f"{printable(v)}: {', '.join(facts)}"] if facts else []
    outputs = [entry["output"] for entry in stored if entry["output"] in units]
    comments += [f"{_quoted(label)}: in {printable(units[label])}" for label in outputs]
    lines = [f"{_COMMENTS[kind]}{line}" for line in comments]
    if kind == "text":
        equations = [
            f"{_quoted(entry['output'])} = {printable(entry['formula']['text'])}"
            for entry in stored
        ]
        return ("\n".join([*equations, *lines]) + "\n").encode()
    sources = [
        _formula_source(entry, kind, name if len(stored) == 1 else f"{name}_{o}", names)
        for o, entry in enumerate(stored)
    ]
    if kind == "c":
        lines += ["/* Formulas found by kanrun, as C99; compile with -lm. */", "#include <math.h>"]
    return "\n".join([*lines, *sources]).encode()


def _quoted(name: str) -> str:
    return printable(json.dumps(name, ensure_ascii=False))


def _formula_source(entry: Plain, kind: str, name: str, names: Sequence[str]) -> str:
    """Return the source code of the formula of one output and of the splines in it.

    `names` are the names of the variables in the source code.
    """
    # Largest denominator of fractions that are exported as fractions. Fractions with larger
    # denominators come from decimals, which are parsed exactly, and are exported as decimals.
    max_denominator = 1000
    variables = [str(label) for label in entry["variables"]]
    splines = entry.get("splines") or {}
    functions = {label: KnownFunction(sympy.Function(label, real=True)) for label in splines}
    try:
        expression = parse(str(entry["formula"]["text"]), variables, functions)
    except UsageError as error:
        raise UsageError(
            f"the formula of {_quoted(entry['output'])} can only be exported as text "
            f"({str(error).rstrip('.')}). Use --format formula with a file that ends in .txt."
        ) from error
    changed = dict(zip(map(variable, variables), map(variable, names), strict=True))
    for fraction in expression.atoms(sympy.Rational):
        if fraction.q > max_denominator:
            changed[fraction] = _decimal(fraction)
    expression = expression.xreplace(changed)
    polynomials = {label: _piecewise(*spline) for label, spline in splines.items()}
    if kind == "latex":
        taken = as_variables([*names, str(entry["output"])])
        left = to_latex(variable(taken[-1]), taken)
        equations = [f"{left} = {to_latex(expression, taken)}\n"]
        for label, polynomial in polynomials.items():
            call = sympy.Function(label)(_T)
            equations.append(f"{sympy.latex(call)} = {to_latex(polynomial)}\n")
        return "".join(equations)
    write = to_python if kind == "python" else _in_c
    spline_sources = [
        write(polynomial, ["t"], f"{name}_{label}") for label, polynomial in polynomials.items()
    ]
    renamed = {
        call: sympy.Function(f"{name}_{call.func.__name__}")(*call.args)
        for call in expression.atoms(AppliedUndef)
    }
    return "\n".join([*spline_sources, write(expression.subs(renamed), names, name)])


_T = variable("t")
_decimal = partial(sympy.Float, dps=DIGITS)


def _piecewise(knots: Sequence[float], coefficients: Sequence[float]) -> sympy.Expr:
    """Return a spline in t as a piecewise polynomial, with straight lines beyond the grid.

    The polynomial of each interval is written in powers of the distance from its midpoint.
    """
    degree = len(knots) - len(coefficients) - 1
    spline = ScipySpline(np.array(knots), np.array(coefficients), degree)
    grid = spline.t[degree : len(coefficients) + 1]
    middles = [(middle, degree) for middle in (grid[1:] + grid[:-1]) / 2]
    polynomials = [
        sum(
            _decimal(float(spline(point, nu=m)) / factorial(m)) * (_T - _decimal(point)) ** m
            for m in range(powers + 1)
        )
        for point, powers in [(grid[0], 1), *middles, (grid[-1], 1)]
    ]
    ends = [*(_decimal(end) > _T for end in grid), True]
    return sympy.Piecewise(*zip(polynomials, ends, strict=True))


def _in_c(expression: sympy.Expr, names: Sequence[str], name: str) -> str:
    # C99 does not define M_PI, so pi is written as a number.
    named = {number: number.evalf(DIGITS) for number in expression.atoms(sympy.NumberSymbol)}
    functions = {call.func.__name__: call.func.__name__ for call in expression.atoms(AppliedUndef)}
    body = sympy.ccode(expression.xreplace(named), standard="c99", user_functions=functions)
    if "Not supported" in body:
        raise UsageError(f"{name} has a function that C99 does not have; use python.")
    unused = "".join(f"(void){v}; " for v in names if variable(v) not in expression.free_symbols)
    head = f"double {name}({', '.join(f'double {v}' for v in names)})"
    return f"\n{head};\n\n{head}\n{{\n    {unused}return {body};\n}}\n"


#: Kinds of layers that `runtime.js` computes.
LAYERS = ("splines", "radial", "dense")


def javascript_source(pieces: Document) -> str:
    """Return the text of the file; `pieces` is the document that `in_pieces` returns.

    Raises UsageError if the file cannot compute a layer or a function of the model.
    """
    for layer in pieces["layers"]:
        if layer["kind"] not in LAYERS:
            raise UsageError(
                "--format javascript computes splines, radial and linear layers, and this model "
                f"has {layer['kind'].replace('_', ' ')}. Take python or c."
            )
        if "gelu" in (layer.get("base"), layer.get("activation")):
            raise UsageError(
                "JavaScript has no error function, which gelu needs. Take python or c."
            )
    # No text of the model may contain the end of the script element into which the file is pasted.
    data = json.dumps(pieces, allow_nan=False).replace("<", "\\u003c")
    source = resources.files(__package__).joinpath("runtime.js").read_text("utf-8")
    return source.replace("/* The model. */", f"const MODEL = {data};")
