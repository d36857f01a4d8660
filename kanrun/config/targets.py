"""Settings of the kinds of targets, and of sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import target
from kanrun.config.rules import MISSING, setting

_UNITS = "units of inputs and output by name, such as {x0: m/s, y: J}, for kanrun interpret"
_DOMAIN = "one [lower, upper] for each variable, or one for all"


@target("kanrun.targets.functions:build_named")
@dataclass
class NamedTarget:
    """A function, or points, that kanrun knows by name."""

    name: str = setting(MISSING, "name of the function or points")
    domain: Any = setting(None, f"{_DOMAIN}; null is its own", free_text=True)
    kind: str = "named"


@target("kanrun.targets.functions:build_peaks")
@dataclass
class GaussianPeaksTarget:
    """Sum of exp(-sharpness |x - c|^2) over the centres c, on [-1, 1]^dimension."""

    centres: list[float] = setting(
        [-0.8, -0.4, 0.0, 0.4, 0.8], "places of the peaks on the diagonal", least=1
    )
    sharpness: float = setting(300.0, "sharpness of the peaks", above=0)
    dimension: int = setting(1, "number of variables", minimum=1, maximum=10)
    domain: Any = setting(None, f"{_DOMAIN}; null is [-1, 1]", free_text=True)
    kind: str = "gaussian_peaks"


@target("kanrun.targets.functions:build_expression")
@dataclass
class ExpressionTarget:
    """Your own formula."""

    formula: str = setting(
        MISSING, "formula in x0, x1, ... or in other names, which are sorted", free_text=True
    )
    domain: Any = setting(
        None, f"{_DOMAIN}, or by name as {{t: [0,1], r: [1,2]}}; null is [-1, 1]", free_text=True
    )
    units: dict[str, str] = setting({}, _UNITS, free_text=True)
    kind: str = "expression"


@target("kanrun.targets.functions:build_special")
@dataclass
class SpecialTarget:
    """A function of scipy.special in two variables."""

    name: str = setting(MISSING, "name of the function")
    domain: Any = setting(None, f"{_DOMAIN}; null is its own", free_text=True)
    kind: str = "special"


@target("kanrun.targets.functions:build_feynman")
@dataclass
class FeynmanTarget:
    """One of the 27 dimensionless Feynman formulas, such as I.6.2, or a formula of a file."""

    id: str = setting(MISSING, "equation in the lectures, or name in the file")
    path: str | None = setting(
        None,
        "YAML file of formulas with ranges, as symbolic-data has them; null: the 27 of kanrun",
        file=True,
    )
    domain: Any = setting(None, f"{_DOMAIN}; null is its own", free_text=True)
    units: dict[str, str] = setting({}, _UNITS, free_text=True)
    kind: str = "feynman"


@target("kanrun.targets.table_targets:build_table", table=True)
@dataclass
class TableTarget:
    """Columns of a CSV, TSV (compressed too) or Parquet file."""

    path: str = setting(MISSING, "file of the table", file=True)
    inputs: list[str] = setting(
        ["all"], "columns to predict from", least=1, distinct=True, free_text=True
    )
    outputs: list[str] = setting(
        MISSING, "columns to predict", least=1, distinct=True, free_text=True
    )
    task: str = setting("regression", "numbers or labels", choices=("regression", "classification"))
    exclude: list[str] = setting(
        [], "columns that are no inputs, where inputs is all", distinct=True, free_text=True
    )
    categorical_columns: list[str] = setting(
        [], "columns of numbers whose values are names", distinct=True, free_text=True
    )
    missing: str = setting(
        "indicator",
        "missing inputs: median and an indicator, rows dropped, or an error",
        choices=("indicator", "drop", "error"),
    )
    weight_column: str | None = setting(
        None, "column of the weights of the rows; null: all rows count the same", free_text=True
    )
    split: str = setting(
        "random",
        "how rows are left out: random, group:COLUMN (whole groups) or time:COLUMN (the latest)",
        free_text=True,
    )
    test_path: str | None = setting(None, "file of the test rows, with the same columns", file=True)
    units: dict[str, str] = setting({}, _UNITS, free_text=True)
    kind: str = "table"

    @property
    def split_column(self) -> str | None:
        """The column of groups or of times."""
        return self.split.partition(":")[2] or None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield conflicts of columns: no lists, double uses, several outputs of a classifier."""
        for key, names in (("inputs", self.inputs), ("outputs", self.outputs)):
            if isinstance(names, str) and names != MISSING:
                yield f"{at}{key}={names} must be a list of columns, such as {at}{key}=[a,b]."
        both = [name for name in self.inputs if name in self.outputs]
        if both:
            yield f"the column {both[0]!r} is both in {at}inputs and in {at}outputs."
        way, _, column = self.split.partition(":")
        if (way, bool(column)) not in (("random", False), ("group", True), ("time", True)):
            yield f"{at}split={self.split} must be random, group:COLUMN or time:COLUMN."
        for key, name in (("weight_column", self.weight_column), (f"split={way}:", column)):
            if name and name in (
                *self.outputs,
                *(self.inputs if way != "time" or key == "weight_column" else ()),
            ):
                yield f"the column {name!r} of {at}{key} is an input or an output too."
        if self.task == "classification" and len(self.outputs) != 1:
            yield f"classification takes one output column, {at}outputs has {len(self.outputs)}."


@target("kanrun.targets.table_targets:build_nist")
@dataclass
class NistTarget:
    """A nonlinear regression set of NIST's Statistical Reference Datasets, from its files."""

    path: str = setting(MISSING, "folder of the data files, such as Misra1a.dat", file=True)
    name: str = setting(MISSING, "name of the set")
    kind: str = "nist"


@target("kanrun.targets.table_targets:build_bundled", table=True)
@dataclass
class BundledTarget:
    """A table that scikit-learn brings, by its name."""

    name: str = setting(MISSING, "name of the table")
    kind: str = "bundled"


@target("")
@dataclass
class PointsTarget:
    """Points of the plane in the order of a curve, from two columns of a file, or kanrun's own."""

    path: str | None = setting(None, "file of the points; null is kanrun's own", file=True)
    columns: list[str] | None = setting(
        None,
        "columns of the coordinates; null: x and y where they exist, else the first two of numbers",
        length=2,
        free_text=True,
    )
    parameter: str | None = setting(
        None,
        "column of increasing parameters; null: from the distances, see spacing",
        free_text=True,
    )
    kind: str = "points"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield a conflict if columns are given without a file."""
        if self.path is None and (self.columns is not None or self.parameter is not None):
            yield f"{at}columns and {at}parameter are columns of a file; give {at}path too."


@dataclass
class SamplingConfig:
    """Numbers of points; for tables null means a seeded split of all rows."""

    n_train: int | None = setting(1000, "training points, validation points included", minimum=1)
    n_test: int | None = setting(1000, "test points", minimum=0)
    noise: float = setting(
        0.0, "standard deviation of the noise relative to the target's", minimum=0
    )
    validation_fraction: float = setting(
        0.1, "fraction of the training points held out for model selection", minimum=0, maximum=0.5
    )
