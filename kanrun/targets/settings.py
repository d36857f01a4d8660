"""Settings of the kinds of targets; the method `build` returns the target that is described."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from kanrun.config.registry import target
from kanrun.config.rules import (
    DISTINCT,
    FILE,
    FREE_TEXT,
    MISSING,
    Count,
    Positive,
    Words,
    copied,
)
from kanrun.errors import UsageError
from kanrun.targets.table_files import ReadOptions

if TYPE_CHECKING:
    from kanrun.targets.datasets import Target
    from kanrun.targets.table_files import TableFile

#: Numbers, text, lists or mappings. Mappings are not declared as a type, because the command line
#: may set keys of a mapping that does not exist yet.
AsTyped = Annotated[Any, FREE_TEXT]
_UNITS = "units of inputs and output by name, such as {x0: m/s, y: J}, for kanrun interpret"


class TargetConfig:
    """Base class of the settings of targets.

    Attributes:
        table: Whether the target is a table of rows, not a function.
    """

    table: ClassVar[bool] = False

    def build(self) -> Target:
        """Return the target. Raises UsageError if the settings or the data are invalid."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise UsageError for errors in settings that show without torch and without all data."""

    @staticmethod
    def names() -> Iterable[str]:
        """Return the allowed values of the setting `name` or `id`; () for other targets."""
        return ()


@dataclass(kw_only=True)
class FunctionTarget(TargetConfig):
    """Settings of functions that have a default domain."""

    domain: Annotated[
        AsTyped, "one [lower, upper] for each variable, or one for all; null is the function's own"
    ] = None


@target
@dataclass
class NamedTarget(FunctionTarget):
    """A function that kanrun or scipy.special knows by name, or points."""

    name: Annotated[str, "name of the function or points"] = MISSING
    kind: str = "named"

    def build(self) -> Target:
        from kanrun.targets.functions import named_target

        return named_target(self.name, self.domain)

    @staticmethod
    def names() -> Iterable[str]:
        from kanrun.targets.functions import names_of_targets

        return names_of_targets()


@target
@dataclass
class GaussianPeaksTarget(FunctionTarget):
    """Sum of exp(-sharpness |x - c|^2) over the centres c, on [-1, 1]^dimension."""

    centres: Annotated[
        list[float], Meta(min_length=1), "coordinates of the peaks on the diagonal"
    ] = copied([-0.8, -0.4, 0.0, 0.4, 0.8])
    sharpness: Annotated[Positive, "sharpness of the peaks"] = 300.0
    dimension: Annotated[int, Meta(ge=1, le=10), "number of variables"] = 1
    kind: str = "gaussian_peaks"

    def build(self) -> Target:
        from kanrun.formulas.parsing import parse
        from kanrun.targets.functions import formula_target, peaks_formula

        inputs = [f"x{i}" for i in range(self.dimension)]
        centres = [[centre] * self.dimension for centre in self.centres]
        formula = parse(peaks_formula(centres, self.sharpness))
        return formula_target("gaussian_peaks", formula, inputs, self.domain)


@target
@dataclass
class ExpressionTarget(TargetConfig):
    """A custom formula."""

    formula: Annotated[
        str, "formula in x0, x1, ... or in other names, which are sorted", FREE_TEXT
    ] = MISSING
    domain: Annotated[
        AsTyped,
        "one [lower, upper] for each variable, or one for all, or by name as {t: [0,1], r: "
        "[1,2]}; null is [-1, 1]",
    ] = None
    units: Annotated[dict[str, str], _UNITS, FREE_TEXT] = copied({})
    kind: str = "expression"

    def build(self) -> Target:
        from kanrun.targets.functions import named_formula

        return named_formula(self.formula, self.domain)

    def check(self) -> None:
        """Raise UsageError if the formula has no valid syntax, or an unknown name or function."""
        from kanrun.formulas.syntax import names_in, read

        text = " ".join(self.formula.split())
        read(text, names_in(text))


@target
@dataclass
class FeynmanTarget(FunctionTarget):
    """One of the 27 dimensionless Feynman formulas, such as I.6.2, or a formula of a file."""

    id: Annotated[str, "number of the equation in the lectures, or name in the file"] = MISSING
    path: Annotated[
        str | None,
        "YAML file of formulas with ranges, as symbolic-data has them (feynman.yaml, "
        "fastsrb.yaml); null: the 27 of kanrun",
        FILE,
    ] = None
    units: Annotated[dict[str, str], _UNITS, FREE_TEXT] = copied({})
    kind: str = "feynman"

    def build(self) -> Target:
        from kanrun.targets.functions import file_formula

        return file_formula(self.id, self.path, self.domain)

    @staticmethod
    def names() -> Iterable[str]:
        from kanrun.targets.functions import feynman_formulas

        return feynman_formulas()


@target
@dataclass
class TableTarget(TargetConfig):
    """Columns of a CSV, TSV (compressed too) or Parquet file."""

    table: ClassVar[bool] = True

    path: Annotated[str, "file of the table", FILE] = MISSING
    inputs: Annotated[
        list[str], Meta(min_length=1), "columns to predict from", DISTINCT, FREE_TEXT
    ] = copied(["all"])
    outputs: Annotated[list[str], Meta(min_length=1), "columns to predict", DISTINCT, FREE_TEXT] = (
        MISSING
    )
    task: Annotated[
        Literal["regression", "classification"] | None,
        "numbers or labels; null: labels if the output is one column of text",
    ] = None
    class_weight: Annotated[
        Literal["balanced"] | None,
        "balanced: rows are weighted by the inverse frequency of their class; null: they are not",
    ] = None
    threshold: Annotated[
        float,
        Meta(gt=0, lt=1),
        "of two classes, the second one is predicted if its probability exceeds this",
    ] = 0.5
    family: Annotated[
        Literal["gaussian", "binomial", "poisson", "gamma"],
        "distribution of numbers about their mean: gaussian; poisson for counts, gamma for "
        "sizes above 0, binomial for fractions",
    ] = "gaussian"
    offset: Annotated[
        str | None,
        "column of exposures to which the mean of counts or sizes is proportional; null: none",
        FREE_TEXT,
    ] = None
    read: Annotated[ReadOptions, "how the file is written"] = copied(ReadOptions())
    drop_rows: Annotated[
        list[Count], "rows to leave out, numbered as in messages: the header is row 1"
    ] = copied([])
    exclude: Annotated[
        list[str], "columns that inputs=[all] does not take", DISTINCT, FREE_TEXT
    ] = copied([])
    categorical_columns: Annotated[
        list[str], "columns of numbers whose values are names", DISTINCT, FREE_TEXT
    ] = copied([])
    missing: Annotated[
        Literal["indicator", "drop", "error"],
        "missing inputs: median and an indicator, rows dropped, or an error; rows without output "
        "are dropped, or an error",
    ] = "indicator"
    day_first: Annotated[
        bool | None,
        "whether dates such as 04/05/2024 begin with the day; null: their values decide",
    ] = None
    weight_column: Annotated[
        str | None, "column of the weights of the rows; null: equal weights", FREE_TEXT
    ] = None
    split: Annotated[
        str,
        "held-out rows: random, group:COLUMN (whole groups) or time:COLUMN (the latest)",
        FREE_TEXT,
        Words(("random", "group:", "time:")),
    ] = "random"
    test_path: Annotated[str | None, "file of the test rows, with the same columns", FILE] = None
    units: Annotated[dict[str, str], _UNITS, FREE_TEXT] = copied({})
    kind: str = "table"

    def build(self) -> Target:
        from kanrun.targets.table_targets import build_table

        return build_table(self)

    def file(self) -> TableFile:
        """Return the file of the training rows."""
        from kanrun.targets.table_files import TableFile

        return TableFile(self.path, self.read)

    def input_columns(self, table: TableFile) -> tuple[str, ...]:
        """Return the names of the input columns of `table`.

        Raises UsageError if the file lacks a column that the settings name, or no input is left.
        """
        from kanrun.targets.table_files import check_columns

        names = table.names()
        roles = (self.weight_column, self.split_column, self.offset, self.read.index_col)
        check_columns([*self.exclude, *filter(None, roles)], names, table.file.name)
        if list(self.inputs) != ["all"] or "all" in names:
            kept = tuple(dict.fromkeys([*self.inputs, *([self.offset] if self.offset else [])]))
        else:
            taken = {*self.outputs, *self.exclude, self.weight_column, self.read.index_col}
            if self.split.startswith("group:"):
                taken.add(self.split_column)
            kept = tuple(name for name in names if name not in taken)
        if not kept:
            raise UsageError(
                f"{table.file.name} has no column left to predict from; name some in target.inputs."
            )
        check_columns([*kept, *self.outputs], names, table.file.name)
        return kept

    def check(self) -> None:
        """Raise UsageError if the file lacks a column that the settings name."""
        self.input_columns(self.file())

    @property
    def split_column(self) -> str | None:
        """Column of groups or times by which rows are held out; None for a random split."""
        return self.split.partition(":")[2] or None

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield errors: columns used twice, invalid splits, too many outputs."""
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
        taker = "classification" if labels else f"{at}family={self.family}"
        count = 1 if self.outputs == MISSING else len(self.outputs)
        if count != 1 and (labels or self.family != "gaussian"):
            yield f"{taker} takes one output column, {at}outputs has {count}."
        rates = self.family in ("poisson", "gamma") and self.offset not in self.outputs
        if self.offset and not rates:
            yield (
                f"{at}offset={self.offset} must be a column other than the output, for "
                f"{at}family=poisson or gamma."
            )


@target
@dataclass
class BundledTarget(TargetConfig):
    """A table bundled with scikit-learn, by name."""

    table: ClassVar[bool] = True

    name: Annotated[str, "name of the table"] = MISSING
    kind: str = "bundled"

    def build(self) -> Target:
        from kanrun.targets.table_targets import build_bundled

        return build_bundled(self)

    @staticmethod
    def names() -> Iterable[str]:
        from kanrun.targets.table_targets import BUNDLED

        return BUNDLED


@target
@dataclass
class PointsTarget(TargetConfig):
    """Points in the plane, ordered along a curve: two columns of a file, or kanrun's own points."""

    path: Annotated[str | None, "file of the points; null is kanrun's own", FILE] = None
    columns: Annotated[
        Annotated[list[str], Meta(min_length=2, max_length=2)] | None,
        "columns of the coordinates; null: x and y if they exist, else the first two of numbers",
        FREE_TEXT,
    ] = None
    parameter: Annotated[
        str | None,
        "column of increasing parameters; null: from the distances, see spacing",
        FREE_TEXT,
    ] = None
    read: Annotated[ReadOptions, "how the file is written"] = copied(ReadOptions())
    kind: str = "points"

    def build(self) -> Target:
        """Raise UsageError, because only `kanrun curves` uses this target."""
        raise UsageError("target.kind=points is for kanrun curves. Choose another target.")

    def conflicts(self, at: str) -> Iterator[str]:
        """Yield an error if columns are set although there is no file."""
        if self.path is None and (self.columns is not None or self.parameter is not None):
            yield f"{at}columns and {at}parameter are columns of a file; give {at}path too."
