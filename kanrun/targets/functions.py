"""Targets that are functions, known by name or formula, and NIST's certified sets of points."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import sympy

from kanrun.config import (
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    NistTarget,
    SpecialTarget,
)
from kanrun.errors import UsageError
from kanrun.formulas import constant, names_in, parse, to_numpy, variable, variables_in
from kanrun.formulas.parsing import parse_expression
from kanrun.suggestions import did_you_mean
from kanrun.points import Array, Points
from kanrun.targets.data import Target
from kanrun.targets.domains import check_finite, read_domain

_LINES = re.compile(r"(Certified Values|Data)\s+\(lines\s+(\d+)\s+to\s+(\d+)\)")
_MODEL = re.compile(r"^ +(?P<left>log\[y\]|y) *=(?P<right>[^=]*?)\+ *e *$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?")


@dataclass(frozen=True)
class NistSet:
    """x (N, d) and y (N,), of which the logarithm is taken where the model is one of it; `model` in x0, ... and
    `parameters`; `starts` (2, p), `certified` (p,) and the certified residual `sum_of_squares`."""

    name: str
    x: Array
    y: Array
    model: sympy.Expr
    parameters: tuple[str, ...]
    starts: Array
    certified: Array
    sum_of_squares: float


def read_nist(folder: str, name: str) -> NistSet:
    """The set of `folder`/`name`.dat. Raises UsageError where there is none, and for a file of another format."""
    path = Path(folder) / f"{name}.dat"
    if not path.is_file():
        known = sorted(each.stem for each in Path(folder).glob("*.dat"))
        raise UsageError(
            f"target.name={name!r}: {folder} has no file {name}.dat{did_you_mean(name, known) or '.'}"
        )
    try:
        return _read(name, path.read_text(encoding="ascii"))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is not a file of NIST's nonlinear regression sets: {error}."
        ) from error


def _read(name: str, text: str) -> NistSet:
    lines = text.splitlines()
    spans = {what: (int(first) - 1, int(last)) for what, first, last in _LINES.findall(text)}
    rows = [line for line in lines[slice(*spans["Certified Values"])] if "=" in line]
    numbers = np.array([_floats(row.split("=")[1])[:3] for row in rows])
    data = np.array([_floats(line) for line in lines[slice(*spans["Data"])] if line.strip()])
    match = _MODEL.search(text)
    if match is None or numbers.shape != (len(rows), 3) or data.ndim != 2:
        raise ValueError("its model, parameters or data are not where they are expected")
    parameters = tuple(row.split("=")[0].strip() for row in rows)
    inputs = [f"x{i}" for i in range(data.shape[1] - 1)]
    right = " ".join(match["right"].split()).translate(str.maketrans("[]", "()"))
    for number, ours in enumerate(inputs, 1):
        right = re.sub(r"\bx\b" if len(inputs) == 1 else rf"\bx{number}\b", ours, right)
    model = parse_expression(right, [*inputs, *parameters])
    residual = next(line for line in lines if line.startswith("Residual Sum of Squares"))
    y = np.log(data[:, 0]) if match["left"].startswith("log") else data[:, 0]
    return NistSet(
        name,
        data[:, 1:],
        y,
        model,
        parameters,
        numbers[:, :2].T,
        numbers[:, 2],
        _floats(residual)[0],
    )


def _floats(text: str) -> list[float]:
    return [float(number.replace("D", "E")) for number in _NUMBER.findall(text)]


def build_nist(config: NistTarget) -> Target:
    """All points of a set; there is no truth between them."""
    found = read_nist(config.path, config.name)
    points = Points(found.x, found.y[:, None])
    inputs = tuple(f"x{i}" for i in range(found.x.shape[1]))
    return Target(found.name, inputs, ("y",), points.box, points=points)


NAMED: dict[str, str] = {
    "exp_sin_square": "exp(sin(pi*x0) + x1^2)",  # [2,1,1] holds it exactly
    "bessel_j0": "j0(20*x0)",  # a dozen oscillations
    "product": "x0*x1",  # [2,2,1] holds it exactly
    "mean_sin_square_100d": f"exp(({'+'.join(f'sin(pi*x{i}/2)^2' for i in range(100))})/100)",  # [100,1,1]
    "nested_4d": "exp((sin(pi*(x0^2 + x1^2)) + sin(pi*(x2^2 + x3^2)))/2)",  # of depth three, [4,2,1,1]
    "runge": "1/(1 + 25*x0^2)",  # polynomials through evenly spaced points diverge on it
}
"""Formulas on [-1, 1] in each variable. The last is Runge's (Z. Math. Phys. 46, 1901), the others are from Liu et al.,
arXiv 2404.19756, section 3.1."""

GIVEN_POINTS: dict[str, Points] = {
    "lecture_points": Points(
        np.array([[0.0], [1.0], [2.0], [5.0]]), np.array([[5.0], [1.0], [3.0], [2.0]])
    )
}
"""Points without a truth between them."""


def _function(expression: sympy.Expr, inputs: Sequence[str]) -> Callable[[Array], Array]:
    """(N, d) to (N, 1)."""
    value = to_numpy(expression, inputs)
    return lambda x: value(x)[:, None]


def formula_target(
    name: str, expression: sympy.Expr, inputs: Sequence[str], domain: Any, default: Any = None
) -> Target:
    """The target of an expression in `inputs`, with its domain read and its values on it checked."""
    box = read_domain(domain, len(inputs), default)
    return check_finite(
        Target(name, tuple(inputs), ("y",), box, expression, _function(expression, inputs))
    )


def build_named(config: NamedTarget) -> Target:
    """A function or points by name; the domain of points is the range of their inputs."""
    _check_known("target.name", config.name, [*NAMED, *GIVEN_POINTS], "named functions")
    if (points := GIVEN_POINTS.get(config.name)) is not None:
        box = read_domain(config.domain, points.x.shape[1], points.box)
        return Target(config.name, ("x0",), ("y",), box, points=points)
    formula = NAMED[config.name]
    return formula_target(config.name, parse(formula), variables_in(formula), config.domain)


def build_peaks(config: GaussianPeaksTarget) -> Target:
    """Sum over the centres c of exp(-sharpness |x - (c, ..., c)|^2): narrow peaks along the diagonal."""
    inputs = [f"x{i}" for i in range(config.dimension)]
    peaks = peaks_formula(
        np.repeat([[constant(c)] for c in config.centres], config.dimension, 1), config.sharpness
    )
    return formula_target("gaussian_peaks", parse(peaks), inputs, config.domain)


def peaks_formula(centres: Array, sharpness: float) -> str:
    """The text of the sum over `centres` (peaks, d) of exp(-sharpness |x - c|^2)."""

    def squares(centre: Array) -> str:
        return "+".join(f"(x{i}-({float(c)!r}))^2" for i, c in enumerate(centre))

    return "+".join(f"exp(-{float(sharpness)!r}*({squares(centre)}))" for centre in centres)


def build_expression(config: ExpressionTarget) -> Target:
    """The user's formula."""
    return named_formula(config.formula, config.domain)


def named_formula(text: str, domain: Any = None) -> Target:
    """A formula in variables of any names, on one (lower, upper) for all of them or a mapping with one for each.

    The inputs come in the mapping's order, else in alphabetical order, or are x0, x1, ... up to the last one written,
    also if it cancels as x2 in x0 + 0*x2: so irrelevant inputs can be had. Raises UsageError for a variable without a
    range; the formula need not depend on every one that has a range.
    """
    text = " ".join(text.split())
    names = names_in(text)
    if isinstance(domain, Mapping):
        if missing := [name for name in names if name not in domain]:
            raise UsageError(f"domain has no range of the variable {missing[0]!r} of {text!r}.")
        names, domain = tuple(map(str, domain)), list(domain.values())
    elif any(re.fullmatch(r"x\d+", name) for name in names) or not names:
        names = variables_in(text)
    expression = parse(text, names)
    numbered = {variable(name): variable(f"x{i}") for i, name in enumerate(names)}
    shown = text if len(text) <= 60 else text[:57] + "..."
    target = formula_target(
        shown, expression.xreplace(numbered), list(map(str, numbered.values())), domain
    )
    return replace(target, inputs=names)


Pairs = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class SpecialFunction:
    """value(x0, x1) in scipy's argument order, and its default domain, where it is finite and smooth."""

    value: Callable[[Array, Array], Array]
    domain: Pairs

    def __call__(self, x: Array) -> Array:
        """Points (N, 2) to values (N, 1)."""
        with np.errstate(all="ignore"):
            return np.asarray(self.value(x[:, 0], x[:, 1]), dtype=np.float64)[:, None]


def _scipy(name: str, *arguments: Array | int) -> Array:
    from scipy import special

    return np.asarray(getattr(special, name)(*arguments))


def _sn(u: Array, m: Array) -> Array:
    return np.asarray(_scipy("ellipj", u, m)[0])


def _harmonic(azimuth: Array, polar: Array, order: int, degree: int) -> Array:
    return np.asarray(_scipy("sph_harm_y", degree, order, polar, azimuth).real)


_AZIMUTH_POLAR: Pairs = ((-np.pi, np.pi), (0.0, np.pi))
_ANGLE_PARAMETER: Pairs = ((-np.pi, np.pi), (-1.0, 0.9))

SPECIAL: dict[str, SpecialFunction] = {
    "ellipj": SpecialFunction(_sn, ((-5.0, 5.0), (0.0, 0.9))),  # Jacobi's sn(u, m)
    "ellipkinc": SpecialFunction(
        partial(_scipy, "ellipkinc"), _ANGLE_PARAMETER
    ),  # elliptic F(phi, m), first kind
    "ellipeinc": SpecialFunction(
        partial(_scipy, "ellipeinc"), _ANGLE_PARAMETER
    ),  # E(phi, m), second kind
    "jv": SpecialFunction(
        partial(_scipy, "jv"), ((0.0, 5.0), (1.0, 10.0))
    ),  # Bessel functions J_v(x), first kind
    "yv": SpecialFunction(partial(_scipy, "yv"), ((0.0, 3.0), (1.0, 10.0))),  # Y_v(x), second kind
    "kv": SpecialFunction(
        partial(_scipy, "kv"), ((0.0, 3.0), (1.0, 5.0))
    ),  # K_v(x), modified, second kind
    "iv": SpecialFunction(
        partial(_scipy, "iv"), ((0.0, 3.0), (1.0, 5.0))
    ),  # I_v(x), modified, first kind
    # Associated Legendre functions P_v^m(x).
    **{
        f"lpmv_{m}": SpecialFunction(partial(_scipy, "lpmv", m), ((0.0, 5.0), (-0.9, 0.9)))
        for m in (0, 1, 2)
    },
    # Real parts of spherical harmonics of order m and degree n; x0 is the azimuth, x1 the polar angle.
    **{
        f"sph_harm_{m}_{n}": SpecialFunction(partial(_harmonic, order=m, degree=n), _AZIMUTH_POLAR)
        for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    },
}


def build_special(config: SpecialTarget) -> Target:
    """A function of scipy.special by name, on its domain or the config's."""
    _check_known("target.name", config.name, SPECIAL, "special functions")
    function = SPECIAL[config.name]
    box = read_domain(config.domain, 2, function.domain)
    return check_finite(Target(config.name, ("x0", "x1"), ("y",), box, None, function))


@dataclass(frozen=True)
class FeynmanFormula:
    """A formula in x0, x1, ...; `variables` are their names in the lectures; `domain` has text such as 0.4*pi."""

    formula: str
    variables: tuple[str, ...]
    domain: tuple[tuple[str, str], ...]


@cache
def feynman_formulas() -> dict[str, FeynmanFormula]:
    """Equation id (volume.chapter.equation) to formula: the 27 of the KAN paper's Table 2 (arXiv 2404.19756)."""
    text = (
        resources.files("kanrun.targets")
        .joinpath("feynman_dimensionless.csv")
        .read_text(encoding="utf-8")
    )
    formulas = {}
    for row in csv.DictReader(text.splitlines()):
        ends = [pair.split(":") for pair in row["domain"].split()]
        domain = tuple((lower, upper) for lower, upper in ends)
        formulas[row["id"]] = FeynmanFormula(
            row["formula"], tuple(row["variables"].split()), domain
        )
    return formulas


def build_feynman(config: FeynmanTarget) -> Target:
    """A formula by its equation id; inputs are x0, x1, ... in the order of the CSV's variables, or v1, v2, ... of a
    file's."""
    if config.path is not None:
        return formula_of_file(config.path, config.id, config.domain)
    _check_known("target.id", config.id, feynman_formulas(), "27 formulas")
    entry = feynman_formulas()[config.id]
    inputs = [f"x{i}" for i in range(len(entry.variables))]
    return formula_target(config.id, parse(entry.formula), inputs, config.domain, entry.domain)


def formula_of_file(path: str, name: str, domain: Any) -> Target:
    """The formula `name` of a YAML file in which each entry has the formula `raw`, and under `vars` the name and
    sample_range of v1, v2, ...; its inputs are called x0, x1, ... in their order.

    Raises UsageError for a file that is not like this.
    """
    _check_known("target.id", name, _formulas_of_file(path), f"formulas of {path}")
    entry = _formulas_of_file(path)[name]
    try:
        variables = [entry["vars"][f"v{i + 1}"] for i in range(int(entry["n_variables"]))]
        names, ranges = (
            [str(each["name"]) for each in variables],
            [list(each["sample_range"]) for each in variables],
        )
        expression = parse(str(entry["raw"]), names)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"target.path={path}: the entry {name} lacks raw, n_variables, or vars with ranges."
        ) from error
    inputs = [f"x{i}" for i in range(len(names))]
    swap = {variable(old): variable(new) for old, new in zip(names, inputs, strict=True)}
    expression = expression.xreplace(
        swap
    )  # 0/0 on part of a published range is no reason to refuse it
    box = read_domain(domain, len(inputs), ranges)
    return Target(name, tuple(inputs), ("y",), box, expression, _function(expression, inputs))


@cache
def _formulas_of_file(path: str) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        with open(path, encoding="utf-8") as stream:
            entries = yaml.safe_load(stream)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"target.path={path} cannot be read as YAML: {str(error).splitlines()[0]}."
        ) from error
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"target.path={path} has no formulas by name.")
    return {str(name): entry for name, entry in entries.items()}


def _check_known(key: str, name: str, known: Iterable[str], what: str) -> None:
    """Raises UsageError for a name that is not among `known`."""
    names = list(known)
    if name not in names:
        raise UsageError(
            f"{key}={name!r} is not one of the {what}{did_you_mean(name, names)}; known are {', '.join(names)}."
        )
