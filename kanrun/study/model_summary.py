"""What a trained model says of itself: its summary, its figures, and both as HTML for notebooks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kanrun.config.registry import resolve
from kanrun.errors import UsageError
from kanrun.targets import root_mean_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kanrun.study.model import Model
    from kanrun.study.saved import LoadedRun

#: Facts of a summary in their order: columns of the table `summary`, and what they are called.
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
    "test_max_error": "largest error, test",
    "r2": "R^2, test",
    "cv_r2": "R^2, cross-validated",
    "cv_accuracy": "accuracy, cross-validated",
    "test_accuracy": "accuracy, test",
    "seconds": "seconds",
}


@dataclass(frozen=True, eq=False)
class ModelSummary:
    """The facts of a fit by name; `contributions` has a row per input, the most important first.

    Their column `permutation_importance` is the root mean square error (for classes the share of wrong labels) on training rows with
    the input's values shuffled among them, minus that without.
    """

    facts: dict[str, Any]
    contributions: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max(map(len, self.facts))
        lines = [f"{name:<{width}}  {_shown(value)}" for name, value in self.facts.items()]
        table = self.contributions.to_string(
            index=False, float_format=lambda number: f"{number:.4g}"
        )
        return "\n".join(
            [*lines, "", *table.splitlines(), *(f"note: {note}" for note in self.notes)]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th>{html.escape(n)}</th><td>{html.escape(_shown(v))}</td></tr>"
            for n, v in self.facts.items()
        )
        table = self.contributions.to_html(
            index=False, float_format=lambda number: f"{number:.4g}", border=0
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<table>{''.join(rows)}</table>{table}" + (f"<ul>{notes}</ul>" if notes else "")


def summary_of(model: Model) -> ModelSummary:
    """See `Model.summary`."""
    if "summary" not in model.tables:
        raise UsageError(
            "this model was stored without the tables of its training, so it has no summary."
        )
    row = _of_seed(model, "summary").iloc[0]
    facts = {"inputs": ", ".join(model.inputs), "outputs": ", ".join(model.outputs)}
    facts |= {
        words: row[column]
        for column, words in FACTS.items()
        if column in row and not pd.isna(row[column])
    }
    return ModelSummary(facts, _contributions(model), model.notes)


def _contributions(model: Model) -> pd.DataFrame:
    if "importance" in model.tables:
        return _of_seed(model, "importance").drop(columns="seed", errors="ignore")
    table = _of_seed(model, "predictions")
    rows = table[table["split"] == "train"]
    x = rows[[f"input:{name}" for name in model.inputs]].to_numpy(dtype=float)
    truth = rows[[f"truth:{name}" for name in model.outputs]].to_numpy()

    def error(at: np.ndarray) -> float:
        values = model.values(at)
        if model.classes:
            return float(
                (np.array(model.classes)[values.argmax(1)] != truth[:, 0].astype(str)).mean()
            )
        return float(root_mean_square((values - truth.astype(float)).ravel()))

    order, before, shuffled = np.random.default_rng(0).permutation(len(x)), error(x), []
    for column in range(x.shape[1]):
        moved = x.copy()
        moved[:, column] = moved[order, column]
        shuffled.append(error(moved) - before)
    largest = np.argsort(shuffled, kind="stable")[::-1]
    return pd.DataFrame(
        {"input": np.array(model.inputs)[largest], "permutation_importance": np.array(shuffled)[largest]}
    )


def _of_seed(model: Model, name: str) -> pd.DataFrame:
    table = model.tables[name]
    return table[table["seed"] == model.seed] if "seed" in table else table


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def figure_of(model: Model, name: str) -> Figure:
    """See `Model.plot`."""
    if name == "network" and "edges" not in model.tables:
        if not model.network.edge_layers:
            raise UsageError(f"a model of kind {model.network.kind} has no edges to draw.")
        figure: Figure = model.network.plot(
            inputs=model.inputs, outputs=model.classes or model.outputs
        )  # type: ignore[operator]
        return figure
    tables = {table: _of_seed(model, table) for table in model.tables}
    drawn: Iterator[tuple[str, Figure]] = (
        resolve("kanrun.experiments.fit:figures")(tables) if "summary" in tables else iter(())
    )
    names = []
    for found, figure in drawn:
        if found == name:
            return figure
        names.append(found)
    raise UsageError(
        f"this model has no figure {name!r}; it has {', '.join(names) or 'none, without its tables'}."
    )


def html_of(model: Model) -> str:
    """The diagram of a model beside its summary."""
    shown = ", ".join(model.inputs), ", ".join(model.classes or model.outputs)
    head = f"<p><b>{html.escape(shown[0])} &rarr; {html.escape(shown[1])}</b></p>"
    image = _image(figure_of(model, "network")) if model.network.edge_layers else ""
    facts = summary_of(model)._repr_html_() if "summary" in model.tables else ""
    return f'{head}<div style="display:flex;gap:2em"><div>{facts}</div><div>{image}</div></div>'


def run_html(run: LoadedRun) -> str:
    """Status, summary and figures of a run; the jobs of a sweep."""
    head = f"<p><b>{html.escape(str(run.run.path))}</b>: {html.escape(run.run.status)}</p>"
    if run.jobs:
        jobs = [(job.run.name, job.run.status) for job in run.jobs]
        return head + pd.DataFrame(jobs, columns=["job", "status"]).to_html(index=False, border=0)
    summary = (
        run.tables["summary"].to_html(index=False, border=0) if "summary" in run.tables else ""
    )
    pictures = (path for path in run.run.figures if path.suffix == ".png")
    return head + summary + "".join(_img(path.read_bytes()) for path in pictures)


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return _img(buffer.getvalue())


def _img(png: bytes) -> str:
    return f'<img style="max-width:45em" src="data:image/png;base64,{base64.b64encode(png).decode()}"/>'
