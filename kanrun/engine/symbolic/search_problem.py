"""What a search for a formula is told and what it tells: settings, a step for every stage, the outcome of a
structure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SelectionSettings:
    """`assignments` whole ones are tried, then a beam of `width` with `branches` candidates an edge, each with at most
    `effort`."""

    assignments: int = 24
    width: int = 3
    branches: int = 3
    per_edge: int = 5
    effort: float = 12.0
    penalty: float = 1e-16


@dataclass(frozen=True)
class NumericSettings:
    """`starts` at most at the coarse grid (fewer once one is `good`, relative to the spread of y); then `grids`."""

    starts: int = 6
    good: float = 1e-2
    grids: tuple[int, ...] = (5, 10, 20)
    steps: int = 25
    coarse_penalty: float = 1e-8
    penalty: float = 1e-16
    hopeless: float = 0.3  # a coarse fit no better than this is not refined, unless that is a linear problem
    unresolved: float = 3e-3  # above this, grids go on doubling after the last one while that halves the error
    finest: int = 160


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
