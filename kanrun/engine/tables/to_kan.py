"""Convert the latent functions of a table to one KAN, whose inputs are the scores.

The sum of the line and the curves of an input becomes a spline edge from the input to an output.
Each centre of the radial parts becomes two hidden nodes: the smooth and the rough distance from the
centre. The edges into such a node are the terms of the distance, one per input (see `RadialLayer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray

from kanrun.engine.layers import EdgeSpec, RadialLayer, SplineLayer
from kanrun.engine.networks import KAN
from kanrun.engine.splines import Extrapolation, extend
from kanrun.engine.tables.encoder import CURVATURES, Encoder
from kanrun.engine.tables.reduced_basis import DEGREE

if TYPE_CHECKING:
    from kanrun.engine.tables.table_model import TableModel

#: Specification of all spline edges.
_SPEC = EdgeSpec(degree=DEGREE, base="zero", trained_scales="none")


def to_kan(model: TableModel) -> KAN:
    """Return the network that computes the latent functions of `model` from the scores.

    For two classes with the logit f, the outputs of the network are -f/2 and f/2.
    """
    fit = model.fit
    encoder = fit.encoder
    outputs = fit.outputs
    mixing = np.eye(len(outputs))
    if model.family.classes == 2:
        mixing = np.array([[-0.5], [0.5]])
    functions, radial = fit.weights
    weights = mixing @ functions.T
    basis = encoder.basis
    # B-spline coefficients of the edges, shape (outputs, inputs, splines)
    edges = np.stack([weights[:, mine] @ basis.coefficients[mine] for mine in basis.places], 1)
    _make_monotone(edges, encoder)
    breakpoints = basis.breakpoints
    if model.exposure is not None:
        breakpoints, edges = _with_logarithm(model, model.exposure, breakpoints, edges)
    extrapolation: Extrapolation = "zero" if encoder.policy.extrapolation == "zero" else "linear"
    level = mixing @ np.array([each.level for each in outputs])
    kernel = fit.kernel
    centres = fit.centres
    if not len(centres.inputs) and extrapolation == "linear":
        edges[:, 0] += level[:, None]  # B-splines sum to one
        return KAN.of_layers([_layer(breakpoints, edges, extrapolation)])
    splines = _layer(breakpoints, edges, extrapolation)
    heights = mixing @ radial.T
    arrays = {
        "level": level,
        "heights": np.stack([kernel.smooth * heights, kernel.rough * heights]),
        "centres": centres.inputs,
        "smooth_rates": kernel.smooth_rates,
        "rough_rates": kernel.rough_rates,
        "points": _padded(encoder.ranks.points),
        "ranks": _padded(encoder.ranks.values),
    }
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return KAN.of_layers([RadialLayer.of(splines, tensors)])


def _with_logarithm(
    model: TableModel, j: int, breakpoints: ndarray, edges: ndarray
) -> tuple[ndarray, ndarray]:
    """Replace all edges from input number `j`, the exposure, by the identity function.

    The score of the exposure is its logarithm, which is thus added to each latent function.

    Returns:
        The grids (inputs, G + 1) and the B-spline coefficients of all edges (outputs, inputs,
        splines). The array `edges` is changed in place.
    """
    breakpoints = breakpoints.copy()
    low, high = model.inputs.values[j][[0, -1]]
    breakpoints[j] = np.linspace(low, high, breakpoints.shape[1])
    knots = extend(torch.as_tensor(breakpoints[[j]]), DEGREE).numpy()[0]
    # The B-spline coefficients of a straight line are the means of three knots.
    edges[:, j] = np.convolve(knots[1:-1], np.ones(DEGREE) / DEGREE, "valid")
    return breakpoints, edges


def _make_monotone(edges: ndarray, encoder: Encoder) -> None:
    """Remove rounding errors, so that the coefficients of monotone edges are exactly monotone."""
    for j, shape in encoder.policy.shapes:
        if shape not in CURVATURES:
            for edge in edges[:, j]:
                turn = 1 if edge[-1] >= edge[0] else -1
                edge[:] = turn * np.maximum.accumulate(turn * edge)


def _layer(
    breakpoints: ndarray, coefficients: ndarray, extrapolation: Extrapolation
) -> SplineLayer:
    spec = replace(_SPEC, extrapolation=extrapolation)
    layer = SplineLayer.on_grid(
        torch.as_tensor(breakpoints), len(coefficients), spec, uniform=False
    )
    with torch.no_grad():
        layer.coefficients.copy_(torch.as_tensor(coefficients))
    return layer


def _padded(rows: Sequence[ndarray]) -> ndarray:
    """Stack rows of different lengths; shorter rows are extended by repeating their last number."""
    size = max(map(len, rows))
    return np.stack([np.pad(row, (0, size - len(row)), mode="edge") for row in rows])
