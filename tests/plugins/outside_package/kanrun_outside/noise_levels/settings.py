"""The experiment's settings, and its declaration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kanrun.config import MISSING, ExperimentConfig, SamplingConfig, experiment, setting


@experiment(
    "noise-levels",
    "Train on points with more and more noise.",
    module="kanrun_outside.noise_levels",
    examples=("kanrun noise-levels 'levels=[0,0.1]'",),
    groups={"target": "rings", "model": "chebyshev", "solver": "auto"},
)
@dataclass
class NoiseLevelsConfig(ExperimentConfig):
    """Training with noise; `levels` are the cells."""

    target: Any = MISSING
    model: Any = MISSING
    solver: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    levels: list[float] = setting([0.0, 0.1], "noise relative to the standard deviation of the target", minimum=0)
