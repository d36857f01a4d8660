"""The terms of a model of a table and the kernels that they make of rows: effects of inputs and of pairs of inputs.

Scaled functions h = z / sqrt(d) (d the roughness) have prior variance v of their kind. Main effects are `lines` and
`wiggles`; pairs are products h_a h_b of functions of different inputs: line x line, line x wiggle, wiggle x wiggle. The
whole is f(x) = b + h'c + h'W h / 2 with W symmetric and zero between functions of one input.
Source of second-order kernels by sums of squares: D. Duvenaud, H. Nickisch, C. Rasmussen, NIPS 2011 (Newton-Girard).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kanrun.engine.evidence.basis import ReducedBasis
from kanrun.engine.evidence.evidence_policy import EvidencePolicy

#: The components of variance in their order.
KINDS = ("lines", "wiggles", "line pairs", "line-wiggle pairs", "wiggle pairs")
MAIN = 2


@dataclass(frozen=True, eq=False)
class Terms:
    """f = offset + h'main + h'pairs h / 2, h the scaled functions; `pairs` is None where there are none."""

    offset: float
    main: Float[ndarray, " functions"]
    pairs: Float[ndarray, "functions functions"] | None = None

    def values(self, h: Float[ndarray, "rows functions"]) -> Float[ndarray, " rows"]:
        """f of rows by their scaled functions."""
        y = self.offset + h @ self.main
        return np.asarray(y if self.pairs is None else y + ((h @ self.pairs) * h).sum(1) / 2)

    def plus(self, other: Terms, weight: float, own: float = 1.0) -> Terms:
        """own * self + weight * other."""
        parts = [p * w for p, w in ((self.pairs, own), (other.pairs, weight)) if p is not None and w]
        return Terms(
            own * self.offset + weight * other.offset,
            own * self.main + weight * other.main,
            sum(parts[1:], parts[0]) if parts else None,
        )


@dataclass(frozen=True, eq=False)
class Design:
    """A reduced basis with the weights of inputs in pairs; everything about rows is computed from their `h`."""

    basis: ReducedBasis
    lines: ndarray  # (functions,) which functions are straight lines
    paired: ndarray  # (functions,) which take part in pairs
    relevance: ndarray  # (inputs,) weight of an input in pairs

    @staticmethod
    def of(basis: ReducedBasis, policy: EvidencePolicy) -> Design:
        """All inputs equally relevant."""
        return Design(basis, basis.order == 0, basis.order < policy.pair_functions, np.ones(basis.inputs))

    def with_relevance(self, relevance: Float[ndarray, " inputs"]) -> Design:
        return replace(self, relevance=relevance)

    def functions(self, u: Float[ndarray, "rows inputs"]) -> Float[ndarray, "rows functions"]:
        """h of encoded rows."""
        return np.asarray(self.basis.values(u) / np.sqrt(self.basis.roughness))

    def main_kernels(self, h: ndarray) -> list[ndarray]:
        """Kernels of the lines and of the wiggles."""
        line, wiggle = h[:, self.lines], h[:, ~self.lines]
        return [line @ line.T, wiggle @ wiggle.T]

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

    def terms(self, h: ndarray, offset: float, weights: Float[ndarray, " rows"], variances: ndarray) -> Terms:
        """What the weights of rows (P y) say about the coefficients."""
        main = np.where(self.lines, variances[0], variances[1]) * (h.T @ weights)
        if not np.any(variances[MAIN:]):
            return Terms(offset, main)
        scale = np.where(self.paired, np.sqrt(self.relevance)[self.basis.column], 0.0)
        g = h * scale
        return Terms(offset, main, self._kinds(variances) * (g.T @ (g * weights[:, None])) * np.outer(scale, scale))

    def _kinds(self, variances: ndarray) -> Float[ndarray, "functions functions"]:
        """The variance of every product of two functions, 0 for two of one input."""
        kind = np.where(self.lines[:, None], np.where(self.lines, variances[2], variances[3]),
                        np.where(self.lines, variances[3], variances[4]))  # fmt: skip
        return np.where(self.basis.column[:, None] == self.basis.column, 0.0, kind)

    def strongest_pairs(self, energy: Float[ndarray, "functions functions"], most: int) -> list[tuple[int, int]]:
        """The pairs of inputs with the largest sums of squared terms, the largest first."""
        member = (self.basis.column[:, None] == np.arange(self.basis.inputs)).astype(float)
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

    def prior(self, variances: ndarray, a: ndarray, b: ndarray) -> ndarray:
        """Prior variances of the main effects, followed by the products h_a h_b."""
        main = np.where(self.lines, variances[0], variances[1])
        weight = self.relevance[self.basis.column]
        return np.concatenate([main, self._kinds(variances)[a, b] * weight[a] * weight[b]])
