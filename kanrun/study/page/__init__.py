"""One self-contained HTML page of runs: settings, claims, tables, figures, interactive networks.

A run folder is not trusted: its text is escaped, its figures are embedded as images (in which no
script runs), and its numbers as JSON. A content security policy permits only the scripts of the
page, by their hashes, and no connection.

The lesson is a page of the same kind; each section has one thing that the reader can move. Most
sections compute what they draw (`lesson.js`). Three show recorded runs: the latest with the tag
`lesson`, or else the small runs of `STUDIES`, which are made first.
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

from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Manifest, Run, Status, find_runs, local_time
from kanrun.runs.files import flattened, read_caption, write_named_file
from kanrun.study.page.interactive import Living, interactive_data
from kanrun.study.progress import shown
from kanrun.study.report import as_columns, differences, outcome, points_table

#: Largest number of interactive networks and curves on a page; the others are left out.
MOST_NETWORKS = 10
#: HTML attributes of table cells that say whether a claim holds.
_MARKS = {"holds": ' class="holds"', "does not hold": ' class="fails"'}
#: Largest number of rows of a table that are shown; the others are counted.
_MOST_ROWS = 200
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
    sources = list[str]()
    for run in runs:
        title = _tag(heading, run.name)
        body += ["<section>", title, *_section(run, sources), "</section>"]
    page = html_page(f"kanrun: {names}", [*body, *sources], ("network.js", "page.js"))
    write_named_file(output, page.encode())


def html_page(title: str, body: Sequence[str], scripts: Sequence[str]) -> str:
    """Return an HTML page.

    `body` lists pieces of HTML. `scripts` names files of this folder, the only scripts that the
    page may run.
    """
    folder = resources.files(__name__)
    style, *texts = ((folder / name).read_text("utf-8") for name in ("page.css", *scripts))
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
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


def _section(run: Run, sources: list[str]) -> Iterator[str]:
    """Yield the HTML about one run; append the data of its interactive parts to `sources`."""
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
    yield from _living(single, sources)
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


def _living(run: Run, sources: list[str]) -> Iterator[str]:
    """Yield the HTML of the interactive parts of a run; add their data to `sources`."""
    for data in interactive_data(run):
        yield _tag("h3", data["title"])
        if data["kind"] == "absent":
            yield _tag("p", data["said"])
            continue
        if len(sources) >= MOST_NETWORKS:
            text = f"It is left out: a page holds {MOST_NETWORKS} networks at most."
            yield _tag("p", f"{text} Write a page of fewer runs.")
            return
        name = f"living-{len(sources)}"
        sources.append(json_script(name, data))
        yield f'<div class="living" data-source="{name}"></div>'


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
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(str(name))}</button></th>'
        for name in columns
    )
    values = list(zip(*columns.values(), strict=True))
    body = ""
    for row in values[:_MOST_ROWS]:
        cells = []
        for value in row:
            text = shown(value)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            mark = _MARKS.get(text, ' class="n"' if is_number else "")
            cells.append(f"<td{mark}>{escape(text)}</td>")
        body += f"<tr>{''.join(cells)}</tr>"
    more = len(values) - _MOST_ROWS
    rest = _tag("p", f"{more} more rows in the run's folder") if more > 0 else ""
    table = f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table class="sorts">{table}</table></div>{rest}'


def _pairs(values: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    return {"name": list(values), "value": list(values.values())}


def _folded(title: str, columns: Mapping[str, Sequence[Any]]) -> str:
    return f"<details><summary>{escape(title)}</summary>{_table(columns)}</details>"


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def json_script(name: str, value: Any) -> str:
    """Return `value` as JSON in a script element with the id `name`.

    The text cannot close the element early. NaN and infinities, which JSON lacks, become null.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{text}</script>'


#: Tag of the runs that the lesson shows.
TAG = "lesson"
#: Arguments of the run that is made for each command if none of its runs has the tag.
STUDIES: dict[str, tuple[str, ...]] = {
    "curves": ("parts=[bezier,bspline]",),
    "fit": ("model.hidden=[2]", "model.intervals=[3,6,12,24]", "sampling.n_test=300"),
}
#: Sections with recorded runs: the command, and a test that selects one of its interactive parts.
PARTS: dict[str, tuple[str, Callable[[Living], bool]]] = {
    "bezier": ("curves", lambda data: data["kind"] == "curve" and not data["knots"]),
    "local": ("curves", lambda data: data["kind"] == "curve" and bool(data["knots"])),
    "grid": ("fit", lambda data: data["kind"] == "network"),
}


def recorded_runs(outputs: Path) -> dict[str, Run]:
    """Return the latest complete run with the tag `lesson` of each command of STUDIES, if any."""
    runs = [run for run in find_runs(outputs) if run.path.parent.name in STUDIES]
    tagged = [run for run in runs if TAG in run.tags and run.status == Status.COMPLETED]
    return {run.path.parent.name: run for run in sorted(tagged, key=Run.began)}


def write_lesson(runs: Mapping[str, Run], output: Path) -> None:
    """Write the lesson to the file `output`. `runs` has a run for each command of STUDIES.

    Raises UsageError if a run lacks an interactive part that the lesson shows, or if the file
    cannot be written.
    """
    body = (resources.files(__package__) / "lesson.html").read_text("utf-8")
    sources = []
    for name, (command, fits) in PARTS.items():
        run = runs[command].best
        data = next(filter(fits, interactive_data(run)), None)
        if data is None:
            raise UsageError(
                f"{run.name} has nothing to show in the section {name}. Remove its tag {TAG!r}."
            )
        if name == "bezier":
            data["kind"] = "casteljau"
        shown = f'<div class="living" data-source="{name}"></div><p class="source">Recorded by '
        words = f"<code>{escape(_call(run.manifest))}</code></p>"
        body = body.replace(f"<!--recorded:{name}-->", shown + words)
        sources.append(json_script(name, data))
    scripts = ("network.js", "lesson.js", "page.js")
    page = html_page("kanrun: the lecture", [body, *sources], scripts)
    write_named_file(output, page.encode())
