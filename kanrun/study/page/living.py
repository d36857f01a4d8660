"""What moves on a report's page: networks, recorded frames and curves as plain values for its scripts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanrun.errors import KanrunError
from kanrun.runs import Checkpoint, Run

Columns = Mapping[str, Sequence[Any]]
Living = dict[str, Any]
_SLIDER_NAME = re.compile(r".*-seed\d+-stages")  # of the checkpoints of `kanrun.study.model.slider_checkpoint`
_SHOWN = 2.0  # how far from 0 the edges of an MLP are drawn, in standard deviations of an input
_RESUME_NAME = re.compile(r"resume-\d+-\d+")


@dataclass(frozen=True)
class PageLimits:
    """What keeps a page small: networks, numbers of one, test points, points of a line, panels, frames."""

    networks: int = 8
    numbers: int = 60_000
    points: int = 300
    line: int = 400
    panels: int = 12
    frames: int = 60


def living_of(run: Run, limits: PageLimits = PageLimits()) -> Iterator[Living]:
    """Everything of `run` that can move: what cannot be read is left out."""
    for make in (_networks, _curves, _phases, _staircase, _snapping):
        with contextlib.suppress(KanrunError, KeyError, ValueError, TypeError, IndexError):
            yield from make(run, limits)


def network_values(description: Mapping[str, Any], arrays: Mapping[str, Any], prefix: str = "") -> Living:
    """A stored KAN or MLP as network.js evaluates it.

    Raises KeyError for a network of another kind, ValueError for shapes that do not fit each other.
    """
    if description["kind"] == "mlp":
        return {"layers": _dense_layers(description, arrays, prefix), "products": []}
    layers = []
    for number, each in enumerate(description["layers"]):
        spec, at = each["edges"], f"{prefix}layers.{number}."
        mask, coefficients, knots = (arrays[at + name] for name in ("mask", "coefficients", "knots"))
        if spec["scale"] == "single":
            base = spline = arrays[at + "weight"] * mask
        else:
            base, spline = arrays[at + "base_weight"] * mask, arrays[at + "spline_weight"] * mask
        degree = int(spec["degree"])
        if coefficients.shape != (*mask.shape, knots.shape[1] - degree - 1) or knots.shape[0] != mask.shape[1]:
            raise ValueError("the arrays of the network do not fit each other")
        layers.append({
            "degree": degree, "base": str(spec["base"]),
            "extrapolation": str(spec.get("extrapolation", spec.get("outside", "linear"))),
            "baseGoesOn": bool(spec.get("base_goes_on", "outside" in spec)),
            "knots": knots.tolist(), "coefficients": coefficients.tolist(),
            "baseWeight": base.tolist(), "splineWeight": spline.tolist(),
        })  # fmt: skip
    products = [int(count) for count in description.get("products", ())]
    return {"layers": layers, "products": products + [0] * (len(layers) - len(products))}


def _dense_layers(description: Mapping[str, Any], arrays: Mapping[str, Any], prefix: str) -> list[Living]:
    """Linear layers as edges w x, the base function identity of weight w, and nodes with a bias and an activation."""
    layers, count = [], len(description["shape"]) - 1
    for number in range(count):
        weights, biases = (arrays[f"{prefix}linear.{number}.{name}"] for name in ("weight", "bias"))
        none = [[0.0] * weights.shape[1]] * weights.shape[0]
        ends = [-_SHOWN, -_SHOWN, _SHOWN, _SHOWN]  # of a degree of 1, for what is drawn of an edge
        layers.append({
            "degree": 1, "base": "identity", "extrapolation": "linear", "baseGoesOn": True,
            "knots": [ends] * weights.shape[1], "coefficients": [[[0.0, 0.0]] * weights.shape[1]] * weights.shape[0],
            "baseWeight": weights.tolist(), "splineWeight": none, "bias": biases.tolist(),
            "activation": str(description["activation"]) if number < count - 1 else "identity",
        })  # fmt: skip
    return layers


def _networks(run: Run, limits: PageLimits) -> Iterator[Living]:
    """The networks under sliders, those of one title under one; where there are none, that of the first seed."""
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
        slider = _network(title, stored.meta, stages, {"x": x, "y": y}) | {"slider": str(stored.meta["slider"])}
        found.setdefault(title, slider | {"stages": []})["stages"].extend(stages)
    yield from found.values()
    models = [name for name in names if not _SLIDER_NAME.fullmatch(name)]
    if found or not models:
        return
    stored = run.checkpoint(models[0])
    title, network = f"The network {models[0]}", stored.meta["network"]
    if _size(stored) > limits.numbers:
        yield {"kind": "absent", "title": title, "said": f"It has {_size(stored)} numbers, too many for a page."}
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
        what = "a solution with conditions=hard" if "hard" in str(network) else f"a model of kind {network['kind']}"
        yield {"kind": "absent", "title": title, "said": f"The page cannot evaluate {what}; its figures show it."}


def _windows(description: Mapping[str, Any], stored: Checkpoint, points: Living, limits: PageLimits) -> list[Living]:
    """A stage for each window of time, with the test points in it."""
    stages = []
    for number, field in enumerate(description["fields"]):
        prefix = f"fields.{number}."
        box = stored.arrays[f"{prefix}box"].tolist()
        low, high = box[-1]
        inside = [i for i, x in enumerate(points["x"]) if (low < x[-1] or not number) and x[-1] <= high]
        part = {name: [values[i] for i in inside] for name, values in points.items()}
        stages.append({
            "label": f"{stored.meta['inputs'][-1]} from {low:.4g} to {high:.4g}", "domain": box,
            "model": model_values(field, stored, prefix), "points": _thinned(part, limits.points),
        })  # fmt: skip
    return stages


def model_values(description: Mapping[str, Any], stored: Checkpoint, prefix: str = "") -> Living:
    """A KAN, or the solution of a differential equation by one; KeyError for what network.js does not evaluate."""
    meta, arrays = stored.meta, stored.arrays
    if description.get("kind") == "field" and "hard" not in description:
        box = arrays[f"{prefix}box"]
        inner = {"shift": box.mean(1).tolist(), "scale": ((box[:, 1] - box[:, 0]) / 2).tolist()}
        sizes = arrays[f"{prefix}sizes"]
        outer = {"shift": [0.0] * len(sizes), "scale": sizes.tolist()}
        values = network_values(description["network"], arrays, f"{prefix}network.")
        form = [int(count) for count in description["form"][:3]]
        return values | {"form": form, "classes": None, "inputScaling": inner, "outputScaling": outer}
    classes = [str(name) for name in meta["classes"]] if meta["classes"] else None
    scalings = {"inputScaling": meta["input_scaling"], "outputScaling": meta["output_scaling"]}
    return network_values(description, arrays, prefix) | scalings | {"classes": classes}


def _network(title: str, meta: Mapping[str, Any], stages: list[Living], points: Living) -> Living:
    return {
        "kind": "network", "title": title, "stages": stages, "inputs": [str(name) for name in meta["inputs"]],
        "outputs": [str(name) for name in meta["outputs"]], "domain": meta["domain"],
        "classes": stages[0]["model"]["classes"], "coded": bool(meta.get("code")), "points": points,
    }  # fmt: skip


def _size(stored: Checkpoint) -> int:
    return sum(array.size for array in stored.arrays.values())


def _test_points(run: Run, model: str, meta: Mapping[str, Any]) -> Living:
    """Of the predictions, or of the table of a solution, whose truth may not be known."""
    table = run.columns("predictions")
    inputs, outputs = ([f"{kind}:{name}" for name in meta[f"{kind}s"]] for kind in ("input", "output"))
    outputs = [name.replace("output:", "truth:", 1) for name in outputs]
    if table:
        table = _where(table, split="test")
    else:
        number = model.rpartition("-seed")[0].rpartition("-")[2]
        table = run.columns(f"solution_{number}")
        inputs, outputs = list(meta["inputs"]), [f"{name} true" for name in meta["outputs"]]
    if not all(table.get(name) for name in inputs + outputs):
        return {"x": [], "y": []}
    x, y = ([list(row) for row in zip(*(table[name] for name in names), strict=True)] for names in (inputs, outputs))
    whole = [i for i in range(len(x)) if None not in x[i] and None not in y[i]]
    return {"x": [x[i] for i in whole], "y": [y[i] for i in whole]}


def _thinned(points: Living, most: int) -> Living:
    return {name: _thin(values, most) for name, values in points.items()}


def _curves(run: Run, _: PageLimits) -> Iterator[Living]:
    """The Bézier curve and the B-spline of `kanrun curves`, by their control points."""
    if table := run.columns("de_casteljau"):
        rows = [i for i, level in enumerate(table["level"]) if level == 0]
        control = [[table["x"][i], table["y"][i]] for i in rows]
        title = f"A Bézier curve of degree {len(control) - 1}: every control point moves all of it"
        yield {"kind": "curve", "title": title, "control": control, "knots": None, "degree": len(control) - 1}
    control_table, knot_table = run.columns("bspline_control"), run.columns("bspline_knots")
    if control_table and knot_table:
        control = [list(point) for point in zip(control_table["x"], control_table["y"], strict=True)]
        counts = zip(knot_table["knot"], knot_table["multiplicity"], strict=True)
        knots = [knot for knot, times in counts for _ in range(int(times))]
        degree = len(knots) - len(control) - 1
        title = (
            f"A B-spline of degree {degree}: a control point moves at most {degree + 1} spans between knots (grey dots)"
        )
        yield {"kind": "curve", "title": title, "control": control, "knots": knots, "degree": degree}


def _phases(run: Run, limits: PageLimits) -> Iterator[Living]:
    """The tasks of `kanrun continual`, phase by phase: what each learner says after each."""
    table = _first_seed(run.columns("functions"))
    if not table or "after" not in table or "x1" in table:  # of more inputs than one there is no curve
        return
    learners, phases = _distinct(table["learner"]), sorted(_distinct(table["after"]))[: limits.frames]
    frames = []
    for phase in phases:
        panels = []
        for learner in learners[: limits.panels]:
            rows = _where(table, learner=learner, after=phase)
            x, truth, output = (_thin(rows[name], limits.line) for name in ("x0", "truth", "output"))
            panels.append({"title": str(learner), "lines": [_line(x, truth, "truth"), _line(x, output, "curve")]})
        frames.append({"label": f"after phase {phase}", "panels": panels})
    title = "Task after task: the target (dashed) and what each learner remembers"
    yield {"kind": "frames", "title": title, "slider": "phase", "frames": frames, "common": True}


def _staircase(run: Run, limits: PageLimits) -> Iterator[Living]:
    """The errors of `kanrun extend-grid` over steps, grid by grid: the staircase."""
    table = _first_seed(run.columns("metrics"))
    if not table or "schedule" not in table or "stage" not in table:
        return
    if "schedules" in table.get("part", ()):
        table = _where(table, part="schedules")
    import math

    errors = next(name for name in ("test_rmse", "validation_rmse", "train_rmse") if name in table)
    stages = sorted(_distinct(table["stage"]))[: limits.frames]
    frames = []
    for stage in stages:
        panels, grids = [], []
        for schedule in _distinct(table["schedule"])[: limits.panels]:
            rows = _where(table, schedule=schedule)
            values = [math.log10(value) if value else float("nan") for value in rows[errors]]
            steps = list(range(len(values)))
            done = [i for i in steps if rows["stage"][i] <= stage]
            grids += [str(rows["intervals"][i]) for i in done[-1:]]
            x, y = _thin(steps, limits.line), _thin(values, limits.line)
            upto = done[:: max(1, -(-len(done) // limits.line))]
            lines = [_line(x, y, "unseen"), _line(upto, [values[i] for i in upto], "curve")]
            panels.append({"title": f"log10 {errors} over steps, {schedule}", "lines": lines})
        said = f"intervals: {', '.join(_distinct(grids))}"
        frames.append({"label": f"stage {stage}", "panels": panels, "said": said})
    title = "The staircase: each finer grid starts where the coarser one ended"
    yield {"kind": "frames", "title": title, "slider": "grid", "frames": frames, "common": True}


def _snapping(run: Run, limits: PageLimits) -> Iterator[Living]:
    """The edges of `kanrun interpret`, stage by stage, until they are symbols."""
    table = _first_seed(run.columns("edges"))
    if not table or "stage" not in table or "symbolic" not in table:
        return
    frames = []
    for stage in _distinct(table["stage"])[: limits.frames]:
        rows = _where(table, stage=stage)
        keys = list(dict.fromkeys(zip(rows["layer"], rows["out"], rows["in"], strict=True)))
        panels = []
        for layer, out, source in keys:
            edge = _where(rows, layer=layer, out=out, **{"in": source})
            if edge["symbolic"][0] == "=" or str(edge["pruned"][0]) == "True":
                continue
            names = edge["input_name"][0] or f"h{layer}.{source}", edge["output_name"][0] or f"h{layer + 1}.{out}"
            symbol = str(edge["symbolic"][0] or "")
            title = f"{names[0]} → {names[1]}" + (f": {symbol}" if symbol else "")
            line = _line(_thin(edge["x"], limits.line), _thin(edge["y"], limits.line), "other" if symbol else "curve")
            panels.append((-float(edge["score"][0] or 0), {"title": title, "lines": [line]}))
        panels.sort(key=lambda pair: pair[0])
        frames.append({"label": str(stage), "panels": [panel for _, panel in panels[: limits.panels]]})
    title = "From a network to a formula: blue edges are splines, orange ones have become symbols"
    yield {"kind": "frames", "title": title, "slider": "stage", "frames": frames, "common": False}


def _line(x: Sequence[Any], y: Sequence[Any], style: str) -> Living:
    return {"x": list(x), "y": list(y), "style": style}


def _thin(values: Sequence[Any], most: int) -> list[Any]:
    return list(values[:: max(1, -(-len(values) // most))])


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _where(table: Columns, **wanted: Any) -> dict[str, list[Any]]:
    kept = range(len(next(iter(table.values()), ())))
    for name, value in wanted.items():
        column = table[name]
        kept = [i for i in kept if column[i] == value]  # type: ignore[assignment]
    return {name: [column[i] for i in kept] for name, column in table.items()}


def _first_seed(table: Columns) -> Columns:
    return _where(table, seed=min(table["seed"])) if table.get("seed") else table
