"""The record of a march: accepted slabs from the start on, with the errors that they carry.

Errors are mean squares of each unknown in each slab. Only the whole march says how large an unknown
is, so that relative errors of all slabs are taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kanrun.engine.equations.slab import Slab
from kanrun.engine.equations.system import Array

#: Relative size below which an unknown counts as zero.
SMALLEST_SIZE = 1e-12
#: Smallest divisor.
TINY = 1e-300


@dataclass(frozen=True)
class Accepted:
    """Accepted slab with mean squares of each unknown, of shape (unknowns,).

    Attributes:
        slab: The slab.
        errors: Mean squares of the estimated error over the slab.
        last_errors: Those at its end.
        values: Mean squares of the unknowns over the slab.
    """

    slab: Slab
    errors: Array
    last_errors: Array
    values: Array


@dataclass
class March:
    """Slabs of one solution from the start on, and where it ended."""

    tolerance: float
    end: float
    accepted: list[Accepted] = field(default_factory=list)
    steps: int = 0
    #: Largest residual of a slab at unseen places, relative to the sizes and times the slab's
    #: length.
    unseen: float = 0.0
    #: Place of a residual that no slab represents.
    unresolved: list[float] | None = None
    #: Counted work, in approximate CPU seconds.
    counted: float = 0.0
    #: CPU seconds.
    seconds: float = 0.0
    #: Why it ends early.
    stopped: str = ""

    @property
    def slabs(self) -> list[Slab]:
        return [each.slab for each in self.accepted]

    def _mean(self, squares: list[Array]) -> Array:
        """Return the mean over all slabs of squares of each slab, (unknowns,)."""
        lengths = np.array([each.slab.end - each.slab.start for each in self.accepted])
        found: Array = lengths @ np.stack(squares) / lengths.sum()
        return found

    def sizes(self) -> Array:
        """Return the root mean squares of the unknowns over all slabs, (unknowns,)."""
        squares = self._mean([each.values for each in self.accepted])
        found: Array = np.sqrt(np.maximum(squares, SMALLEST_SIZE**2 * squares.max()) + TINY)
        return found

    def errors(self) -> Array:
        """Return the largest estimated relative L2 error of an unknown in each slab, (slabs,)."""
        squares = np.stack([each.errors for each in self.accepted])
        found: Array = (np.sqrt(squares) / self.sizes()).max(axis=1)
        return found

    @property
    def estimate(self) -> float:
        """Estimated relative L2 error, in the whole range or at the end if that is larger."""
        squares = self._mean([each.errors for each in self.accepted])
        last = self.accepted[-1].last_errors
        return float((np.sqrt(np.maximum(squares, last)) / self.sizes()).max())
