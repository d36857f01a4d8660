"""What Levenberg-Marquardt asks of a problem: an objective that is a sum of squares, and its linearisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from kanrun.engine.least_squares.rows import Rows


@dataclass(frozen=True)
class Linearisation:
    """|r + J d|^2 as a function of the step d from one point.

    A single problem has `rows` (J) and `residual` (r); a batch has `gram` = J^T J and `gradient` = J^T r instead, which
    are otherwise derived from the rows. `held` marks unknowns that must not move.
    """

    gradient: Float[Tensor, "... unknowns"]
    gram: Float[Tensor, "... unknowns unknowns"] | None = None
    rows: Rows | None = None
    residual: Float[Tensor, " rows"] | None = None
    held: Bool[Tensor, " unknowns"] | None = None

    @classmethod
    def of(cls, rows: Rows, residual: Tensor, held: Tensor | None = None) -> Linearisation:
        """The linearisation with these rows."""
        return cls(rows.transposed(residual), None, rows, residual, held)

    def squares(self) -> Tensor:
        """Squared norms of J's columns (..., unknowns)."""
        if self.gram is not None:
            return self.gram.diagonal(dim1=-2, dim2=-1)
        assert self.rows is not None  # an invariant: a linearisation has rows or their Gram matrix
        return self.rows.squares()


class Problem(ABC):
    """A nonlinear least squares problem, or a batch of independent ones with equally many unknowns.

    F(u) = |r(u)|^2, where `...` is () for one problem and (problems,) for a batch. Everything that is to be made small
    is a residual: data, a penalty D u (rows of a constant matrix), a differential equation at collocation points. For
    the equation u'' = f on a spline u(x) = sum_j c_j B_j(x), for instance, the unknowns are c, the residuals
    B''(x_n) c - f(x_n) and the boundary values, and the rows B''(x_n); for one that is not linear in u, N(u, u', u''),
    the rows are the partial derivatives of N times B, B', B''. Nothing in the solver changes:

        class Equation(Problem):
            def residual(self, u): ...                                # (rows,)
            def linearise(self, u): return Linearisation.of(DenseRows(self.jacobian(u)), self.residual(u))
    """

    #: Where the iteration starts.
    unknowns: Float[Tensor, "... unknowns"]
    #: Whether columns of J can fade, as those of a unit that saturates: it must not get huge steps for that.
    fading: bool = False

    @abstractmethod
    def linearise(self, unknowns: Float[Tensor, "... unknowns"]) -> Linearisation:
        """The linearisation at `unknowns`."""

    def residual(self, unknowns: Float[Tensor, " unknowns"]) -> Float[Tensor, " rows"]:
        """r(u), in the order of the rows; asked of single problems by thorough steps and by `objective`."""
        raise NotImplementedError(f"{type(self).__name__} has no residuals of its own.")

    def objective(self, unknowns: Float[Tensor, "... unknowns"]) -> list[float]:
        """F(u) of each problem; values that are not finite count as infinite."""
        return [float(self.residual(unknowns).square().sum())]

    def part(self, at: list[int]) -> Problem:
        """The problems of a batch at the indices `at`."""
        raise NotImplementedError(f"{type(self).__name__} is a single problem.")
