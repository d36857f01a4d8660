"""The public class of trained models, which take and return values in the units of the data."""

from __future__ import annotations

import base64
import html
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.errors import InvalidData, UsageError
from kanrun.model.trained import (
    TrainedNetwork,
    contributions,
    departure_counts,
    departure_warnings,
    departures,
    derivative_values,
    explained_outputs,
    from_checkpoint,
    in_numpy,
    in_units,
    input_columns,
    interval_bounds,
    label_text,
    network_outputs,
    predicted_values,
    quantile_values,
    to_checkpoint,
    training_sample,
)
from kanrun.points import Array, predicted_classes
from kanrun.runs import Run, find_run
from kanrun.runs.files import read_checkpoint, write_checkpoint, write_named_file
from kanrun.targets.datasets import NAMED, check_known
from kanrun.targets.encoding import features_of
from kanrun.targets.table_targets import Data, as_array, as_numbers, input_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


#: Largest number of samples from which the network diagram is drawn.
MOST_POINTS = 2000
#: Columns of the table of edges. The last two exist only if there are multiplication nodes.
EDGE_COLUMNS = (
    *("layer", "out", "in", "x", "x_data", "seen", "y", "score", "pruned"),
    *("input_name", "output_name", "symbolic", "operation"),
)


def network_figure(
    network: Network, x: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Figure:
    """Return the diagram that `KAN.plot` draws.

    Edge scores are computed on the first MOST_POINTS rows of `x` (samples, inputs). If `x` is None,
    they are computed on random points that are uniform on the first grid.
    """
    from kanrun.figures import network_diagram

    first = network.edge_layers[0]
    if x is None:
        fixed = torch.Generator().manual_seed(0)
        drawn = torch.rand(MOST_POINTS, first.inputs, generator=fixed, dtype=torch.float64)
        ends = (first.grid.low.double(), first.grid.high.double())
        x = torch.lerp(*ends, drawn.to(first.knots.device))
    inputs = inputs or [f"x{i}" for i in range(network.shape[0])]
    outputs = outputs or [f"y{i}" for i in range(network.shape[-1])]
    rows = torch.as_tensor(x).to(first.knots)[:MOST_POINTS]
    columns = edge_columns(network, rows, inputs, outputs)
    return network_diagram(pd.DataFrame({"seed": 0, **columns}))


def edge_columns(
    network: Network,
    x: Float[Tensor, "samples inputs"],
    inputs: Sequence[str],
    outputs: Sequence[str],
    invert: Callable[[Array], Array] = np.asarray,
) -> dict[str, Any]:
    """Return the columns EDGE_COLUMNS: points on each edge function over its grid, with scores.

    The `score` of an edge is the standard deviation of its output over the samples `x`. The column
    `x` is the edge's input in the units of its layer (standardised for tables). In the first layer,
    the column `x_data` is `x` converted by `invert` to the units of the data; in other layers, it
    equals `x`. `seen` is True within the range of the edge's inputs at the samples. If a layer has
    multiplication nodes, its sums are listed as separate nodes, and an additional layer of edges
    leads from the sums to the layer's nodes. At most 400 edges are returned, those with the
    largest scores.
    """
    most_rows = 10_000  # number of rows of the table of edges above which edges get fewer points
    fewest_points = 26  # with fewer points per edge, curves look broken
    edge_points = 101  # largest number of points per edge
    # Largest number of edges in the table of edges; edges with the largest scores are kept.
    most_edges = 400
    rows = list[tuple[Any, ...]]()
    multiply = any(network.products)
    layers = network.edge_layers
    edges = min(sum(layer.mask.numel() for layer in layers), most_edges)
    points = max(fewest_points, min(edge_points, most_rows // edges))
    with torch.no_grad():
        reaching = network.activations(x)
        depth = 0
        for index, layer in enumerate(layers):
            score = layer.edge_values(reaching[index]).std(0, correction=0)
            share = torch.linspace(0, 1, points, dtype=score.dtype, device=score.device)
            on_grid = torch.lerp(layer.grid.low, layer.grid.high, share[:, None])
            y = layer.edge_values(on_grid).cpu().numpy()
            grid_x = in_numpy(on_grid)
            ends = in_numpy(reaching[index])
            seen = (grid_x >= ends.min(0)) & (grid_x <= ends.max(0))
            data = invert(grid_x) if index == 0 else grid_x
            for out, into in itertools.product(range(layer.outputs), range(layer.inputs)):
                where = (depth, out, into, grid_x[:, into], data[:, into], seen[:, into])
                judged = float(score[out, into]), not bool(layer.mask[out, into])
                source = str(inputs[into]) if index == 0 else ""
                result = str(outputs[out]) if index == len(layers) - 1 else ""
                rows.append((*where, y[:, out, into], *judged, source, result, "", "sum"))
            depth += 1
            if multiply and network.products[index]:
                rows += _joints(layer(reaching[index]), network.products[index], depth, points)
                depth += 1
    names = EDGE_COLUMNS if multiply else EDGE_COLUMNS[:-2]
    kept = sorted(rows, key=lambda row: -row[EDGE_COLUMNS.index("score")])[:most_edges]
    kept.sort(key=lambda row: row[:3])
    columns = zip(names, zip(*kept, strict=True), strict=False)
    return {
        name: np.concatenate([np.broadcast_to(values, points) for values in parts])
        for name, parts in columns
    }


def _joints(sums: Tensor, products: int, depth: int, points: int) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `edge_columns` for the identity edges from a layer's sums to its nodes.

    `sums` has the shape (samples, sums). The last 2 * `products` sums are multiplied in pairs.
    `depth` is the number of this additional layer in the table.
    """
    plain = sums.shape[1] - 2 * products
    for number, values in enumerate(in_numpy(sums).T):
        x = np.linspace(values.min(), values.max(), points)
        multiplies = number >= plain
        out = plain + (number - plain) // 2 if multiplies else number
        operation = "product" if multiplies else "sum"
        yield depth, out, number, x, x, True, x, float(values.std()), False, "", "", "=", operation


#: Quantiles of single rows' curves at the lower and upper edge of the band around partial
#: dependence. Quantiles nearer to 0 and 1 make a wider band.
EFFECT_BAND = (0.1, 0.9)
#: Columns of the table `summary` that a model's summary shows, in order, with their labels.
FACTS = {
    "target": "target",
    "model": "model",
    "shape": "shape",
    "train_points": "points trained on",
    "intervals": "intervals of the grid",
    "solver": "solver",
    "parameters": "parameters",
    "effective_parameters": "effective degrees of freedom",
    "train_rmse": "RMSE, training",
    "validation_rmse": "RMSE, validation",
    "cv_rmse": "RMSE, cross-validated",
    "test_rmse": "RMSE, test",
    "relative_error": "RMSE over the outputs' deviation",
    "train_cross_entropy": "cross-entropy, training",
    "cv_cross_entropy": "cross-entropy, cross-validated",
    "test_cross_entropy": "cross-entropy, test",
    "train_deviance": "mean deviance, training",
    "cv_deviance": "mean deviance, cross-validated",
    "test_deviance": "mean deviance, test",
    "test_max_error": "largest error, test",
    "r2": "R^2, test",
    "cv_r2": "R^2, cross-validated",
    "d2": "fraction of the deviance explained, test",
    "cv_d2": "fraction of the deviance explained, cross-validated",
    "cv_accuracy": "accuracy, cross-validated",
    "test_accuracy": "accuracy, test",
    "seconds": "seconds",
}


@dataclass(frozen=True, eq=False)
class ModelSummary:
    """Summary of a fit, which prints as a table.

    Attributes:
        facts: Errors, sizes and other facts, by label.
        contributions: Importance of the inputs, most important first: the table `importance` of
            the training run. If the run has no such table, the columns are `input` and `effect`,
            the root mean square of the input's contributions to the predictions for the training
            rows.
        notes: Notes of the training.
    """

    facts: dict[str, Any]
    contributions: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        facts = pd.Series({name: _shown(value) for name, value in self.facts.items()}).to_string()
        table = self.contributions.to_string(index=False, float_format="{:.4g}".format)
        return "\n".join([facts, "", table, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = pd.Series({name: _shown(value) for name, value in self.facts.items()}).to_frame()
        table = self.contributions.to_html(index=False, float_format="{:.4g}".format, border=0)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return (
            facts.to_html(header=False, border=0) + table + (f"<ul>{notes}</ul>" if notes else "")
        )


def _local_effects(curves: Array, points: Array, values: Array) -> Array:
    """Return accumulated local effects (points, outputs), centred to a mean of zero over the rows.

    `values` (rows,) are the rows' values of the column, and `points` (points,) are the values at
    which effects are computed. `curves` (points, rows, outputs) are the predictions for the rows
    after the column is set to each of the `points`.
    """
    cell = np.clip(np.searchsorted(points, values) - 1, 0, len(points) - 2)
    rows = np.arange(len(values))
    counts = np.bincount(cell, minlength=len(points) - 1)[:, None]
    steps = np.zeros((len(points) - 1, curves.shape[2]))
    np.add.at(steps, cell, curves[cell + 1, rows] - curves[cell, rows])
    effects = np.cumsum(np.pad(steps / np.maximum(counts, 1), ((1, 0), (0, 0))), 0)
    return np.asarray(effects - (counts * (effects[1:] + effects[:-1])).sum(0) / 2 / len(values))


def effect_figure(model: TrainedNetwork, table: pd.DataFrame) -> Figure:
    """Draw the effects in `table`, the concatenated results of `Model.effect`."""
    from kanrun import figures  # imported late, because it loads matplotlib

    names = table["input"].unique().tolist()
    plain = table[table["level"] == ""]
    remark = "line: all rows; dashed: rows nearby; band: 80% of rows"
    return figures.effects(table, names, plain, remark, classes=model.classes is not None)


def _of_seed(model: TrainedNetwork, name: str) -> pd.DataFrame:
    table = model.tables[name]
    return table[table["seed"] == model.seed] if "seed" in table else table


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


#: Pattern of class labels that are whole numbers.
_WHOLE = re.compile(r"-?\d{1,18}")


class Model(TrainedNetwork):
    """A trained network with the names and units of its data.

    Its attributes are those of `TrainedNetwork`: `network`, `inputs`, `outputs`, `domain`,
    `classes`, `tables`, `notes` and others. Two models are equal only if they are the same object.

    Examples:
        >>> import numpy as np
        >>> import tempfile
        >>> from kanrun import Model, fit
        >>> length = np.linspace(0.5, 1.5, 60)
        >>> model = fit({"length": length}, 2.006 * np.sqrt(length))
        >>> model
        Model(kan 1-1: length -> y)
        >>> model.predict({"length": [1.0, 1.2]}).round(2)
        array([2.01, 2.2 ])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = Model.load(model.save(f"{folder}/pendulum"))
        >>> bool(again.predict([1.0]) == model.predict([1.0]))
        True
    """

    def __call__(self, x: Data) -> Array:
        """Compute outputs or class probabilities, and warn about samples unlike the training data.

        The warnings count samples outside the training range or in gaps of the training data, and
        predictions that were clipped.

        Args:
            x: Inputs in the units of the data: an array or tensor (samples, inputs), a single point
                (inputs,), or a DataFrame, whose columns are identified by name.

        Returns:
            Outputs, shape (samples, outputs), or for a classifier the class probabilities, shape
            (samples, classes). For a single point, the result has no first axis.

        Raises:
            InvalidData: If columns are missing, the number of columns is wrong, or x contains NaN
                or text in numeric columns.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        raw = network_outputs(self, rows)
        counts = departure_counts(departures(self, rows, raw))
        if departed := departure_warnings(self, counts, len(rows)):
            warnings.warn("; ".join(departed), UserWarning, stacklevel=2)
        values = in_units(self, raw)
        return values[0] if single else values

    def predict(self, x: Data) -> NDArray[Any]:
        """Predict outputs or labels, without warnings.

        Args:
            x: Inputs, as in a call of the model.

        Returns:
            Outputs, shape (samples, outputs), or (samples,) if the model has one output. For a
            classifier, the labels, shape (samples,). For a single point, the result has no first
            axis.

        Raises:
            InvalidData: In the same cases as a call of the model.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        values: NDArray[Any] = predicted_values(self, rows)
        if self.classes:
            labels = [int(c) if _WHOLE.fullmatch(c) else c for c in self.classes]
            values = np.array(labels, dtype=None)[predicted_classes(values, self.threshold)]
        elif values.shape[1] == 1:
            values = values[:, 0]
        return values[0] if single else values

    def interval(self, x: Data, level: float) -> tuple[Array, Array]:
        """Compute a central prediction interval of each output, from the errors of held-out rows.

        Args:
            x: Inputs, as in a call of the model.
            level: Coverage probability, above 0 and at most 0.99.

        Returns:
            Lower and upper bounds in the units of the data, both of shape (samples, outputs). For a
            single point, they have no first axis.

        Raises:
            UsageError: If the model stores no held-out errors, or `level` is out of range.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        low, high = interval_bounds(self, rows, network_outputs(self, rows), level)
        return (low[0], high[0]) if single else (low, high)

    def quantile(self, x: Data, probability: float) -> Array:
        """Compute a quantile of the distribution of each output, from the errors of held-out rows.

        Args:
            x: Inputs, as in a call of the model.
            probability: Probability that the output does not exceed the quantile, from 0.005 to
                0.995.

        Returns:
            The quantiles in the units of the data, shape (samples, outputs). For a single point,
            the result has no first axis.

        Raises:
            UsageError: If the model stores no held-out errors, or `probability` is out of range.
        """
        rows, single = input_rows(x, self.inputs, self.code)
        values = quantile_values(self, rows, network_outputs(self, rows), probability)
        return values[0] if single else values

    def score(self, x: Data, y: Data) -> float:
        """Compute the score of the predictions for `x` against `y`; 1 is the best value.

        The score is R^2, averaged over the outputs. For a classifier, it is the accuracy. For a
        model with a `family`, it is D^2, the fraction of the deviance explained.

        Args:
            x: Inputs, as in a call of the model.
            y: True outputs of shape (samples, outputs) or (samples,), or labels of shape
                (samples,).

        Returns:
            The score. R^2 of a constant output is 1 if the predictions equal it, and 0 otherwise;
            D^2 of a constant output is NaN.

        Raises:
            InvalidData: If y does not have the shape of the predictions.
        """
        from sklearn.metrics import r2_score  # imported here, because it loads slowly

        predicted = self.predict(x)
        truth = np.asarray(as_array(y, "y") if self.classes else as_numbers(y, "y"))
        if np.squeeze(truth).shape != np.squeeze(predicted).shape:
            shapes = f"{truth.shape}, and the predictions {np.shape(predicted)}"
            raise InvalidData(f"y has the shape {shapes}. Give one row of y for each row of x.")
        truth = truth.reshape(np.shape(predicted))
        if self.classes:
            pairs = zip(truth, predicted, strict=True)
            return float(np.mean([label_text(a) == label_text(b) for a, b in pairs]))
        if self.family:
            explained = self.family.explained(truth.reshape(-1, 1), predicted.reshape(-1, 1))
            return float("nan") if explained is None else explained
        return float(r2_score(truth, predicted))

    def derivative(self, name: str, x: Array) -> Array:
        """Compute a derivative of a solution of `kanrun solve`.

        Args:
            name: The derivative, such as "u_xx".
            x: Points, shape (samples, inputs).

        Returns:
            The derivative at the points, shape (samples,).

        Raises:
            UsageError: If the model is not a solution of an equation, or `name` does not name a
                derivative of one of its unknowns.
        """
        return derivative_values(self, name, x)

    def save(self, path: str | Path) -> Path:
        """Write the model and its tables to a safetensors file that contains a JSON description.

        Args:
            path: Name of the file. The suffix `.safetensors` is added if it is missing.

        Returns:
            The path of the file.

        Raises:
            StorageFailed: If the file cannot be written.
        """
        file = _with_ending(path)
        write_checkpoint(file, to_checkpoint(file.stem, self))
        return file

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model from a file written by `save`. No code from the file is executed.

        Args:
            path: Name of the file, with or without the suffix `.safetensors`.

        Returns:
            The model.

        Raises:
            KanrunError: If the file is missing, corrupted or not a model of kanrun.
        """
        file = Path(path) if Path(path).is_file() else _with_ending(path)
        return from_checkpoint(read_checkpoint(file), Model)

    def export(self, form: str, file: str | Path) -> list[str]:
        """Write the model to a file that works without kanrun, as `kanrun export` does.

        Args:
            form: "c", "javascript", "onnx" or "python".
            file: Name of the file.

        Returns:
            Notes for the user on how to encode the columns of a table, if the exported program does
            not encode them itself; otherwise an empty list.

        Raises:
            UsageError: If the format is unknown or cannot represent this model, or the file cannot
                be written.
        """
        from kanrun.exports import TABLE_FORMATS, export_bytes

        write_named_file(Path(file), export_bytes(self, form, Path(file)))
        if self.code is None or form in TABLE_FORMATS:
            return []
        notes = [
            f"{file} takes the {len(self.inputs)} numbers that encode the columns of the table: "
            f"{', '.join(self.inputs)}"
        ]
        gaps = [column for column in self.code.columns if column.indicator]
        if fills := ", ".join(f"{column.name}={column.fill}" for column in gaps):
            notes.append(
                f"{file} recognises no missing values, nor those of target.read.na_values; replace "
                f"them by {fills}, and set their 'is missing' to 1"
            )
        return notes

    def summary(self) -> ModelSummary:
        """Summarise the fit: errors, parameters, degrees of freedom, and importance of each input.

        Returns:
            A summary that prints as a table.

        Raises:
            UsageError: If the model was stored without the tables of its training.
        """
        if "summary" not in self.tables:
            raise UsageError(
                "this model was stored without the tables of its training: no summary."
            )
        row = _of_seed(self, "summary").iloc[0]
        facts = {"inputs": ", ".join(self.inputs), "outputs": ", ".join(self.outputs)}
        facts |= {name: row[key] for key, name in FACTS.items() if pd.notna(row.get(key))}
        if "importance" in self.tables:
            table = _of_seed(self, "importance").drop(columns="seed", errors="ignore")
            return ModelSummary(facts, table, self.notes)
        _, added = contributions(self, training_sample(self))
        effects = [float(np.sqrt(np.mean(values**2))) for values in added.values()]
        table = pd.DataFrame({"input": list(added), "effect": effects})
        return ModelSummary(facts, table.sort_values("effect", ascending=False), self.notes)

    def effect(self, column: str) -> pd.DataFrame:
        """Compute how predictions depend on one column: partial dependence and local effects.

        Args:
            column: Name of an input column; for a table, a column of the file.

        Returns:
            One row per `output` and value `x` of the column (or `level` of a text column).
            `value` is the partial dependence: the mean prediction if the column is set to x in all
            training rows (J. Friedman, Annals of Statistics 29 (2001) 1189-1232). `lower` and
            `upper` bound the central 80% of the individual rows' curves, after each curve is
            shifted to the same mean. `ale` is the accumulated local effect, computed from the rows
            near x only (D. Apley and J. Zhu, Journal of the Royal Statistical Society B 82 (2020)
            1059-1086); it is NaN for a text column.

        Raises:
            UsageError: If there is no such column.
        """
        # Largest number of values of a column at which partial dependence is computed.
        effect_points = 41
        # Largest number of training rows over which partial dependence is averaged.
        effect_rows = 500
        columns = input_columns(self)
        sample = training_sample(self)
        check_known("column", column, columns, "input columns of this model")
        indices = columns[column]
        x = sample[:: -(-len(sample) // effect_rows)]
        code = next(code for code in self.table_code.columns if code.name == column)
        if code.levels is not None:
            features = np.eye(len(code.levels) + 1)[:, :-1]
            points = np.arange(len(code.levels) + 1.0)
        else:
            points = np.unique(np.quantile(x[:, indices[0]], np.linspace(0, 1, effect_points)))
            features = features_of(vars(code), points)
        curves = []
        for feature_values in features:
            moved = x.copy()
            moved[:, indices] = feature_values
            curves.append(predicted_values(self, moved))
        stacked = np.stack(curves)
        value = stacked.mean(1)
        shifted = stacked - stacked.mean(0)
        lower, upper = (
            np.quantile(shifted - shifted.mean(1, keepdims=True), EFFECT_BAND, axis=1) + value
        )
        ale = np.full_like(value, np.nan)
        if code.levels is None and len(points) > 1:
            local = _local_effects(stacked, points, x[:, indices[0]])
            ale = local + predicted_values(self, x).mean(0)
        level = "" if code.levels is None else code.level_names
        tables = []
        for o, output in explained_outputs(self):
            labels = {"input": column, "level": level, "output": output, "x": points}
            curves_of = {"value": value, "lower": lower, "upper": upper, "ale": ale}
            curve = {kind: values[:, o] for kind, values in curves_of.items()}
            tables.append(pd.DataFrame({**labels, "is_date": code.parts is not None, **curve}))
        return pd.concat(tables, ignore_index=True)

    def plot(self, name: str = "network", columns: Sequence[str] = ()) -> Figure:
        """Draw a figure of the training.

        Args:
            name: "network", "edges", "predictions", "residuals", "loss", "effects", "pair_maps" or
                "class_curves" (ROC, precision-recall and calibration on held-out rows).
            columns: Names of input columns; if given, their effects (see `effect`) are drawn
                instead of the figure `name`.

        Returns:
            A matplotlib figure.

        Raises:
            UsageError: If the figure does not exist for this model.
        """
        if columns:
            return effect_figure(self, pd.concat([self.effect(column) for column in columns]))
        if name == "network" and "edges" not in self.tables:
            if not self.network.edge_layers:
                raise UsageError(f"a model of kind {self.network.kind} has no edges to draw.")
            outputs = self.classes or self.outputs
            return self.network.plot(inputs=self.inputs, outputs=outputs)  # type: ignore[operator, no-any-return]
        from kanrun import figures  # imported late, because it loads matplotlib

        tables = {table: _of_seed(self, table) for table in self.tables}
        drawable = (
            dict(figures.training_figures(tables, NAMED, True)) if "summary" in tables else {}
        )
        if name not in drawable:
            names = ", ".join(drawable) or "none, because it was stored without its tables"
            raise UsageError(f"this model has no figure {name!r}. Its figures: {names}.")
        return drawable[name]()

    def _repr_html_(self) -> str:
        """Return HTML that shows the network diagram next to the summary."""
        dots_per_inch = 100
        names = f"{', '.join(self.inputs)} → {', '.join(self.classes or self.outputs)}"
        image = ""
        if self.network.edge_layers:
            buffer = io.BytesIO()
            self.plot().savefig(buffer, format="png", dpi=dots_per_inch)
            data = base64.b64encode(buffer.getvalue()).decode()
            image = f'<img style="max-width:45em" src="data:image/png;base64,{data}"/>'
        facts = self.summary()._repr_html_() if "summary" in self.tables else ""
        return (
            f"<p><b>{html.escape(names)}</b></p>"
            f'<div style="display:flex;gap:2em"><div>{facts}</div><div>{image}</div></div>'
        )


def _with_ending(path: str | Path) -> Path:
    return Path(path) if Path(path).suffix == ".safetensors" else Path(f"{path}.safetensors")


#: Pattern of the names of checkpoints with the models under a slider of the lesson.
SLIDER_NAME = re.compile(r".*-seed\d+-stages")


@dataclass(frozen=True)
class LoadedRun:
    """A stored run, or one of its points (a point is one combination of swept values).

    Use `config` for the configuration, `tables` for the recorded tables, `model()` for a trained
    model, and `points` for the points of a run with several points.
    """

    run: Run

    @cached_property
    def points(self) -> tuple[LoadedRun, ...]:
        """Points of the run, ordered by number; a run with a single point is its own point."""
        return tuple(LoadedRun(point) for point in self.run.points)

    @property
    def config(self) -> dict[str, Any]:
        """Copy of the stored configuration as nested dictionaries of plain values."""
        return deepcopy(self.run.config)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Recorded tables by name. A table is read on first access."""
        return self.run.frames

    @property
    def models(self) -> list[str]:
        """Names of the stored models, sorted by part of the study, if there are parts, and seed."""

        def natural(name: str) -> list[str | int]:
            """Return a sort key in which numbers count as numbers: cell 2 comes before cell 10."""
            parts = enumerate(re.split(r"(\d+)", name))
            return [int(part) if place % 2 else part for place, part in parts]

        internal = SLIDER_NAME, re.compile(r"resume-\d+-\d+")
        names = (
            name_of_model
            for name_of_model in self.run.checkpoints
            if not any(e.fullmatch(name_of_model) for e in internal)
        )
        return sorted(names, key=natural)

    def model(self, name: str | None = None) -> Model:
        """Return the model called `name`, by default the first of `models`.

        Raises UsageError if the run has no models or several points, or if `name` is unknown.
        """
        self.run.check_single()
        self.run.check_checkpoints()
        if not self.models:
            raise UsageError(
                f"{self.run.path} holds no trained model; only finished trainings leave one."
            )
        chosen = name or self.models[0]
        if chosen not in self.models:
            raise UsageError(
                f"{self.run.path} has no model {chosen}; it has {', '.join(self.models)}."
            )
        return replace(from_checkpoint(self.run.checkpoint(chosen), Model), tables=self.tables)

    def export(self, form: str, file: str | Path, name: str | None = None) -> list[str]:
        """Write the model called `name`, or its formula if it has one, to `file`.

        Args:
            form: Format, as in `Model.export`, or "formula".
            file: Name of the file.
            name: Name of a model; None: the first of `models`.

        Returns:
            Notes for the user, as from `Model.export`.

        Raises:
            UsageError: If the format is unknown, if it is "formula" and the run has no formula, or
                if the file cannot be written.
        """
        from kanrun.exports import formula_bytes, identifier

        chosen = name or next(iter(self.models), "")
        meta = self.run.checkpoint(chosen).meta if chosen in self.run.checkpoints else {}
        if "formula" in meta:
            all_of = [
                self.run.checkpoint(entry).meta for entry in ([name] if name else self.models)
            ]
            units = self.config.get("target", {}).get("units")
            stored = [
                {**entry, "units": units}
                for entry in all_of
                if "formula" in entry and entry.get("seed") == meta.get("seed")
            ]
            content = formula_bytes(stored, form, file, identifier(Path(file).stem))
            write_named_file(Path(file), content)
            return []
        if form == "formula":
            raise UsageError(
                f"{self.run.path} holds no formula; find one with kanrun interpret from_run=RUN."
            )
        return self.model(name).export(form, file)


def load_run(run: str | Path, outputs: str | Path = "outputs") -> LoadedRun:
    """Read a stored run: its configuration, tables and trained models.

    No code from the run's folder is executed.

    Args:
        run: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/7` for point 7 of a run with several
            points, a path, a tag, or the beginning of the name of a run in `outputs`.
        outputs: The folder that contains the run folders.

    Returns:
        The run, or the point if `run` names one.

    Raises:
        UsageError: If the run does not exist.

    Examples:
        >>> from kanrun import load_run
        >>> run = load_run("fit/latest")
        >>> run.model().inputs
        ('x0',)
        >>> len(run.tables["summary"])
        1
    """
    return LoadedRun(find_run(str(run), Path(outputs)))
