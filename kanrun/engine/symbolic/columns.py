"""Least squares over all pairs of rows at once, from inner products alone.

Let rows i and j have norm 1, inner products p_i and p_j with a target, and the inner product g_ij
with each other. A least-squares fit by both rows then explains
(p_i^2 + p_j^2 - 2 p_i p_j g_ij) / (1 - g_ij^2) of the target's sum of squares. A million pairs take
about 10 ms.

Columns of the sparse regressions: functions F(c z) of monomials z, for a grid of scales c.

Monomials are enumerated by increasing description length (bits). The grid of scales depends on the
function and on the values of z.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import sympy

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import TABLE, Array, Candidate, Domain, X
from kanrun.engine.symbolic.templates import (
    FUNCTION,
    OPERATION,
    Coordinates,
    Factor,
    Monomial,
    take_two_values,
)

#: Number of pairs that are compared at once, so that they fit into the processor's cache.
BLOCK = 100_000
#: Smallest number of rows that are compared with all others at once.
ROWS = 32
#: A row is dropped if projecting out the fixed rows leaves less than this fraction of its norm.
_LEFT = 1e-8
#: A pair is dropped if projecting out one of its rows leaves less than this fraction of the squared
#: norm of the other.
APART = 1e-7


def explained_by_pairs(left: Array, p: Array, right: Array, s: Array, apart: float) -> Array:
    """Return the sum of squares of a target that each pair of rows explains, shape (M, L).

    Args:
        left: First rows of the pairs, with norm 1, shape (M, N).
        p: Inner products of the first rows with the target, shape (M,).
        right: Second rows of the pairs, with norm 1, shape (L, N).
        s: Inner products of the second rows with the target, shape (L,).
        apart: Two rows are parallel if projecting out one of them leaves less than this fraction of
            the squared norm of the other.

    Returns:
        The sums of squares; -inf for two rows that are parallel.
    """
    count_work(len(p) * len(s) * (COSTS.pair + COSTS.product * left.shape[1]))
    gram = left @ right.T
    explained = gram * s
    np.subtract(p[:, None], explained, out=explained)
    explained *= explained
    gram *= gram
    across = np.subtract(1, gram, out=gram)
    is_parallel = across < apart
    explained /= np.maximum(across, apart, out=across)
    explained += s**2
    explained[is_parallel] = -np.inf
    return np.asarray(explained)


def nearest_pairs(
    y: Array,
    entries: Array,
    fixed: Array,
    kept: int,
    *,
    others: Array | None = None,
    floor: float = 0.0,
) -> list[tuple[float, int, int]]:
    """Return the pairs of entries that explain y best, in addition to the fixed rows.

    Args:
        y: Values to explain, shape (N,).
        entries: Values of the entries, shape (M, N).
        fixed: Rows that are part of every fit, shape (K, N).
        kept: Largest number of pairs that are returned.
        others: Values of the entries from which the second entry of each pair is chosen, shape (L,
            N); by default `entries`.
        floor: Pairs that leave a smaller fraction unexplained count as equally good. Among these,
            the pairs with the smallest sums of indices come first.

    Returns:
        Tuples (fraction, i, j), best first. The fraction is the part that the pair leaves
        unexplained of the squares that the fixed rows leave. i is an index of `entries`, j of
        `others`.
    """
    q = np.linalg.qr(fixed.T)[0]
    rest = y - q @ (q.T @ y)
    total = float(np.linalg.norm(rest))
    is_same = others is None
    use, left = _directions(entries, q)
    others_use, right = (use, left) if others is None else _directions(others, q)
    if total == 0.0 or min(use.size, others_use.size) < 2:
        return []
    p = left @ (rest / total)
    s = right @ (rest / total)
    step = max(BLOCK // others_use.size, ROWS)
    best: list[tuple[float, int, int]] = []
    least = 1.0
    last = np.inf
    for start in range(0, use.size, step):
        skipped = start if is_same else 0
        rows = slice(start, start + step)
        if least <= floor and use[start] + others_use[skipped] >= last:
            break  # later pairs are at most equally good, and have larger indices
        explained = explained_by_pairs(left[rows], p[rows], right[skipped:], s[skipped:], APART)
        if is_same:
            explained[np.tril_indices(len(explained), m=explained.shape[1])] = -np.inf
        row, column = np.nonzero(explained >= 1 - least)
        loss = np.maximum(1 - explained[row, column], floor)
        most = np.partition(loss, kept)[kept] if len(loss) > kept else 1.0
        few = np.flatnonzero(loss <= most)
        i = use[row[few] + start]
        j = others_use[column[few] + skipped]
        best += zip(loss[few].tolist(), i.tolist(), j.tolist(), strict=True)
        best = sorted(best, key=lambda each: (each[0], each[1] + each[2]))[:kept]
        if len(best) == kept:
            least = best[-1][0]
            last = sum(best[-1][1:])
    return best


def covered(values: Array, entries: Array, basis: Array) -> tuple[Array, Array]:
    """Regress `values` on each entry in addition to a fixed basis.

    Args:
        values: Values to explain, shape (N,).
        entries: Values of the entries, shape (M, N).
        basis: Orthonormal columns (N, K) that are part of every regression.

    Returns:
        The sum of squares that each entry explains in addition to the basis (M,), and its
        coefficient (M,). They are -inf and 0 for an entry in the span of the basis.
    """
    count_work(entries.size * (COSTS.value + COSTS.product * basis.shape[1]))
    left = entries - (entries @ basis) @ basis.T
    power = np.einsum("mn,mn->m", left, left)
    both = left @ (values - basis @ (basis.T @ values))
    usable = power > _LEFT**1.5 * np.einsum("mn,mn->m", entries, entries)
    power = np.where(usable, power, 1.0)
    return np.where(usable, both**2 / power, -np.inf), np.where(usable, both / power, 0.0)


def _directions(entries: Array, q: Array) -> tuple[np.ndarray, Array]:
    """Project entries (M, N) onto the orthogonal complement of the columns of q (N, K).

    Returns:
        The indices of the entries that are not in the span of q, and their projections, scaled to
        length 1, shape (indices, N).
    """
    count_work(entries.size * (COSTS.term_value + COSTS.product * q.shape[1]))
    left = entries - (entries @ q) @ q.T
    norm = np.linalg.norm(left, axis=1)
    use = np.flatnonzero(norm > _LEFT * np.linalg.norm(entries, axis=1))
    return use, left[use] / norm[use, None]


#: Smallest assumed relative error of y. It limits the weights of large values, which would
#: otherwise dominate the fit.
RELATIVE = 0.01
#: Exponents are multiples of 1 / EXPONENT_STEPS.
EXPONENT_STEPS = 2
#: In 1 + c z, the scale c is chosen so that the largest value of -c z over the points is one of
#: these. At the value 1, 1 + c z would be 0.
_POLES = np.array([0.2, 0.5, 0.8, 0.95, 0.99, 0.9999])
#: Scales c of sines and cosines that are always tried, whatever the range of z.
_NATURAL = np.array([0.5, 1.0, 2.0, 3.0, np.pi, 2 * np.pi])
#: Largest range of c z (radians) that is tried in a sine or cosine. The second number applies if
#: the problem has a single input and z is this input; the first number applies to all other z.
FAST = (60.0, 300.0)
#: Periodic functions.
WAVES = ("sin", "cos", "tan")
#: Largest exponent of a monomial.
LARGEST_EXPONENT = 6


@dataclass(frozen=True)
class Sample:
    """Points of a search, and the functions that it may use.

    Attributes:
        coordinates: Atoms with their values at the points.
        y: Outputs, shape (N,).
        noise: Estimated standard deviation of the noise of y; 0 if errors are relative.
        inputs: Number of inputs, which are the first atoms.
        functions: Functions of monomials that may be used.
    """

    coordinates: Coordinates
    y: Array
    noise: float
    inputs: int
    functions: tuple[Candidate, ...]

    @cached_property
    def log_weights(self) -> Array:
        """Weights (N,) of the points in regressions of log |y|, scaled to at most 1.

        A weight is the reciprocal of the error of log |y|. Points with |y| below twice the noise
        have weight 0, unless fewer than 50 points would be left; then the 50 points with the
        largest |y| keep their weights.
        """
        size = np.abs(self.y)
        if not self.noise:
            return np.where(size > 0, 1.0, 0.0)
        noise = min(self.noise, 0.1 * float(np.std(self.y)))
        seen = size > 2 * noise
        if seen.sum() < 50:
            seen = size >= np.sort(size)[-min(50, len(size))]
        return np.where(seen, RELATIVE * size / np.sqrt(noise**2 + (RELATIVE * size) ** 2), 0.0)

    @cached_property
    def log_y(self) -> Array:
        size = np.abs(self.y)
        return np.log(np.maximum(size, 1e-3 * self.noise + 1e-300))

    @cached_property
    def base(self) -> Array:
        """Weighted columns: a constant and the logarithms of the inputs, (N, inputs + 1)."""
        logs = self.coordinates.logs[: self.inputs]
        return np.column_stack([np.ones(len(self.y)), *logs]) * self.log_weights[:, None]

    @cached_property
    def orthonormal(self) -> Array:
        """Orthonormal basis of the columns of `base`."""
        u, s, _ = np.linalg.svd(self.base, full_matrices=False)
        return np.asarray(u[:, s > 1e-9 * s[0]])

    def log_column(self, column: Column) -> Array:
        """Return the values (N,) of a column; nan where it is not defined."""
        if column.function is None:
            return self.coordinates.log_size(column.monomial)
        z = self.coordinates.value(column.monomial)
        if column.is_exponential:
            return z * column.scale
        return log_columns(column.function, z, np.array([column.scale]))[:, 0]

    def projected(self, columns: Array) -> Array:
        """Project `columns` (N, columns) onto the orthogonal complement of `base`."""
        count_work(2 * COSTS.product * columns.size * self.orthonormal.shape[1])
        return columns - self.orthonormal @ (self.orthonormal.T @ columns)


def _function(name: str, expression: sympy.Expr, bits: float) -> Candidate:
    return Candidate(name, expression, bits, "a", Domain())


ONE_PLUS = _function("1+x", 1 + X, OPERATION + 1)
SINE = _function("sin", sympy.sin(X), FUNCTION)
COSINE = _function("cos", sympy.cos(X), FUNCTION)
#: For each candidate, the functions F that are used as F(c z).
_MADE: dict[str, tuple[Candidate, ...]] = {
    "exp": (
        _function("exp", sympy.exp(X), FUNCTION),
        _function("exp-1", sympy.exp(X) - 1, FUNCTION + OPERATION + 1),
        _function("exp+1", sympy.exp(X) + 1, FUNCTION + OPERATION + 1),
    ),
    "sin": (SINE, COSINE),
    "cos": (SINE, COSINE),
    "tan": (_function("tan", sympy.tan(X), FUNCTION),),
    "tanh": (_function("tanh", sympy.tanh(X), FUNCTION),),
    "log": (
        _function("log", sympy.log(X), FUNCTION),
        _function("log(1+x)", sympy.log(1 + X), FUNCTION + OPERATION + 1),
    ),
    "arcsin": (_function("arcsin", sympy.asin(X), FUNCTION),),
    "arccos": (_function("arccos", sympy.acos(X), FUNCTION),),
}


def functions_for(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the functions F that are used as F(c z), with a scale c and a monomial z.

    They are 1 + x, the functions of the built-in candidates (see `_MADE`), and the user's
    functions.
    """
    names = {each.name for each in candidates}
    own = [each for each in candidates if each.name not in TABLE]
    made = [each for name, functions in _MADE.items() if name in names for each in functions]
    return tuple(dict.fromkeys((ONE_PLUS, *made, *own)))


def monomials(
    coordinates: Coordinates,
    cap: int,
    largest: int = 3,
    halves: bool = False,
    members: int = 5,
    waves: bool = True,
    without: frozenset[int] = frozenset(),
) -> list[Monomial]:
    """Return the `cap` simplest monomials in which each input occurs at most once, simplest first.

    A monomial is a product of powers of atoms. Monomials are enumerated in the order of their bits:
    the successors of a monomial are the monomial with one more power, and the monomial with its
    last power replaced by the next one.

    Args:
        coordinates: The atoms.
        cap: Largest number of monomials.
        largest: Largest absolute value of an exponent.
        halves: Whether exponents 1/2 and -1/2 are allowed.
        members: Largest number of powers in a monomial.
        waves: Whether atoms that are sines or cosines are allowed.
        without: Indices of inputs that must not occur.
    """
    exponents = [Fraction(p) for e in range(1, largest + 1) for p in (e, -e)]
    exponents += [Fraction(p, 2) for p in (1, -1)] if halves else []
    powers = sorted(
        (coordinates.bits(((i, p),)), i, p)
        for i, atom in enumerate(coordinates.atoms)
        for p in exponents
        if coordinates.allows(((i, p),))
        and not atom.inputs & without
        and (waves or atom.is_algebraic)
    )
    found: list[Monomial] = []
    waiting: list[tuple[float, tuple[int, ...]]] = [(powers[0][0], (0,))] if powers else []
    while waiting and len(found) < cap:
        bits, chosen = heapq.heappop(waiting)
        last = chosen[-1] + 1
        members_of = [coordinates.atoms[powers[k][1]].inputs for k in chosen]
        is_product = sum(map(len, members_of)) == len(frozenset().union(*members_of))
        if is_product:
            found.append(tuple(sorted((powers[k][1], powers[k][2]) for k in chosen)))
        if last < len(powers):
            step = powers[last][0]
            heapq.heappush(waiting, (bits + step - powers[last - 1][0], (*chosen[:-1], last)))
            if is_product and len(chosen) < members:
                heapq.heappush(waiting, (bits + step + OPERATION, (*chosen, last)))
    return found


def arguments(coordinates: Coordinates, cap: int, waves: bool = True) -> list[Monomial]:
    """Return the `cap` simplest monomials of which functions are tried.

    Monomials with at most two values are left out, because on the points every function of them
    equals a straight line. So are multiples of an indicator (two values, one of them 0): on the
    points, a function of them is linear in the indicator.
    """
    indicators = {
        i
        for i, values in enumerate(coordinates.values)
        if coordinates.linear[i] and (values == 0).any()
    }
    return [
        each
        for each in monomials(coordinates, cap, waves=waves)
        if indicators.isdisjoint(i for i, _ in each)
        and not take_two_values(coordinates.value(each))
    ]


def scales(
    function: Candidate, z: Array, size: float, middle: float, fastest: float = FAST[0]
) -> Array:
    """Return the scales c, shape (scales,), that are tried in function(c z).

    Args:
        function: The function.
        z: Values of the monomial, shape (N,).
        size: Largest absolute value of z.
        middle: Median absolute value of z.
        fastest: Largest range of c z in sines and cosines (radians).
    """
    # Spacing of the tried ranges of c z (radians). A fit of the scale reaches the values in
    # between.
    apart = 1.3
    # Range of c z over the points (radians) above which the tried ranges are equally spaced.
    slow = 4.0
    count_work(5 * COSTS.edge)
    low = float(z.min())
    high = float(z.max())
    if function is ONE_PLUS:
        up = np.geomspace(0.1 / size, 10 / middle, 9)
        down = [-_POLES / high] if high > 0 else []
        down += [-_POLES / low, -up] if low < 0 else []
        return np.concatenate([up, *([-up] if high <= 0 else []), *down])
    if function.name in WAVES:
        turns = np.geomspace(0.3, 3, 12 if function.name != "tan" else 8)
        if function.name != "tan":
            turns = np.concatenate([turns, np.arange(slow, fastest, apart)])
        return np.concatenate([turns / (high - low), _NATURAL[_NATURAL * (high - low) < fastest]])
    if function.name in ("arcsin", "arccos"):
        return np.array([0.3, 0.6, 0.9, 0.99, 0.9999]) / size
    if function.name in ("exp-1", "exp+1", "tanh"):
        grid = np.geomspace(1 / size, 8 / middle, 10)
        return np.concatenate([grid, -grid]) if function.name == "exp+1" else grid
    grid = np.geomspace(0.1 / size, 10 / middle, 9)
    return np.concatenate([[1.0, -1.0], grid, -grid])


@dataclass(frozen=True)
class Column:
    """A column of the regression of log |y|.

    It is log |z| for a monomial z, log |F(scale z)| for a function F of the monomial, or scale * z
    if F is exp.
    """

    function: Candidate | None
    monomial: Monomial
    scale: float

    @property
    def is_exponential(self) -> bool:
        return self.function is not None and self.function.name == "exp"

    def factor(self, power: float) -> Factor | None:
        """Return the factor F(c z)^power that the column stands for in a product.

        The power is rounded to a multiple of 1/2. If F is exp, its scale is multiplied by the power
        instead. The result is None if the column is a monomial without a function.
        """
        if self.function is None:
            return None
        if self.is_exponential:
            return Factor(self.function, self.monomial, Fraction(1), power * self.scale)
        return Factor(self.function, self.monomial, halves(power), self.scale)


def halves(value: float, steps: int = EXPONENT_STEPS) -> Fraction:
    """Return the multiple of 1 / steps nearest to `value`, limited to LARGEST_EXPONENT."""
    return Fraction(
        round(float(np.clip(value, -LARGEST_EXPONENT, LARGEST_EXPONENT)) * steps), steps
    )


def log_columns(function: Candidate, z: Array, grid: Array) -> Array:
    """Return log |F(c z)|, shape (N, scales), for the scales c in `grid`; nan if not defined."""
    count_work(3 * COSTS.edge + 0.6 * COSTS.value * z.size * len(grid))
    with np.errstate(all="ignore"):
        values = function.value(np.multiply.outer(z, grid))
        return np.asarray(np.log(np.abs(values)))


def near_powers(power: float) -> list[Fraction]:
    """Return the two multiples of 1/2 next to `power`, and the nearest integer.

    Zero, and values larger than LARGEST_EXPONENT, are left out.
    """
    below = math.floor(power * EXPONENT_STEPS)
    every = [
        Fraction(below, EXPONENT_STEPS),
        Fraction(below + 1, EXPONENT_STEPS),
        Fraction(round(power)),
    ]
    return sorted({p for p in every if p and abs(p) <= LARGEST_EXPONENT})
