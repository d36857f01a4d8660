"""What a formula costs on data: its description length, by which formulas of different sizes are compared.

N log(error) + log(N) / 2 for every free constant (Schwarz, Annals of Statistics 6, 1978, 461) and for every unit of
complexity, in nats, over all N points. Where errors are noise, a constant more has to earn its keep; where they are
not, N log(error) outweighs everything else, down to EXACT, below which only size counts.
"""

from __future__ import annotations

import numpy as np

from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.samples import Samples

#: Relative error at which a formula is taken as exact: nothing can be better.
EXACT = 1e-11


def description_length(graph: Graph, samples: Samples) -> float:
    """Nats, up to a constant of the data; inf where the graph is not finite on them."""
    error = samples.overall_error(graph)
    return length_of(error, graph.parameters.size + graph.complexity, samples) if np.isfinite(error) else np.inf


def length_of(error: float, size: float, samples: Samples) -> float:
    """Nats for a relative `error` over all points with `size` constants and units of complexity."""
    count = samples.y.size + samples.validation_y.size
    return count * float(np.log(max(error, EXACT))) + 0.5 * float(np.log(count)) * size
