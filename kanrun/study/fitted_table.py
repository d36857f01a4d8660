"""A model of a table from arrays or columns, without a run folder: fitted, asked for predictions, stored and read back.

What `model=auto` fits and what estimators fit is the same (`kanrun.study.table_model`), and `saved.Model` predicts in
both; here stand the names, categories and weights between arrays and that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from kanrun.engine.networks import KAN
from kanrun.errors import UsageError
from kanrun.runs.records import Table
from kanrun.study.effects import effect_table, importance_table, pair_table
from kanrun.study.saved import Model
from kanrun.study.table_model import DEFAULT_POLICY, TableModel, TablePolicy, error_quantiles, fit_table
from kanrun.targets import Points, Scaling, classes_of, code_of, gaps_of
from kanrun.targets.arrays import Data, as_array, input_rows, is_frame


@dataclass(frozen=True)
class ColumnRoles:
    """The `names` of an array's columns and of the `outputs`, and which columns are `categories` though numbers."""

    names: Sequence[str] = ()
    outputs: Sequence[str] = ("y",)
    categories: Sequence[str] = ()


PLAIN = ColumnRoles()


@dataclass(frozen=True, eq=False)
class FittedTable:
    """A fitted table: `model` predicts and is what is stored; `fitted` knows how it came about.

    `saved.checkpoint_of(model, name)` stores it as arrays and JSON, `saved.model_from_checkpoint` reads it back.
    """

    model: Model
    fitted: TableModel
    points: Points

    def inputs(self, x: Data) -> Float[ndarray, "rows inputs"]:
        """The numbers that the network sees of columns (or an array) as they were fitted; unknown levels are zeros."""
        return input_rows(x, self.model.inputs, self.model.code)[0]

    def predict(self, x: Data) -> ndarray:
        """(rows, outputs) in the user's units; the labels (rows,) of the most probable class for a classifier."""
        values = self.model.values(self.inputs(x))
        return np.array(self.model.classes)[values.argmax(1)] if self.model.classes else values

    def predict_proba(self, x: Data) -> Float[ndarray, "rows classes"]:
        """Probabilities in the order of `model.classes`. Raises UsageError for a regression."""
        if not self.model.classes:
            raise UsageError("probabilities are those of classes; this model predicts numbers.")
        return self.model.values(self.inputs(x))

    def interval(self, x: Data, level: float = 0.9) -> tuple[ndarray, ndarray]:
        """Ends (rows, outputs) between which the output lies with probability `level`; see `Model.interval`."""
        return self.model.interval(x, level)

    @property
    def noise(self) -> float:
        """The standard deviation of what the inputs do not explain, in the units of the fitted output (classes: 1)."""
        return self.fitted.fit.noise

    @property
    def effective(self) -> float:
        """Effective degrees of freedom of the effects of single inputs."""
        return self.fitted.fit.effective

    def effects(self) -> Table:
        """The effect of each input with its band; see `effects.effect_table`."""
        return effect_table(self.fitted, self.points, self.model.inputs, self.model.classes or self.model.outputs)

    def importance(self) -> Table:
        """What each input contributes, the largest first; see `effects.importance_table`."""
        classes = len(self.model.classes) if self.model.classes else None
        return importance_table(self.fitted, self.points, self.model.inputs, classes, 0)

    def pairs(self) -> Table | None:
        """The strongest pairs; see `effects.pair_table`."""
        return pair_table(self.fitted, self.points, self.model.inputs)

    @property
    def network(self) -> KAN:
        """The network over scores of the inputs, `model.input_scaling` from the user's units to them."""
        return self.fitted.network


def fit_columns(
    x: Data,
    y: Sequence[Any] | ndarray,
    roles: ColumnRoles = PLAIN,
    *,
    classification: bool = False,
    weights: Float[ndarray, " rows"] | None = None,
    policy: TablePolicy = DEFAULT_POLICY,
) -> FittedTable:
    """Fit the columns `x` (by name, a DataFrame too, or an array (rows, inputs)) to `y` (rows,) or (rows, outputs).

    Columns of text and those of `roles.categories` become indicators of their levels, missing numbers the median with
    an indicator; y of a classification are labels. A row of weight w counts as w equal rows, one of weight 0 is left
    out; `TablePolicy.additive()` gives exactly the same numbers for weights and repeated rows. Raises UsageError for
    values that cannot be taken, and for fewer than two rows.
    """
    named = _named(x, roles.names)
    code, _ = code_of(named, roles.categories, "correct such rows, or name the column in categories")
    inputs = input_rows(x, tuple(named), code)[0]
    classes: tuple[str, ...] | None = None
    if classification:
        labels = np.asarray(y).ravel()
        classes, index = classes_of([str(label) for label in labels], roles.outputs[0])
        values = index[:, None].astype(np.float64)
    else:
        values = np.asarray(y, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
    if len(values) != len(inputs):
        raise UsageError(f"x has {len(inputs)} rows and y has {len(values)}.")
    if not np.isfinite(values).all():
        raise UsageError("y has values that are missing or infinite; leave such rows out.")
    points = Points(inputs, values, None if weights is None else np.asarray(weights, dtype=np.float64))
    if points.weights is not None:
        if points.weights.shape != (len(values),) or not (np.isfinite(points.weights) & (points.weights >= 0)).all():
            raise UsageError("weights are one finite number per row, none of them negative.")
        points = points.take(np.flatnonzero(points.weights))
    if len(points) < 2:
        raise UsageError(f"a table needs at least 2 rows to fit, and this one has {len(points)}.")
    fitted = fit_table(points, len(classes) if classes else None, policy)
    model = Model(
        network=fitted.network,
        inputs=code.features if code else tuple(named),
        outputs=_outputs(roles.outputs, values.shape[1]),
        domain=points.box,
        input_scaling=fitted.inputs,
        output_scaling=fitted.outputs or Scaling.identity(1),
        classes=classes,
        code=code,
        errors=error_quantiles(fitted, points.y),
        gaps=gaps_of(points.x),
    )
    return FittedTable(model, fitted, points)


def _outputs(names: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(names) if len(names) == count else tuple(f"y{o}" for o in range(count))


def _named(x: Data, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The columns by name. Raises UsageError for an array that has not two dimensions."""
    if is_frame(x):
        return {str(name): x[name] for name in x}
    if (array := as_array(x)).ndim != 2:
        raise UsageError(f"x must be (rows, inputs), not {array.shape}.")
    known = list(names) or [f"x{j}" for j in range(array.shape[1])]
    if len(known) != array.shape[1]:
        raise UsageError(f"x has {array.shape[1]} columns and there are {len(known)} names.")
    return dict(zip(map(str, known), array.T, strict=True))
