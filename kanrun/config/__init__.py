"""Settings as dataclasses, the registries of what they configure, and their one check.

A group with several kinds (targets, models, solvers) has one dataclass for each kind. `registry`
shows how a kind is declared, and `rules` how its settings are. Nothing here imports torch.
"""

from __future__ import annotations

from kanrun.config.comparisons import (
    BenchConfig,
    CompareMLPConfig,
    ContinualConfig,
    ExtendGridConfig,
)
from kanrun.config.experiments import (
    CurvesConfig,
    ExecutorConfig,
    ExperimentConfig,
    FitConfig,
    ImportConfig,
    InterpretConfig,
    SolveConfig,
)
from kanrun.config.models import (
    AdamSolver,
    AutoConfig,
    AutoSolver,
    BezierConfig,
    BSplineConfig,
    KANConfig,
    LBFGSSolver,
    LMSolver,
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
from kanrun.config.targets import (
    AnsatzConfig,
    BundledTarget,
    EquationConfig,
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
