"""The groups: what `kind` may say in each, and the dataclass that it stands for."""

from __future__ import annotations

from kanrun.config.models import BezierConfig, BSplineConfig, KANConfig, MLPConfig, PolynomialConfig
from kanrun.config.solvers import AdamSolver, AutoSolver, LBFGSSolver, LMSolver
from kanrun.config.targets import (
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    PointsTarget,
    SpecialTarget,
    TableTarget,
)

GROUPS: dict[str, tuple[type, ...]] = {
    "target": (
        NamedTarget,
        GaussianPeaksTarget,
        ExpressionTarget,
        SpecialTarget,
        FeynmanTarget,
        TableTarget,
        PointsTarget,
    ),
    "model": (KANConfig, MLPConfig, PolynomialConfig, BezierConfig, BSplineConfig),
    "solver": (AutoSolver, LMSolver, LBFGSSolver, AdamSolver),
}
