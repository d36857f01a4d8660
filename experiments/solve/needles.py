"""The study `needles`: sixty generated equations with narrow features and known solutions.

`needles.yaml` lists the kinds of problems. Each kind has an equation and a formula of its exact
solution. In both, {p}, {P} and {R} stand for a pulse, its integral, and its double integral. The
shape of the pulse, its width w, its position a and other constants are drawn at random. The
conditions prescribe the values of the exact solution on faces of the box. For some kinds, only the
inverse t(u) of the solution has a formula; the solution is then tabulated by bisection.
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
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import parse_expression, variable
from kanrun.runs import Claim
from kanrun.study import Cell
from kanrun.study.suite import claim_at_least, claim_at_most


class Shape(NamedTuple):
    """Formulas of a narrow pulse and its integrals, in the variable S: (x - position) / width.

    Attributes:
        pulse: Pulse of area 1.
        step: Integral of the pulse, which rises from 0 to 1.
        ramp: Integral of the step; empty if there is no formula.
    """

    pulse: str
    step: str
    ramp: str = ""


#: Formula of q = max(1 - S^2, 0.001), a divisor. At q = 0.001, sech(2*S/q) is 0 in float64.
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
    # This pulse is infinitely often differentiable, and zero outside [-1, 1].
    "bump": Shape(f"sech(2*S/{_Q})^2*(1 + S^2)/{_Q}^2", f"(1 + tanh(2*S/{_Q}))/2"),
    "burst": Shape(
        "exp(-S^2/16)*(1/(4*sqrt(pi)) + cos(2*S)/2 - S*sin(2*S)/32)",
        "(1/2 + erf(S/4)/2 + sin(2*S)*exp(-S^2/16)/4)",
    ),
}
#: Names of shapes for each value of `shapes` in `needles.yaml`.
CHOICES = {
    "all": [*SHAPES],
    "positive": [name for name in SHAPES if name != "burst"],
    "ramp": [name for name, shape in SHAPES.items() if shape.ramp],
}
#: Integral of 1/(1 - 0.8*exp(-S^2)) - 1 from 0 to S, as a series.
_DIP = " + ".join(f"0.8^{n}*sqrt(pi/{n})/2*erf(sqrt({n})*S)" for n in range(1, 150))
#: Smallest and largest width of a feature, relative to the range of the variable or unknown.
WIDTHS = (1e-5, 1e-2)
#: Smallest and largest width of features that are narrow in two variables together.
WIDTHS_IN_TWO = (1e-3, 1e-2)
#: Constant terms in conditions are replaced by zero if their absolute value is at most this.
SMALLEST = 1e-100
#: Number of significant digits of random constants.
DIGITS = 4
#: Number of time intervals of a tabulated solution, which has one row more.
ROWS = 400
#: Number of bisections of an interval of length 1, enough for the precision of float64.
BISECTIONS = 60
#: Smallest number of solved problems for the claim that many are solved.
FEWEST_SOLVED = 30
#: Largest true error at which a problem is rightly called solved, as a multiple of the estimated
#: error.
HONEST = 10.0


@cache
def needle_cells(seed: int) -> tuple[Cell, ...]:
    """Generate the problems for a random seed, as entries of the setting `suite`.

    In addition to the equation and its name, an entry has `facts` (kind, shape and relative width
    of the feature, and the smallest width that solvers look for) and `near` (formulas that are
    nearly zero at the narrow feature).
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
    """Generate a problem of one kind (entry of `needles.yaml`); `name` is for example source_0."""
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
    """Replace the placeholders in a string of `needles.yaml` by the formulas of a shape."""
    pulse, step, ramp = SHAPES.get(shape, ("", "", ""))
    formulas = {"p": (pulse, "s"), "P": (step, "s"), "R": (ramp, "s"), "Z": (f"({_DIP})", "s")}
    formulas |= {"q": (pulse, "r"), "Q": (step, "r")}
    for name, (formula, argument) in formulas.items():
        text = text.replace(f"{{{name}}}", formula.replace("S", f"({kind.get(argument)})"))
    return text


def _constants(
    rng: np.random.Generator, width: float, *, timed: bool, alone: bool
) -> dict[str, float]:
    """Draw the constants of a problem.

    Args:
        rng: Random generator.
        width: Width of the pulse, relative to the range of its variable.
        timed: Whether the position of the pulse is a time between 0 and T; otherwise, the position
            lies between 0 and 1.
        alone: Whether time is the only variable. If so, T is random; otherwise, T is 1.
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
    """Return the condition that prescribes the exact value of a derivative on a face such as t=0.

    Constant sums are evaluated here, because sympy would take very long for erf(1e4) - 1.
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
    """Tabulate u(t), which grows from 0 to 1, from the formula `time` of its inverse t(u).

    Return the variables, conditions and reference values as settings of the equation.
    """
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

    A problem is wrongly called solved if its true error is much larger than the estimated one,
    unless its feature is narrower than the smallest width that solvers look for.
    """
    solved = summary["verdict"] == "solved"
    # Rounding of a coordinate shifts a feature of width w by about eps / w of its width, which adds
    # a relative error of the same size.
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
