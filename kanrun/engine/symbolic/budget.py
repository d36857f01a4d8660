"""A clock that runs by the refits of a thread: a search ends at the same structure on an idle and on a busy machine.

Refits take nearly all of a search's time; what their parts cost was measured on graphs of 1 to 900 parameters. As with
`time.thread_time`, only differences mean anything.
"""

from __future__ import annotations

import threading
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


#: Units of a Jacobian, for itself, for an edge and for an entry; and of a step that is tried, for itself, for an entry
#: and for one of the products that solve it.
_JACOBIAN, _EDGE, _ENTRY = 3.4e-5, 3.4e-5, 1.1e-8
_TRIAL, _TRIAL_ENTRY, _PRODUCT = 4.5e-5, 1.25e-8, 8e-12

_thread = threading.local()


def work_done() -> float:
    """The work of this thread so far; a unit is about a second of one core."""
    return getattr(_thread, "done", 0.0)


def count_refit(edges: int, parameters: int, points: int, jacobians: int, trials: int) -> None:
    """Move this thread's clock on by a refit of so many parameters to so many points."""
    entries = points * parameters
    one = _JACOBIAN + _EDGE * edges + _ENTRY * entries
    trial = _TRIAL + entries * (_TRIAL_ENTRY + _PRODUCT * parameters)
    _thread.done = work_done() + jacobians * one + trials * trial
