"""Allowances of work that is paid for in advance: what is begun depends on them, and not on how busy the machine is.

A refit costs what it would if it took all of its steps: at most, a unit is about a second of one core.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanrun.engine.symbolic.graph import Graph

#: Units of a step for itself, for an edge, for an entry of the Jacobian, and for one of the products that solve it.
_STEP, _EDGE, _ENTRY, _PRODUCT = 1e-3, 6e-4, 1.5e-8, 1e-10


@dataclass
class Effort:
    """What is `left` of an allowance."""

    left: float

    def spend(self, units: float) -> None:
        self.left -= units

    @property
    def over(self) -> bool:
        return self.left <= 0


def refit_effort(graph: Graph, points: int, steps: int) -> float:
    """Units that `steps` of a refit of `graph` to `points` take."""
    width = graph.parameters.size
    return steps * (_STEP + _EDGE * len(graph.edges) + points * width * (_ENTRY + _PRODUCT * width))
