"""How much was forgotten, from the matrix R[i, j]: the error on phase j's data after phase i.

The measures are published for accuracies; for errors their signs turn. With T phases, counted from 1:

- average error: mean over j of R[T, j] (average accuracy, Lopez-Paz and Ranzato, arXiv 1706.08840, eq. 2);
- forgetting of phase j: R[T, j] - min of R[i, j] over i = 1 .. T, so never negative (Chaudhry et al., arXiv 1801.10112,
  eq. 3, leaves out i = T);
- backward transfer: mean over j < T of R[j, j] - R[T, j] (arXiv 1706.08840, eq. 3): negative is forgetting.

The lowest error of a phase may be one from before it was learned, where earlier phases spoiled what it started from;
R[T, j] - R[j, j] is what was lost since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray


@dataclass(frozen=True)
class Forgetting:
    """`forgetting` is the mean over the phases before the last, `worst_forgetting` the largest of them."""

    average_error: float
    forgetting: float
    worst_forgetting: float
    worst_since_learned: float  # the largest R[T, j] - R[j, j]
    backward_transfer: float
    learned: float  # mean of R[j, j]: how well each phase was learned when it was there


def measure_forgetting(matrix: Float[NDArray[np.float64], "phases phases"]) -> Forgetting:
    """All measures of one matrix; a single phase has nothing to forget."""
    last, own = matrix[-1], matrix.diagonal()
    before = slice(0, max(len(matrix) - 1, 0))
    lost = (last - matrix.min(axis=0))[before]
    back = (own - last)[before]
    return Forgetting(
        average_error=float(last.mean()),
        forgetting=float(lost.mean()) if lost.size else 0.0,
        worst_forgetting=float(lost.max()) if lost.size else 0.0,
        worst_since_learned=float((last - own)[before].max()) if back.size else 0.0,
        backward_transfer=float(back.mean()) if back.size else 0.0,
        learned=float(own.mean()),
    )
