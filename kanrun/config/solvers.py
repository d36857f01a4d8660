"""The solvers, one dataclass a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class AutoSolver:
    """Picks by the numbers of parameters and data, and says which."""

    steps: int | None = None  # per grid; null is the chosen solver's default
    starts: int | None = None
    narrow: bool = True  # lm: validation may also choose fewer hidden nodes; the others are pruned
    penalty: Any = "auto"  # weight of the smoothness penalty; auto is the chosen solver's
    local: bool = False  # never move coefficients whose basis functions saw no data
    kind: str = "auto"


@dataclass
class LMSolver:
    """Levenberg-Marquardt."""

    steps: int | None = None
    starts: int | None = None  # at the coarse grid; the best goes on
    narrow: bool = True  # validation may also choose fewer hidden nodes; the others are pruned
    penalty: Any = "auto"  # weight of the smoothness penalty, or `auto`: chosen on validation data
    local: bool = False
    kind: str = "lm"


@dataclass
class LBFGSSolver:
    steps: int | None = None
    starts: int | None = None
    history: int = 30
    penalty: Any = "auto"  # weight of the smoothness penalty; auto is a small one, and 1e-3 for classification
    sparsity: float = 0.0  # weight of the KAN paper's penalty, L1 norm and entropy of the edges' magnitudes
    magnitude: str = "rms"  # of an edge there: its root mean square, or mean_abs as in the paper
    local: bool = False
    patience: int | None = None  # steps without a better validation error until a grid is left
    kind: str = "lbfgs"


@dataclass
class AdamSolver:
    steps: int | None = None
    starts: int | None = None
    learning_rate: float = 1e-2
    schedule: str = "cosine"  # or constant
    batch: int | None = None  # null is all points at once
    weight_decay: float = 0.0
    sparsity: float = 0.0  # as for lbfgs
    magnitude: str = "rms"
    penalty: Any = "auto"  # weight of the smoothness penalty; auto is 0, and 1e-3 for classification
    local: bool = False
    patience: int | None = None  # steps without a better validation error until a grid is left
    kind: str = "adam"
