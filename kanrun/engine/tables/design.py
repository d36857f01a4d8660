"""Effects of inputs and of pairs: terms of a table's model, and its functions.

Scaled functions h = z / sqrt(d), where d is the roughness of z, have the prior variance v of their
kind. Main effects are lines, curves (nonlinear components) and steps. Pairs are products h_a h_b of
functions of different inputs: line x line, line x curve and curve x curve. The model is
f(x) = b + h'c + h'W h / 2, with W symmetric and zero between functions of one input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray

from kanrun.engine.splines import extend
from kanrun.engine.tables.gaussian_process import RadialBasis
from kanrun.engine.tables.jumps import JumpNodes
from kanrun.engine.tables.reduced_basis import (
    DEGREE,
    ReducedBasis,
    RowFunctions,
    RowInputs,
    RowOutputs,
)

#: Kinds of variance components: lines, curves, steps; pairs of two lines, of a line and a curve, of
#: two curves; neighbourhoods. Each is an index; `MAIN` kinds are main effects.
MAIN, RADIAL = 3, 6

#: Sign of the differences of the B-spline coefficients, or for curvatures of those of the slope.
SHAPES = {"increasing": 1, "decreasing": -1, "convex": 1, "concave": -1}
CURVATURES = ("convex", "concave")


@dataclass(frozen=True, eq=False)
class Terms:
    """f = offset + h'main + g'pairs g / 2 of each output, for scaled functions h and g = h[places].

    The shapes are (outputs,), (outputs, functions), (outputs, places, places) and (places,). `main`
    may be shorter than h; functions beyond its end have coefficient 0.
    """

    offset: ndarray
    main: ndarray
    pairs: ndarray
    places: ndarray

    def values(self, h: RowFunctions) -> RowOutputs:
        """Evaluate f; functions that `h` lacks count as zero."""
        known, g = min(h.shape[1], self.main.shape[1]), np.take(h, self.places, 1)
        y = self.offset + h[:, :known] @ self.main[:, :known].T
        return np.asarray(y + np.stack([((g @ p) * g).sum(1) for p in self.pairs], 1) / 2)

    def times(self, factor: ndarray, shift: ndarray) -> Terms:
        """Return the terms of each output times its factor plus its shift."""
        main, pairs = factor[:, None] * self.main, factor[:, None, None] * self.pairs
        return Terms(factor * self.offset + shift, main, pairs, self.places)

    @staticmethod
    def weighted(parts: Sequence[tuple[float, Terms]]) -> Terms:
        """Return the weighted sum of terms, of which at most one has pairs."""
        size = max(one.main.shape[1] for _, one in parts)
        weight, paired = max(parts, key=lambda part: len(part[1].places) if part[0] else 0)
        mains = [w * np.pad(a.main, ((0, 0), (0, size - a.main.shape[1]))) for w, a in parts]
        offset = np.sum([w * one.offset for w, one in parts], axis=0)
        return Terms(offset, np.sum(mains, axis=0), weight * paired.pairs, paired.places)


def strongest(energy: ndarray, limit: int) -> list[tuple[int, int]]:
    """Return the pairs i < j with the largest energy (inputs, inputs), the largest first."""
    of_pairs = np.triu(energy, 1)
    order = np.argsort(of_pairs, axis=None)[::-1][:limit]
    found = np.stack(np.unravel_index(order, of_pairs.shape), 1).tolist()
    return [(i, j) for i, j in found if of_pairs[i, j] > 0]


@dataclass(frozen=True, eq=False)
class Design:
    """Functions of a table: those of `basis`, of `radial`, and the sums of nodes of `jumps`.

    The first `pair_functions` smooth functions of an input take part in pairs, with the weight of
    the input in `relevance` (inputs,), unless the input has a shape to keep. Inputs do not form
    pairs where `apart` (inputs, inputs) is true. Prior standard deviations of functions are in
    proportion to `factors` (functions,).
    """

    basis: ReducedBasis
    pair_functions: int
    shapes: tuple[tuple[int, str], ...]
    relevance: ndarray
    factors: ndarray
    apart: ndarray
    radial: RadialBasis | None = None
    jumps: tuple[JumpNodes, ...] = ()

    @cached_property
    def lines(self) -> ndarray:
        """Straight lines among the functions of the basis, as booleans."""
        return np.asarray((self.basis.order == 0) & ~self.basis.steps)

    @cached_property
    def main(self) -> Int[ndarray, " functions"]:
        """Component of each function."""
        kinds = np.where(self.lines, 0, np.where(self.basis.steps, 2, 1))
        return kinds if self.radial is None else np.append(kinds, [RADIAL] * len(self.radial.root))

    @cached_property
    def places(self) -> Int[ndarray, " paired"]:
        """Indices of the functions that take part in pairs."""
        paired = (self.basis.order < self.pair_functions) & ~self.basis.steps
        return np.flatnonzero(paired & ~np.isin(self.basis.column, [j for j, _ in self.shapes]))

    @cached_property
    def constraints(self) -> ndarray | None:
        """A matrix A (conditions, functions): effects c keep their shapes if A c >= 0, with ends.

        A spline with increasing coefficients increases; one whose slope has increasing coefficients
        is convex.
        """
        rows = []
        for j, shape in self.shapes:
            mine = self.basis.places[j]
            changes = np.diff(self.basis.coefficients[mine].T, axis=0)
            if shape in CURVATURES:
                # The slope has the coefficients 3 (c[i+1] - c[i]) over these spans of knots.
                knots = extend(torch.as_tensor(self.basis.breakpoints[j : j + 1]), DEGREE)[0]
                spans = (knots[DEGREE + 1 : -1] - knots[1 : -DEGREE - 1]).numpy()
                changes = np.diff(changes / spans[:, None], axis=0)
            row = np.zeros((len(changes), len(self.basis.column)))
            row[:, mine] = SHAPES[shape] * changes
            rows.append(row)
        return np.concatenate(rows) if rows else None

    def functions(self, u: RowInputs) -> RowFunctions:
        """Return the scaled functions h of encoded rows."""
        values = [self.basis.values(u), *(each(u)[:, None] for each in self.jumps)]
        if self.radial is not None:
            values.insert(1, self.radial.values(u))
        return np.concatenate(values, 1)

    def strongest_pairs(self, energy: ndarray, limit: int) -> list[tuple[int, int]]:
        """Return the pairs of inputs with the largest sums of `energy`, the largest first.

        `energy` belongs to two functions of pairs, shape (paired, paired).
        """
        column = self.basis.column[self.places]
        member = (column[:, None] == np.arange(len(self.relevance))).astype(float)
        return strongest(np.where(self.apart, 0.0, member.T @ energy @ member), limit)

    def products(
        self, pairs: Iterable[tuple[int, int]]
    ) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Return the functions (a, b) whose products h_a h_b are the columns of these pairs i < j.

        Component and scale follow, of main effects and then of the products.
        """
        column, chosen = self.basis.column, np.zeros((len(self.relevance),) * 2, bool)
        for pair in pairs:
            chosen[pair] = True
        paired = column[self.places]
        a, b = (self.places[each] for each in np.nonzero(chosen[np.ix_(paired, paired)]))
        kinds = MAIN + 2 - self.lines[a].astype(int) - self.lines[b].astype(int)
        weight = np.sqrt(self.relevance[column])
        others = np.ones(len(self.main) - len(column))
        scale = np.concatenate([self.factors, others, weight[a] * weight[b]])
        return a, b, np.concatenate([self.main, kinds]), scale
