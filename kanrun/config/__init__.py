"""Settings as dataclasses, the registries of what they configure, and their one check.

A group with several kinds (targets, models, solvers) has one dataclass for each kind. `registry`
shows how a kind is declared, and `rules` how its settings are. Nothing here imports torch.
"""

from __future__ import annotations

from kanrun.config.equations import EquationConfig, SolveConfig
from kanrun.config.experiments import (
    BenchConfig,
    CompareMLPConfig,
    ContinualConfig,
    CurvesConfig,
    ExecutorConfig,
    ExperimentConfig,
    ExtendGridConfig,
    FitConfig,
    InterpretConfig,
)
from kanrun.config.models import (
    AutoConfig,
    BezierConfig,
    BSplineConfig,
    KANConfig,
    MLPConfig,
    PolynomialConfig,
)
from kanrun.config.registry import (
    CANDIDATES,
    EXPERIMENTS,
    GROUPS,
    MODELS,
    SOLVERS,
    TARGETS,
    candidate,
    experiment,
    model,
    solver,
    target,
)
from kanrun.config.rules import MISSING, check, setting
from kanrun.config.solvers import AdamSolver, AutoSolver, LBFGSSolver, LMSolver
from kanrun.config.targets import (
    BundledTarget,
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    NistTarget,
    PointsTarget,
    SamplingConfig,
    SpecialTarget,
    TableTarget,
)
