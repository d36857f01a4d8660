"""What the model of a table sees of its inputs: scores, functions of each, and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy import ndarray

from kanrun.engine.splines import extend
from kanrun.engine.tables.kernel import RadialInputs
from kanrun.engine.tables.reduced_basis import DEGREE, PerRow, ReducedBasis, RowFunctions, RowInputs
from kanrun.engine.tables.scores import input_scores, rank_map
from kanrun.points import PiecewiseScaling

#: Smooth functions of one input, its straight line included.
_FUNCTIONS = 10
#: Functions of all inputs together, so that wide tables keep at least lines and one curve each.
_ALL_FUNCTIONS = 600
#: Kinds of models: the mean alone, straight lines in the user's units, and all parts.
KINDS = ("mean", "linear", "full")
#: Shapes that an effect may keep, and their signs.
SHAPES = {"increasing": 1, "decreasing": -1, "convex": 1, "concave": -1}
#: Shapes of the second derivative.
CURVATURES = ("convex", "concave")


@dataclass(frozen=True)
class EncoderPolicy:
    """What a caller decides of the maps.

    Attributes:
        shapes: (Index of an input, shape) pairs, see `SHAPES`; such inputs are only standardised.
        kind: One of `KINDS`: without curves, inputs are only standardised.
        room: Scores continue by this fraction of their range on either side, and are constant
            beyond.
        ends: Whether an input beyond its range adds nothing.
    """

    shapes: tuple[tuple[int, str], ...] = ()
    kind: str = KINDS[-1]
    room: float = 0.0
    ends: bool = False


@dataclass(frozen=True, eq=False)
class Encoder:
    """Maps of a table's inputs, learned from the inputs alone.

    Attributes:
        inputs: Map from the user's units to scores u.
        ranks: Map from scores u to t, the mean of u and its uniform rank.
        basis: Straight lines and curves of the scores.
        policy: What the caller decided.
    """

    inputs: PiecewiseScaling
    ranks: PiecewiseScaling
    basis: ReducedBasis
    policy: EncoderPolicy

    @staticmethod
    def of(x: RowInputs, weights: PerRow, policy: EncoderPolicy) -> Encoder:
        """Learn the maps from rows x (rows, inputs) in the user's units."""
        shaped = [j for j, _ in policy.shapes]
        straight = shaped if policy.kind == "full" else range(x.shape[1])
        inputs = input_scores(x, weights, straight=straight, room=policy.room)
        u = inputs.apply(x)
        most = int(np.clip(_ALL_FUNCTIONS // u.shape[1], 2, _FUNCTIONS))
        basis = ReducedBasis.of(u, {"mean": 0, "linear": 1}.get(policy.kind, most), weights)
        return Encoder(inputs, rank_map(u, weights), basis, policy)

    def radial(self, u: RowInputs) -> RadialInputs:
        """Return the inputs of the radial parts at scores u."""
        return RadialInputs(u, self.ranks.apply(u))

    def functions(self, u: RowInputs) -> RowFunctions:
        """Return the lines and curves at scores u, shape (rows, functions)."""
        values = self.basis.values(u)
        if self.policy.ends:
            low, high = self.basis.breakpoints[:, [0, -1]].T
            values[((u < low) | (u > high))[:, self.basis.column]] = 0.0
        return values

    @property
    def is_line(self) -> ndarray:
        """Whether each function is a straight line, shape (functions,)."""
        return np.asarray(self.basis.order == 0)

    @cached_property
    def constraints(self) -> ndarray | None:
        """A matrix A (conditions, functions): effects c keep their shapes if A c >= 0, with ends.

        A spline with increasing coefficients increases; one whose slope has increasing coefficients
        is convex.
        """
        rows = []
        for j, shape in self.policy.shapes:
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
