"""Interactive parts of a report: networks, frames and curves as plain values for its scripts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from kanrun.errors import KanrunError
from kanrun.runs import Checkpoint, Run

Living = dict[str, Any]
_SLIDER_NAME = re.compile(
    r".*-seed\d+-stages"
)  # of the checkpoints of `kanrun.study.model.slider_checkpoint`
_SHOWN = 2.0  # how far from 0 the edges of an MLP are drawn, in standard deviations of an input
_RESUME_NAME = re.compile(r"resume-\d+-\d+")


@dataclass(frozen=True)
class PageLimits:
    """Limits of a page: networks, numbers of one, test points, points of a line, panels, frames."""

    networks: int = 8
    numbers: int = 60_000
    points: int = 300
    line: int = 400
    panels: int = 12
    frames: int = 60


def interactive_data(run: Run, limits: PageLimits = PageLimits()) -> Iterator[Living]:
    """Return all interactive parts of `run`; what cannot be read is left out."""
    for make in (_networks, _curves, _phases, _staircase, _snapping):
        with contextlib.suppress(KanrunError, KeyError, ValueError, TypeError, IndexError):
            yield from make(run, limits)


def network_values(
    description: Mapping[str, Any], arrays: Mapping[str, Any], prefix: str = ""
) -> Living:
    """Return a stored KAN or MLP as network.js evaluates it.

    Raises KeyError for a network of another kind, ValueError for shapes that do not fit each other.
    """
    if description["kind"] == "mlp":
        return {"layers": _dense_layers(description, arrays, prefix), "products": []}
    layers = []
    for number, each in enumerate(description["layers"]):
        spec, at = each["edges"], f"{prefix}layers.{number}."
        mask, coefficients, knots = (
            arrays[at + name] for name in ("mask", "coefficients", "knots")
        )
        if spec["edge_scaling"] == "single":
            base = spline = arrays[at + "weight"] * mask
        else:
            base, spline = arrays[at + "base_weight"] * mask, arrays[at + "spline_weight"] * mask
        degree = int(spec["degree"])
        if (
            coefficients.shape != (*mask.shape, knots.shape[1] - degree - 1)
            or knots.shape[0] != mask.shape[1]
        ):
            raise ValueError("the arrays of the network do not fit each other")
        layers.append(
            {
                "degree": degree,
                "base": str(spec["base"]),
                "extrapolation": str(spec["extrapolation"]),
                "baseGoesOn": False,
                "knots": knots.tolist(),
                "coefficients": coefficients.tolist(),
                "baseWeight": base.tolist(),
                "splineWeight": spline.tolist(),
            }
        )
    products = [int(count) for count in description.get("products", ())]
    return {"layers": layers, "products": products + [0] * (len(layers) - len(products))}


def _dense_layers(
    description: Mapping[str, Any], arrays: Mapping[str, Any], prefix: str
) -> list[Living]:
    """Return linear layers as edges w x (base identity) and nodes with a bias and an activation."""
    layers, count = [], len(description["shape"]) - 1
    for number in range(count):
        weights, biases = (arrays[f"{prefix}linear.{number}.{name}"] for name in ("weight", "bias"))
        none = [[0.0] * weights.shape[1]] * weights.shape[0]
        ends = [-_SHOWN, -_SHOWN, _SHOWN, _SHOWN]  # of a degree of 1, for what is drawn of an edge
        layers.append(
            {
                "degree": 1,
                "base": "identity",
                "extrapolation": "linear",
                "baseGoesOn": True,
                "knots": [ends] * weights.shape[1],
                "coefficients": [[[0.0, 0.0]] * weights.shape[1]] * weights.shape[0],
                "baseWeight": weights.tolist(),
                "splineWeight": none,
                "bias": biases.tolist(),
                "activation": str(description["activation"]) if number < count - 1 else "identity",
            }
        )
    return layers


def _networks(run: Run, limits: PageLimits) -> Iterator[Living]:
    """Yield the networks under sliders, one per title; without sliders that of the first seed."""
    names = [name for name in run.checkpoints if not _RESUME_NAME.fullmatch(name)]
    found: dict[str, Living] = {}
    for name in filter(_SLIDER_NAME.fullmatch, names):
        stored = run.checkpoint(name)
        title = str(stored.meta["title"])
        if _size(stored) > limits.numbers or (len(found) >= limits.networks and title not in found):
            continue
        named = {f"{number}/": entry for number, entry in enumerate(stored.meta["stages"])}
        stages = [
            {"label": str(entry["label"]), "model": model_values(entry["network"], stored, prefix)}
            for prefix, entry in named.items()
        ]
        x, y = stored.arrays["points/x"].tolist(), stored.arrays["points/y"].tolist()
        if (classes := stored.meta["classes"]) is not None:
            y = [[str(classes[int(value)]) for value in row] for row in y]
        slider = _network(title, stored.meta, stages, {"x": x, "y": y}) | {
            "slider": str(stored.meta["slider"])
        }
        found.setdefault(title, slider | {"stages": []})["stages"].extend(stages)
    yield from found.values()
    models = [name for name in names if not _SLIDER_NAME.fullmatch(name)]
    if found or not models:
        return
    stored = run.checkpoint(models[0])
    title, network = f"The network {models[0]}", stored.meta["network"]
    if _size(stored) > limits.numbers:
        yield {
            "kind": "absent",
            "title": title,
            "said": f"It has {_size(stored)} numbers, too many for a page.",
        }
        return
    points = _test_points(run, models[0], stored.meta)
    try:
        if network["kind"] == "windows":
            stages = _windows(network, stored, points, limits)
            yield _network(title, stored.meta, stages, points) | {"slider": "window"}
        else:
            stages = [{"label": "", "model": model_values(network, stored)}]
            yield _network(title, stored.meta, stages, _thinned(points, limits.points))
    except KeyError:
        what = (
            "a solution with constraints=hard"
            if "hard" in str(network)
            else f"a model of kind {network['kind']}"
        )
        yield {
            "kind": "absent",
            "title": title,
            "said": f"The page cannot evaluate {what}; its figures show it.",
        }


def _windows(
    description: Mapping[str, Any], stored: Checkpoint, points: Living, limits: PageLimits
) -> list[Living]:
    """Return a stage for each time window, with its test points."""
    stages = []
    for number, field in enumerate(description["fields"]):
        prefix = f"fields.{number}."
        box = stored.arrays[f"{prefix}box"].tolist()
        low, high = box[-1]
        inside = [
            i for i, x in enumerate(points["x"]) if (low < x[-1] or not number) and x[-1] <= high
        ]
        part = {name: [values[i] for i in inside] for name, values in points.items()}
        stages.append(
            {
                "label": f"{stored.meta['inputs'][-1]} from {low:.4g} to {high:.4g}",
                "domain": box,
                "model": model_values(field, stored, prefix),
                "points": _thinned(part, limits.points),
            }
        )
    return stages


def model_values(description: Mapping[str, Any], stored: Checkpoint, prefix: str = "") -> Living:
    """Return a KAN, or a solution by one. Raises KeyError for what network.js cannot evaluate."""
    meta, arrays = stored.meta, stored.arrays
    if description.get("kind") == "field" and "hard" not in description:
        box = arrays[f"{prefix}box"]
        inner = {"shift": box.mean(1).tolist(), "scale": ((box[:, 1] - box[:, 0]) / 2).tolist()}
        sizes = arrays[f"{prefix}sizes"]
        outer = {"shift": [0.0] * len(sizes), "scale": sizes.tolist()}
        values = network_values(description["network"], arrays, f"{prefix}network.")
        form = [int(count) for count in description["form"][:3]]
        return values | {
            "form": form,
            "classes": None,
            "inputScaling": inner,
            "outputScaling": outer,
        }
    classes = [str(name) for name in meta["classes"]] if meta["classes"] else None
    scalings = {"inputScaling": meta["input_scaling"], "outputScaling": meta["output_scaling"]}
    return network_values(description, arrays, prefix) | scalings | {"classes": classes}


def _network(title: str, meta: Mapping[str, Any], stages: list[Living], points: Living) -> Living:
    return {
        "kind": "network",
        "title": title,
        "stages": stages,
        "inputs": [str(name) for name in meta["inputs"]],
        "outputs": [str(name) for name in meta["outputs"]],
        "domain": meta["domain"],
        "classes": stages[0]["model"]["classes"],
        "coded": bool(meta.get("code")),
        "points": points,
    }


def _size(stored: Checkpoint) -> int:
    return sum(array.size for array in stored.arrays.values())


def _test_points(run: Run, model: str, meta: Mapping[str, Any]) -> Living:
    """Return points of the predictions, or of a solution, whose truth may be unknown."""
    solution = f"solution_{model.rpartition('-seed')[0].rpartition('-')[2]}"
    inputs, outputs = list(meta["inputs"]), [f"{name}_true" for name in meta["outputs"]]
    table = pd.DataFrame()
    if "predictions" in run.tables:
        table = run.table("predictions").query("split == 'test'")
        inputs, outputs = (
            [f"input:{name}" for name in inputs],
            [f"truth:{name}" for name in meta["outputs"]],
        )
    elif solution in run.tables:
        table = run.table(solution)
    if not {*inputs, *outputs} <= set(table):
        return {"x": [], "y": []}
    known = table.dropna(subset=[*inputs, *outputs])
    return {"x": known[inputs].to_numpy().tolist(), "y": known[outputs].to_numpy().tolist()}


def _curves(run: Run, _: PageLimits) -> Iterator[Living]:
    """Yield the Bézier curve and the B-spline of `kanrun curves` by their control points."""
    if "de_casteljau" in run.tables:
        points = run.table("de_casteljau").query("level == 0")
        degree = len(points) - 1
        title = f"A Bézier curve of degree {degree}: every control point moves all of it"
        yield {
            "kind": "curve",
            "title": title,
            "control": _pairs(points),
            "knots": None,
            "degree": degree,
        }
    if {"bspline_control", "bspline_knots"} <= set(run.tables):
        points, knots = run.table("bspline_control"), run.table("bspline_knots")
        every = np.repeat(knots["knot"], knots["multiplicity"].astype(int)).tolist()
        degree = len(every) - len(points) - 1
        spans = f"a control point moves at most {degree + 1} spans between knots (grey dots)"
        title = f"A B-spline of degree {degree}: {spans}"
        yield {
            "kind": "curve",
            "title": title,
            "control": _pairs(points),
            "knots": every,
            "degree": degree,
        }


def _phases(run: Run, limits: PageLimits) -> Iterator[Living]:
    """Yield the tasks of `kanrun continual` with the predictions after each phase."""
    table = _first_seed(run.table("functions"))
    if "x1" in table:  # of more inputs than one there is no curve
        return
    frames = []
    for phase, known in islice(table.groupby("after"), limits.frames):
        panels = []
        for learner, rows in islice(known.groupby("learner", sort=False), limits.panels):
            lines = [
                _line(rows["x0"], rows["truth"], "truth", limits),
                _line(rows["x0"], rows["output"], "curve", limits),
            ]
            panels.append({"title": str(learner), "lines": lines})
        frames.append({"label": f"after phase {phase}", "panels": panels})
    title = "Task after task: the target (dashed) and what each learner remembers"
    yield {"kind": "frames", "title": title, "slider": "phase", "frames": frames, "common": True}


def _staircase(run: Run, limits: PageLimits) -> Iterator[Living]:
    """Yield the errors of `kanrun extend-grid` over steps, grid by grid: the staircase."""
    table = _first_seed(run.table("metrics"))
    if "schedules" in set(table.get("part", ())):
        table = table[table["part"] == "schedules"]
    error, *_ = (name for name in ("test_rmse", "validation_rmse", "train_rmse") if name in table)
    table["log"] = np.log10(table[error].where(table[error] > 0))
    schedules = list(islice(table.groupby("schedule", sort=False), limits.panels))
    frames = []
    for stage in sorted(table["stage"].unique())[: limits.frames]:
        panels, grids = [], list[str]()
        for schedule, rows in schedules:
            step = pd.Series(range(len(rows)), rows.index)
            done = rows["stage"] <= stage
            grids += map(str, rows["intervals"][done].tail(1))
            lines = [
                _line(step, rows["log"], "unseen", limits),
                _line(step[done], rows["log"][done], "curve", limits),
            ]
            panels.append({"title": f"log10 {error} over steps, {schedule}", "lines": lines})
        said = f"intervals: {', '.join(dict.fromkeys(grids))}"
        frames.append({"label": f"stage {stage}", "panels": panels, "said": said})
    title = "The staircase: each finer grid starts where the coarser one ended"
    yield {"kind": "frames", "title": title, "slider": "grid", "frames": frames, "common": True}


def _snapping(run: Run, limits: PageLimits) -> Iterator[Living]:
    """Yield the edges of `kanrun interpret`, stage by stage, until they are symbols."""
    table = _first_seed(run.table("edges"))
    frames = []
    for stage, rows in islice(table.groupby("stage", sort=False), limits.frames):
        panels = []
        for _, edge in rows.groupby(["layer", "out", "in"], sort=False):
            one = edge.iloc[0].where(edge.iloc[0].notna(), "")
            if one["symbolic"] == "=" or str(one["pruned"]) == "True":
                continue
            source = one["input_name"] or f"h{one['layer']}.{one['in']}"
            node = one["output_name"] or f"h{one['layer'] + 1}.{one['out']}"
            title = f"{source} → {node}" + (f": {one['symbolic']}" if one["symbolic"] else "")
            line = _line(edge["x"], edge["y"], "other" if one["symbolic"] else "curve", limits)
            panels.append((-float(one["score"] or 0), {"title": title, "lines": [line]}))
        panels.sort(key=lambda pair: pair[0])
        frames.append(
            {"label": str(stage), "panels": [panel for _, panel in panels[: limits.panels]]}
        )
    title = "From a network to a formula: blue edges are splines, orange ones have become symbols"
    yield {"kind": "frames", "title": title, "slider": "stage", "frames": frames, "common": False}


def _pairs(points: pd.DataFrame) -> list[list[float]]:
    numbers: list[list[float]] = points[["x", "y"]].to_numpy().tolist()
    return numbers


def _line(x: pd.Series, y: pd.Series, style: str, limits: PageLimits) -> Living:
    return {
        "x": _thin(x.tolist(), limits.line),
        "y": _thin(y.tolist(), limits.line),
        "style": style,
    }


def _thin(values: Sequence[Any], most: int) -> list[Any]:
    return list(values[:: max(1, -(-len(values) // most))])


def _thinned(points: Living, most: int) -> Living:
    return {name: _thin(values, most) for name, values in points.items()}


def _first_seed(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["seed"] == table["seed"].min()].copy() if "seed" in table else table
