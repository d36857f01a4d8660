"""Record of a solution in slabs of time: the accepted slabs and their accumulated errors.

Errors are stored as mean squares, for each unknown and slab. Relative errors are computed at the
end, when the sizes of the unknowns over all slabs are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kanrun.engine.equations.slab import Slab
from kanrun.engine.equations.space import DEGREE
from kanrun.engine.equations.system import Array

#: Smallest size of an unknown by which its errors are divided, as a fraction of the size of the
#: largest unknown.
SMALLEST_SIZE = 1e-12
#: Smallest divisor; protects against division by zero.
TINY = 1e-300
#: Number of intervals above which no interval is halved.
MAX_INTERVALS = 4000
#: Breakpoints are added if the estimated error of the splines at the end of a slab exceeds this
#: fraction of the local tolerance.
SPLINE_ERROR = 0.02
#: Breakpoints are removed if the estimated error of the splines is below this fraction of
#: `SPLINE_ERROR`.
SUPERFLUOUS = 1e-3
#: Bounds of the ratio of the numbers of intervals of two successive slabs.
INTERVAL_GROWTH = (0.8, 1.5)
#: Bounds of the ratio of the lengths of two successive slabs.
SLAB_GROWTH = (0.2, 2.0)
#: The next slab has this fraction of its predicted length.
SAFETY = 0.9


@dataclass(frozen=True)
class Accepted:
    """Accepted slab with its estimated error.

    Attributes:
        slab: The slab.
        errors: Mean square of each unknown's estimated error over the slab, shape (unknowns,).
        last_errors: Mean square of each unknown's estimated error over space at the end of the
            slab, shape (unknowns,).
        values: Mean square of each unknown over the slab, shape (unknowns,).
        seconds: CPU time in seconds that the slab took, including refused attempts.
    """

    slab: Slab
    errors: Array
    last_errors: Array
    values: Array
    seconds: float


@dataclass
class March:
    """Accepted slabs of one solution, from the start to `end`, with one local tolerance.

    Attributes:
        tolerance: Local tolerance.
        end: Time up to which the system is solved.
        accepted: Accepted slabs in order.
        steps: Number of Gauss-Newton steps, including those of refused slabs.
    """

    tolerance: float
    end: float
    accepted: list[Accepted] = field(default_factory=list)
    steps: int = 0
    #: Largest `Unseen.size` among the slabs accepted so far.
    unseen: float = 0.0
    #: Point of a feature that no slab resolves, or None.
    unresolved: list[float] | None = None
    #: Estimated CPU seconds so far, from the number of operations.
    counted: float = 0.0
    #: Why the solution ends before the end of the range; empty if it does not.
    stopped: str = ""

    @property
    def slabs(self) -> list[Slab]:
        return [each.slab for each in self.accepted]

    def _mean(self, squares: list[Array]) -> Array:
        """Return the mean of `squares` (one array per slab), weighted by the slabs' lengths."""
        lengths = np.array([each.slab.end - each.slab.start for each in self.accepted])
        found: Array = lengths @ np.stack(squares) / lengths.sum()
        return found

    def sizes(self) -> Array:
        """Return the root mean square of each unknown over all slabs, shape (unknowns,)."""
        squares = self._mean([each.values for each in self.accepted])
        found: Array = np.sqrt(np.maximum(squares, SMALLEST_SIZE**2 * squares.max()) + TINY)
        return found

    def errors(self) -> Array:
        """Return the estimated relative L2 error in each slab, shape (slabs,).

        If there are several unknowns, the error in a slab is that of the worst unknown.
        """
        squares = np.stack([each.errors for each in self.accepted])
        found: Array = (np.sqrt(squares) / self.sizes()).max(axis=1)
        return found

    @property
    def estimate(self) -> float:
        """Estimated relative L2 error of the worst unknown.

        It is the error over all slabs or the error at the end of the last slab, whichever is
        larger.
        """
        squares = self._mean([each.errors for each in self.accepted])
        last = self.accepted[-1].last_errors
        return float((np.sqrt(np.maximum(squares, last)) / self.sizes()).max())


def next_length(length: float, last: float) -> float:
    """Return the length of the next slab.

    Args:
        length: Length of this slab.
        last: Size of its term of the highest degree in time, divided by the local tolerance.
    """
    return length * float(np.clip(SAFETY * max(last, TINY) ** (-1 / DEGREE), *SLAB_GROWTH))


def next_intervals(intervals: int, fewest: int, error: float) -> int | None:
    """Return the number of intervals of the next slab, or None to keep the breakpoints.

    Args:
        intervals: Number of intervals of this slab.
        fewest: Smallest allowed number of intervals.
        error: Estimated error of the splines, divided by the local tolerance.
    """
    relative = error / SPLINE_ERROR
    if relative <= 1 and not (relative < SUPERFLUOUS and intervals > fewest):
        return None
    factor = float(np.clip((4 * relative) ** (1 / (DEGREE + 1)), *INTERVAL_GROWTH))
    return int(np.clip(int(factor * intervals) + 1, fewest, MAX_INTERVALS))
