"""What a search for a formula is told and what it tells: settings, a step for every stage, the outcome of a
structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kanrun.engine.symbolic.candidates import Array
from kanrun.engine.symbolic.description import EXACT, length_of
from kanrun.engine.symbolic.graph import Graph
from kanrun.engine.symbolic.matching import Match
from kanrun.engine.symbolic.numeric import NumericSettings
from kanrun.engine.symbolic.samples import Samples
from kanrun.engine.symbolic.selection import Selected, SelectionSettings

#: How many times as wrong as its network a structure without a formula is taken to be.
_UNREAD = 100.0


@dataclass(frozen=True)
class SearchSettings:
    """`worth`: relative error below which a structure is snapped; `budget`: the work (about seconds of one core) after
    which no new structure is begun; `further`: the effort of the longer looks at all structures together."""

    worth: float = 0.05
    exact: float = 1e-9
    budget: float = 40.0
    further: float = 20.0
    degree: int = 3
    numeric: NumericSettings = field(default_factory=NumericSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    surrogate: tuple[int, int] = (5, 8)
    module: float = 0.12


@dataclass(frozen=True)
class Step:
    """One stage of one structure; `error` is relative to the spread, on validation data.

    Stages are `train`, `prune`, `retrain`, `snap` (candidates in place, constants as matched), `refit`, then of the
    structure that was chosen `mix` (where edges stay numeric), `round` and `verify`. `values` is the stage's model
    where that is not `graph`.
    """

    stage: str
    name: str
    graph: Graph
    error: float
    seconds: float
    values: Callable[[Array], Array] | None = None

    @property
    def model(self) -> Callable[[Array], Array]:
        return self.values or self.graph


@dataclass(frozen=True)
class Tried:
    """A structure's pruned and retrained network and, where there is one, its formula."""

    name: str
    network_error: float
    selected: Selected

    @property
    def network(self) -> Graph:
        return self.selected.network

    @property
    def formula(self) -> Graph | None:
        return self.selected.graph

    @property
    def formula_error(self) -> float:
        return self.selected.error

    @property
    def matches(self) -> dict[int, list[Match]]:
        return self.selected.matches

    def is_exact(self, exact: float) -> bool:
        return self.formula is not None and self.formula_error <= exact


def choose_formula(tried: Sequence[Tried], samples: Samples, settings: SearchSettings) -> Tried | None:
    """The exact one of least complexity, else the formula of the shortest description; None if nothing trained.

    A network without a formula counts as one that is `_UNREAD` times as wrong.
    """
    exact = [each for each in tried if each.is_exact(max(settings.exact, EXACT))]
    if exact:
        return min(exact, key=lambda each: each.formula.complexity if each.formula else np.inf)

    def length(each: Tried) -> float:
        return each.selected.length if each.formula else length_of(_UNREAD * each.network_error, 0.0, samples)

    return min(tried, key=length, default=None)
