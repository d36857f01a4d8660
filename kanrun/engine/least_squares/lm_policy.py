"""The constants of Levenberg-Marquardt and of its stopping rule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LMPolicy:
    """How steps of Levenberg-Marquardt are damped, refined and accepted.

    Dampings are relative to columns of unit norm, so they have no units; objectives are sums of squares that the
    problem has scaled to about 1 at a fit that explains nothing. An empty `refine_marks` switches the refinement off,
    `geodesic=False` the acceleration, `thorough=False` all of the thorough step.
    """

    damping: float = 1e-3  #: of the first step; positive
    smallest: float = 1e-13  #: bounds of the damping, from 0 on
    largest: float = 1e6

    # Quick steps: one damping after the other, each solved once.
    thorough: bool = True  #: whether steps are thorough: the damping is searched on one linearisation
    tries: int = 40  #: dampings tried by a quick step; at least 1
    raised: float = 8.0  #: factor after a rejected step; above 1
    #: Gain ratio (decrease / decrease of the linear model) from which on the damping is divided, and by how much; the
    #: first that applies (Marquardt 1963; Nielsen 1999).
    lowered: tuple[tuple[float, float], ...] = ((0.75, 10.0), (0.25, 4.0))
    #: Where a problem's columns can fade, scale by their largest norms so far (More 1978, section 6), not the present.
    largest_columns: bool = True

    # Thorough steps.
    down: int = 3  #: smaller dampings tried while they help, each a tenth; at least 1
    up: int = 6  #: larger dampings tried until one helps, three times tenfold, then hundredfold
    worth: float = 0.1  #: share of what is left, or of what the step gains, that a smaller damping must gain
    geodesic: bool = True  #: bend steps by geodesic acceleration (Transtrum and Sethna, arXiv 1201.5885)
    probe: float = 0.1  #: share of the step at which its second directional derivative is measured; in (0, 1]
    #: Objectives after the straight step, relative to those before it, between which bending is tried.
    bend_between: tuple[float, float] = (1e-3, 4.0)

    # Refinement: conjugate gradients on the undamped problem win back the digits that normal equations lose.
    refine_marks: tuple[int, ...] = (
        1,
        3,
        10,
        30,
    )  #: iterations whose iterate is tried; a quick step takes the last
    refine_damping: float = 1e-6  #: largest damping whose step is refined
    refine_objective: float = 1e-10  #: objective below which steps are refined
    refined_enough: float = 1e-24  #: share of the squared gradient at which the refinement ends

    # Problems too large for a matrix of the normal equations.
    matrix_unknowns: int = 6000  #: most unknowns with a matrix
    iterations: int = 60  #: of conjugate gradients without one
    close: float = 1e-8  #: relative residual at which they end


@dataclass(frozen=True)
class Stopping:
    """When `minimise` ends: after `steps`; at an objective of at most `floor`; or after `patience` steps in a row that
    each lower the objective by less than the share `gain`."""

    steps: int = 100
    floor: float = 0.0
    gain: float = 1e-4
    patience: int = 3
