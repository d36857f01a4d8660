"""B-spline curves in any number of dimensions, on any knots that never decrease.

s(t) = sum_i c_i B_i(t) with n control points c_i, knots t_0 <= ... <= t_{n+k} and degree k; the domain is
[t_k, t_n]. A knot of multiplicity m inside it leaves the curve C^(k - m) there. At a knot the curve takes the piece
to its right (at the domain's end, to its left); `side="left"` takes the other.
Source: C. de Boor, A Practical Guide to Splines, ch. IX-XI.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.splines.basis import local_basis
from kanrun.engine.splines.grid import Grid
from kanrun.errors import UsageError


@dataclass(frozen=True)
class SplineCurve:
    """Control points (n, dims), knots (n + k + 1) and the degree k >= 1.

    Raises UsageError where k < 1, n <= k, the knots are not n + k + 1, decrease, are equal more than k + 1 times, or
    leave the first or last interval of the domain empty.
    """

    control: Tensor
    knots: Tensor
    degree: int

    def __post_init__(self) -> None:
        k, points = self.degree, self.control.shape[0]
        check_degree(k, points)
        if self.knots.shape != (points + k + 1,):
            raise UsageError(
                f"{points} control points of degree {k} need {points + k + 1} knots, not {self.knots.numel()}"
            )
        if bool((self.knots.diff() < 0).any()) or not bool(self.knots.isfinite().all()):
            raise UsageError("Knots must be finite and never decrease")
        if bool((self.knots[k + 1 :] == self.knots[: -k - 1]).any()):
            raise UsageError(f"A knot may be repeated at most {k + 1} times in degree {k}")
        if bool(self.knots[k] == self.knots[k + 1]) or bool(self.knots[points - 1] == self.knots[points]):
            raise UsageError("Knots inside the domain must lie strictly between its ends")

    @property
    def grid(self) -> Grid:
        return Grid(self.knots[None], self.degree)

    @property
    def domain(self) -> tuple[float, float]:
        return float(self.knots[self.degree]), float(self.knots[self.control.shape[0]])

    def spans(self) -> Float[Tensor, "spans 2"]:
        """Both ends of every interval of the domain that is not empty."""
        points = self.knots[self.degree : self.control.shape[0] + 1].unique_consecutive()
        return torch.stack([points[:-1], points[1:]], dim=1)

    def points(
        self, t: Float[Tensor, " samples"], derivative: int = 0, side: Literal["left", "right"] = "right"
    ) -> Float[Tensor, "samples dims"]:
        """The curve, or its `derivative`-th derivative, at t; only the k + 1 control points that count are touched.

        Outside the domain the curve continues linearly.
        """
        if side == "left":
            # Read from the other end the left side is the right one; each derivative changes the sign.
            mirrored = SplineCurve(self.control.flip(0), -self.knots.flip(0), self.degree)
            return mirrored.points(-t, derivative) * (-1.0 if derivative % 2 else 1.0)
        values, interval = local_basis(t[:, None], self.grid, derivative)
        window = interval + torch.arange(self.degree + 1, device=t.device)
        result: Tensor = (values[:, 0, :, None] * self.control[window]).sum(1)
        return result


def check_degree(degree: int, control_points: int) -> None:
    """Raises UsageError for a degree below 1 and for too few control points."""
    if degree < 1:
        raise UsageError(f"A curve's degree must be at least 1, not {degree}")
    if control_points <= degree:
        raise UsageError(
            f"A curve of degree {degree} needs at least {degree + 1} control points, not {control_points}; "
            "take more points or a lower degree"
        )


def clamped_knots(inner: Float[Tensor, " inner"], low: float, high: float, degree: int) -> Float[Tensor, " knots"]:
    """`inner` between k + 1 knots at either end, so that the curve runs from its first control point to its last."""
    first, last = inner.new_full((degree + 1,), low), inner.new_full((degree + 1,), high)
    return torch.cat([first, inner, last])
