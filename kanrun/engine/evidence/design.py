"""The terms of a model of a table and the kernels that they make of rows: effects of inputs and of pairs of inputs.

Scaled functions h = z / sqrt(d) (d the roughness) have prior variance v of their kind. Main effects are `lines`,
`wiggles` and `steps`; pairs are products h_a h_b of functions of different inputs: line x line, line x wiggle, wiggle x
wiggle. The whole is f(x) = b + h'c + h'W h / 2 with W symmetric and zero between functions of one input.
Source of second-order kernels by sums of squares: D. Duvenaud, H. Nickisch, C. Rasmussen, NIPS 2011 (Newton-Girard).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kanrun.engine.evidence.basis import ReducedBasis
from kanrun.engine.evidence.evidence_policy import EvidencePolicy
from kanrun.engine.evidence.radial import RadialBasis

#: The components of variance in their order.
KINDS = (
    "lines",
    "wiggles",
    "steps",
    "line pairs",
    "line-wiggle pairs",
    "wiggle pairs",
    "neighbourhoods",
)
MAIN, RADIAL = 3, 6


@dataclass(frozen=True, eq=False)
class Terms:
    """f = offset + h'main + g'pairs g / 2, h the scaled functions and g those of them that take part in pairs, at
    `places`; `pairs` is None where there are none, and `main` ends before the functions that it does not have."""

    offset: float
    main: Float[ndarray, " functions"]
    pairs: Float[ndarray, "paired paired"] | None = None
    places: Int[ndarray, " paired"] | None = None

    def values(self, h: Float[ndarray, "rows functions"]) -> Float[ndarray, " rows"]:
        """f of rows by their scaled functions; those that h or the terms do not have count as zero."""
        there = min(h.shape[1], len(self.main))
        y = self.offset + h[:, :there] @ self.main[:there]
        if self.pairs is None or self.places is None:
            return np.asarray(y)
        g = np.take(h, self.places, 1)
        return np.asarray(y + ((g @ self.pairs) * g).sum(1) / 2)

    def plus(self, other: Terms, weight: float, own: float = 1.0) -> Terms:
        """own * self + weight * other."""
        parts = [
            p * w for p, w in ((self.pairs, own), (other.pairs, weight)) if p is not None and w
        ]
        return Terms(
            own * self.offset + weight * other.offset,
            _sum(own * self.main, weight * other.main),
            sum(parts[1:], parts[0]) if parts else None,
            other.places if self.places is None else self.places,
        )


def _sum(a: ndarray, b: ndarray) -> ndarray:
    """The shorter one is zero beyond its end."""
    total = np.zeros(max(len(a), len(b)))
    total[: len(a)] += a
    total[: len(b)] += b
    return total


#: The sign of the differences of B-spline coefficients (up, down) or of those of the slope (convex, concave).
SHAPES = {"increasing": 1, "decreasing": -1, "convex": 1, "concave": -1}


def _constraints(
    basis: ReducedBasis, shapes: Sequence[tuple[int, str]]
) -> Float[ndarray, "conditions functions"] | None:
    """Conditions on the scaled functions under which effects keep their shape, the straight ends outside included.

    A spline whose coefficients rise is rising, one whose slope's coefficients rise is convex.
    """
    rows = []
    for j, shape in shapes:
        mine = basis.column == j
        coefficients = basis.coefficients[j] / np.sqrt(basis.roughness[mine])
        changes = np.diff(coefficients, axis=0)
        if shape in ("convex", "concave"):
            changes = np.diff(changes / basis.spans(j)[:, None], axis=0)
        row = np.zeros((len(changes), len(mine)))
        row[:, mine] = SHAPES[shape] * changes
        rows.append(row)
    return np.concatenate(rows) if rows else None


@dataclass(frozen=True, eq=False)
class Design:
    """A reduced basis with the weights of inputs in pairs; everything about rows is computed from their `h`.

    The functions of `radial`, where there is one, follow those of the basis.
    """

    basis: ReducedBasis
    lines: ndarray  # (functions,) which functions are straight lines
    paired: ndarray  # (functions,) which take part in pairs
    relevance: ndarray  # (inputs,) weight of an input in pairs
    constraints: ndarray | None = (
        None  # (conditions, functions) A: of coefficients c of main effects, A c >= 0
    )
    radial: RadialBasis | None = None

    @staticmethod
    def of(basis: ReducedBasis, policy: EvidencePolicy) -> Design:
        """All inputs equally relevant; those with a shape to keep take no part in pairs."""
        lines = (basis.order == 0) & ~basis.steps
        paired = (basis.order < policy.pair_functions) & ~basis.steps
        paired &= ~np.isin(basis.column, [j for j, _ in policy.shapes])
        return Design(
            basis, lines, paired, np.ones(basis.inputs), _constraints(basis, policy.shapes)
        )

    def with_relevance(self, relevance: Float[ndarray, " inputs"]) -> Design:
        return replace(self, relevance=relevance)

    def functions(self, u: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows functions"]:
        """h of encoded rows."""
        values = self.basis.values(u)
        values /= np.sqrt(self.basis.roughness)
        return values if self.radial is None else np.concatenate([values, self.radial.values(u)], 1)

    def main_kernels(self, h: ndarray) -> list[ndarray]:
        """Kernels of the lines, of the wiggles and of the steps."""
        return [part @ part.T for part in (h[:, self.main == kind] for kind in range(MAIN))]

    @property
    def main(self) -> Int[ndarray, " functions"]:
        """The component of each function."""
        kinds = np.where(self.lines, 0, np.where(self.basis.steps, 2, 1))
        return (
            kinds
            if self.radial is None
            else np.append(kinds, np.full(len(self.radial.centres), RADIAL))
        )

    def pair_kernels(self, h: ndarray) -> list[ndarray]:
        """Kernels of the three kinds of pairs, over all pairs of inputs: half of (sum)^2 - sum of squares."""
        g = h * np.sqrt(self.relevance)[self.basis.column]
        line, wiggle = self.lines & self.paired, ~self.lines & self.paired
        a, b = g[:, line] @ g[:, line].T, g[:, wiggle] @ g[:, wiggle].T
        both, mixed, rough = a * a, a * b, b * b
        for j in range(self.basis.inputs):
            one = self.basis.column == j
            if not (one & line).any():
                continue
            x = g[:, one & line]
            own = x @ x.T
            both -= own * own
            if (one & wiggle).any():
                z = g[:, one & wiggle]
                other = z @ z.T
                mixed -= own * other
                rough -= other * other
        return [both / 2, mixed, rough / 2]

    def terms(
        self, h: ndarray, offset: float, weights: Float[ndarray, " rows"], variances: ndarray
    ) -> Terms:
        """What the weights of rows (P y) say about the coefficients."""
        main = variances[self.main] * (h.T @ weights)
        if not np.any(variances[MAIN:RADIAL]):
            return Terms(offset, main)
        scale = np.sqrt(self.relevance)[self.basis.column[self.places]]
        g = np.take(h, self.places, 1) * scale
        pairs = self._kinds(variances) * (g.T @ (g * weights[:, None])) * np.outer(scale, scale)
        return Terms(offset, main, pairs, self.places)

    @cached_property
    def places(self) -> Int[ndarray, " paired"]:
        """Of the functions that take part in pairs."""
        return np.flatnonzero(self.paired)

    def _kinds(self, variances: ndarray) -> Float[ndarray, "paired paired"]:
        """The variance of every product of two functions, 0 for two of one input."""
        line, mixed, rough = variances[MAIN:RADIAL]
        lines, column = self.lines[self.places], self.basis.column[self.places]
        kind = np.where(lines[:, None], np.where(lines, line, mixed), np.where(lines, mixed, rough))
        return np.where(column[:, None] == column, 0.0, kind)

    def strongest_pairs(
        self, energy: Float[ndarray, "paired paired"], most: int
    ) -> list[tuple[int, int]]:
        """The pairs of inputs with the largest sums of squared terms, the largest first."""
        member = (self.basis.column[self.places][:, None] == np.arange(self.basis.inputs)).astype(
            float
        )
        of_pairs = np.triu(member.T @ energy @ member, 1)
        order = np.argsort(of_pairs, axis=None)[::-1][:most]
        found = zip(*np.unravel_index(order, of_pairs.shape), strict=True)
        return [(int(i), int(j)) for i, j in found if of_pairs[i, j] > 0]

    def pair_columns(self, pairs: list[tuple[int, int]]) -> tuple[ndarray, ndarray]:
        """Indices (a, b) of the functions whose products are the columns of these pairs."""
        left, right = [], []
        for i, j in pairs:
            a = np.flatnonzero(self.paired & (self.basis.column == i))
            b = np.flatnonzero(self.paired & (self.basis.column == j))
            left.append(np.repeat(a, len(b)))
            right.append(np.tile(b, len(a)))
        if not pairs:
            return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
        return np.concatenate(left), np.concatenate(right)

    @property
    def products(self) -> int:
        """How many products all pairs have."""
        each = np.bincount(self.basis.column[self.places], minlength=1)
        return int((each.sum() ** 2 - (each**2).sum()) // 2)

    def all_pairs(self) -> list[tuple[int, int]]:
        """Every pair of inputs that have functions."""
        there = np.unique(self.basis.column[self.paired])
        return [(int(i), int(j)) for n, i in enumerate(there) for j in there[n + 1 :]]

    def kinds(
        self, a: ndarray, b: ndarray
    ) -> tuple[Int[ndarray, " functions"], Float[ndarray, " functions"]]:
        """The component (index of `KINDS`) and the scale of the main effects, followed by those of the h_a h_b."""
        main = self.main
        pairs = MAIN + 2 - self.lines[a].astype(int) - self.lines[b].astype(int)
        weight = np.sqrt(self.relevance[self.basis.column])
        return np.concatenate([main, pairs]), np.concatenate(
            [np.ones(len(main)), weight[a] * weight[b]]
        )


_MOST_HELD = 1 << 27  # numbers of a table's functions that are held: 1 GiB
_BLOCK = 1 << 14  # rows whose functions are made or used at once


class TableFunctions:
    """The functions h (rows, functions) of a table's rows: held, or made anew for the rows that are asked for where
    they are too many."""

    def __init__(
        self, design: Design, u: ndarray, held: ndarray | None = None, scale: ndarray | float = 1.0
    ) -> None:
        self._design, self._u, self._scale = design, u, scale
        self.shape = (len(u), len(design.main))
        self._held = (
            design.functions(u) if held is None and len(u) * self.shape[1] <= _MOST_HELD else held
        )

    def __len__(self) -> int:
        return len(self._u)

    def __getitem__(self, rows: slice | ndarray) -> ndarray:
        if self._held is not None:
            return self._held[rows]
        return self._design.functions(self._u[rows]) * self._scale

    def blocks(self) -> Iterator[tuple[int, ndarray]]:
        """Numbers of first rows, and the functions of the rows from there on."""
        return (
            (start, self[slice(start, start + _BLOCK)]) for start in range(0, len(self), _BLOCK)
        )

    def some(self, rows: int) -> ndarray:
        """Those of `rows` rows over the whole table, or of all."""
        return self[
            slice(None) if len(self) <= rows else np.linspace(0, len(self) - 1, rows).astype(int)
        ]

    def scaled(self, scale: ndarray) -> TableFunctions:
        """The same functions, each times its scale."""
        held = None if self._held is None else self._held * scale
        return TableFunctions(self._design, self._u, held, self._scale * scale)
