"""A layer on another grid, keeping its functions: exactly where it can be exact, else by least squares.

The spline is what is carried; scales, base and mask stay, so no w_s has to be divided out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.layers.spline_layer import SplineLayer
from kanrun.engine.splines import (
    Grid,
    breakpoints_of,
    contains,
    extend,
    fit_coefficients,
    greville,
    insert_knots,
    sample_points,
    spline_values,
    subdivide,
    uniform_breakpoints,
)

#: Points of each interval at which a spline is carried over by least squares.
POINTS_PER_INTERVAL = 3


def refine_layer(layer: SplineLayer, intervals: int) -> tuple[SplineLayer, str]:
    """`layer` on `intervals` intervals over the same domain, and how: `insertion` (exact) or `least squares`."""
    old = breakpoints_of(layer.knots, layer.spec.degree)
    factor, rest = divmod(intervals, layer.grid.intervals)
    if rest == 0 and factor > 0:
        new, uniform = subdivide(old, factor), layer.uniform
    elif layer.uniform:
        new, uniform = uniform_breakpoints(old[:, 0], old[:, -1], intervals), True
    else:
        new, uniform = _resample(old, intervals), False
    return move_layer(layer, new, uniform=uniform)


def move_layer(
    layer: SplineLayer, breakpoints: Float[Tensor, "inputs points"], *, uniform: bool
) -> tuple[SplineLayer, str]:
    """`layer` on `breakpoints`; by knot insertion where they contain the old ones over the same domain.

    Otherwise the new coefficients are the least squares fit, in float64, to the OLD spline (its continuation
    outside its grid included) at points of the new grid, never to data.
    """
    spec = layer.spec
    target = Grid(
        extend(breakpoints.double(), spec.degree), spec.degree, uniform, spec.extrapolation
    )
    carried, how = carry_coefficients(
        layer.coefficients.detach().double(), layer.grid.double(), target
    )
    return layer.with_grid(breakpoints, carried.to(layer.coefficients.dtype), uniform=uniform), how


def carry_coefficients(
    coefficients: Float[Tensor, "out inputs functions"], old: Grid, new: Grid
) -> tuple[Float[Tensor, "out inputs finer"], str]:
    """Coefficients on `new` of the splines on `old`, and how: `insertion` (exact) or `least squares`; in float64."""
    if contains(new, old):
        return insert_knots(coefficients, old, new), "insertion"
    x = torch.cat([sample_points(new, POINTS_PER_INTERVAL), greville(new).T])
    return fit_coefficients(x, spline_values(x, coefficients, old), new), "least squares"


def _resample(breakpoints: Tensor, intervals: int) -> Tensor:
    """`intervals` intervals with the density of the old ones: linear interpolation of the breakpoints."""
    at = torch.linspace(0, breakpoints.shape[1] - 1, intervals + 1, dtype=breakpoints.dtype)
    below = at.floor().long().clamp(max=breakpoints.shape[1] - 2)
    share = (at - below).to(breakpoints)
    return torch.lerp(breakpoints[:, below], breakpoints[:, below + 1], share)
