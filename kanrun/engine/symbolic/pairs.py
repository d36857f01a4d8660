"""Few of many functions: the pairs that explain values best, by all correlations at once, and backward elimination."""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.budget import COSTS, count_work
from kanrun.engine.symbolic.candidates import Array

#: Rows that are compared at once; what of an entry the fixed rows must leave, and of one entry another one, so that it
#: counts beside them; what a place further back adds to a pair's loss.
_BLOCK, _LEFT, _APART, _LATER = 256, 1e-8, 1e-7, 1e-18


def nearest_pairs(
    y: Array,
    entries: Array,
    fixed: Array,
    kept: int,
    *,
    others: Array | None = None,
    floor: float = 0.0,
) -> list[tuple[float, int, int]]:
    """The `kept` pairs (i, j) of entries (M, N), or of one of them and one of `others`, that together with the rows of
    `fixed` (K, N) explain y (N,) best, as (share of the variance that is left, i, j), best first; of those that leave
    less than `floor` the first ones.

    What is left after both is 1 - (p_i^2 + p_j^2 - 2 p_i p_j g_ij) / (1 - g_ij^2) for correlations p with y, g between
    them.
    """
    q = np.linalg.qr(fixed.T)[0]
    rest = y - q @ (q.T @ y)
    total = float(np.linalg.norm(rest))
    use, left = _directions(entries, q)
    others_use, right = (use, left) if others is None else _directions(others, q)
    if total == 0.0 or min(use.size, others_use.size) < 2:
        return []
    p, s = left @ (rest / total), right @ (rest / total)
    alike = others is None
    count_work(
        use.size * others_use.size * (COSTS.pair + COSTS.pair_entry * y.size) * (1 if alike else 2)
    )
    best: list[tuple[float, int, int]] = []
    worst = np.inf
    for start in range(0, use.size, _BLOCK):
        rows, skipped = slice(start, min(start + _BLOCK, use.size)), start if alike else 0
        gram = left[rows] @ right[skipped:].T
        apart = 1 - gram**2
        apart[apart < _APART] = np.inf
        explained = (p[rows, None] - gram * s[None, skipped:]) ** 2
        explained /= apart
        explained += s[None, skipped:] ** 2
        explained[np.isinf(apart)] = 0.0
        flat = np.flatnonzero(explained > 1 - worst)
        if flat.size > 2 * kept:
            losses = np.maximum(1 - explained.ravel()[flat], floor) + _LATER * (
                start + flat // explained.shape[1]
            )
            flat = flat[
                np.argpartition(losses + _LATER * (flat % explained.shape[1]), 2 * kept)[: 2 * kept]
            ]
        for index in flat.tolist():
            i, j = divmod(index, explained.shape[1])
            if i < j or not alike:
                loss = max(1 - float(explained[i, j]), floor)
                best.append((loss, int(use[start + i]), int(others_use[skipped + j])))
        best = sorted(best, key=lambda entry: (entry[0], entry[1] + entry[2]))[:kept]
        worst = best[-1][0] if len(best) == kept else np.inf
    return best


def covered(values: Array, entries: Array, basis: Array) -> tuple[Array, Array]:
    """Of each of the entries (M, N): what it explains of values (N,) beside the orthonormal columns of `basis` (N, K),
    as a sum of squares (M,), and its coefficient (M,); -inf and 0 where it is a combination of these."""
    count_work(COSTS.grid_value * entries.size)
    left = entries - (entries @ basis) @ basis.T
    power, both = np.einsum("mn,mn->m", left, left), left @ (values - basis @ (basis.T @ values))
    usable = power > _LEFT**1.5 * np.einsum("mn,mn->m", entries, entries)
    power = np.where(usable, power, 1.0)
    return np.where(usable, both**2 / power, -np.inf), np.where(usable, both / power, 0.0)


def _directions(entries: Array, q: Array) -> tuple[np.ndarray, Array]:
    """Which of the entries (M, N) are not combinations of the columns of q (N, K), and what these leave of them, of
    length 1."""
    left = entries - (entries @ q) @ q.T
    norm = np.linalg.norm(left, axis=1)
    use = np.flatnonzero(norm > _LEFT * np.linalg.norm(entries, axis=1))
    return use, left[use] / norm[use, None]


def few_terms(columns: Array, y: Array, allowed: float) -> Array | None:
    """Coefficients (columns,) that leave at most `allowed` of y (N,), as few as backward elimination needs; None where
    all columns (N, columns) leave more."""
    kept = list(range(columns.shape[1]))

    def solve(chosen: list[int]) -> Array | None:
        count_work(COSTS.least_squares * len(y) * len(chosen) ** 2)
        found = np.asarray(np.linalg.lstsq(columns[:, chosen], y, rcond=1e-17)[0], dtype=np.float64)
        return (
            found
            if float(np.sqrt(np.mean((columns[:, chosen] @ found - y) ** 2))) <= allowed
            else None
        )

    solved = solve(kept)
    if solved is None:
        return None
    step = max(len(kept) // 2, 1)
    while step and len(kept) > 1:
        order = np.argsort(np.abs(solved) * np.linalg.norm(columns[:, kept], axis=0))
        for rest in (
            order[min(step, len(kept) - 1) :],
            *([np.delete(order, 1)] if step == 1 else []),
        ):
            fewer = sorted(kept[i] for i in rest)
            if (trial := solve(fewer)) is not None:
                kept, solved = fewer, trial
                break
        else:
            step //= 2
    full = np.zeros(columns.shape[1])
    full[kept] = solved
    return full
