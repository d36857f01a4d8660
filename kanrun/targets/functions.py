"""Targets that are functions given by a name or a formula, and a check that they are finite.

`rough_places` finds points at which a function is not smooth.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import sympy

from kanrun.errors import MALFORMED, UsageError
from kanrun.formulas.conversion import to_numpy
from kanrun.formulas.parsing import constant, parse, variable
from kanrun.formulas.syntax import KnownFunction, names_in, variables_in
from kanrun.points import Array, Points
from kanrun.targets.datasets import NAMED, Target, check_known, shown

_FORM = "write one [lower, upper] for each variable, such as [[-1,1],[0,0.4*pi]]."

#: Functions with poles. The poles of a key are the zeros of its value.
_POLES: dict[Any, Any] = {
    **dict.fromkeys((sympy.tan, sympy.sec), sympy.cos),
    **dict.fromkeys((sympy.cot, sympy.csc), sympy.sin),
    **dict.fromkeys((sympy.coth, sympy.csch), sympy.sinh),
}
#: Number of random points in the domain at which a function is checked.
_RANDOM = 4000
#: Largest number of axes through the centre of the domain along which a function is checked. More
#: axes find more points at which the function is undefined, and take more time.
_LINES = 20
#: Largest number of variables for which a function is checked at all corners of the domain; with
#: more variables, at two corners only.
_CORNERS = 10

#: Named targets that consist of a few points, without a function.
GIVEN_POINTS: dict[str, Points] = {
    "lecture_points": Points(
        np.array([[0.0], [1.0], [2.0], [5.0]]), np.array([[5.0], [1.0], [3.0], [2.0]])
    )
}


def formula_target(
    name: str,
    expression: sympy.Expr,
    inputs: Sequence[str],
    domain: Any,
    default: Any = None,
    *,
    checked: bool = True,
) -> Target:
    """Return the target whose function is an expression in the variables `inputs`.

    For `domain` and `default`, see `read_domain`. If `checked` is true and the function is not
    finite on its domain, raises UsageError; see `check_finite`.
    """
    value = to_numpy(expression, inputs)
    box = read_domain(domain, inputs, default)
    numbered = _numbered(expression, inputs)
    target = Target(name, tuple(inputs), ("y",), box, numbered, lambda x: value(x)[:, None])
    return check_finite(target) if checked else target


def peaks_formula(centres: Any, sharpness: float) -> str:
    """Return the formula of the sum over `centres` (peaks, inputs) of exp(-sharpness |x - c|^2)."""

    def squares(centre: Any) -> str:
        return "+".join(f"(x{i}-({float(c)!r}))^2" for i, c in enumerate(centre))

    return "+".join(f"exp(-{float(sharpness)!r}*({squares(centre)}))" for centre in centres)


def named_formula(text: str, domain: Any) -> Target:
    """Return the target with the formula `text`, whose variables may have any names.

    `domain` is one range (lower, upper) for all variables, a list of ranges, or a mapping from
    variables to ranges. The inputs are:

    - if `domain` is a mapping: its variables, in its order. The formula need not contain all of
      them, but UsageError is raised if a variable of the formula is not in the mapping.
    - otherwise, if the formula has a variable such as x2: x0, x1, ... up to the largest number in
      the text, even if this variable cancels, as x2 does in x0 + 0*x2.
    - otherwise: the variables of the formula in alphabetical order.
    """
    # Largest number of characters in the name of a target; longer formulas are cut off.
    longest_name = 60
    text = " ".join(text.split())
    names = names_in(text)
    if isinstance(domain, Mapping):
        if missing := [name for name in names if name not in domain]:
            raise UsageError(
                f"target.domain has no range of the variable {missing[0]!r} of {text!r}."
            )
        names = tuple(map(str, domain))
        domain = list(domain.values())
    elif any(re.fullmatch(r"x\d+", name) for name in names) or not names:
        names = variables_in(text)
    shown = text if len(text) <= longest_name else text[: longest_name - 3] + "..."
    return formula_target(shown, parse(text, names), names, domain)


def _numbered(expression: sympy.Expr, names: Sequence[str]) -> sympy.Expr:
    """Rename the variables `names` to x0, x1, ..."""
    return expression.xreplace({variable(name): variable(f"x{i}") for i, name in enumerate(names)})


Pairs = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class SpecialFunction:
    """A function of scipy.special in two variables.

    Attributes:
        name: Name of the function in scipy.special.
        domain: Default domain, on which the function is finite and smooth.
        leading: Constant arguments that scipy's function takes before the variables.
        swapped: Whether scipy's function takes the variables in the order (x1, x0).
    """

    name: str
    domain: Pairs
    leading: tuple[int, ...] = ()
    swapped: bool = False

    def __call__(self, x: Array) -> Array:
        """Return the real part of the function at `x` (points, 2), shape (points, 1)."""
        from scipy import special

        columns = x.T[::-1] if self.swapped else x.T
        with np.errstate(all="ignore"):
            values = getattr(special, self.name)(*self.leading, *columns)
        values = values[0] if isinstance(values, tuple) else values
        return np.asarray(np.real(values), dtype=np.float64)[:, None]


_AZIMUTH_POLAR: Pairs = ((-np.pi, np.pi), (0.0, np.pi))
_ANGLE_PARAMETER: Pairs = ((-np.pi, np.pi), (-1.0, 0.9))

SPECIAL: dict[str, SpecialFunction] = {
    "ellipj": SpecialFunction("ellipj", ((-5.0, 5.0), (0.0, 0.9))),  # Jacobi's sn(u, m)
    # Elliptic integrals F(phi, m) and E(phi, m), of the first and second kind.
    "ellipkinc": SpecialFunction("ellipkinc", _ANGLE_PARAMETER),
    "ellipeinc": SpecialFunction("ellipeinc", _ANGLE_PARAMETER),
    # Bessel functions J_v(x) and Y_v(x), and modified ones K_v(x) and I_v(x).
    "jv": SpecialFunction("jv", ((0.0, 5.0), (1.0, 10.0))),
    "yv": SpecialFunction("yv", ((0.0, 3.0), (1.0, 10.0))),
    "kv": SpecialFunction("kv", ((0.0, 3.0), (1.0, 5.0))),
    "iv": SpecialFunction("iv", ((0.0, 3.0), (1.0, 5.0))),
    # Associated Legendre functions P_v^m(x).
    **{f"lpmv_{m}": SpecialFunction("lpmv", ((0.0, 5.0), (-0.9, 0.9)), (m,)) for m in (0, 1, 2)},
    # Real parts of spherical harmonics of order m and degree n; x0 is the azimuth, x1 the polar
    # angle.
    **{
        f"sph_harm_{m}_{n}": SpecialFunction("sph_harm_y", _AZIMUTH_POLAR, (n, m), swapped=True)
        for m, n in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    },
}


def named_target(name: str, domain: Any) -> Target:
    """Return the target called `name`, a key of `NAMED`, `SPECIAL` or `GIVEN_POINTS`.

    For `domain`, see `read_domain`. By default, a function of `NAMED` has the domain [-1, 1] for
    every variable, a function of `SPECIAL` its attribute `domain`, and points have the range of
    their inputs.
    """
    check_known("target.name", name, names_of_targets(), "named functions")
    if (points := GIVEN_POINTS.get(name)) is not None:
        box = read_domain(domain, ("x0",), points.box)
        return Target(name, ("x0",), ("y",), box, points=points)
    if (function := SPECIAL.get(name)) is not None:
        inputs = ("x0", "x1")
        box = read_domain(domain, inputs, function.domain)
        return check_finite(Target(name, inputs, ("y",), box, None, function))
    return formula_target(name, parse(NAMED[name]), variables_in(NAMED[name]), domain)


def names_of_targets() -> list[str]:
    """Return the names that `named_target` knows."""
    return [*NAMED, *GIVEN_POINTS, *SPECIAL]


def file_formula(name: str, path: str | None, domain: Any) -> Target:
    """Return the target with the formula called `name`, bundled (`path` None) or from a YAML file.

    The inputs are x0, x1, ... in the order of the variables v1, v2, ... in the file. An entry of
    the file consists of `prepared`, the formula; `vars`, with the keys sample_range and sample_type
    (see `_file_range`) of each variable; and optionally `accept`, a list of equivalent formulas.
    Raises UsageError if the formula is unknown or its entry has a different format.
    """
    formulas = feynman_formulas(path)
    check_known("target.id", name, formulas, f"formulas of {path}" if path else "27 formulas")
    entry = formulas[name]
    try:
        variables = {key: about for key, about in entry["vars"].items() if key != "v0"}
        names = sorted(variables, key=lambda key: int(key[1:]))
        ranges = [_file_range(variables[key]) for key in names]
        expression, *accepted = (
            _numbered(parse(_PI.sub("pi", str(text)), names, _FILE_FUNCTIONS), names)
            for text in (entry["prepared"], *entry.get("accept", ()))
        )
    except MALFORMED as error:
        raise UsageError(
            f"target.path={path}: the entry {name} lacks prepared, or vars with ranges."
        ) from error
    inputs = [f"x{i}" for i in range(len(names))]
    boxes, scales, maps = zip(*ranges, strict=True)
    # Published ranges are not checked, because some contain points at which the formula is 0/0.
    target = formula_target(name, expression, inputs, domain, boxes, checked=path is None)
    target = replace(target, accepted=tuple(accepted))
    if domain is not None or set(scales) == {"uni"}:
        return target
    return replace(
        target,
        place=lambda uniform: np.stack(
            [values(column) for values, column in zip(maps, uniform.T, strict=True)], 1
        ),
    )


#: Functions that are allowed in formula files but not in formulas that users type.
_FILE_FUNCTIONS = {"neg": KnownFunction(operator.neg)}
#: Pi as formula files write it, with at least 13 decimals.
_PI = re.compile(r"3\.1415926535897\d*")


def _file_range(
    entry: Mapping[str, Any],
) -> tuple[tuple[float, float], str, Callable[[Array], Array]]:
    """Return the ends of a variable's range, its scale, and a map from random numbers to values.

    The random numbers (points,) are uniform on [0, 1). The value sample_type in `entry` is a pair:
    the scale, which is `uni` (uniform), `log` (log-uniform) or `int` (rounded to whole numbers);
    and the sign, which is `pos`, or `pos_neg` if values get a random sign. The default is `uni` and
    `pos`.
    """
    low, high = map(constant, entry["sample_range"][:2])
    scale, sign = entry.get("sample_type", ("uni", "pos"))
    if scale not in ("uni", "log", "int") or sign not in ("pos", "pos_neg"):
        raise ValueError(scale, sign)
    both_signs = sign == "pos_neg"

    def values(uniform: Array) -> Array:
        signs: Any = 1.0
        if both_signs:
            signs = np.where(uniform < 0.5, -1.0, 1.0)
            uniform = 2 * uniform % 1
        if scale == "log":
            return np.asarray(signs * low * (high / low) ** uniform)
        plain = low + (high - low) * uniform
        return np.asarray(signs * (np.round(plain) if scale == "int" else plain))

    return (-high if both_signs else low, high), scale, values


@cache
def feynman_formulas(path: str | None = None) -> dict[str, Any]:
    """Return the entries of the formula file `path` by name; see `file_formula` for their format.

    If `path` is None, return the 27 formulas of Table 2 of the KAN paper (arXiv 2404.19756), by
    equation number. Raises UsageError if the file cannot be read or is not a mapping from names to
    formulas.
    """
    import yaml  # type: ignore[import-untyped]

    bundled = resources.files("kanrun.targets").joinpath("feynman_dimensionless.yaml")
    try:
        entries = yaml.safe_load((Path(path) if path else bundled).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"target.path={path} cannot be read as YAML: {reason}.") from error
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"target.path={path} has no formulas by name.")
    return {str(name): entry for name, entry in entries.items()}


def read_domain(value: Any, inputs: Sequence[str], default: Any) -> Array:
    """Convert the setting `target.domain` to an array (inputs, 2) of lower and upper bounds.

    `value` is one pair for each variable or one pair for all. Numbers may be text such as "0.4*pi".
    If `value` is None, `default` is used, and if both are None, [-1, 1] for all variables. Raises
    UsageError if the value has another form, the wrong number of pairs, or a pair with lower >=
    upper.
    """
    dimension = len(inputs)
    if value is None:
        value = [-1, 1] if default is None else default
    if not _is_list(value):
        raise UsageError(f"target.domain={value!r} is not a list of pairs; {_FORM}")
    pairs = list(value)
    if len(pairs) == 2 and not any(_is_list(end) for end in pairs):
        pairs = [pairs] * dimension
    if len(pairs) != dimension:
        raise UsageError(
            f"target.domain has {len(pairs)} pair{'s' * (len(pairs) != 1)}, "
            f"but the target has {dimension} variable{'s' * (dimension != 1)}; {_FORM}"
        )
    box = np.empty((dimension, 2))
    for index, (name, pair) in enumerate(zip(inputs, pairs, strict=True)):
        if not _is_list(pair) or len(pair) != 2:
            raise UsageError(f"target.domain of {name} is {pair!r}, not a pair; {_FORM}")
        try:
            lower, upper = box[index] = constant(pair[0]), constant(pair[1])
        except UsageError as error:
            raise UsageError(f"target.domain of {name}: {str(error).rstrip('.')}.") from None
        if not lower < upper:
            raise UsageError(
                f"target.domain of {name} is [{lower:g}, {upper:g}], but lower must be below upper."
            )
        if not np.isfinite(upper - lower):
            raise UsageError(f"target.domain of {name} is too wide for float64.")
    return box


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def check_finite(target: Target) -> Target:
    """Return `target` if its function is finite and real at test points throughout its domain.

    Otherwise, raise UsageError with the first point at which the function is not finite. If a
    denominator in the expression changes sign between two test points, the function is also checked
    near a zero of this denominator.
    """
    # A zero of a denominator counts as a pole if the function there exceeds this multiple of its
    # median magnitude.
    pole = 1e6
    # Number of points checked on each axis. With fewer points, narrow undefined ranges are missed.
    per_line = 201
    assert target.function is not None
    domain = target.domain
    dimension = len(target.domain)
    lower, upper = domain.T
    lines = np.tile(domain.mean(axis=1), (min(dimension, _LINES), per_line, 1))
    for i, line in enumerate(lines):
        line[:, i] = np.linspace(lower[i], upper[i], per_line)
    corners = list(itertools.product(*domain)) if dimension <= _CORNERS else [lower, upper]
    random = np.random.default_rng(0).uniform(lower, upper, (_RANDOM, dimension))
    points = np.concatenate([lines.reshape(-1, dimension), np.array(corners), random])
    values = target.function(points)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        elsewhere = f"at {bad.sum() - 1} more" if bad.sum() > 1 else "at no other"
        raise UsageError(
            f"{target.name} is not finite at {shown(points[bad.argmax()], target.inputs)} "
            f"and {elsewhere} of the {len(points)} points tried; change target.domain."
        )
    for zero in _zeros_of_denominators(target, points):
        # A point with 0/0 need not be a pole. It gives NaN, for which this comparison is false.
        if np.abs(target.function(zero)).max() > pole * np.median(np.abs(values)):
            raise UsageError(
                f"{target.name} is not finite near {shown(zero[0], target.inputs)}, where it "
                "divides by zero; change target.domain."
            )
    return target


def _zeros_of_denominators(target: Target, points: Array) -> Iterator[Array]:
    """Yield one zero, shape (1, inputs), of each denominator that has both signs at `points`."""
    if target.expression is None:
        return
    powers = target.expression.atoms(sympy.Pow)
    denominators = {power.base for power in powers if power.exp.is_negative}
    for function, zero in _POLES.items():
        denominators |= {zero(call.args[0]) for call in target.expression.atoms(function)}
    for denominator in sorted(denominators, key=str):
        value = to_numpy(denominator, [f"x{i}" for i in range(len(target.inputs))])
        signs = np.sign(value(points))
        if (signs > 0).any() and (signs < 0).any():
            from scipy.optimize import brentq  # imported late because it loads slowly

            ends = points[[np.nanargmin(signs), np.nanargmax(signs)]]
            share = brentq(lambda t, v=value, e=ends: v(e[0] + t * (e[1] - e[0])), 0, 1)
            yield (ends[0] + share * (ends[1] - ends[0]))[None]


#: Number of points on each line.
POINTS = 129
#: Half the length of the first line, on which fourth differences are computed, as a fraction of the
#: input's range.
REACH = 0.1
#: Number of successive lines along one input. Every line is (POINTS - 1) / (2 NEAR) times shorter
#: than the line before.
LEVELS = 4
#: Half the length of the next line, in units of the spacing of points on the present line.
NEAR = 3
#: Number of rounds over all inputs. In the first round, the tip of a cone is not found.
ROUNDS = 2
#: Relative rounding error of values and inputs; smaller differences are ignored.
ROUNDING = 1e-13


def rough_places(
    function: Callable[[Array], Array], points: Array, domain: Array, sizes: Array
) -> Array:
    """Return, near each of `points`, a point at which `function` is not smooth, if there is one.

    Fourth differences are maximised on shorter and shorter lines, along one input after another.
    Where the function is smooth, these differences decrease as h^4 with the spacing h of the points
    on the line. At a kink, they decrease as h, and at a jump, they do not decrease.

    Args:
        function: Map from (points, inputs) to (points, outputs).
        points: Points in the domain, shape (points, inputs).
        domain: Lower and upper bound of each input, shape (inputs, 2).
        sizes: Typical magnitudes of the outputs, shape (outputs,).

    Returns:
        The points at which the function is not smooth, shape (points, inputs). A row is NaN if the
        function is smooth near the point.
    """
    places = points.copy()
    rough = np.zeros(len(points), dtype=bool)
    for axis in [*range(len(domain))] * ROUNDS:
        moved, changes = _largest_change(function, places, axis, domain[axis], sizes)
        places[~rough, axis] = moved[~rough]
        rough |= changes
    return np.where(rough[:, None], places, np.nan)


def _largest_change(
    function: Callable[[Array], Array], places: Array, axis: int, ends: Array, sizes: Array
) -> tuple[Array, Array]:
    """Return the coordinate along `axis` with the largest fourth difference near each of `places`.

    The second array says whether this difference is too large for a smooth function. Both arrays
    have the shape (places,).
    """
    # Change of slope between neighbouring points of the shortest line above which the function
    # counts as not smooth, in units of the output's size divided by the input's range.
    slope_change = 0.01
    (low, high), points = ends, places[:, axis]
    reach = REACH * (high - low)
    for _ in range(LEVELS):
        middle = np.clip(points, low + reach, high - reach)
        lines = middle[:, None] + reach * np.linspace(-1, 1, POINTS)
        x = np.repeat(places, POINTS, axis=0)
        x[:, axis] = lines.ravel()
        with np.errstate(all="ignore"):
            y = function(x).reshape(len(places), POINTS, -1) / sizes
            differences = np.nan_to_num(np.abs(np.diff(y, 4, axis=1)).max(axis=2), posinf=0.0)
        points = np.take_along_axis(lines, differences.argmax(axis=1)[:, None] + 2, axis=1)[:, 0]
        step = 2 * reach / (POINTS - 1)
        reach = NEAR * step
    slopes = np.abs(np.diff(y, axis=1)).max(axis=(1, 2)) / step
    rounding = ROUNDING * (np.abs(y).max(axis=(1, 2)) + np.abs(points) * slopes)
    least = np.maximum(slope_change * step / (high - low), rounding)
    return points, differences.max(axis=1) > least
