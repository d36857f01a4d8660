"""Least squares over all pairs of rows at once, from inner products alone.

Let rows i and j have norm 1, inner products p_i and p_j with a target, and the inner product g_ij
with each other. A least-squares fit by both rows then explains
(p_i^2 + p_j^2 - 2 p_i p_j g_ij) / (1 - g_ij^2) of the target's sum of squares. A million pairs take
about 10 ms.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array

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
