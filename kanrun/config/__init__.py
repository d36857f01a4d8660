"""The typed configuration: what Hydra composes is checked against these dataclasses and handed on as them.

A group with several kinds (targets, models, solvers) has one dataclass a kind, told apart by `kind`; fields that
say `Any` take several shapes, and the room that uses them checks which.
"""

from __future__ import annotations

from kanrun.config.commands import (
    BenchConfig,
    CompareMLPConfig,
    ContinualConfig,
    CurvesConfig,
    ExtendGridConfig,
    FitConfig,
    InterpretConfig,
)
from kanrun.config.experiment import ExecutorConfig, ExperimentConfig
from kanrun.config.groups import GROUPS
from kanrun.config.models import BezierConfig, BSplineConfig, KANConfig, MLPConfig, PolynomialConfig
from kanrun.config.solvers import AdamSolver, AutoSolver, LBFGSSolver, LMSolver
from kanrun.config.targets import (
    BundledTarget,
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    PointsTarget,
    SamplingConfig,
    SpecialTarget,
    TableTarget,
)

__all__ = [
    "GROUPS",
    "AdamSolver",
    "AutoSolver",
    "BSplineConfig",
    "BenchConfig",
    "BezierConfig",
    "BundledTarget",
    "CompareMLPConfig",
    "ContinualConfig",
    "CurvesConfig",
    "ExecutorConfig",
    "ExperimentConfig",
    "ExpressionTarget",
    "ExtendGridConfig",
    "FeynmanTarget",
    "FitConfig",
    "GaussianPeaksTarget",
    "InterpretConfig",
    "KANConfig",
    "LBFGSSolver",
    "LMSolver",
    "MLPConfig",
    "NamedTarget",
    "PointsTarget",
    "PolynomialConfig",
    "SamplingConfig",
    "SpecialTarget",
    "TableTarget",
]
