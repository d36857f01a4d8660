"""What is to be learned, one dataclass a kind of target, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kanrun.config.required import MISSING


@dataclass
class NamedTarget:
    """A function that kanrun knows by name; `domain` (a list of [lower, upper]) overrides its own."""

    name: str = MISSING
    domain: Any = None
    kind: str = "named"


@dataclass
class GaussianPeaksTarget:
    """Sum of exp(-sharpness |x - c|^2) over the centres c, on [-1, 1]^dimension."""

    centres: list[float] = field(default_factory=lambda: [-0.8, -0.4, 0.0, 0.4, 0.8])
    sharpness: float = 300.0
    dimension: int = 1
    domain: Any = None
    kind: str = "gaussian_peaks"


@dataclass
class ExpressionTarget:
    """A formula in x0, x1, ...; `domain` has one [lower, upper] a variable (default [-1, 1] each)."""

    formula: str = MISSING
    domain: Any = None
    kind: str = "expression"


@dataclass
class SpecialTarget:
    """A function of scipy.special in two variables."""

    name: str = MISSING
    domain: Any = None
    kind: str = "special"


@dataclass
class FeynmanTarget:
    """One of the 27 dimensionless Feynman formulas by its equation id, such as I.6.2."""

    id: str = MISSING
    domain: Any = None
    kind: str = "feynman"


@dataclass
class TableTarget:
    """Columns of a CSV, TSV (compressed too) or Parquet file."""

    path: str = MISSING
    inputs: list[str] = MISSING
    outputs: list[str] = MISSING
    task: str = "regression"  # or classification
    kind: str = "table"


@dataclass
class BundledTarget:
    """A table that scikit-learn brings, by its name."""

    name: str = MISSING
    kind: str = "bundled"


@dataclass
class PointsTarget:
    """Points of the plane in the order of a curve, from two columns of a file; without a path, kanrun's own."""

    path: str | None = None
    columns: list[str] | None = None  # null: x and y where they exist, else the first two that hold numbers
    parameter: str | None = None  # column of increasing parameters; null: from the distances (see `spacing`)
    kind: str = "points"


@dataclass
class SamplingConfig:
    """How many points; for tables `null` means a seeded split of all rows."""

    train: int | None = 1000
    test: int | None = 1000
    noise: float = 0.0  # standard deviation relative to the target's
    validation: float = 0.1  # share of the training points that selections may look at
