"""Exact change of knots: the same function on a grid that contains the old breakpoints.

New coefficients are those between clamped ends first, then those of the extended knots. On clamped knots each is a mean
of k + 1 old ones, with weights that are never negative (the Oslo algorithm), so no rounding grows however unequal the
intervals are. Knots beyond the ends need values there, and only those steps extrapolate: each by as many end intervals
as it reaches out.
Sources: E. Cohen, T. Lyche and R. Riesenfeld, Discrete B-splines (1980), for the weights; L. Ramshaw, Blossoms are
polar forms (1989), for the ends.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.knots import Grid, breakpoints_of, find_interval
from kanrun.engine.splines.local_basis import near_knots, widen


def contains(fine: Grid, coarse: Grid) -> bool:
    """True where every breakpoint of `coarse` is one of `fine`, over the same domain (to 8 roundings)."""
    old = breakpoints_of(coarse.knots, coarse.degree)
    new = breakpoints_of(fine.knots, fine.degree)
    if fine.degree != coarse.degree or new.shape[1] < old.shape[1]:
        return False
    position = torch.searchsorted(new.contiguous(), old.contiguous()).clamp(max=new.shape[1] - 1)
    below = (position - 1).clamp(min=0)
    miss = torch.minimum((new.gather(1, position) - old).abs(), (new.gather(1, below) - old).abs())
    size = torch.maximum(old.abs().amax(1), old[:, -1] - old[:, 0])
    tolerance = 8 * torch.finfo(old.dtype).eps * size[:, None]
    ends = torch.stack([new[:, 0] - old[:, 0], new[:, -1] - old[:, -1]], dim=1).abs()
    return bool((miss <= tolerance).all() and (ends <= tolerance).all())


def insert_knots(
    coefficients: Float[Tensor, "out inputs functions"], coarse: Grid, fine: Grid
) -> Float[Tensor, "out inputs finer"]:
    """Coefficients on `fine` of the same splines on the domain; `fine` must contain `coarse`.

    Exact but for rounding, about 1e-15 of the splines' size on the domain, whatever the spacings. The slope at an end,
    and so a linear continuation, is rounded by as much over the width of the end interval.
    """
    k = coarse.degree
    if k == 0:
        return _carry_steps(coefficients, coarse, fine)
    points = _onto(breakpoints_of(fine.knots, k), breakpoints_of(coarse.knots, k))
    knots = torch.cat([points[:, :1].expand(-1, k), points, points[:, -1:].expand(-1, k)], 1)
    piece, weights = _weights(coarse, knots)
    clamped = coefficients.new_zeros(*coefficients.shape[:2], fine.functions)
    for p in range(k + 1):
        clamped += weights[p] * coefficients.gather(
            2, (piece + p).expand(coefficients.shape[0], -1, -1)
        )
    # The right end is the left one of the mirrored spline.
    left = _let_out(clamped, knots, fine.knots, k)
    knots = torch.cat([fine.knots[:, :k], knots[:, k:]], 1)
    return _let_out(left.flip(2), -knots.flip(1), -fine.knots.flip(1), k).flip(2)


def _onto(fine: Tensor, coarse: Tensor) -> Tensor:
    """`fine` breakpoints, those nearest to `coarse` ones made these: rounding must not put one on the other side."""
    right = torch.searchsorted(fine.contiguous(), coarse.contiguous()).clamp(1, fine.shape[1] - 1)
    left_nearer = coarse - fine.gather(1, right - 1) < fine.gather(1, right) - coarse
    return fine.scatter(1, right - left_nearer.long(), coarse)


def _weights(coarse: Grid, knots: Tensor) -> tuple[Tensor, Tensor]:
    """For each function of the clamped `knots`: the first of the k + 1 old ones it is a mean of, and their weights.

    (inputs, finer) and (k + 1, inputs, finer): the recurrence of the basis with another argument at each degree, the
    knots inside the function's support in their order.
    """
    k = coarse.degree
    count = knots.shape[1] - k - 1
    at = torch.arange(count, device=knots.device).clamp(
        min=k
    )  # where the support begins inside the domain
    piece = find_interval(((knots[:, at] + knots[:, at + 1]) / 2).T, coarse).T
    near = near_knots(piece.T, coarse).mT
    weights = torch.ones_like(knots[None, :, :count])
    for d in range(1, k + 1):
        argument, upper, lower = knots[:, d : d + count], near[k : k + d], near[k - d : k]
        share = weights / (upper - lower)
        weights = widen((upper - argument) * share, (argument - lower) * share)
    return piece, weights


def _let_out(coefficients: Tensor, clamped: Tensor, knots: Tensor, degree: int) -> Tensor:
    """`coefficients` on `clamped` knots as those on `knots`, which differ in the first `degree` alone.

    One knot after the other leaves the end: with F the polar form, F(t, ...) = (1 - s) F(low, ...) + s F(b, ...) where
    t = (1 - s) low + s b, and b is the farthest knot that the two coefficients do not share.
    """
    result, low = coefficients.clone(), clamped[:, :1]
    for out in range(1, degree):
        moved = degree - out
        beyond = clamped[:, degree + 1 : degree + 1 + moved]
        share = (knots[:, moved : moved + 1] - low) / (beyond - low)
        result[..., :moved] = (1 - share) * result[..., :moved] + share * result[..., 1 : moved + 1]
    return result


def _carry_steps(coefficients: Tensor, coarse: Grid, fine: Grid) -> Tensor:
    points = breakpoints_of(fine.knots, 0)
    piece = find_interval(((points[:, :-1] + points[:, 1:]) / 2).T, coarse).T
    return coefficients.gather(2, piece.expand(coefficients.shape[0], -1, -1))
