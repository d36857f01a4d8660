"""Summary and figures of a trained model, and their HTML representation for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kanrun.errors import UsageError
from kanrun.model.effects import effect_figure, partial_dependence
from kanrun.model.prediction import contributions, training_sample
from kanrun.model.trained import TrainedNetwork
from kanrun.targets import NAMED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def summary_of(model: TrainedNetwork) -> ModelSummary:
    """Return the summary of a model. See `Model.summary`."""
    if "summary" not in model.tables:
        raise UsageError("this model was stored without the tables of its training: no summary.")
    row = _of_seed(model, "summary").iloc[0]
    facts = {"inputs": ", ".join(model.inputs), "outputs": ", ".join(model.outputs)}
    facts |= {name: row[key] for key, name in FACTS.items() if pd.notna(row.get(key))}
    if "importance" in model.tables:
        table = _of_seed(model, "importance").drop(columns="seed", errors="ignore")
        return ModelSummary(facts, table, model.notes)
    _, added = contributions(model, training_sample(model))
    effects = [float(np.sqrt(np.mean(values**2))) for values in added.values()]
    table = pd.DataFrame({"input": list(added), "effect": effects})
    return ModelSummary(facts, table.sort_values("effect", ascending=False), model.notes)


def _of_seed(model: TrainedNetwork, name: str) -> pd.DataFrame:
    table = model.tables[name]
    return table[table["seed"] == model.seed] if "seed" in table else table


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def figure_of(model: TrainedNetwork, name: str, columns: Sequence[str] = ()) -> Figure:
    """Draw a figure of a model. See `Model.plot`."""
    if columns:
        return effect_figure(model, pd.concat([partial_dependence(model, c) for c in columns]))
    if name == "network" and "edges" not in model.tables:
        if not model.network.edge_layers:
            raise UsageError(f"a model of kind {model.network.kind} has no edges to draw.")
        outputs = model.classes or model.outputs
        return model.network.plot(inputs=model.inputs, outputs=outputs)  # type: ignore[operator, no-any-return]
    from kanrun import figures  # imported late, because it loads matplotlib

    tables = {table: _of_seed(model, table) for table in model.tables}
    drawable = dict(figures.training_figures(tables, NAMED, True)) if "summary" in tables else {}
    if name not in drawable:
        names = ", ".join(drawable) or "none, because it was stored without its tables"
        raise UsageError(f"this model has no figure {name!r}. Its figures: {names}.")
    return drawable[name]()


def html_of(model: TrainedNetwork) -> str:
    """Return HTML that shows the network diagram of a model next to its summary."""
    names = f"{', '.join(model.inputs)} → {', '.join(model.classes or model.outputs)}"
    image = ""
    if model.network.edge_layers:
        buffer = io.BytesIO()
        figure_of(model, "network").savefig(buffer, format="png", dpi=DOTS_PER_INCH)
        data = base64.b64encode(buffer.getvalue()).decode()
        image = f'<img style="max-width:45em" src="data:image/png;base64,{data}"/>'
    facts = summary_of(model)._repr_html_() if "summary" in model.tables else ""
    return (
        f"<p><b>{html.escape(names)}</b></p>"
        f'<div style="display:flex;gap:2em"><div>{facts}</div><div>{image}</div></div>'
    )
