"""Self-contained HTML pages: the report of runs, and the lesson.

A run folder is not trusted: its text is escaped, and its figures are embedded as images (in which
no script runs). The report has no script. A content security policy permits no connection, and
only the scripts of the lesson, by their hashes.

Each section of the lesson has one thing that the reader can move. Most sections compute what they
draw (`lesson.js`). Three show recorded runs: the latest with the tag `lesson`, or else the small
runs of `STUDIES`, which are made first.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanrun.errors import MALFORMED, KanrunError, UsageError
from kanrun.exports.document import document_of
from kanrun.model.model import SLIDER_NAME, Model
from kanrun.model.trained import from_checkpoint
from kanrun.runs import Manifest, Run, Status, find_runs, local_time
from kanrun.runs.files import flattened, read_caption, write_named_file
from kanrun.study.evaluation import Slider
from kanrun.study.progress import shown
from kanrun.study.report import as_columns, differences, outcome, points_table

_TABLES = (
    "summary",
    "stages",
    "decisions",
    "importance",
    "matrix",
    "candidates",
    "orders",
    "formulas",
)


def write_report(runs: Sequence[Run], output: Path) -> None:
    """Write a page about `runs` to the file `output`. Raises UsageError if that fails."""
    names = ", ".join(run.name for run in runs)
    body = list[str]()
    heading = "h1"
    if len(runs) > 1:
        body.append(_tag(heading, names))
        best = [run.best for run in runs]
        heading = "h2"
        settings, results = differences(best)
        if results:
            body += [_tag("h3", "Results"), _table(as_columns(best, results))]
        if settings:
            body.append(_folded("Settings that differ", as_columns(best, settings)))
    for run in runs:
        body += ["<section>", _tag(heading, run.name), *_section(run), "</section>"]
    write_named_file(output, _html_page(f"kanrun: {names}", body).encode())


def _html_page(title: str, body: Sequence[str], scripts: Sequence[str] = ()) -> str:
    """Return an HTML page.

    `body` lists pieces of HTML. `scripts` names files of this folder, the only scripts that the
    page may run.
    """
    folder = resources.files(__name__)
    style, *texts = ((folder / name).read_text("utf-8") for name in ("page.css", *scripts))
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    permitted = " ".join(f"'sha256-{digest.decode()}'" for digest in digests) or "'none'"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src {permitted}"
    )
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"{_tag('title', title)}<style>{style}</style></head><body>",
            *body,
            *(f"<script>{text}</script>" for text in texts),
            "</body></html>",
        ]
    )


def _section(run: Run) -> Iterator[str]:
    """Yield the HTML about one run."""
    single = run.best
    manifest = None
    yield _tag("p", f"Status: {run.status}")
    try:
        manifest = single.manifest
        yield from _results(single, manifest)
    except KanrunError as error:
        yield _tag("p", str(error))
    if manifest:
        for label, text in (("Note", manifest.note), ("Tags", ", ".join(manifest.tags))):
            yield _tag("p", f"{label}: {text}") if text else ""
    if run.has_points:
        text = f"A run of {len(run.points)} points; below is its best, {single.name}."
        yield _tag("p", text)
    if manifest and (claims := manifest.claims):
        columns = {"": ["holds" if claim.holds else "does not hold" for claim in claims]}
        for name in ("sentence", "measured", "bound", "spread"):
            head = "claim" if name == "sentence" else name
            columns[head] = [shown(getattr(claim, name)) for claim in claims]
        yield _tag("h3", "Claims") + _table(columns)
    yield from (_tag("p", f"Note: {note}") for note in (manifest.notes if manifest else ()))
    yield from _figures(single, run)
    yield from _tables(run, single)
    if manifest:
        names = ("seconds", "host", "device", "precision", "threads")
        facts = {"started": local_time(manifest.started)}
        facts |= {name: getattr(manifest, name) for name in names}
        facts |= flattened(manifest.git or {}, "git.") | dict(manifest.versions)
        yield _folded("Environment", _pairs(facts))


def _results(run: Run, manifest: Manifest) -> Iterator[str]:
    """Yield HTML with the outcome of a run, its command, how to repeat it, and its metrics."""
    with contextlib.suppress(KanrunError):
        for said in _reached(run.columns("summary")):
            yield f'<p class="number">{escape(said)}</p>'
    words = (not run.point and shlex.join(manifest.argv)) or _call(manifest)
    yield f"<p>Command: <code>{escape(words)}</code></p>"
    yield f"<p>To repeat it: <code>kanrun runs rerun {escape(run.name)}</code></p>"
    if manifest.reason:
        yield _tag("p", manifest.reason)
    if manifest.metrics:
        yield _folded("Results", _pairs(manifest.metrics))


def _reached(summary: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield a sentence about each formula that was found, or about the training's error."""
    if not all(summary.values()):
        return
    if "verified" not in summary:
        yield from filter(None, [outcome(summary)])
        return
    columns = (summary[name] for name in ("target", "formula", "relative_error", "verified"))
    for target, formula, error, verified in zip(*columns, strict=True):
        said = f"{target}: {formula or 'no formula'}"
        yield f"{said}; relative error {shown(error)}; verified: {verified}"


def _call(manifest: Manifest) -> str:
    return shlex.join(["kanrun", manifest.command, *manifest.points[0].overrides])


def _tables(run: Run, single: Run) -> Iterator[str]:
    """Yield HTML with the points of `run`, and the tables and settings of its point `single`."""
    if run.has_points:
        yield _folded("Points", points_table(run))
    for name in _TABLES:
        with contextlib.suppress(KanrunError):
            columns = single.columns(name)
            if any(map(len, columns.values())):
                yield _folded(name, columns)
    with contextlib.suppress(KanrunError):
        yield _folded("Settings", _pairs(flattened(single.config)))


def _figures(single: Run, run: Run) -> Iterator[str]:
    """Yield HTML with the figures of `run` and its point `single`: PNG if there is one, or SVG."""
    for folder in dict.fromkeys([run.figures_folder, single.figures_folder]):
        files = {path.stem: path for kind in ("svg", "png") for path in folder.glob(f"*.{kind}")}
        for stem, path in sorted(files.items()):
            if path.is_symlink():
                continue
            image = base64.b64encode(path.read_bytes()).decode()
            name = escape(stem, quote=True)
            kind = "png" if path.suffix == ".png" else "svg+xml"
            shows = f'<img alt="figure {name}" src="data:image/{kind};base64,{image}">'
            caption = f"{escape(read_caption(path))} <code>{name}</code>"
            yield f"<figure>{shows}<figcaption>{caption}</figcaption></figure>"


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    most_rows = 200
    marks = {"holds": ' class="holds"', "does not hold": ' class="fails"'}
    heads = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in columns)
    values = list(zip(*columns.values(), strict=True))
    body = ""
    for row in values[:most_rows]:
        cells = []
        for value in row:
            text = shown(value)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            mark = marks.get(text, ' class="n"' if is_number else "")
            cells.append(f"<td{mark}>{escape(text)}</td>")
        body += f"<tr>{''.join(cells)}</tr>"
    more = len(values) - most_rows
    rest = _tag("p", f"{more} more rows in the run's folder") if more > 0 else ""
    table = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{table}</table></div>{rest}'


def _pairs(values: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    return {"name": list(values), "value": list(values.values())}


def _folded(title: str, columns: Mapping[str, Sequence[Any]]) -> str:
    return f"<details><summary>{escape(title)}</summary>{_table(columns)}</details>"


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


#: Tag of the runs that the lesson shows.
TAG = "lesson"
#: Arguments of the run that is made for each command if none of its runs has the tag.
STUDIES: dict[str, tuple[str, ...]] = {
    "curves": ("parts=[bezier,bspline]",),
    "fit": ("model.hidden=[2]", "model.intervals=[3,6,12,24]", "sampling.n_test=300"),
}


def recorded_runs(outputs: Path) -> dict[str, Run]:
    """Return the latest complete run with the tag `lesson` of each command of STUDIES, if any."""
    runs = [run for run in find_runs(outputs) if run.path.parent.name in STUDIES]
    tagged = [run for run in runs if TAG in run.tags and run.status == Status.COMPLETED]
    return {run.path.parent.name: run for run in sorted(tagged, key=Run.began)}


def write_lesson(runs: Mapping[str, Run], output: Path) -> None:
    """Write the lesson to the file `output`. `runs` has a run for each command of STUDIES.

    Raises UsageError if a run lacks what a section of the lesson shows, or if the file cannot be
    written.
    """
    body = (resources.files(__package__) / "lesson.html").read_text("utf-8")
    sources = []
    for name, (command, part_of) in PARTS.items():
        run = runs[command].best
        data = None
        with contextlib.suppress(KanrunError, *MALFORMED):
            data = part_of(run)
        if data is None:
            raise UsageError(
                f"{run.name} has nothing to show in the section {name}. Remove its tag {TAG!r}."
            )
        shown = f'<div class="living" data-source="{name}"></div><p class="source">Recorded by '
        words = f"<code>{escape(_call(run.manifest))}</code></p>"
        body = body.replace(f"<!--recorded:{name}-->", shown + words)
        sources.append(_json_script(name, data))
    scripts = ("network.js", "lesson.js", "page.js")
    page = _html_page("kanrun: the lecture", [body, *sources], scripts)
    write_named_file(output, page.encode())


def _json_script(name: str, value: Any) -> str:
    """Return `value` as JSON in a script element with the id `name`.

    The text cannot close the element early. NaN and infinities, which JSON lacks, become null.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _bezier(run: Run) -> dict[str, Any] | None:
    if "de_casteljau" not in run.tables:
        return None
    control = run.table("de_casteljau").query("level == 0")
    return {"kind": "casteljau", "control": _places(control)}


def _bspline(run: Run) -> dict[str, Any] | None:
    if not {"bspline_control", "bspline_knots"} <= set(run.tables):
        return None
    control = _places(run.table("bspline_control"))
    knots = run.table("bspline_knots")
    every = np.repeat(knots["knot"], knots["multiplicity"].astype(int)).tolist()
    degree = len(every) - len(control) - 1
    spans = f"a control point moves at most {degree + 1} spans between knots (grey dots)"
    title = f"A B-spline of degree {degree}: {spans}"
    return {"kind": "curve", "title": title, "control": control, "knots": every, "degree": degree}


def _places(table: pd.DataFrame) -> list[list[float]]:
    rows: list[list[float]] = table[["x", "y"]].to_numpy().tolist()
    return rows


def _grids(run: Run) -> dict[str, Any] | None:
    """Return the networks of the first seed's grids with test points, if they are a regression."""
    stored = next(filter(SLIDER_NAME.fullmatch, run.checkpoints), None)
    if stored is None:
        return None
    slider = from_checkpoint(run.checkpoint(stored), Slider)
    model = slider.models[0]
    if model.classes or model.code is not None:
        return None
    stages = zip(slider.labels, map(network_values, slider.models), strict=True)
    errors = run.columns("summary").get("test_rmse", [])
    return {
        "kind": "network",
        "slider": slider.slider,
        "stages": [{"label": label, "model": values} for label, values in stages],
        "inputs": list(model.inputs),
        "outputs": list(model.outputs),
        "domain": model.domain.tolist(),
        "points": {"x": slider.x.tolist(), "y": slider.y.tolist()},
        "recorded": errors[0] if len(errors) == 1 else None,
    }


def network_values(model: Model) -> dict[str, Any]:
    """Return a model of splines in the form that network.js evaluates."""
    document = document_of(model)
    return {key: document[key] for key in ("input_map", "output_map", "layers")}


#: Sections with recorded runs: the command, and a function that returns what the section shows.
PARTS: dict[str, tuple[str, Callable[[Run], dict[str, Any] | None]]] = {
    "bezier": ("curves", _bezier),
    "local": ("curves", _bspline),
    "grid": ("fit", _grids),
}
