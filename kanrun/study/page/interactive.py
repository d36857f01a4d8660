"""Interactive parts of a report (networks, effects, curves) as plain values for its scripts.

Networks have the form of exported documents (`kanrun.exports.document`), which network.js can
evaluate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from kanrun.engine.equations import Windows
from kanrun.errors import MALFORMED, KanrunError, UsageError
from kanrun.exports.document import document_of
from kanrun.model.loaded_run import SLIDER_NAME, LoadedRun
from kanrun.model.model import Model
from kanrun.model.trained import from_checkpoint
from kanrun.runs import Checkpoint, Run
from kanrun.study.evaluation import Slider

Living = dict[str, Any]
#: Kinds of layers that network.js can evaluate.
_LAYERS = {"splines", "dense", "sums_of_products"}


#: Number of days from 1970-01-01 to the next Monday.
MONDAY = 4
#: Largest number of inputs whose effects are on a page.
INPUTS = 12
#: Largest number of values (coefficients, knots, masks) that a network on a page may have.
NUMBERS = 60_000
#: Largest number of test points on a page; more are thinned evenly.
POINTS = 300


def interactive_data(run: Run) -> Iterator[Living]:
    """Yield all interactive parts of `run`. Parts that cannot be read are left out."""
    for make in (_networks, _effects, _curves):
        with contextlib.suppress(KanrunError, *MALFORMED):
            yield from make(run)


def model_values(model: Model) -> Living:
    """Return a model in the form that network.js evaluates.

    Raises UsageError if network.js cannot evaluate a layer of the model.
    """
    network = model.network
    document = document_of(model)
    if not {layer["kind"] for layer in document["layers"]} <= _LAYERS:
        raise UsageError(f"The page cannot evaluate a model of kind {network.kind}.")
    return {key: document[key] for key in ("classes", "input_map", "output_map", "layers")}


def _networks(run: Run) -> Iterator[Living]:
    """Yield the network of the first seed, with a slider over its stages if they were recorded.

    If the page cannot evaluate the network, yield a sentence that says why, unless the effects of
    the inputs are shown instead.
    """
    for stored in map(run.checkpoint, filter(SLIDER_NAME.fullmatch, run.checkpoints)):
        if _size(stored) <= NUMBERS:
            slider = from_checkpoint(stored, Slider)
            classes = slider.models[0].classes
            stages = list(zip(slider.labels, slider.models, strict=True))
            labels = np.array(classes)[slider.y.astype(int)] if classes else slider.y
            points = {"x": slider.x.tolist(), "y": labels.tolist(), "recorded": _recorded(run)}
            yield _network(slider.title, slider.slider, stages, points)
            return
    is_table = "effects" in run.tables
    for name in LoadedRun(run).models[:1]:
        stored = run.checkpoint(name)
        absent = {"kind": "absent", "title": f"The network {name}"}
        try:
            if (size := _size(stored)) > NUMBERS:
                raise UsageError(f"It has {size} numbers, too many for a page.")
            model = from_checkpoint(stored, Model)
            yield _stored_network(run, absent["title"], model, _test_points(run, model))
        except UsageError as error:
            if not is_table:
                yield absent | {"said": f"{str(error).rstrip('.')}; its figures show it."}


def _recorded(run: Run) -> float | None:
    """Return the test RMSE of a run of one training, or None.

    The page shows it until the reader moves something.
    """
    column = run.columns("summary").get("test_rmse", [])
    return float(column[0]) if len(column) == 1 and column[0] is not None else None


def _effects(run: Run) -> Iterator[Living]:
    """Yield the effect of each of the most important inputs, with the others at their means."""
    table = run.table("effects")
    table = table[table["seed"] == table["seed"].min()] if "seed" in table else table
    outputs = list(table["output"].unique())
    is_class = run.columns("summary").get("largest_class") is not None
    output = outputs[-1] if is_class else outputs[0]
    groups = dict(
        list(table[table["output"] == output].fillna({"level": ""}).groupby("input", sort=False))
    )
    order = dict.fromkeys([*run.columns("importance").get("input", []), *groups])
    inputs = []
    for name in [name for name in order if name in groups][:INPUTS]:
        rows = groups[name].sort_values("x")
        columns = {c: rows[c].tolist() for c in ("x", "value", "lower", "upper")}
        levels = bool((rows["level"] != "").all())
        inputs.append({"name": name, "levels": levels, "labels": _labels(rows, levels), **columns})
    what = f"the probability of {output}" if is_class else output
    title = f"How {what} depends on each input, the others at their means"
    yield {"kind": "effects", "title": title, "output": what, "inputs": inputs}


def _labels(rows: pd.DataFrame, levels: bool) -> list[str] | None:
    """Return the labels of the values of an input: levels, dates or weekdays; None for numbers."""
    if levels:
        return [str(level) for level in rows["level"]]
    days = rows["x"]
    form = "%Y-%m-%d"
    if str(rows["input"].iloc[0]).startswith("weekday of "):
        days = days.round() + MONDAY
        form = "%a"
    elif not rows["is_date"].astype(str).eq("True").all():
        return None
    return pd.to_datetime(days, unit="D").dt.strftime(form).tolist()


def _size(stored: Checkpoint) -> int:
    return sum(array.size for array in stored.arrays.values())


def _network(
    title: str, slider: str, stages: Sequence[tuple[str, Model]], points: Living
) -> Living:
    model = stages[0][1]
    return {
        "kind": "network",
        "title": title,
        "slider": slider,
        "stages": [{"label": label, "model": model_values(stage)} for label, stage in stages],
        "inputs": list(model.inputs),
        "outputs": list(model.outputs),
        "domain": model.domain.tolist(),
        "classes": model.classes,
        "coded": model.code is not None,
        "points": points,
    }


def _stored_network(run: Run, title: str, model: Model, points: Living) -> Living:
    """Return a network with test points.

    A network of several time windows has one stage per window, with the test points in that window.
    """
    if not isinstance(model.network, Windows):
        shown = _thinned(points, POINTS)
        shown["recorded"] = _recorded(run) if len(shown["x"]) < len(points["x"]) else None
        return _network(title, "", [("", model)], shown)
    boxes = [field.box.tolist() for field in model.network.parts]
    stages = [
        (f"{model.inputs[-1]} from {low:.4g} to {high:.4g}", replace(model, network=field))
        for field, (*_, (low, high)) in zip(model.network.parts, boxes, strict=True)
    ]
    living = _network(title, "window", stages, points)
    before = -math.inf
    for stage, box in zip(living["stages"], boxes, strict=True):
        after = box[-1][1] if box is not boxes[-1] else math.inf
        inside = [before < x[-1] <= after for x in points["x"]]
        in_window = {name: list(compress(values, inside)) for name, values in points.items()}
        stage |= {"domain": box, "points": _thinned(in_window, POINTS)}
        before = after
    return living


def _test_points(run: Run, model: Model) -> Living:
    """Return test points with true outputs, of a fit or of a solution; empty if none are known."""
    inputs = list(model.inputs)
    outputs = [f"{name}_true" for name in model.outputs]
    if "predictions" in run.tables:
        table = run.table("predictions").query("split == 'test'")
        inputs = [f"input:{name}" for name in inputs]
        outputs = [f"truth:{name}" for name in model.outputs]
    else:
        table = run.frames.get("solution", pd.DataFrame())
    if not {*inputs, *outputs} <= set(table):
        return {"x": [], "y": []}
    known = table.dropna(subset=[*inputs, *outputs])
    return {"x": _rows(known, inputs), "y": _rows(known, outputs)}


def _curves(run: Run) -> Iterator[Living]:
    """Yield the Bézier curve and the B-spline of `kanrun curves`, given by control points."""
    curve = {"kind": "curve", "knots": None}
    if "de_casteljau" in run.tables:
        control = _rows(run.table("de_casteljau").query("level == 0"), ["x", "y"])
        degree = len(control) - 1
        title = f"A Bézier curve of degree {degree}: every control point moves all of it"
        yield curve | {"title": title, "control": control, "degree": degree}
    if {"bspline_control", "bspline_knots"} <= set(run.tables):
        control = _rows(run.table("bspline_control"), ["x", "y"])
        knots = run.table("bspline_knots")
        every = np.repeat(knots["knot"], knots["multiplicity"].astype(int)).tolist()
        degree = len(every) - len(control) - 1
        spans = f"a control point moves at most {degree + 1} spans between knots (grey dots)"
        title = f"A B-spline of degree {degree}: {spans}"
        yield curve | {"title": title, "control": control, "knots": every, "degree": degree}


def _rows(table: pd.DataFrame, columns: Sequence[str]) -> list[list[float]]:
    rows: list[list[float]] = table[list(columns)].to_numpy().tolist()
    return rows


def _thinned(points: Living, most: int) -> Living:
    return {name: values[:: max(1, -(-len(values) // most))] for name, values in points.items()}
