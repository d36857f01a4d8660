"""Settings of what is learned or solved: kinds of targets with their sampling, and equations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kanrun.config.registry import target
from kanrun.config.rules import MISSING, count_setting, setting, text_setting

_UNITS = "units of inputs and output by name, such as {x0: m/s, y: J}, for kanrun interpret"


@dataclass(kw_only=True)
class FunctionTarget:
    """Settings of functions with a domain of their own."""

    domain: Any = text_setting(
        None,
        "one [lower, upper] for each variable, or one for all; null is the function's own",
    )


@target("kanrun.targets.functions:build_named", names="kanrun.targets:NAMED")
@dataclass
class NamedTarget(FunctionTarget):
    """A function, or points, that kanrun knows by name."""

    name: str = setting(MISSING, "name of the function or points")
    kind: str = "named"


@target("kanrun.targets.functions:build_peaks")
@dataclass
class GaussianPeaksTarget(FunctionTarget):
    """Sum of exp(-sharpness |x - c|^2) over the centres c, on [-1, 1]^dimension."""

    centres: list[float] = setting(
        [-0.8, -0.4, 0.0, 0.4, 0.8], "coordinates of the peaks on the diagonal", least=1
    )
    sharpness: float = setting(300.0, "sharpness of the peaks", above=0)
    dimension: int = count_setting(1, "number of variables", maximum=10)
    kind: str = "gaussian_peaks"


@target("kanrun.targets.functions:build_expression")
@dataclass
class ExpressionTarget:
    """A custom formula."""

    formula: str = text_setting(
        MISSING, "formula in x0, x1, ... or in other names, which are sorted"
    )
    domain: Any = text_setting(
        None,
        "one [lower, upper] for each variable, or one for all, or by name as "
        "{t: [0,1], r: [1,2]}; null is [-1, 1]",
    )
    units: dict[str, str] = text_setting({}, _UNITS)
    kind: str = "expression"


@target("kanrun.targets.functions:build_special", names="kanrun.targets.functions:SPECIAL")
@dataclass
class SpecialTarget(FunctionTarget):
    """A function of scipy.special in two variables."""

    name: str = setting(MISSING, "name of the function")
    kind: str = "special"


@target("kanrun.targets.functions:build_feynman", names="kanrun.targets.functions:feynman_formulas")
@dataclass
class FeynmanTarget(FunctionTarget):
    """One of the 27 dimensionless Feynman formulas, such as I.6.2, or a formula of a file."""

    id: str = setting(MISSING, "number of the equation in the lectures, or name in the file")
    path: str | None = setting(
        None,
        "YAML file of formulas with ranges, as symbolic-data has them (feynman.yaml, "
        "fastsrb.yaml); null: the 27 of kanrun",
        file=True,
    )
    units: dict[str, str] = text_setting({}, _UNITS)
    kind: str = "feynman"


@target("kanrun.targets.table_targets:build_table", table=True)
@dataclass
class TableTarget:
    """Columns of a CSV, TSV (compressed too) or Parquet file."""

    path: str = setting(MISSING, "file of the table", file=True)
    inputs: list[str] = text_setting(["all"], "columns to predict from", least=1, distinct=True)
    outputs: list[str] = text_setting(MISSING, "columns to predict", least=1, distinct=True)
    task: str = setting("regression", "numbers or labels", choices=("regression", "classification"))
    family: str = setting(
        "gaussian",
        "distribution of numbers about their mean: gaussian; poisson for counts, gamma for sizes "
        "above 0, binomial for fractions",
        choices=("gaussian", "binomial", "poisson", "gamma"),
    )
    offset: str | None = text_setting(
        None,
        "column of exposures to which the mean of counts or sizes is proportional; null: none",
    )
    exclude: list[str] = text_setting([], "columns that inputs=[all] does not take", distinct=True)
    categorical_columns: list[str] = text_setting(
        [], "columns of numbers whose values are names", distinct=True
    )
    missing: str = setting(
        "indicator",
        "missing inputs: median and an indicator, rows dropped, or an error",
        choices=("indicator", "drop", "error"),
    )
    missing_values: list[str] = text_setting(
        [], "further texts that stand for a missing value, such as -999 or unknown"
    )
    day_first: bool | None = setting(
        None, "whether dates such as 04/05/2024 begin with the day; null: their values decide"
    )
    weight_column: str | None = text_setting(
        None, "column of the weights of the rows; null: equal weights"
    )
    split: str = text_setting(
        "random",
        "held-out rows: random, group:COLUMN (whole groups) or time:COLUMN (the latest)",
        words=("random", "group:", "time:"),
    )
    test_path: str | None = setting(None, "file of the test rows, with the same columns", file=True)
    units: dict[str, str] = text_setting({}, _UNITS)
    kind: str = "table"

    @property
    def split_column(self) -> str | None:
        """Column of groups or of times."""
        return self.split.partition(":")[2] or None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield conflicts of columns: double uses, and several outputs of a classifier."""
        if both := [name for name in self.inputs if name in self.outputs]:
            yield f"the column {both[0]!r} is both in {at}inputs and in {at}outputs."
        way, _, column = self.split.partition(":")
        if (way, bool(column)) not in (("random", False), ("group", True), ("time", True)):
            yield f"{at}split={self.split} must be random, group:COLUMN or time:COLUMN."
        for key, name in (("weight_column", self.weight_column), (f"split={way}:", column)):
            # A column of times may be an input too.
            taken = self.outputs if key == "split=time:" else [*self.inputs, *self.outputs]
            if name and name in taken:
                yield f"the column {name!r} of {at}{key} is an input or an output too."
        labels = self.task == "classification"
        if labels and self.family != "gaussian":
            yield f"{at}family={self.family} is for numbers; remove it or {at}task=classification."
        one = "classification" if labels else f"{at}family={self.family}"
        count = 1 if self.outputs == MISSING else len(self.outputs)
        if count != 1 and (labels or self.family != "gaussian"):
            yield f"{one} takes one output column, {at}outputs has {count}."
        rates = self.family in ("poisson", "gamma") and self.offset not in self.outputs
        if self.offset and not rates:
            yield (
                f"{at}offset={self.offset} must be a column other than the output, for "
                f"{at}family=poisson or gamma."
            )


@target("kanrun.targets.table_targets:build_nist")
@dataclass
class NistTarget:
    """A nonlinear regression set of NIST's Statistical Reference Datasets, from its files."""

    path: str = setting(MISSING, "folder of the data files, such as Misra1a.dat", file=True)
    name: str = setting(MISSING, "name of the set")
    kind: str = "nist"


@target(
    "kanrun.targets.table_targets:build_bundled",
    table=True,
    names="kanrun.targets.table_targets:BUNDLED",
)
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
    columns: list[str] | None = text_setting(
        None,
        "columns of the coordinates; null: x and y if they exist, else the first two of numbers",
        length=2,
    )
    parameter: str | None = text_setting(
        None,
        "column of increasing parameters; null: from the distances, see spacing",
    )
    kind: str = "points"

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield a conflict if columns are given without a file."""
        if self.path is None and (self.columns is not None or self.parameter is not None):
            yield f"{at}columns and {at}parameter are columns of a file; give {at}path too."


@dataclass
class SamplingConfig:
    """Numbers of points; for tables null means a seeded split of all rows."""

    n_train: int | None = count_setting(
        None,
        "training points, validation points included; null is 1000 points of a function, which "
        "join others in `fit` if needed (extra_points), and the rows of a table that are not test "
        "rows",
    )
    n_test: int | None = setting(1000, "test points", minimum=0)
    noise: float = setting(
        0.0, "standard deviation of the noise relative to the target's", minimum=0
    )
    validation_fraction: float = setting(
        0.1, "fraction of the training points held out for model selection", minimum=0, maximum=0.5
    )


@dataclass
class AnsatzConfig:
    """Form of the unknown functions in terms of the outputs of a network."""

    terms: int | None = count_setting(
        None,
        "number of products that are summed; null is 8, 1 for one variable",
    )
    factors: int | None = count_setting(
        None,
        "factors of each product, sums of functions of all variables; null is one per variable",
    )


@dataclass
class EquationConfig:
    """One or more differential equations on a box."""

    name: str = setting("own", "name in tables and figures")
    # Any instead of dict: the shell may set keys of a mapping that does not exist yet.
    variables: Any = text_setting(
        MISSING,
        "range of each variable, such as {x: [0,1], t: [0,1]}; time comes last",
    )
    unknowns: list[str] = setting(["u"], "unknown functions", least=1, distinct=True)
    constants: Any = text_setting(None, "numbers by name, for use in all formulas")
    continuation: Any = text_setting(
        None,
        "parameter continuation: values of constants to solve for first, each solution being the "
        "initial guess for the next: {nu: [0.1, 0.03]}",
    )
    formula: Any = text_setting(MISSING, "the equation, such as u_t = u_xx; a list for a system")
    conditions: Any = text_setting(
        None,
        "sentences: ['u = 0 at x=0, x=1', 'periodic in y']; or by name: "
        "{at: 'x=0, x=1', formula: 'u = 0'}, {periodic: y, formula: 'u = 0'}",
    )
    exact: Any = text_setting(None, "formula of the solution, if known; a list for a system")
    reference: Any = text_setting(
        None,
        "table with the variables and unknowns as columns: known values at some points, at which "
        "the run reports errors: a file, columns by name, or the name of a table of the program",
    )
    unknown_parameters: Any = text_setting(None, "unknown parameters with initial guesses")
    data: Any = text_setting(
        None,
        "measurements: a table with the variables and unknowns as columns, or "
        "{points: 200, noise: 0.01, constants: {...}} to draw them from a reference solution",
    )
    ansatz: AnsatzConfig = setting(AnsatzConfig(), "form of the unknowns")
    intervals: list[int] | None = count_setting(
        None,
        "grids in turn; null is as fine as helps, in general 5, 10, 20, 40 and finer ones",
        least=1,
        increasing=True,
    )

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error for each mapping that is not one."""
        for name in ("variables", "constants", "continuation", "conditions", "unknown_parameters"):
            value = getattr(self, name)
            sentences = name == "conditions" and isinstance(value, list | tuple)
            if not sentences and not isinstance(value, Mapping | None) and value != MISSING:
                yield f"{at}{name}={value} must be a mapping, such as {{x: [0,1]}}."
