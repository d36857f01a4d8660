"""The groups: what `kind` may say in each, and the dataclass that it stands for."""

from __future__ import annotations

from kanrun.config.models import BezierConfig, BSplineConfig, KANConfig, MLPConfig, PolynomialConfig
from kanrun.config.solvers import AdamSolver, AutoSolver, LBFGSSolver, LMSolver
from kanrun.config.targets import (
    BundledTarget,
    ExpressionTarget,
    FeynmanTarget,
    GaussianPeaksTarget,
    NamedTarget,
    PointsTarget,
    SpecialTarget,
    TableTarget,
)

GROUPS: dict[str, dict[str, type]] = {
    "target": {
        "named": NamedTarget,
        "gaussian_peaks": GaussianPeaksTarget,
        "expression": ExpressionTarget,
        "special": SpecialTarget,
        "feynman": FeynmanTarget,
        "table": TableTarget,
        "bundled": BundledTarget,
        "points": PointsTarget,
    },
    "model": {
        "kan": KANConfig,
        "mlp": MLPConfig,
        "polynomial": PolynomialConfig,
        "bezier": BezierConfig,
        "bspline": BSplineConfig,
    },
    "solver": {"auto": AutoSolver, "lm": LMSolver, "lbfgs": LBFGSSolver, "adam": AdamSolver},
}
