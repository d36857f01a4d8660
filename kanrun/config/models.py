"""The models, one dataclass a kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class KANConfig:
    hidden: list[int] | None = field(default_factory=lambda: [5])  # null: `kanrun interpret` searches the shape
    intervals: Any = field(default_factory=lambda: [5, 10, 20, 50])  # one number, a schedule, or auto
    degree: int = 3
    base: str = "silu"
    scale: str = "separate"  # w_b and w_s; `single`: the one w of phi = w (b + spline)
    outside: str = "linear"  # or constant, zero: what a spline does beyond its grid
    initialisation: str = "auto"  # or paper, lecun, glorot, power_law, spline
    adapt: float = 0.0  # share of quantile spacing in a grid drawn from data; 0 is uniform
    update_grid: bool = True  # hidden grids follow the range of what reaches them
    frozen_scales: bool = False  # w_b and w_s stay where they start
    kind: str = "kan"


@dataclass
class MLPConfig:
    hidden: list[int] = field(default_factory=lambda: [16, 16])  # fewer numbers than the default has points
    activation: str = "silu"
    kind: str = "mlp"


@dataclass
class PolynomialConfig:
    degree: int = 10
    kind: str = "polynomial"


@dataclass
class BezierConfig:
    control_points: int = 8
    kind: str = "bezier"


@dataclass
class BSplineConfig:
    control_points: int = 12
    degree: int = 3
    kind: str = "bspline"
