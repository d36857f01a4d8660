"""Settings of the solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import solver
from kanrun.config.rules import setting

_STEPS = "steps on each grid; null is the solver's own rule"
_STARTS = "random starts on the coarse grid, the best of which continues; null: chosen by size"
_SELECT_WIDTH = "whether validation may also choose fewer hidden nodes and prune the others"
_PENALTY = "weight of the smoothness penalty, or auto"
_FREEZE_UNSEEN = "whether coefficients whose basis functions saw no data stay as they are"
_SPARSITY = "weight of the KAN paper's penalty, L1 norm and entropy of the edges' magnitudes"
_MAGNITUDE = "magnitude of an edge there: its root mean square, or the mean |phi| of the paper"
_PATIENCE = "steps without a better validation error until a grid is left"
_MAGNITUDES = ("rms", "mean_abs")
_AUTO: dict[str, Any] = {"minimum": 0, "words": ("auto",)}


@solver("", second_order=True)
@dataclass
class AutoSolver:
    """Chosen by the numbers of parameters and data; the run says which and why."""

    steps: int | None = setting(None, _STEPS, minimum=1)
    n_starts: int | None = setting(None, _STARTS, minimum=1)
    select_width: bool = setting(True, _SELECT_WIDTH)
    smoothness_weight: Any = setting("auto", f"{_PENALTY}: that of the chosen solver", **_AUTO)
    freeze_unseen: bool = setting(False, _FREEZE_UNSEEN)
    kind: str = "auto"


@solver(
    "kanrun.engine.training.solvers:create_lm",
    steps=300,
    label="Levenberg-Marquardt",
    second_order=True,
)
@dataclass
class LMSolver:
    """Levenberg-Marquardt in float64."""

    steps: int | None = setting(None, _STEPS, minimum=1)
    damping: float | None = setting(
        None,
        "damping of the first step on a grid, relative to columns of unit norm; null: chosen by"
        " size",
        above=0,
    )
    tolerance: float = setting(
        1e-3, "a grid is left after a step that lowers the loss by a smaller share", minimum=0
    )
    plateau_tolerance: float = setting(
        0.02,
        "a grid is left after two steps in a row that each lower the loss by a smaller share",
        minimum=0,
    )
    n_starts: int | None = setting(None, _STARTS, minimum=1)
    select_width: bool = setting(True, _SELECT_WIDTH)
    smoothness_weight: Any = setting("auto", f"{_PENALTY}: chosen on validation data", **_AUTO)
    freeze_unseen: bool = setting(False, _FREEZE_UNSEEN)
    kind: str = "lm"


@solver("kanrun.engine.training.lbfgs:LBFGS", label="LBFGS", curvature=True)
@dataclass
class LBFGSSolver:
    """LBFGS with a line search."""

    steps: int | None = setting(None, _STEPS, minimum=1)
    n_starts: int | None = setting(None, _STARTS, minimum=1)
    history_size: int = setting(30, "past steps that the metric is built from", minimum=1)
    smoothness_weight: Any = setting(
        "auto", f"{_PENALTY}: a small one, and 1e-3 for classification", **_AUTO
    )
    sparsity: float = setting(0.0, _SPARSITY, minimum=0)
    sparsity_norm: str = setting("rms", _MAGNITUDE, choices=_MAGNITUDES)
    freeze_unseen: bool = setting(False, _FREEZE_UNSEEN)
    patience: int | None = setting(None, _PATIENCE, minimum=1)
    kind: str = "lbfgs"


@solver("kanrun.engine.training.solvers:Adam", steps=1000, label="Adam")
@dataclass
class AdamSolver:
    """Adam, in batches where solver.batch_size is given."""

    steps: int | None = setting(None, _STEPS, minimum=1)
    n_starts: int | None = setting(None, _STARTS, minimum=1)
    learning_rate: float = setting(1e-2, "step size at the beginning", above=0)
    lr_schedule: str = setting("cosine", "how the step size falls", choices=("cosine", "constant"))
    batch_size: int | None = setting(None, "samples of one step; null is all of them", minimum=1)
    weight_decay: float = setting(0.0, "decay of all parameters in each step", minimum=0)
    sparsity: float = setting(0.0, _SPARSITY, minimum=0)
    sparsity_norm: str = setting("rms", _MAGNITUDE, choices=_MAGNITUDES)
    smoothness_weight: Any = setting("auto", f"{_PENALTY}: 0, and 1e-3 for classification", **_AUTO)
    freeze_unseen: bool = setting(False, _FREEZE_UNSEEN)
    patience: int | None = setting(None, _PATIENCE, minimum=1)
    kind: str = "adam"
