"""What a first-order solver remembers, carried to the same network on another grid.

Under refinement coefficients c become A c (knot insertion; least squares where the grids are not nested). Moves between
coefficients go the same way. Gradients are functionals, and A says only what they must do on the old splines:
A^T g_new = g_old. Of the many g_new that do, this takes the one whose L2 representative is the old one's: the spline r
with integral r B_old = g_old for every old basis function gives

    g_new = P g_old,   P = M G^-1,   M = integral B_new B_old^T,   G = integral B_old B_old^T.

For nested grids M = K A with K = integral B_new B_new^T, so A^T P = 1: products of moves and gradients are kept, the
curvatures s . y among them, and a quasi-Newton history stays valid. Second moments are means of squares; with entries
taken as uncorrelated, E[(P g)^2] = (P * P) E[g^2], which is never negative. Parameters without a grid keep what they
have.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor, nn

from kanrun.engine.layers import SplineLayer, carry_coefficients
from kanrun.engine.networks import KAN
from kanrun.engine.splines import Grid, breakpoints_of, design_matrix

#: How each kind of memory is carried; others are kept as they are.
MOVES, GRADIENTS, SQUARES = ("moves",), ("changes", "first"), ("second",)


def carry(memory: dict[str, Tensor], old: nn.Module, new: nn.Module) -> dict[str, Tensor]:
    """`memory` (kind/parameter to values (..., *shape)) of a solver on `old`, for one on `new`.

    As it is for networks without grids; empty where the shapes differ.
    """
    if not memory or not (isinstance(old, KAN) and isinstance(new, KAN)):
        return memory
    if old.shape != new.shape:
        return {}
    carried = dict(memory)
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        name = f"layers.{number}.coefficients"
        kinds = [key for key in memory if key.split("/", 1)[1] == name]
        if kinds and not _same(before.grid, after.grid):
            carried |= _carried({key: memory[key] for key in kinds}, before, after)
    return carried


def gradient_map(old: Grid, new: Grid) -> Float[Tensor, "inputs finer functions"]:
    """P of each input, for grids in float64. Old functions are held constant outside their domain."""
    maps = []
    for i in range(old.knots.shape[0]):
        coarse, fine = old.part(i, i + 1), new.part(i, i + 1)
        x, weights = _quadrature(coarse, fine)
        by_fine = design_matrix(x, fine)[0]
        by_coarse = design_matrix(x.clamp(coarse.low, coarse.high), coarse)[0]
        inner, within = _quadrature(coarse, coarse)
        own = design_matrix(inner, coarse)[0]
        gram = own.T @ (within[:, None] * own)
        maps.append(torch.linalg.solve(gram, by_coarse.T @ (weights[:, None] * by_fine)).T)
    return torch.stack(maps)


def _carried(memory: dict[str, Tensor], before: SplineLayer, after: SplineLayer) -> dict[str, Tensor]:
    old, new = before.grid.double(), after.grid.double()
    pull, found = None, {}
    for key, value in memory.items():
        kind = key.split("/", 1)[0]
        if kind in MOVES:
            flat = carry_coefficients(value.double().reshape(-1, *value.shape[-2:]), old, new)[0]
            found[key] = flat.reshape(*value.shape[:-1], -1).to(value.dtype)
        elif kind in GRADIENTS + SQUARES:
            pull = gradient_map(old, new) if pull is None else pull
            by = pull.square() if kind in SQUARES else pull
            found[key] = (by @ value.double()[..., None])[..., 0].to(value.dtype)
    return found


def _quadrature(old: Grid, new: Grid) -> tuple[Float[Tensor, "points 1"], Float[Tensor, " points"]]:
    """Points and weights that integrate products of the two grids' splines exactly over the new domain (one input)."""
    cuts = torch.cat([breakpoints_of(grid.knots, grid.degree)[0] for grid in (old, new)])
    cuts = cuts.clamp(new.low, new.high).sort().values
    nodes, weights = (cuts.new_tensor(each) for each in leggauss(old.degree + 1))
    half = cuts.diff() / 2
    points = (cuts[:-1] + half)[:, None] + half[:, None] * nodes
    return points.reshape(-1, 1), (half[:, None] * weights).reshape(-1)


def _same(old: Grid, new: Grid) -> bool:
    return old.knots.shape == new.knots.shape and bool((old.knots == new.knots).all())
