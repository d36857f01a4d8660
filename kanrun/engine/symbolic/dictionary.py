"""A dictionary of functions of one variable: f(k u(t) + b) over grids of constants, and products with simple factors.

The constants of the grids are those that formulas are written with, so an edge from an input often is a sum of a few
entries as they stand; where it is not, the nearest entries are where the fit of all constants begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import IDENTITY, TABLE, Array, Candidate, power
from kanrun.engine.symbolic.edge_matching import search_grid
from kanrun.engine.symbolic.edges import Symbolic
from kanrun.engine.symbolic.trees import Call, Joined, Part


@dataclass(frozen=True)
class Dictionary:
    """`values` (entries, N) with what each is: `tree(i, c)` is c times entry i, `sizes` (entries,) its complexity, and
    `families[i]` the functions in it without their constants."""

    values: Array
    sizes: Array
    families: tuple[str, ...]
    makers: tuple[Callable[[float], Part], ...]

    def tree(self, index: int, factor: float) -> Part:
        return self.makers[index](factor)

    def chosen(self, index: Sequence[int] | NDArray[np.int64]) -> Dictionary:
        keep = [int(i) for i in index]
        return Dictionary(
            self.values[keep], self.sizes[keep], tuple(self.families[i] for i in keep),
            tuple(self.makers[i] for i in keep),
        )  # fmt: skip

    def simplest(self, most: int) -> Dictionary:
        """The `most` simplest entries of which none is another one times a number plus a number, simplest first."""
        order = np.argsort(self.sizes, kind="stable")
        left = self.values[order] - self.values[order].mean(axis=1, keepdims=True)
        left /= np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-300)
        left *= np.where(left[:, :1] < 0, -1.0, 1.0)
        _, first = np.unique(np.round(left[:, :: max(1, left.shape[1] // 12)], 9), axis=0, return_index=True)
        count_work(COSTS.grid_value * left.size)
        return self.chosen(order[np.sort(first)[:most]])

    def varied(self, alike: int, most: int) -> Dictionary:
        """The first `most` entries of which at most `alike` are of one family."""
        index = [i for i, family in enumerate(self.families) if self.families[:i].count(family) < alike]
        return self.chosen(index[:most])

    def __add__(self, other: Dictionary) -> Dictionary:
        return Dictionary(
            np.concatenate([self.values, other.values]), np.concatenate([self.sizes, other.sizes]),
            self.families + other.families, self.makers + other.makers,
        )  # fmt: skip


def scaled(part: Part, factor: float) -> Part:
    """factor * part: the c of a call, or of the first factor of a product."""
    if isinstance(part, Call):
        return replace(part, function=part.function.scaled(factor))
    first, *rest = part.parts
    if part.operation == "sum":
        return Joined("sum", tuple(scaled(each, factor) for each in part.parts))
    return Joined("product", (scaled(first, factor), *rest))


def call(name: str | Candidate, a: float = 1.0, b: float = 0.0, c: float = 1.0, *, free: str = "c") -> Call:
    """c f(a t + b) of the variable itself."""
    candidate = TABLE[name] if isinstance(name, str) else name
    return Call(Symbolic(candidate, (a, b, c, 0.0), free))


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
    "gaussian": [(k, -k * b) for k in (1.0, 2**-0.5, 0.5, 2**0.5, 2.0) for b in (0.0, 1.0, -1.0, 2.0, -2.0)],
    "cosh": [(k, 0.0) for k in (1.0, 2.0, 0.5)],
    "j0": [(1.0, 0.0), (2.0, 0.0)],
}
_HALVES = (Fraction(p, 2) for p in (1, -1, 3, 5, -3))
_POWERS = (*range(1, 13), *range(-1, -13, -1), *_HALVES, Fraction(1, 3), Fraction(2, 3))


def _inner(t: Array, names: set[str]) -> list[tuple[str, Array, Callable[[float, float], Joined], float]]:
    """The functions u, their values, k u + b as a tree, and their complexity."""
    found: list[tuple[str, Array, Callable[[float, float], Joined], float]] = []

    def add(name: str, *terms: Call) -> None:
        used = [term.function for term in terms]
        if all(each.candidate.name in names and each.allows(t) for each in used):
            values = np.sum([each.value(t) for each in used], axis=0)

            def tree(k: float, b: float) -> Joined:
                first, *rest = (scaled(term, k) for term in terms)
                assert isinstance(first, Call)
                return Joined("sum", (replace(first, function=first.function.shifted(b)), *rest))

            found.append((name, values, tree, sum(each.candidate.complexity for each in used) + len(used) - 1))

    for name in ("x^2", "x^3", "sqrt", "1/x", "1/x^2", "log", "abs", "x^4"):
        add(name, call(name))
    for name, a in (("exp", 1.0), ("exp", -1.0), ("exp", 2.0), ("sin", 1.0), ("sin", 2.0), ("tanh", 1.0)):
        add(name, call(name, a, free="ac"))
    add("sin", call("sin", 1.0, _TURN, free="ac"))
    line, square = call(IDENTITY), call("x^2")
    for k in (1.0, -1.0, 0.5, -0.5, 2.0, -2.0):
        add("x+x^2", line, call("x^2", c=k))
    add("x+x^3", line, call("x^3"))
    add("x+1/x", line, call("1/x"))
    add("x^2+x^3", square, call("x^3"))
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
    values: list[Array] = []
    sizes: list[float] = []
    families: list[str] = []
    makers: list[Callable[[float], Part]] = []

    def add(
        family: str,
        size: float,
        curves: Array,
        trees: Sequence[Callable[[float], Part]],
        ranks: NDArray[np.int64] | None = None,
    ) -> None:
        bits = np.zeros(len(trees)) if ranks is None else 0.3 * np.log2(1.0 + ranks)
        good = np.isfinite(curves).all(axis=1) & (np.abs(curves).max(axis=1) < 1e12)
        good &= np.ptp(curves, axis=1) > 1e-9 * np.abs(curves).max(axis=1)
        values.append(curves[good])
        for index in np.flatnonzero(good):
            sizes.append(size + float(bits[index]))
            families.append(family)
            makers.append(trees[int(index)])

    for exponent in _POWERS:
        candidate = power(exponent)
        if known(candidate, names) and candidate.domain.allows(t.min(), t.max()):
            add(candidate.name, candidate.complexity, candidate.value(t)[None], [partial(scaled, call(candidate))])
    for candidate in candidates:
        if candidate.name in ("0", "x", "cos", "arccos", "sigmoid") or candidate.complexity == 0:
            continue
        grid = np.array(_GRIDS.get(candidate.name, [(1.0, 0.0)]))
        own = search_grid(candidate)
        own = own[:: max(1, len(own) // generic)]
        own = np.stack([own[:, 0] / half, own[:, 1] - own[:, 0] * middle / half], axis=1)
        if candidate.name in ("x^2", "x^3", "x^4", "x^5"):
            own = own[:0]
        grid, curves, ranks = _defined(candidate, np.concatenate([grid, own]), t)
        free = candidate.free.replace("d", "")
        trees = [partial(_called, candidate, a, b, free) for a, b in grid.tolist()]
        add(candidate.name, candidate.complexity, curves, trees, ranks)
    if {"exp", "log"} <= names:
        add("exp(log)", _POWER_SIZE, *_real_powers(t))
    for inner, u, tree, size in _inner(t, names):
        for candidate in candidates:
            if candidate.name not in _GRIDS or candidate.name in ("arcsinh", "j0", "cosh", "tan", "x^2", "x^3"):
                continue
            if (inner, candidate.name) in _REDUNDANT:
                continue
            grid, curves, ranks = _defined(candidate, np.array(_GRIDS[candidate.name])[:12], u)
            outer = Symbolic(candidate, (1.0, 0.0, 1.0, 0.0), "c")
            composed = [partial(_composed, outer, tree, a, b) for a, b in grid.tolist()]
            add(f"{candidate.name}({inner})", candidate.complexity + size, curves, composed, ranks)
    stacked = np.concatenate([np.zeros((0, t.size)), *values])
    count_work(2 * COSTS.grid_value * stacked.size)
    return Dictionary(stacked, np.array(sizes), tuple(families), tuple(makers))


def waves(t: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Sines of so many periods over the range of the arguments t (N,) as the points can show, at two phases."""
    if not {"sin", "cos"} & {candidate.name for candidate in candidates}:
        return dictionary(t, candidates).chosen([])
    sine, turns = TABLE["sin"], np.arange(1, t.size // 2 + 1) * np.pi / np.ptp(t)
    grid = [(a, b - a * float(t[0])) for a in turns.tolist() for b in (0.0, _TURN)]
    values = np.stack([np.sin(a * t + b) for a, b in grid])
    count_work(COSTS.grid_value * values.size)
    makers = tuple(partial(_called, sine, a, b, sine.free.replace("d", "")) for a, b in grid)
    sizes = np.full(len(grid), sine.complexity) + 0.3 * np.log2(1.0 + np.arange(len(grid)))
    return Dictionary(values, sizes, ("sin",) * len(grid), makers)


#: Complexity of a power with any exponent, and the exponents in the dictionary, from which others are near.
_POWER_SIZE, _EXPONENTS = 3.5, np.arange(-49, 50) / 10


def _real_powers(t: Array) -> tuple[Array, list[Callable[[float], Part]]]:
    """|t|^p as exp(p log |t|), whose exponents a fit can move."""
    positive = float(t.min()) > 0
    if not positive and (t == 0).any():
        return np.zeros((0, t.size)), []
    size = Joined("sum", (call("abs"),))
    trees: list[Callable[[float], Part]] = []
    for p in _EXPONENTS.tolist():
        log = Symbolic(TABLE["log"], (1.0, 0.0, p, 0.0), "c")
        inner = Joined("sum", (Call(log, None if positive else size),))
        trees.append(partial(scaled, Call(Symbolic(TABLE["exp"], (1.0, 0.0, 1.0, 0.0), "c"), inner)))
    with np.errstate(all="ignore"):
        return np.abs(t) ** _EXPONENTS[:, None], trees


#: Compositions that are simpler functions for all constants.
_REDUNDANT = {
    ("log", "exp"), ("1/x", "1/x"), ("abs", "abs"), ("x^2", "abs"), ("x^4", "abs"), ("1/x^2", "1/x"),
}  # fmt: skip


def _defined(candidate: Candidate, grid: Array, u: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """The points (k, b) of the grid at which f(k u + b) is defined on the whole range of u, its values there, and their
    places in the grid."""
    low, high = float(u.min()), float(u.max())
    ends = np.sort(np.stack([grid[:, 0] * low, grid[:, 0] * high]) + grid[:, 1], axis=0)
    usable = np.flatnonzero(candidate.domain.allowed(*ends))
    grid = grid[usable]
    with np.errstate(all="ignore"):
        return grid, candidate.value(grid[:, :1] * u + grid[:, 1:]), usable


def _called(candidate: Candidate, a: float, b: float, free: str, factor: float) -> Part:
    return call(candidate, a, b, factor, free=free)


def _composed(outer: Symbolic, inner: Callable[[float, float], Joined], k: float, b: float, factor: float) -> Part:
    return Call(outer.scaled(factor), inner(k, b))


def _product(first: Callable[[float], Part], second: Callable[[float], Part], factor: float) -> Part:
    return Joined("product", (first(factor), unscaled(second(1.0))))


def products(entries: Dictionary, factors: Dictionary) -> Dictionary:
    """Each entry times each factor of another family."""
    values: list[Array] = []
    sizes: list[float] = []
    families: list[str] = []
    makers: list[Callable[[float], Part]] = []
    powers = [_is_power(each) for each in entries.families]
    for j, family in enumerate(factors.families):
        both = _is_power(family)
        others = [i for i, each in enumerate(entries.families) if each != family and not (both and powers[i])]
        values.append(entries.values[others] * factors.values[j])
        sizes += (entries.sizes[others] + factors.sizes[j]).tolist()
        families += [f"{family} {entries.families[i]}" for i in others]
        makers += [partial(_product, factors.makers[j], entries.makers[i]) for i in others]
    stacked = np.concatenate([np.zeros((0, entries.values.shape[1])), *values])
    count_work(COSTS.grid_value * stacked.size)
    return Dictionary(stacked, np.array(sizes), tuple(families), tuple(makers))


def _is_power(family: str) -> bool:
    return family[:1] == "x" or family in {"sqrt", "1/sqrt", "1/x", "1/x^2"}


def factors(t: Array, candidates: Sequence[Candidate]) -> Dictionary:
    """Simple functions that stand as factors, where they are defined at the arguments t (N,)."""
    names = {candidate.name for candidate in candidates}
    waves = [("sin", a, b) for a in (1.0, 2.0) for b in (0.0, _TURN)]
    growth = [("exp", a, 0.0) for a in (1.0, -1.0, 2.0, -2.0, -0.5)]
    plain = [(name, 1.0, 0.0) for name in ("x", "x^2", "x^3", "1/x", "1/x^2", "sqrt", "1/sqrt", "log")]
    calls = [call(name, a, b, free=TABLE[name].free.replace("d", "")) for name, a, b in (*plain, *growth, *waves)]
    usable = [each for each in calls if each.function.candidate.name in names and each.function.allows(t)]
    functions = [each.function for each in usable]
    return Dictionary(
        np.array([function.value(t) for function in functions]).reshape(-1, t.size),
        np.array([function.candidate.complexity for function in functions]),
        tuple(function.candidate.name for function in functions),
        tuple(partial(scaled, each) for each in usable),
    )


def unscaled(part: Part) -> Part:
    """The part with its c fixed: the first factor of a product has the product's scale."""
    if isinstance(part, Call):
        return replace(part, function=part.function.changed("c"))
    first, *rest = part.parts
    return Joined(part.operation, (unscaled(first), *rest))
