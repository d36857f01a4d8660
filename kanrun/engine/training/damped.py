"""Damped linear least squares: min |A d + b|^2 + mu |S d|^2 for many mu, A seen in pieces.

`Triangle` reduces A by QR, piece by piece, keeping digits that normal equations lose (their condition number is the
square). `Normal` forms A^T A, several times cheaper. Both scale columns to unit norm first, which makes the damping
free of units and the systems of pruned or unseen unknowns harmless: an empty column gets no step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class DampedSystem(Protocol):
    """A least squares problem that can be solved for several dampings."""

    scale: Tensor

    def solve(self, mu: float) -> Tensor | None:
        """The step d (unknowns,) for damping `mu`, or None where the system cannot be factorised."""

    def predicted(self, step: Tensor) -> float:
        """|b|^2 - |A step + b|^2, the decrease that the linear model promises."""


Piece = tuple[Float[Tensor, "rows unknowns"], Float[Tensor, " rows"]]


class Triangle:
    """QR of [A b], one piece of rows after the other."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        reduced: Tensor | None = None
        for rows, values in pieces:
            block = torch.cat([rows, values[:, None]], dim=1)
            block = block if reduced is None else torch.cat([reduced, block])
            reduced = torch.linalg.qr(block, mode="r").R
        if reduced is None:
            raise ValueError("a least squares system needs at least one piece")
        self._r, self._b = reduced[:, :-1], reduced[:, -1]
        self.scale = column_scale(self._r.square().sum(0))

    def with_rows(self, rows: Tensor, values: Tensor) -> Triangle:
        """The system with further rows; this one stays as it is."""
        return Triangle([(self._r, self._b), (rows, values)])

    def solve(self, mu: float) -> Tensor | None:
        unknowns = self._r.shape[1]
        damping = torch.diag(self.scale * mu**0.5)
        stacked = torch.cat([self._r, damping])
        values = torch.cat([self._b, self._b.new_zeros(unknowns)])
        r = torch.linalg.qr(torch.cat([stacked, values[:, None]], dim=1), mode="r").R
        step = torch.linalg.solve_triangular(r[:unknowns, :unknowns], -r[:unknowns, -1:], upper=True)[:, 0]
        return step if bool(torch.isfinite(step).all()) else None

    def predicted(self, step: Tensor) -> float:
        return float(-(self._r @ step) @ (self._r @ step + 2 * self._b))


class Normal:
    """A^T A and A^T b, factorised by Cholesky."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._h: Tensor | None = None
        for rows, values in pieces:
            h, g = rows.T @ rows, rows.T @ values
            if self._h is None:
                self._h, self._g = h, g
            else:
                self._h, self._g = self._h.add_(h), self._g.add_(g)
        if self._h is None:
            raise ValueError("a least squares system needs at least one piece")
        self.scale = column_scale(self._h.diagonal())

    def solve(self, mu: float) -> Tensor | None:
        assert self._h is not None
        scaled = self._h / self.scale / self.scale[:, None]
        scaled.diagonal().add_(mu)
        factor, failed = torch.linalg.cholesky_ex(scaled)
        if bool(failed):
            return None
        step = -torch.cholesky_solve((self._g / self.scale)[:, None], factor)[:, 0] / self.scale
        return step if bool(torch.isfinite(step).all()) else None

    def predicted(self, step: Tensor) -> float:
        assert self._h is not None
        return float(-step @ (self._h @ step + 2 * self._g))


def column_scale(squares: Tensor) -> Tensor:
    """Column norms, floored at 1e-8 of the largest so that empty columns are damped rather than singular."""
    norms = squares.clamp(min=0).sqrt()
    largest = norms.amax()
    return norms.clamp(min=float(largest) * 1e-8 if float(largest) > 0 else 1.0)
