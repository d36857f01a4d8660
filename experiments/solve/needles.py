"""Sixty generated equations with narrow features and known solutions: the study `needles`.

`needles.yaml` has the kinds of problems. Each kind is a pair of formulas, an equation and a
solution that satisfies it identically, in which {p}, {P} and {R} stand for a pulse and its
integrals. The shape of the pulse, its width w, its place a and other constants are drawn. The
conditions are the solution's values on faces of the box. Where only the inverse t(u) of the
solution has a formula, the solution is tabulated by bisection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import sympy
import yaml  # type: ignore[import-untyped]
from pandas import DataFrame

from kanrun.engine.equations import SEEN_WIDTH, SEEN_WIDTH_IN_TWO
from kanrun.formulas import to_numpy, variable
from kanrun.formulas.parsing import parse_expression
from kanrun.runs import Claim
from kanrun.study import Cell
from kanrun.study.suite import claim_at_least, claim_at_most


class Shape(NamedTuple):
    """Pulse of area 1, its integral from 0 to 1, and the integral of that, as formulas of S."""

    pulse: str
    step: str
    ramp: str = ""


#: 1 - S^2 on [-1, 1], but at least 0.001, where sech(2*S/q) is 0 in float64.
_Q = "((1.001 - S^2 + abs(0.999 - S^2))/2)"
SHAPES = {
    "gaussian": Shape(
        "exp(-S^2)/sqrt(pi)", "(1 + erf(S))/2", "(S + S*erf(S) + exp(-S^2)/sqrt(pi))/2"
    ),
    "sech2": Shape("sech(S)^2/2", "(1 + tanh(S))/2"),
    "lorentz": Shape(
        "1/(pi*(1 + S^2))", "(1/2 + atan(S)/pi)", "(S/2 + S*atan(S)/pi - log(1 + S^2)/(2*pi))"
    ),
    "two_tanh": Shape("(tanh(S + 3) - tanh(S - 3))/12", "(1/2 + atanh(tanh(3)*tanh(S))/6)"),
    # Differentiable infinitely often, and zero outside [-1, 1].
    "bump": Shape(f"sech(2*S/{_Q})^2*(1 + S^2)/{_Q}^2", f"(1 + tanh(2*S/{_Q}))/2"),
    "burst": Shape(
        "exp(-S^2/16)*(1/(4*sqrt(pi)) + cos(2*S)/2 - S*sin(2*S)/32)",
        "(1/2 + erf(S/4)/2 + sin(2*S)*exp(-S^2/16)/4)",
    ),
}
#: Names of shapes by the word for them in `needles.yaml`.
CHOICES = {
    "all": [*SHAPES],
    "positive": [name for name in SHAPES if name != "burst"],
    "ramp": [name for name, shape in SHAPES.items() if shape.ramp],
}
#: Integral of 1/(1 - 0.8*exp(-S^2)) - 1, as a series.
_DIP = " + ".join(f"0.8^{n}*sqrt(pi/{n})/2*erf(sqrt({n})*S)" for n in range(1, 150))
#: Smallest and largest width relative to the range of the variable or unknown.
WIDTHS = (1e-5, 1e-2)
#: The same for features that are narrow in two variables together.
WIDTHS_IN_TWO = (1e-3, 1e-2)
#: Values in conditions that are smaller count as zero.
SMALLEST = 1e-100
#: Digits of the constants that are drawn.
DIGITS = 4
#: Rows of a tabulated solution.
ROWS = 400
#: Bisections of an interval of length 1 that reach the precision of float64.
BISECTIONS = 60
#: Fewest problems to be solved.
FEWEST_SOLVED = 30
#: Largest ratio of the true error to the estimated one.
HONEST = 10.0


@cache
def needle_cells(seed: int) -> tuple[Cell, ...]:
    """Return the problems of a seed as entries of a suite.

    Beside the equation an entry has its `facts` (kind, shape, relative width, and the width down to
    which a run looks), and in `near` the formulas that are small where the solution is narrow.
    """
    kinds = [(name, kind) for name, kind in _kinds().items() for _ in range(kind["count"])]
    return tuple(
        _problem(np.random.default_rng([seed, number]), f"{name}_{number}", kind)
        for number, (name, kind) in enumerate(kinds)
    )


@cache
def _kinds() -> dict[str, Any]:
    source = files("kanrun.experiments.solve").joinpath("needles.yaml")
    kinds: dict[str, Any] = yaml.safe_load(source.read_text("utf-8"))
    return kinds


def _problem(rng: np.random.Generator, name: str, kind: Mapping[str, Any]) -> Cell:
    """Return a problem of one kind, with a name such as source_0."""
    shape = str(rng.choice(CHOICES[kind["shapes"]])) if "shapes" in kind else ""
    texts = {key: _filled(str(text), kind, shape) for key, text in kind.items()}
    names = [each for each in "xt" if f"_{each}" in kind["formula"]]
    unknowns = ["u", "v"] if ";" in kind["formula"] else ["u"]
    low, high = np.log10(WIDTHS_IN_TWO if "_spot_" in name else WIDTHS)
    width = _rounded(10 ** rng.uniform(low, high))
    words = set(re.findall(r"[A-Za-z]+", " ".join(texts.values())))
    timed = kind.get("s", "").lstrip("(").startswith("t")
    drawn = _constants(rng, width, timed=timed, alone=names == ["t"])
    constants = {each: value for each, value in drawn.items() if each in words}
    equation: dict[str, Any] = {
        "name": name,
        "unknowns": unknowns,
        "formula": texts["formula"].split("; "),
    }
    if "time" in kind:
        equation |= _tabulated(texts["time"], constants)
    else:
        exact = dict(zip(unknowns, texts["exact"].split("; "), strict=True))
        equation["variables"] = {each: [0, drawn["T"] if each == "t" else 1] for each in names}
        equation["exact"] = [*exact.values()]
        equation["conditions"] = [
            _condition(exact, names, constants, *part.split()) for part in kind["given"].split(", ")
        ]
    near = [kind[key] for key in "sr" if key in kind and not {"u", "v"} & {*kind[key]}]
    facts = {
        "kind": name.rpartition("_")[0],
        "shape": shape,
        "width": width if "w" in words else None,
        "seen_width": SEEN_WIDTH_IN_TWO if "_spot_" in name else SEEN_WIDTH,
    }
    equation["constants"] = constants
    return {"equation": equation, "name": name, "facts": facts, "near": near}


def _filled(text: str, kind: Mapping[str, Any], shape: str) -> str:
    """Return a text of `needles.yaml` with the formulas of a shape for its placeholders."""
    pulse, step, ramp = SHAPES.get(shape, ("", "", ""))
    formulas = {"p": (pulse, "s"), "P": (step, "s"), "R": (ramp, "s"), "Z": (f"({_DIP})", "s")}
    formulas |= {"q": (pulse, "r"), "Q": (step, "r")}
    for name, (formula, argument) in formulas.items():
        text = text.replace(f"{{{name}}}", formula.replace("S", f"({kind.get(argument)})"))
    return text


def _constants(
    rng: np.random.Generator, width: float, *, timed: bool, alone: bool
) -> dict[str, float]:
    """Draw the constants.

    The range of time, T, is 1 in equations with space. The pulse lies in the range of time if
    `timed`, else in [0, 1].
    """
    end = _rounded(10 ** rng.uniform(-0.7, 0.7)) if alone else 1.0
    size = end if timed else 1.0
    return {
        "T": end,
        "w": _rounded(width * size),
        "a": _rounded(rng.uniform(0.1, 0.9) * size),
        "b": _rounded(rng.uniform(0.1, 0.5)),
        "A": (amplitude := _rounded(rng.uniform(0.2, 1.0))),
        "B": amplitude * float(rng.choice([-1.0, 1.0])),
        "c": _rounded(rng.uniform(0.5, 1.5)),
        "k": _rounded(rng.uniform(1.0, 8.0)),
        "D": _rounded(rng.uniform(0.02, 0.2)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _condition(
    exact: Mapping[str, str],
    variables: Sequence[str],
    constants: Mapping[str, float],
    derivative: str,
    face: str,
) -> str:
    """Return the condition that gives a derivative its value on a face such as t=0.

    Constant sums become numbers here: sympy would look for all digits of erf(1e4) - 1.
    """
    unknown, _, suffix = derivative.partition("_")
    expression = parse_expression(exact[unknown], [*variables, *constants])
    for each in suffix:
        expression = sympy.diff(expression, variable(each))
    name, value = face.split("=")
    inside = {*map(variable, variables)}

    def is_constant(node: sympy.Basic) -> bool:
        return node.is_Add and not node.free_symbols & inside and node.has(sympy.Function)

    def number(node: sympy.Expr) -> sympy.Expr:
        found = float(to_numpy(node, [*constants])([[*constants.values()]])[0])
        return sympy.Float(found, 17) if abs(found) > SMALLEST else sympy.S.Zero

    expression = expression.subs(variable(name), int(value)).replace(is_constant, number)
    return f"{derivative} = {expression} at {face}"


def _tabulated(time: str, constants: Mapping[str, float]) -> dict[str, Any]:
    """Return variables, conditions and known values of u(t) from 0 to 1 by its inverse."""
    known = {variable(name): sympy.Rational(repr(value)) for name, value in constants.items()}
    inverse = to_numpy(parse_expression(time, ["u", *constants]).subs(known), ["u"])
    first, end = inverse([[0.0], [1.0]])
    times = np.linspace(0, end - first, ROWS + 1)
    low = np.zeros_like(times)
    high = np.ones_like(times)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        early = inverse(middle[:, None]) - first < times
        low = np.where(early, middle, low)
        high = np.where(early, high, middle)
    return {
        "variables": {"t": [0, float(times[-1])]},
        "conditions": ["u = 0 at t=0"],
        "reference": {"t": times.tolist(), "u": ((low + high) / 2).tolist()},
    }


def needle_claims(summary: DataFrame) -> Iterator[Claim]:
    """Yield the claims that no problem is wrongly called solved, and that many are solved.

    A feature that is narrower than the width that the run says it has looked at is no wrong
    certificate.
    """
    solved = summary["verdict"] == "solved"
    # The place of a feature of width w is known to within the spacing of float64 over w.
    rounding = np.finfo(float).eps / summary["width"].fillna(1.0)
    estimate = summary["estimate"].astype(float).fillna(summary["grid_change"])
    wrong = solved & ~(summary["l2"] <= HONEST * (estimate + rounding))
    narrow = wrong & (summary["width"] < summary["seen_width"])
    names = ", ".join(summary["equation"][wrong & ~narrow])
    sentence = f"of {len(summary)} problems, those called solved with an error above "
    sentence += f"{HONEST:g} times the estimate"
    unseen = f"; {narrow.sum()} more are narrower than the run has looked" if narrow.any() else ""
    yield claim_at_most(sentence, float((wrong & ~narrow).sum()), 0, f"{names or 'none'}{unseen}")
    right = float((solved & ~wrong).sum())
    yield claim_at_least(f"of {len(summary)} problems, those solved", right, FEWEST_SOLVED)
