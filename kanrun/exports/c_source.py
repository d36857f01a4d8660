"""A model as one C99 file that needs the standard library alone.

All that comes from the model stands in it as numbers and as string literals of harmless characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kanrun.exports.document import Document

_POLICIES = {"linear": 0, "constant": 1, "zero": 2}

_HEAD = """\
/* A trained model as C99, without dependencies; compile it with -lm.

   void @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS]);

   maps inputs to outputs, both in the units of the training data; a classifier gives the probability of each class.
   @_inputs, @_outputs and @_domain say what they are and on which range the model was trained. */

#include <math.h>
#include <string.h>

enum { @_INPUTS = %(inputs)d, @_OUTPUTS = %(outputs)d };

"""

_ENCODE = """
/* One row of the table, in the order of @_columns: a number (NAN: missing; of a date, days since 1970-01-01) or a text
   (NULL or "": missing). Fills
   x[@_INPUTS]; returns how many texts the model was not trained on. Texts are without blanks around them. */
typedef struct { double number; const char *text; } @_value;

int @_encode(const @_value *row, double *x)
{
    int unknown = 0;
    (void)unknown;
%(lines)s    return unknown;
}
"""

_DAY_OF_YEAR = """
/* Of days since 1970-01-01, by eras of 400 years that begin in March. */
static double day_of_year(double days)
{
    double z = floor(days) + 719468, era = floor(z / 146097), day = z - era * 146097;
    double year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365);
    double since = day - (365 * year + floor(year / 4) - floor(year / 100)), y = year + 400 * era;
    if (since >= 306) return since - 305;
    return since + 60 + (fmod(y, 4) == 0 && (fmod(y, 100) != 0 || fmod(y, 400) == 0) ? 1 : 0);
}
"""

#: Parts of a date in C, of days since 1970-01-01.
_PLACES = {
    "hour": "(%s - floor(%s)) * 24",
    "weekday": "fmod(fmod(floor(%s) + 3, 7) + 7, 7)",
    "day of year": "day_of_year(%s)",
}

_MAP = """
/* The piecewise linear map through (from, to), constant beyond its ends. */
static double interpolate(int count, const double *from, const double *to, double x)
{
    int first = 0, last = count - 2;
    if (x <= from[0]) return to[0];
    if (x >= from[count - 1]) return to[count - 1];
    while (first < last) {
        int middle = (first + last + 1) / 2;
        if (x >= from[middle]) first = middle; else last = middle - 1;
    }
    return (to[first + 1] - to[first]) / (from[first + 1] - from[first]) * (x - from[first]) + to[first];
}
"""

_SPLINES = """
/* Where an input lies on its grid: the interval, the place u in [-1, 1] there, what multiplies a slope beyond the grid,
   and whether the edge counts. */
typedef struct { int interval; double held, u, slopes, inside; } place;

static place locate(const double *points, int intervals, int policy, double x)
{
    place p;
    int first = 0, last = intervals - 1;
    double low = points[0], high = points[intervals], half, beyond;
    p.held = x < low ? low : x > high ? high : x;
    while (first < last) {
        int middle = (first + last + 1) / 2;
        if (p.held >= points[middle]) first = middle; else last = middle - 1;
    }
    half = (points[first + 1] - points[first]) / 2;
    beyond = x - p.held;
    beyond = beyond > 1e154 ? 1e154 : beyond < -1e154 ? -1e154 : beyond;
    p.interval = first;
    p.u = (p.held - points[first]) / half - 1;
    p.slopes = policy == 0 ? beyond / half : 0;
    p.inside = policy == 2 && (x < low || x > high) ? 0 : 1;
    return p;
}

static double edge(const double *coefficients, int degree, place p)
{
    const double *c = coefficients + p.interval * (degree + 1);
    double value = c[degree], slope = 0;
    int power;
    for (power = degree - 1; power >= 0; power--) {
        slope = slope * p.u + value;
        value = value * p.u + c[power];
    }
    return (value + p.slopes * slope) * p.inside;
}
"""

_SIGMOID = "static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }\n"
_NORMAL = "0.5 * (1 + erf(x / sqrt(2)))"

#: Base functions and activations as C, each with its slope, as in `runtime.BASES`.
_BASES = {
    "identity": ("x", "1"),
    "silu": ("x * sigmoid(x)", "sigmoid(x) * (1 + x * (1 - sigmoid(x)))"),
    "sigmoid": ("sigmoid(x)", "sigmoid(x) * (1 - sigmoid(x))"),
    "tanh": ("tanh(x)", "1 - tanh(x) * tanh(x)"),
    "relu": ("x < 0 ? 0 : x", "x > 0 ? 1 : 0"),
    "gelu": (f"x * {_NORMAL}", f"{_NORMAL} + x * exp(-0.5 * x * x) / 2.5066282746310005024"),
    "sin": ("sin(x)", "cos(x)"),
    "gaussian": ("exp(-x * x)", "-2 * x * exp(-x * x)"),
}

_FUNCTION = """
static void %(name)s(const double *x, double *y)
{
%(body)s}
"""


def c_source(pieces: Document, name: str) -> str:
    """The file's text; `name` goes before every name that it exports and must be a C identifier."""
    layers = list(_every_layer(pieces))
    outputs = pieces["classes"] or pieces["outputs"]
    parts = [_HEAD % {"inputs": len(pieces["inputs"]), "outputs": len(outputs)}]
    for what, texts in (("inputs", pieces["inputs"]), ("outputs", outputs)):
        parts.append(f"const char *const @_{what}[] = {{{', '.join(map(_text, texts))}}};\n")
    parts.append(f"const double @_domain[][2] = {_numbers(pieces['domain'])};\n")
    if any(column["levels"] is not None or column["fill"] is not None for column in pieces["columns"]):
        names = ", ".join(_text(column["name"]) for column in pieces["columns"])
        parts.append(f"const char *const @_columns[] = {{{names}}};\n")
        if any("day of year" in (column["parts"] or ()) for column in pieces["columns"]):
            parts.append(_DAY_OF_YEAR)
        parts.append(_ENCODE % {"lines": "".join(_encoding(pieces["columns"]))})
    if any("points" in one for one in [*pieces["input_map"], *(pieces["output_map"] or ())]):
        parts.append(_MAP)
    if any(layer["kind"] == "splines" for layer in layers):
        parts.append(_SPLINES)
    parts += _base_functions(layers)
    parts += [*_network(pieces, "network"), _evaluation(pieces)]
    return "".join(parts).replace("@", name)


def _text(text: str) -> str:
    """A string literal: of letters, digits and blanks as they are, every other byte of UTF-8 as three octal digits."""
    harmless = (
        chr(b) if re.match(rb"[A-Za-z0-9 _.]", bytes([b])) else f"\\{b:03o}" for b in text.encode("utf-8", "replace")
    )
    return f'"{"".join(harmless)}"'


def _numbers(values: Any) -> str:
    """An initialiser, its innermost lists a line each."""
    if not isinstance(values, list):
        return repr(float(values))
    apart = ",\n" if values and isinstance(values[0], list) else ", "
    return "{" + apart.join(map(_numbers, values)) + "}"


def _encoding(columns: Sequence[Document]) -> Iterator[str]:
    at = 0
    for row, column in enumerate(columns):
        if column["levels"] is not None:
            given = f"row[{row}].text"
            yield f'    {{\n        const char *t = {given} && *{given} ? {given} : "(missing)";\n'
            yield "        int found = 0;\n"
            for level in column["levels"]:
                yield f"        found += x[{at}] = !strcmp(t, {_text(level)});\n"
                at += 1
            yield (
                "        unknown += !found;\n    }\n" if len(column["levels"]) > 1 else "        (void)found;\n    }\n"
            )
            continue
        for part in column["parts"] or ():
            given = f"(isnan(row[{row}].number) ? {float(column['fill'])!r} : row[{row}].number)"
            at += 1
            yield f"    x[{at}] = {_PLACES[part].replace('%s', given)};\n"
        at -= len(column["parts"] or ())
        fill = "NAN" if column["fill"] is None else repr(float(column["fill"]))
        yield f"    x[{at}] = isnan(row[{row}].number) ? {fill} : row[{row}].number;\n"
        at += 1 + len(column["parts"] or ())
        if column["indicator"]:
            yield f"    x[{at}] = isnan(row[{row}].number) ? 1 : 0;\n"
            at += 1


def _base_functions(layers: Sequence[Document]) -> Iterator[str]:
    """Those that the layers use, as functions of C."""
    slopes = {layer["base"] for layer in layers if layer["kind"] == "splines" and _continues_linearly(layer)}
    values = {str(layer.get("base", layer.get("activation", "zero"))) for layer in layers} - {"zero"}
    if any("sigmoid" in part for name in values for part in _BASES[name]):
        yield f"\n{_SIGMOID}"
    for name in sorted(values):
        value, slope = _BASES[name]
        yield f"\nstatic double base_{name}(double x) {{ return {value}; }}\n"
        if name in slopes:
            yield f"static double slope_{name}(double x) {{ (void)x; return {slope}; }}\n"


def _continues_linearly(layer: Document) -> bool:
    return bool(layer["base"] != "zero" and layer["extrapolation"] == "linear" and not layer["base_continues"])


def _spline_body(layer: Document) -> str:
    edges, base, policy = layer["edges"], layer["base"], _POLICIES[layer["extrapolation"]]
    inputs, intervals, degree, sums = layer["inputs"], len(layer["breakpoints"][0]) - 1, layer["degree"], layer["sums"]
    size = f"[{intervals * (degree + 1)}]"
    lines = [f"    static const double points[][{intervals + 1}] = {_numbers(layer['breakpoints'])};\n"]
    if edges:
        ends = ", ".join(f"{{{edge['from']}, {edge['to']}}}" for edge in edges)
        pieces = [np.ravel(edge["pieces"]).tolist() for edge in edges]
        lines.append(f"    static const int ends[][2] = {{{ends}}};\n")
        lines.append(f"    static const double pieces[]{size} = {_numbers(pieces)};\n")
        if base != "zero":
            lines.append(f"    static const double weights[] = {_numbers([edge['base_weight'] for edge in edges])};\n")
            lines.append(f"    double base[{inputs}];\n")
    lines += [f"    place at[{inputs}];\n    double sums[{sums}] = {{0}};\n    int i;\n"]
    lines.append(
        f"    for (i = 0; i < {inputs}; i++) {{\n        at[i] = locate(points[i], {intervals}, {policy}, x[i]);\n"
    )
    if base != "zero" and edges:
        value = f"base_{base}(x[i])"
        if not layer["base_continues"]:
            more = f" + (x[i] - at[i].held) * slope_{base}(at[i].held)" if policy == 0 else ""
            value = f"(base_{base}(at[i].held){more}) * at[i].inside"
        lines.append(f"        base[i] = {value};\n")
    lines.append("    }\n")
    if edges:
        more = " + weights[i] * base[ends[i][0]]" if base != "zero" else ""
        lines.append(f"    for (i = 0; i < {len(edges)}; i++)\n")
        lines.append(f"        sums[ends[i][1]] += edge(pieces[i], {degree}, at[ends[i][0]]){more};\n")
    else:
        lines.append("    (void)at, (void)edge;\n")
    plain = sums - 2 * layer["products"]
    if plain:
        lines.append(f"    for (i = 0; i < {plain}; i++) y[i] = sums[i];\n")
    if layer["products"]:
        factors = f"sums[{plain} + 2 * i] * sums[{plain + 1} + 2 * i]"
        lines.append(f"    for (i = 0; i < {layer['products']}; i++) y[{plain} + i] = {factors};\n")
    return "".join(lines)


def _dense_body(layer: Document) -> str:
    rows, columns = np.shape(layer["weights"])
    return (
        f"    static const double weights[][{columns}] = {_numbers(layer['weights'])};\n"
        f"    static const double biases[] = {_numbers(layer['biases'])};\n"
        f"    int i, j;\n    for (i = 0; i < {rows}; i++) {{\n        double sum = biases[i];\n"
        f"        for (j = 0; j < {columns}; j++) sum += weights[i][j] * x[j];\n"
        f"        y[i] = base_{layer['activation']}(sum);\n    }}\n"
    )


def _curve_body(layer: Document) -> str:
    count, outputs = np.shape(layer["coefficients"])
    low, high = (repr(float(end)) for end in layer["domain"])
    start = (
        f"    static const double c[][{outputs}] = {_numbers(layer['coefficients'])};\n"
        f"    double u = (x[0] - {low}) / ({high} - {low});\n    int o, i;\n    for (o = 0; o < {outputs}; o++) {{\n"
    )
    if layer["kind"] == "chebyshev":
        return start + (
            f"        double t = 2 * u - 1, later = 0, last = 0, now;\n"
            f"        for (i = {count - 1}; i > 0; i--) {{\n            now = c[i][o] + 2 * t * later - last;\n"
            "            last = later;\n            later = now;\n        }\n"
            "        y[o] = c[0][o] + t * later - last;\n    }\n"
        )
    return start + (
        f"        double p[{count}];\n        int left;\n        for (i = 0; i < {count}; i++) p[i] = c[i][o];\n"
        f"        for (left = {count - 1}; left > 0; left--)\n"
        "            for (i = 0; i < left; i++) p[i] = (1 - u) * p[i] + u * p[i + 1];\n"
        "        y[o] = p[0];\n    }\n"
    )


def _products_body(layer: Document) -> str:
    count, terms, factors = len(layer["sizes"]), layer["terms"], layer["factors"]
    return (
        f"    static const double sizes[] = {_numbers(layer['sizes'])};\n    int o, t, f;\n"
        f"    for (o = 0; o < {count}; o++) {{\n        double sum = 0, product;\n"
        f"        for (t = 0; t < {terms}; t++, sum += product)\n"
        f"            for (f = 0, product = 1; f < {factors}; f++) product *= *x++;\n"
        "        y[o] = sum * sizes[o];\n    }\n"
    )


def _every_layer(part: Document) -> Iterator[Document]:
    for layer in part["layers"]:
        yield layer
        for window in layer.get("windows", ()):
            yield from _every_layer(window)


def _network(part: Document, name: str) -> Iterator[str]:
    """The function `name` of a map of inputs and layers, after those that it calls."""
    inputs, layers = len(part["input_map"]), part["layers"]
    lines = [f"    double v0[{inputs}];\n", *_map_lines(part["input_map"], "x", "v0", "points")]
    for number, layer in enumerate(layers):
        own, goal = f"{name}_{number}", "y"
        if layer["kind"] == "windows":
            windows = [f"{own}_{window}" for window, _ in enumerate(layer["windows"])]
            for window, inner in zip(windows, layer["windows"], strict=True):
                yield from _network(inner, window)
            tests = [*(f"if (x[{inputs - 1}] <= {end!r}) " for end in layer["ends"]), ""]
            calls = (f"{test}{window}(x, y);\n" for test, window in zip(tests, windows, strict=True))
            body = f"    {'    else '.join(calls)}"
        else:
            body = _BODIES[layer["kind"]](layer)
        yield _FUNCTION % {"name": own, "body": body}
        if layer is not layers[-1]:
            goal = f"v{number + 1}"
            width = layer["sums"] if layer["kind"] == "splines" else len(layer["biases"])
            lines.append(f"    double {goal}[{width}];\n")
        lines.append(f"    {own}(v{number}, {goal});\n")
    yield _FUNCTION % {"name": name, "body": "".join(lines)}


_BODIES = {
    "splines": _spline_body, "dense": _dense_body, "chebyshev": _curve_body, "bernstein": _curve_body,
    "sums_of_products": _products_body,
}  # fmt: skip


def _evaluation(pieces: Document) -> str:
    """The exported function: the network between the user's units."""
    outputs = len(pieces["classes"] or pieces["outputs"])
    lines = ["    network(x, y);\n"]
    if pieces["classes"] is not None:
        lines.append(
            "    double highest = y[0], total = 0;\n    int i;\n"
            f"    for (i = 1; i < {outputs}; i++) if (y[i] > highest) highest = y[i];\n"
            f"    for (i = 0; i < {outputs}; i++) total += y[i] = exp(y[i] - highest);\n"
            f"    for (i = 0; i < {outputs}; i++) y[i] /= total;\n"
        )
    else:
        lines += _map_lines(pieces["output_map"], "y", "y", "values")
    return (
        "\nvoid @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS]);\n\n"
        f"void @_evaluate(const double x[@_INPUTS], double y[@_OUTPUTS])\n{{\n{''.join(lines)}}}\n"
    )


def _map_lines(maps: Sequence[Document], source: str, to: str, direction: str) -> Iterator[str]:
    for i, one in enumerate(maps):
        if "points" in one:
            ends = ("points", "values") if direction == "points" else ("values", "points")
            first, second = (_numbers(one[end]) for end in ends)
            yield f"    {{\n        static const double from[] = {first};\n"
            yield f"        static const double to[] = {second};\n"
            yield f"        {to}[{i}] = interpolate({len(one['points'])}, from, to, {source}[{i}]);\n    }}\n"
        elif direction == "points":
            yield f"    {to}[{i}] = ({source}[{i}] - {_signed(one['shift'])}) / {_signed(one['scale'])};\n"
        else:
            yield f"    {to}[{i}] = {source}[{i}] * {_signed(one['scale'])} + {_signed(one['shift'])};\n"


def _signed(number: float) -> str:
    return f"({number!r})" if number < 0 else repr(number)
