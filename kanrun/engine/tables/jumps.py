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
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from kanrun.engine.tables.reduced_basis import PerRow, RowInputs, RowOutputs, blocks

CUT_INTERVALS = 4  # that a step adds to the grid of its input
_STREAM = 3  # of the random numbers that choose the rows of a node
_NARROWEST = 1e-9  # distance of values between which there may be a cut, relative to their range


@dataclass(frozen=True)
class BoostingPolicy:
    """Constants of the search for nodes of jumps.

    Chosen on generated tables: steps in pairs and triples of inputs (1400 x 5, 40,000 x 9), and an
    input that numbers 200 groups with an effect each (27,000 x 7).
    """

    #: Questions of a node; at most 5, for which the outer edges have intervals enough.
    depth: int = 5
    #: Thresholds of an input at most, at quantiles.
    max_cuts: int = 255
    #: Fraction of the best values that a node takes.
    rate: float = 0.2
    #: Rows of value zero that are added to each cell.
    shrinkage: float = 2.0
    #: Fraction of the rows from which a node is found, and rows times inputs at most.
    fraction: float = 0.8
    max_size: int = 400_000
    #: Nodes at most, and nodes without gain on held-out rows after which the search ends.
    max_nodes: int = 500
    patience: int = 25


@dataclass(frozen=True, eq=False)
class JumpNodes:
    """Nodes of steps, whose sum is a function of the inputs.

    Attributes:
        inputs: Input of each question, shape (nodes, depth).
        cuts: Its threshold, shape (nodes, depth).
        rooms: Distance between the values of training rows next to the threshold, same shape.
        values: Value of each cell, shape (nodes, 2^depth).
        freedom: Trace of the matrix by which each node takes its values from the outputs.
    """

    inputs: Int[ndarray, "nodes depth"]
    cuts: Float[ndarray, "nodes depth"]
    rooms: Float[ndarray, "nodes depth"]
    values: Float[ndarray, "nodes cells"]
    freedom: Float[ndarray, " nodes"]

    def __call__(self, u: RowInputs) -> PerRow:
        """Evaluate the sum of the nodes."""
        return sums_of_cells(cells_of(u, self.inputs, self.cuts), self.values[None])[:, 0]

    def partial_dependence(self, u: RowInputs, inputs: Sequence[int], at: ndarray) -> ndarray:
        """Return the mean over the rows u with these inputs set to `at`, up to a constant."""
        some, moved = np.isin(self.inputs, inputs).any(1), np.tile(u, (len(at), 1))
        mine = JumpNodes(*(each[some] for each in vars(self).values()))
        moved[:, inputs] = np.repeat(at, len(u), 0)
        return np.asarray(mine(moved).reshape(len(at), len(u)).mean(1))

    def pair_energy(self, inputs: int) -> ndarray:
        """Return the variance of the values of the nodes that ask both of two inputs."""
        asked = (self.inputs[:, :, None] == np.arange(inputs)).any(1).astype(float)
        return np.asarray(asked.T @ (asked * self.values.var(1)[:, None]))

    def degrees_of_freedom(self, rows: int) -> float:
        """Return the trace of all nodes, as if each took its part of what is left at random.

        The choice of the questions does not count.
        """
        return float(rows * (1 - np.exp(-self.freedom.sum() / rows)))


def cells_of(
    u: RowInputs, inputs: Int[ndarray, "nodes depth"], cuts: Float[ndarray, "nodes depth"]
) -> UInt8[ndarray, "rows nodes"]:
    """Return the cell of each row and node: the sums of 2^k where u_j exceeds cut k."""
    found = np.zeros((len(u), len(inputs)), np.uint8)
    for j in np.unique(inputs):
        nodes, digits = np.nonzero(inputs == j)
        places, place = np.unique(cuts[nodes, digits], return_inverse=True)
        steps = np.zeros((len(places) + 1, len(inputs)), np.uint8)
        np.add.at(steps, (place + 1, nodes), 2**digits)
        steps = steps.cumsum(0, dtype=np.uint8)
        for part in blocks(len(u), len(inputs)):
            found[part] += steps[np.searchsorted(places, u[part, j])]
    return found


def sums_of_cells(
    cells: UInt8[ndarray, "rows nodes"], values: Float[ndarray, "outputs nodes cells"]
) -> RowOutputs:
    """Return the sums over nodes of the values of the cells."""
    sums, each = np.empty((len(cells), len(values))), values.shape[2]
    first = np.arange(0, values[0].size, each)
    for part in blocks(len(cells), max(len(first), 1)):
        at = cells[part] + first
        for out, mine in zip(sums[part].T, values.reshape(len(values), -1), strict=True):
            out[:] = mine.take(at).sum(1)
    return sums


def _cuts(u: RowInputs, max_cuts: int) -> tuple[ndarray, ndarray]:
    """Return thresholds midway between neighbouring values, and the distances of these.

    They lie at quantiles of the rows. The shape is (inputs, cuts), filled up by infinity.
    """
    cuts, rooms = np.full((2, u.shape[1], max_cuts), np.inf)
    for j, column in enumerate(u.T):
        distinct, count = np.unique(column, return_counts=True)
        below, apart = np.cumsum(count)[:-1] / len(u), np.diff(distinct)
        first = np.flatnonzero(apart > _NARROWEST * np.ptp(distinct))
        if len(first) > max_cuts:
            places = np.searchsorted(below[first], np.linspace(0, 1, max_cuts + 2)[1:-1])
            first = first[np.unique(places[places < len(first)])]
        cuts[j, : len(first)] = (distinct[first] + distinct[first + 1]) / 2
        rooms[j, : len(first)] = apart[first]
    return cuts, rooms


@dataclass(frozen=True, eq=False)
class BoostingTarget:
    """Outputs that nodes are fitted to, by Newton's method.

    Attributes:
        y: Outputs, shape (rows,).
        weights: Weights of the rows.
        step: Function of outputs and predictions to information and step of each row.
        loss: Function of the same to the loss of each row.
    """

    y: PerRow
    weights: PerRow
    step: Callable[[PerRow, PerRow], tuple[PerRow, PerRow]]
    loss: Callable[[PerRow, PerRow], PerRow]


def squares(y: PerRow, weights: PerRow) -> BoostingTarget:
    """Return the target of least squares."""
    return BoostingTarget(
        y, weights, lambda y, f: (np.ones_like(y), y - f), lambda y, f: (y - f) ** 2
    )


def boost(
    u: RowInputs,
    target: BoostingTarget,
    start: PerRow | float,
    policy: BoostingPolicy,
    *,
    count: int | None = None,
    out: ndarray | None = None,
) -> JumpNodes:
    """Return `count` nodes to add to the predictions `start`.

    Without a count they are fitted to the rows that are not `out`, as many as have the lowest loss
    on those that are.
    """
    rng, most = np.random.default_rng(_STREAM), policy.max_nodes if count is None else count
    inside = np.ones(len(u), bool) if out is None else ~out
    fraction = min(policy.fraction, policy.max_size / u[inside].size)
    cuts, rooms = _cuts(u[inside], policy.max_cuts)
    # How many cuts lie below each value, (rows, inputs).
    codes = np.stack([np.searchsorted(*each) for each in zip(cuts, u.T, strict=True)], 1)
    digits = 2 ** np.arange(policy.depth)
    inputs, places = np.zeros((2, most, policy.depth), int)
    values, freedom = np.zeros((most, 2**policy.depth)), np.zeros(most)
    predicted, losses = np.full(len(u), start), list[float]()

    def loss() -> float:
        return float((target.weights * target.loss(target.y, predicted))[~inside].sum())

    losses.append(loss())
    for r in range(most):
        information, y = target.step(target.y, predicted)
        weights, some = target.weights * information, inside.copy()
        some[inside] = rng.random(inside.sum()) < fraction
        inputs[r], places[r] = j, k = _questions(codes[some], y[some], weights[some], cuts, policy)
        cells = (codes[:, j] > k) @ digits
        total, moment = (
            np.bincount(cells[some], one[some], len(values[r])) for one in (weights, weights * y)
        )
        values[r] = policy.rate * moment / (total + policy.shrinkage)
        freedom[r] = policy.rate * (total / (total + policy.shrinkage)).sum()
        predicted += values[r, cells]
        losses.append(loss())
        if out is not None and len(losses) - np.argmin(losses) > policy.patience:
            break
    kept = most if out is None else int(np.argmin(losses))
    at = inputs[:kept], places[:kept]
    return JumpNodes(at[0], cuts[at], rooms[at], values[:kept], freedom[:kept])


def _questions(
    codes: ndarray, y: PerRow, weights: PerRow, cuts: ndarray, policy: BoostingPolicy
) -> ndarray:
    """Return inputs and cuts (2, depth) of the best questions, one after the other."""
    inputs, width = codes.shape[1], cuts.shape[1] + 1
    flat = codes + width * np.arange(inputs)
    sizes = np.repeat(weights, inputs), np.repeat(weights * y, inputs)
    cells, found = np.zeros(len(codes), int), list[tuple[Any, ...]]()
    for k in range(policy.depth):
        shape = 2**k, inputs, width
        index = (flat + (inputs * width) * cells[:, None]).ravel()
        total, moment = (
            np.bincount(index, one, np.prod(shape)).reshape(shape).cumsum(2) for one in sizes
        )
        gain = moment**2 / (total + policy.shrinkage)
        gain += (moment[:, :, -1:] - moment) ** 2 / (total[:, :, -1:] - total + policy.shrinkage)
        gains = np.where(np.isfinite(cuts), gain.sum(0)[:, :-1], -1.0)
        j, cut = np.unravel_index(gains.argmax(), gains.shape)
        found.append((j, cut))
        cells += (codes[:, j] > cut) * 2**k
    return np.array(found).T
