"""A dictionary of functions of one variable: f(k u(t) + b) over grids of constants, and products with simple factors.

The constants of the grids are those that formulas are written with, so an edge from an input often is a sum of a few
entries as they stand; where it is not, the nearest entries are where the fit of all constants begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import sympy
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, X, power
from kanrun.engine.symbolic.edge_matching import search_grid
from kanrun.engine.symbolic.edges import Symbolic

Build = Callable[[], sympy.Expr]
#: Values, sizes, families and builds of some entries.
Part = tuple[Array, Sequence[float] | Array, Sequence[str], Sequence[Build]]


@dataclass(frozen=True)
class Dictionary:
    """`values` (entries, N) with what each is: `builds[i]()` is its expression, `sizes` (entries,) its complexity, and
    `families[i]` the functions in it without their constants."""

    values: Array
    sizes: Array
    families: tuple[str, ...]
    builds: tuple[Build, ...]

    @classmethod
    def of(
        cls,
        count: int,
        parts: Sequence[tuple[Array, Sequence[float] | Array, Sequence[str], Sequence[Build]]],
    ) -> Dictionary:
        """All parts (values, sizes, families, builds) in one, at `count` points."""
        values = np.concatenate([np.zeros((0, count)), *(part[0] for part in parts)])
        count_work(COSTS.grid_value * values.size)
        sizes = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
        families = tuple(each for part in parts for each in part[2])
        return cls(values, sizes, families, tuple(each for part in parts for each in part[3]))

    def chosen(self, index: Sequence[int] | NDArray[np.int64]) -> Dictionary:
        keep = [int(i) for i in index]
        return Dictionary(
            self.values[keep],
            self.sizes[keep],
            tuple(self.families[i] for i in keep),
            tuple(self.builds[i] for i in keep),
        )

    def simplest(self, most: int, *, shifted: bool = True) -> Dictionary:
        """The `most` simplest entries of which none is another one times a number (plus a number, where `shifted`),
        simplest first."""
        order = np.argsort(self.sizes, kind="stable")
        left = self.values[order]
        left = left - left.mean(axis=1, keepdims=True) if shifted else left
        left = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-300)
        left *= np.where(left[:, :1] < 0, -1.0, 1.0)
        _, first = np.unique(
            np.round(left[:, :: max(1, left.shape[1] // 12)], 9), axis=0, return_index=True
        )
        count_work(COSTS.grid_value * left.size)
        return self.chosen(order[np.sort(first)[:most]])

    def varied(self, alike: int, most: int) -> Dictionary:
        """The first `most` entries of which at most `alike` are of one family."""
        index = [
            i for i, family in enumerate(self.families) if self.families[:i].count(family) < alike
        ]
        return self.chosen(index[:most])

    def __add__(self, other: Dictionary) -> Dictionary:
        return Dictionary(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.sizes, other.sizes]),
            self.families + other.families,
            self.builds + other.builds,
        )


_TURN, _SMALL = np.pi / 2, (1.0, 2.0, 3.0, 0.5, 4.0, 5.0, 0.25, 1.5)
_SIGNED = (0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 4.0, 5.0)
_WAVES = (
    1.0,
    2.0,
    3.0,
    0.5,
    4.0,
    5.0,
    np.pi,
    2 * np.pi,
    1.5,
    2.5,
    6.0,
    np.pi / 2,
    3 * np.pi,
    7.0,
    8.0,
    9.0,
    10.0,
    20.0,
)

#: For each outer function the pairs (k, b) of k u + b; of those in which only b / k counts, k = 1 and k = -1.
_GRIDS: dict[str, list[tuple[float, float]]] = {
    "exp": [(s * k, 0.0) for k in (*_SMALL, 10.0, 0.1, 0.2, 0.3) for s in (1, -1)],
    "log": [(s, b) for b in _SIGNED for s in (1.0, -1.0)],
    "sqrt": [(s, b) for b in _SIGNED for s in (1.0, -1.0)],
    "1/sqrt": [(s, b) for b in _SIGNED for s in (1.0, -1.0)],
    "1/x": [(1.0, b) for b in _SIGNED],
    "1/x^2": [(1.0, b) for b in _SIGNED],
    "x^2": [(1.0, b) for b in _SIGNED[1:]],
    "x^3": [(1.0, b) for b in _SIGNED[1:]],
    "sin": [
        *((k, b) for k in _WAVES for b in (0.0, _TURN)),
        *((k, b) for k in _WAVES[:6] for b in (1.0, -1.0, 0.5, 2.0)),
    ],
    "tan": [(k, b) for k in (1.0, 0.5, 2.0) for b in (0.0,)],
    "tanh": [(k, b) for k in (*_SMALL, 10.0) for b in (0.0, 1.0, -1.0)],
    "arctan": [(k, b) for k in (*_SMALL, 10.0) for b in (0.0, 1.0, -1.0)],
    "arcsin": [(k, b) for k in (1.0, 0.5) for b in (0.0,)],
    "arcsinh": [(k, b) for k in (1.0, 2.0, 0.5) for b in (0.0,)],
    "abs": [(1.0, b) for b in _SIGNED],
    "gaussian": [
        (k, -k * b) for k in (1.0, 2**-0.5, 0.5, 2**0.5, 2.0) for b in (0.0, 1.0, -1.0, 2.0, -2.0)
    ],
    "cosh": [(k, 0.0) for k in (1.0, 2.0, 0.5)],
    "j0": [(1.0, 0.0), (2.0, 0.0)],
}
_HALVES = (Fraction(p, 2) for p in (1, -1, 3, 5, -3))
_POWERS = (*range(1, 13), *range(-1, -13, -1), *_HALVES, Fraction(1, 3), Fraction(2, 3))


def call(candidate: Candidate, a: float = 1.0, b: float = 0.0, c: float = 1.0) -> Symbolic:
    """c f(a t + b)."""
    return Symbolic(candidate, (a, b, c, 0.0), "")


#: The functions u of which others are taken, as sums of (candidate, a, b, c).
_INNER: tuple[tuple[tuple[str, float, float, float], ...], ...] = (
    *(
        ((name, 1.0, 0.0, 1.0),)
        for name in ("x^2", "x^3", "sqrt", "1/x", "1/x^2", "log", "abs", "x^4")
    ),
    *((("exp", a, 0.0, 1.0),) for a in (1.0, -1.0, 2.0)),
    *((("sin", a, b, 1.0),) for a, b in ((1.0, 0.0), (2.0, 0.0), (1.0, _TURN))),
    (("tanh", 1.0, 0.0, 1.0),),
    *((("x", 1.0, 0.0, 1.0), ("x^2", 1.0, 0.0, k)) for k in (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)),
    (("x", 1.0, 0.0, 1.0), ("x^3", 1.0, 0.0, 1.0)),
    (("x", 1.0, 0.0, 1.0), ("1/x", 1.0, 0.0, 1.0)),
    (("x^2", 1.0, 0.0, 1.0), ("x^3", 1.0, 0.0, 1.0)),
)


def _inner(t: Array, names: set[str]) -> list[tuple[str, Array, sympy.Expr, float]]:
    """The functions u that are defined at t, by name, their values, expressions and complexity."""
    found = []
    for terms in _INNER:
        used = [call(TABLE[name], *constants) for name, *constants in terms]
        if all(each.candidate.name in names and each.allows(t) for each in used):
            values = np.sum([each.value(t) for each in used], axis=0)
            size = sum(each.candidate.complexity for each in used) + len(used) - 1
            expression = sympy.Add(*(each.expression() for each in used))
            found.append(("+".join(each.candidate.name for each in used), values, expression, size))
    return found


def known(candidate: Candidate, names: set[str]) -> bool:
    """Whether a candidate, or a power that is not in the table, may be used: powers may where most of the table may."""
    return candidate.name in names or (candidate.name not in TABLE and len(names) > len(TABLE) // 2)


def dictionary(t: Array, candidates: Sequence[Candidate], *, generic: int = 90) -> Dictionary:
    """All entries that are defined at the arguments t (N,), without a pole between them.

    Of a function of t itself there are up to `generic` further entries, with constants by the range of t alone.
    """
    names = {candidate.name for candidate in candidates}
    if "sin" in names or "cos" in names:
        names |= {"sin"}
    middle, half = float(t.max() + t.min()) / 2, float(t.max() - t.min()) / 2
    parts: list[Part] = []

    def add(
        family: str, size: float, outer: Candidate, grid: Array, u: Array, inner: sympy.Expr
    ) -> None:
        grid, curves, ranks = _defined(outer, grid, u)
        good = np.isfinite(curves).all(axis=1) & (
            np.abs(curves).max(axis=1, initial=0.0) < _LARGEST
        )
        good &= np.ptp(curves, axis=1) > _FLAT * np.abs(curves).max(axis=1)
        builds = [partial(call(outer, a, b).expression, inner) for a, b in grid[good].tolist()]
        parts.append(
            (curves[good], size + 0.3 * np.log2(1.0 + ranks[good]), [family] * len(builds), builds)
        )

    for exponent in _POWERS:
        candidate = power(exponent)
        if known(candidate, names):
            add(candidate.name, candidate.complexity, candidate, np.array([[1.0, 0.0]]), t, X)
    for candidate in candidates:
        if candidate.name in ("0", "x", "cos", "arccos", "sigmoid") or candidate.complexity == 0:
            continue
        grid = np.array(_GRIDS.get(candidate.name, [(1.0, 0.0)]))
        own = search_grid(candidate)
        own = own[:: max(1, len(own) // generic)]
        own = np.stack([own[:, 0] / half, own[:, 1] - own[:, 0] * middle / half], axis=1)
        if candidate.name not in ("x^2", "x^3", "x^4", "x^5"):
            grid = np.concatenate([grid, own])
        add(candidate.name, candidate.complexity, candidate, grid, t, X)
    if {"exp", "log"} <= names and (t.min() > 0 or (t != 0).all()):
        size = X if t.min() > 0 else sympy.Abs(X)
        logarithm = np.stack([_EXPONENTS, np.zeros_like(_EXPONENTS)], axis=1)
        add("exp(log)", _POWER_SIZE, TABLE["exp"], logarithm, np.log(np.abs(t)), sympy.log(size))
    for inner, u, expression, size in _inner(t, names):
        for candidate in candidates:
            if candidate.name not in _GRIDS or candidate.name in (
                "arcsinh",
                "j0",
                "cosh",
                "tan",
                "x^2",
                "x^3",
            ):
                continue
            if (inner, candidate.name) not in _REDUNDANT:
                grid = np.array(_GRIDS[candidate.name])[:12]
                family = f"{candidate.name}({inner})"
                add(family, candidate.complexity + size, candidate, grid, u, expression)
    return Dictionary.of(t.size, parts)


def waves(t: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Sines of so many periods over the range of the arguments t (N,) as the points can show, at two phases."""
    if not {"sin", "cos"} & {candidate.name for candidate in candidates}:
        return Dictionary.of(t.size, [])
    turns = np.arange(1, t.size // 2 + 1) * np.pi / np.ptp(t)
    sines = [
        call(TABLE["sin"], a, b - a * float(t[0])) for a in turns.tolist() for b in (0.0, _TURN)
    ]
    sizes = TABLE["sin"].complexity + 0.3 * np.log2(1.0 + np.arange(len(sines)))
    values = np.array([sine.value(t) for sine in sines])
    return Dictionary.of(
        t.size, [(values, sizes, ["sin"] * len(sines), [sine.expression for sine in sines])]
    )


#: Complexity of a power with any exponent, and the exponents in the dictionary, from which others are near.
_POWER_SIZE, _EXPONENTS = 3.5, np.arange(-49, 50) / 10


#: Of an entry's values, the largest, and the range that is none beside them.
_LARGEST, _FLAT = 1e12, 1e-9

#: Compositions that are simpler functions for all constants.
_REDUNDANT = {
    ("log", "exp"),
    ("1/x", "1/x"),
    ("abs", "abs"),
    ("x^2", "abs"),
    ("x^4", "abs"),
    ("1/x^2", "1/x"),
}


def _defined(candidate: Candidate, grid: Array, u: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """The points (k, b) of the grid at which f(k u + b) is defined on the whole range of u, its values there, and their
    places in the grid."""
    low, high = float(u.min()), float(u.max())
    ends = np.sort(np.stack([grid[:, 0] * low, grid[:, 0] * high]) + grid[:, 1], axis=0)
    usable = np.flatnonzero(candidate.domain.allowed(*ends))
    grid = grid[usable]
    with np.errstate(all="ignore"):
        return grid, candidate.value(grid[:, :1] * u + grid[:, 1:]), usable


def _product(first: Build, second: Build) -> sympy.Expr:
    return first() * second()


def products(entries: Dictionary, factors: Dictionary) -> Dictionary:
    """Each entry times each factor of another family."""
    parts = []
    powers = [_is_power(each) for each in entries.families]
    for j, family in enumerate(factors.families):
        both = _is_power(family)
        others = [
            i
            for i, each in enumerate(entries.families)
            if each != family and not (both and powers[i])
        ]
        parts.append(
            (
                entries.values[others] * factors.values[j],
                entries.sizes[others] + factors.sizes[j],
                [f"{family} {entries.families[i]}" for i in others],
                [partial(_product, factors.builds[j], entries.builds[i]) for i in others],
            )
        )
    return Dictionary.of(entries.values.shape[1], parts)


def _is_power(family: str) -> bool:
    return family[:1] == "x" or family in {"sqrt", "1/sqrt", "1/x", "1/x^2"}


def factors(t: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Simple functions that stand as factors, where they are defined at the arguments t (N,)."""
    names = {candidate.name for candidate in candidates}
    waves = [("sin", a, b) for a in (1.0, 2.0) for b in (0.0, _TURN)]
    growth = [("exp", a, 0.0) for a in (1.0, -1.0, 2.0, -2.0, -0.5)]
    plain = [
        (name, 1.0, 0.0) for name in ("x", "x^2", "x^3", "1/x", "1/x^2", "sqrt", "1/sqrt", "log")
    ]
    calls = [call(TABLE[name], a, b) for name, a, b in (*plain, *growth, *waves) if name in names]
    usable = [each for each in calls if each.allows(t)]
    values = np.array([each.value(t) for each in usable]).reshape(-1, t.size)
    sizes, families = (
        [each.candidate.complexity for each in usable],
        [each.candidate.name for each in usable],
    )
    return Dictionary.of(t.size, [(values, sizes, families, [each.expression for each in usable])])
