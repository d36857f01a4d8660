"""Jumps in several inputs at once: nodes of steps, found by gradient boosting.

Node r adds steps of a few inputs, z = sum_k 2^k [u_j(k) > t_k], and gives each whole number z a
value: as a tree whose branches all ask the same question at one depth, or a table with a cell for
each combination of answers. In a KAN its inner edges are steps, and its outer edge holds the table.

Nodes are found one after the other. Each asks the questions that reduce most the squares of what
the earlier ones leave, and takes a fraction of its best values.

Sources: J. Friedman, Annals of Statistics 29 (2001) 1189-1232, and Computational Statistics and
Data Analysis 38 (2002) 367-378 (samples of the rows); L. Prokhorenkova et al., CatBoost, NeurIPS
2018 (the same question at each depth).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, blocks

CUT_INTERVALS = 4  # that a step adds to the grid of its input
_STREAM = 3  # of the random numbers that choose the rows of a node
_NARROWEST = 1e-9  # distance of values between which there may be a cut, relative to their range


@dataclass(frozen=True)
class BoostingPolicy:
    """Constants of the search for nodes of jumps.

    Chosen on generated tables with steps in pairs and triples of inputs (1400 x 5, 40,000 x 9).
    """

    #: Questions of a node; at most 5, for which the outer edges have intervals enough.
    depth: int = 5
    #: Thresholds of an input at most, at quantiles.
    max_cuts: int = 127
    #: Fraction of the best values that a node takes.
    rate: float = 0.2
    #: Rows of value zero that are added to each cell.
    shrinkage: float = 2.0
    #: Fraction of the rows from which a node is found, and rows times inputs at most.
    fraction: float = 0.8
    max_size: int = 400_000
    #: Nodes at most, and nodes without gain on held-out rows after which the search ends.
    max_nodes: int = 250
    patience: int = 25


@dataclass(frozen=True, eq=False)
class JumpNodes:
    """Nodes of steps, whose sum is a function of the inputs.

    Attributes:
        inputs: Input of each question, shape (nodes, depth).
        cuts: Its threshold, shape (nodes, depth).
        rooms: Distance between the values of training rows next to the threshold, same shape.
        values: Value of each cell, shape (nodes, 2^depth).
    """

    inputs: Int[ndarray, "nodes depth"]
    cuts: Float[ndarray, "nodes depth"]
    rooms: Float[ndarray, "nodes depth"]
    values: Float[ndarray, "nodes cells"]

    def take(self, nodes: ndarray | slice) -> JumpNodes:
        """Return some of the nodes."""
        return JumpNodes(*(each[nodes] for each in vars(self).values()))

    def __call__(self, u: RowInputs) -> PerRow:
        """Evaluate the sum of the nodes."""
        count, depth = self.inputs.shape
        total, digits = np.zeros(len(u)), 2 ** np.arange(depth)
        for part in blocks(len(u), max(count * depth, 1)):
            cells = (u[part][:, self.inputs] > self.cuts) @ digits
            total[part] = self.values[np.arange(count), cells].sum(1)
        return total

    def partial_dependence(self, u: RowInputs, j: int, at: ndarray) -> ndarray:
        """Return the mean over the rows u with input j set to `at`, up to a constant."""
        mine, moved = self.take((self.inputs == j).any(1)), np.tile(u, (len(at), 1))
        moved[:, j] = np.repeat(at, len(u))
        return np.asarray(mine(moved).reshape(len(at), len(u)).mean(1))


@dataclass(frozen=True, eq=False)
class _Questions:
    """Thresholds between the values of each input, and where the rows lie among them.

    `cuts` and `rooms` (inputs, cuts) end with NaN; `codes` (rows, inputs) counts the cuts below.
    """

    cuts: ndarray
    rooms: ndarray
    codes: ndarray

    @staticmethod
    def of(u: RowInputs, max_cuts: int) -> _Questions:
        """Place cuts midway between neighbouring values, at quantiles of the rows."""
        shape = u.shape[1], max_cuts
        cuts, rooms, codes = np.full(shape, np.nan), np.ones(shape), np.zeros(u.shape, np.int32)
        for j, column in enumerate(u.T):
            distinct, count = np.unique(column, return_counts=True)
            below, apart = np.cumsum(count)[:-1] / len(u), np.diff(distinct)
            first = np.flatnonzero(apart > _NARROWEST * np.ptp(distinct))
            if len(first) > max_cuts:
                levels = np.linspace(0, 1, max_cuts + 2)[1:-1]
                places = np.searchsorted(below[first], levels)
                first = first[np.unique(places[places < len(first)])]
            middles = (distinct[first] + distinct[first + 1]) / 2
            cuts[j, : len(first)], rooms[j, : len(first)] = middles, apart[first]
            codes[:, j] = np.searchsorted(middles, column)
        return _Questions(cuts, rooms, codes)


def boost(
    u: RowInputs,
    y: PerRow,
    weights: PerRow,
    policy: BoostingPolicy,
    *,
    count: int | None = None,
    held_out: tuple[ndarray, ndarray, ndarray] | None = None,
) -> JumpNodes:
    """Return `count` nodes for y, or those with the lowest loss on held-out (u, y, weights)."""
    asked, rng = _Questions.of(u, policy.max_cuts), np.random.default_rng(_STREAM)
    fraction = min(policy.fraction, policy.max_size / u.size)
    left, found, losses = y.copy(), list[JumpNodes](), list[float]()
    rest = held_out[1].copy() if held_out else y[:0]
    if held_out:
        losses.append(float(held_out[2] @ rest**2))
    for _ in range(policy.max_nodes if count is None else count):
        some = rng.random(len(u)) < fraction
        places, cells = _node(asked, some, left, weights, policy)
        size = 2 ** len(places)
        sums, totals = (
            np.bincount(cells[some], one[some], size) for one in (weights * left, weights)
        )
        values = policy.rate * sums / (totals + policy.shrinkage)
        j, k = np.array(places).T
        node = JumpNodes(j[None], asked.cuts[None, j, k], asked.rooms[None, j, k], values[None])
        left -= values[cells]
        found.append(node)
        if held_out:
            rest -= node(held_out[0])
            losses.append(float(held_out[2] @ rest**2))
            if len(losses) - np.argmin(losses) > policy.patience:
                break
    kept = found[: int(np.argmin(losses))] if held_out else found
    return _joined(kept, policy.depth)


def _joined(nodes: Sequence[JumpNodes], depth: int) -> JumpNodes:
    """Return several nodes as one object."""
    empty = np.zeros((0, depth))
    none = JumpNodes(empty.astype(int), empty, empty, np.zeros((0, 2**depth)))
    parts = zip(*(vars(one).values() for one in (none, *nodes)), strict=True)
    return JumpNodes(*map(np.concatenate, parts))


def _node(
    asked: _Questions, some: ndarray, left: PerRow, weights: PerRow, policy: BoostingPolicy
) -> tuple[list[tuple[int, int]], ndarray]:
    """Return the best questions (input, cut), one after the other, and the cell of every row."""
    codes, w = asked.codes[some], weights[some]
    inputs, width = codes.shape[1], asked.cuts.shape[1] + 1
    flat = codes + width * np.arange(inputs, dtype=np.int32)
    sizes = np.repeat(w, inputs), np.repeat(w * left[some], inputs)
    cells, every = np.zeros(len(codes), np.int32), np.zeros(len(left), np.int32)
    places = list[tuple[int, int]]()
    for k in range(policy.depth):
        shape = 2**k, inputs, width
        index = (flat + (inputs * width) * cells[:, None]).ravel()
        total, moment = (
            np.bincount(index, one, np.prod(shape)).reshape(shape).cumsum(2) for one in sizes
        )
        gain = moment**2 / (total + policy.shrinkage)
        gain += (moment[:, :, -1:] - moment) ** 2 / (total[:, :, -1:] - total + policy.shrinkage)
        gains = np.where(np.isnan(asked.cuts), -1.0, gain.sum(0)[:, :-1])
        j, cut = np.unravel_index(gains.argmax(), gains.shape)
        places.append((int(j), int(cut)))
        cells += (codes[:, j] > cut) * np.int32(2**k)
        every += (asked.codes[:, j] > cut) * np.int32(2**k)
    return places, every


def cross_fitted(
    fit: Callable[..., JumpNodes], u: RowInputs, y: PerRow, weights: PerRow, parts: ndarray
) -> tuple[PerRow, int]:
    """Return the prediction of each row by nodes of the other `parts`, and their mean number."""
    values, counts = np.zeros(len(u)), list[int]()
    for part in range(int(parts.max()) + 1):
        out, inside = parts == part, parts != part
        held_out = u[out], y[out], weights[out]
        nodes = fit(u[inside], y[inside], weights[inside], held_out=held_out)
        values[out] = nodes(u[out])
        counts.append(len(nodes.values))
    return values, round(float(np.mean(counts)))
