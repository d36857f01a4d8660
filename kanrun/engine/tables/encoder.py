"""Transform the inputs of a table for its model: scores, functions of the scores, and ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray

from kanrun.engine.splines import extend
from kanrun.engine.tables.reduced_basis import DEGREE, PerRow, ReducedBasis, RowFunctions, RowInputs
from kanrun.engine.tables.scores import (
    ROOM,
    STRAIGHT_ROOM,
    input_scores,
    rank_map,
    with_logarithm,
)
from kanrun.points import PiecewiseScaling

#: Largest number of smooth functions of one input, including the straight line.
_FUNCTIONS = 10
#: Largest total number of functions of all inputs; each input keeps at least a line and a curve.
_ALL_FUNCTIONS = 600
#: Kinds of models: only the mean, straight lines in the user's units, or all parts.
KINDS = ("mean", "linear", "full")
#: Shapes that an effect can be required to have, with the sign of its first or second derivative.
SHAPES = {"increasing": 1, "decreasing": -1, "convex": 1, "concave": -1}
#: Shapes that constrain the second derivative.
CURVATURES = ("convex", "concave")


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """Settings of the model of a table; see docs/tables.md."""

    #: Distribution of outputs that are numbers, one of `kanrun.points.FAMILIES`.
    family: str = "gaussian"
    #: Whether inputs may interact; otherwise there are no radial parts.
    pairs: bool = True
    #: Required shapes of effects, as pairs (index of an input, shape); see `SHAPES`. These inputs
    #: are not in the radial parts. If a shape is convex or concave, the output is not transformed.
    shapes: tuple[tuple[int, str], ...] = ()
    #: Extrapolation beyond the training range: `clip`, `linear`, `constant` or `zero`.
    extrapolation: str = "clip"
    #: Lower and upper limit of the outputs.
    bounds: tuple[float, float] = (-np.inf, np.inf)
    #: Index of the exposure, an input to which the outputs are proportional; None if there is none.
    exposure: int | None = None
    #: Number of folds of the cross-validation; below 2, leave-one-out predictions replace folds.
    folds: int = 5
    #: Whether only one of the folds is held out.
    single_fold: bool = False


@dataclass(frozen=True, eq=False)
class Encoder:
    """Transformations of a table's inputs, which are learned from the inputs alone.

    Attributes:
        inputs: Map from the user's units to scores u.
        ranks: Map from scores u to t, the average of u and its rank (see `rank_map`).
        basis: Straight lines and curves, as functions of the scores.
        policy: The settings of the model.
        kind: One of `KINDS`. Unless it is `full`, all inputs are only standardised.
    """

    inputs: PiecewiseScaling
    ranks: PiecewiseScaling
    basis: ReducedBasis
    policy: TablePolicy
    kind: str

    @staticmethod
    def of(x: RowInputs, weights: PerRow, policy: TablePolicy, kind: str) -> Encoder:
        """Learn the transformations from rows x (rows, inputs) in the user's units."""
        is_full = kind == "full"
        straight = [j for j, _ in policy.shapes] if is_full else range(x.shape[1])
        usual = ROOM if is_full else STRAIGHT_ROOM
        room = {"linear": STRAIGHT_ROOM, "constant": 0.0}.get(policy.extrapolation, usual)
        inputs = input_scores(x, weights, straight=straight, room=room)
        if policy.exposure is not None:
            inputs = with_logarithm(inputs, policy.exposure, x[:, policy.exposure])
        u = inputs.apply(x)
        most = int(np.clip(_ALL_FUNCTIONS // u.shape[1], 2, _FUNCTIONS))
        varied = u.copy()
        if policy.exposure is not None:
            varied[:, policy.exposure] = 0.0
        basis = ReducedBasis.of(varied, {"mean": 0, "linear": 1}.get(kind, most), weights)
        return Encoder(inputs, rank_map(u, weights), basis, policy, kind)

    def functions(self, u: RowInputs) -> RowFunctions:
        """Return the lines and curves at scores `u`, shape (rows, functions).

        With zero extrapolation, the functions of an input are 0 outside its training range.
        """
        values = self.basis.values(u)
        if self.policy.extrapolation == "zero":
            low, high = self.basis.breakpoints[:, [0, -1]].T
            values[((u < low) | (u > high))[:, self.basis.column]] = 0.0
        return values

    def interacting(self, u: RowInputs) -> ndarray:
        """Return whether each input is in the radial parts, shape (inputs,).

        These are inputs that vary on rows with the scores `u`, without a required shape. There are
        none with linear or zero extrapolation, because radial parts do not continue as straight
        lines.
        """
        policy = self.policy
        additive = [*dict(policy.shapes), policy.exposure]
        is_free = ~np.isin(np.arange(u.shape[1]), [j for j in additive if j is not None])
        is_local = policy.pairs and policy.extrapolation in ("clip", "constant")
        return np.asarray((is_local and self.kind == "full") & is_free & (np.ptp(u, axis=0) > 0))

    def constraints(self, features: int) -> ndarray | None:
        """Return the matrix A (conditions, features) of the shape constraints; None without shapes.

        The first features are the lines and curves. Effects with the coefficients c keep their
        shapes if A c >= 0. A spline increases if its B-spline coefficients increase, and is convex
        if those of its derivative increase.
        """
        rows = []
        for j, shape in self.policy.shapes:
            mine = self.basis.places[j]
            changes = np.diff(self.basis.coefficients[mine].T, axis=0)
            if shape in CURVATURES:
                # The slope of the spline has the coefficients 3 (c[i+1] - c[i]), each divided by
                # one of these spans of knots.
                knots = extend(torch.as_tensor(self.basis.breakpoints[j : j + 1]), DEGREE)[0]
                spans = (knots[DEGREE + 1 : -1] - knots[1 : -DEGREE - 1]).numpy()
                changes = np.diff(changes / spans[:, None], axis=0)
            row = np.zeros((len(changes), features))
            row[:, mine] = SHAPES[shape] * changes
            rows.append(row)
        return np.concatenate(rows) if rows else None
