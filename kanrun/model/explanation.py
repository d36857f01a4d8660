"""Explanations of a trained network: edge functions, effects of columns, summary and figures."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kanrun.engine.networks import Network
from kanrun.errors import UsageError
from kanrun.model.prediction import (
    contributions,
    explained_outputs,
    in_numpy,
    input_columns,
    predicted_values,
    training_sample,
)
from kanrun.model.trained import TrainedNetwork
from kanrun.points import Array
from kanrun.targets.datasets import NAMED, check_known
from kanrun.targets.encoding import features_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest number of samples from which the network diagram is drawn.
MOST_POINTS = 2000
#: Largest number of edges in the table of edges; edges with the largest scores are kept. To write
#: and read so many edges with `EDGE_POINTS` points each takes 0.8 CPU s.
MOST_EDGES = 400
#: Largest number of points per edge. More points draw smoother curves and make larger tables.
EDGE_POINTS = 101
#: Smallest number of points per edge, even if the table then has more than `MOST_ROWS` rows. With
#: fewer points, curves look broken.
FEWEST_POINTS = 26
#: Number of rows of the table of edges above which edges get fewer points. A larger number makes
#: smoother curves and larger tables for networks with many edges.
MOST_ROWS = 10_000
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
    leads from the sums to the layer's nodes. At most MOST_EDGES edges are returned, those with the
    largest scores.
    """
    rows = list[tuple[Any, ...]]()
    multiply = any(network.products)
    layers = network.edge_layers
    edges = min(sum(layer.mask.numel() for layer in layers), MOST_EDGES)
    points = max(FEWEST_POINTS, min(EDGE_POINTS, MOST_ROWS // edges))
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
    kept = sorted(rows, key=lambda row: -row[EDGE_COLUMNS.index("score")])[:MOST_EDGES]
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


#: Largest number of training rows over which partial dependence is averaged. More rows give
#: steadier curves and take more time.
EFFECT_ROWS = 500
#: Largest number of values of a column at which partial dependence is computed. More values show
#: finer details and take more time.
EFFECT_POINTS = 41
#: Quantiles of single rows' curves at the lower and upper edge of the band around partial
#: dependence. Quantiles nearer to 0 and 1 make a wider band.
EFFECT_BAND = (0.1, 0.9)
DOTS_PER_INCH = 100
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


class ExplainedNetwork(TrainedNetwork):
    """A trained network that can be explained."""

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
        columns = input_columns(self)
        sample = training_sample(self)
        check_known("column", column, columns, "input columns of this model")
        indices = columns[column]
        x = sample[:: -(-len(sample) // EFFECT_ROWS)]
        code = next(code for code in self.table_code.columns if code.name == column)
        if code.levels is not None:
            features = np.eye(len(code.levels) + 1)[:, :-1]
            points = np.arange(len(code.levels) + 1.0)
        else:
            points = np.unique(np.quantile(x[:, indices[0]], np.linspace(0, 1, EFFECT_POINTS)))
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
        names = f"{', '.join(self.inputs)} → {', '.join(self.classes or self.outputs)}"
        image = ""
        if self.network.edge_layers:
            buffer = io.BytesIO()
            self.plot().savefig(buffer, format="png", dpi=DOTS_PER_INCH)
            data = base64.b64encode(buffer.getvalue()).decode()
            image = f'<img style="max-width:45em" src="data:image/png;base64,{data}"/>'
        facts = self.summary()._repr_html_() if "summary" in self.tables else ""
        return (
            f"<p><b>{html.escape(names)}</b></p>"
            f'<div style="display:flex;gap:2em"><div>{facts}</div><div>{image}</div></div>'
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
    """Draw the effects in `table`, the concatenated results of `ExplainedNetwork.effect`."""
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
