"""One self-contained HTML page of runs: settings, claims, tables, figures, interactive networks.

Whatever a run folder holds, its text reaches the page escaped, its figures as images (in which no
script runs), its numbers as JSON. A content security policy allows the two scripts of the page, by
their hashes, and no connection.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from kanrun.errors import KanrunError, UsageError
from kanrun.runs import Run
from kanrun.runs.files import write_named_file
from kanrun.runs.index import flattened
from kanrun.runs.listing import local_time
from kanrun.study.comparison import as_columns, differences
from kanrun.study.page.interactive import interactive_data
from kanrun.study.report import shown

#: Largest page in bytes, of which this many are for text and scripts, and number of its
#: interactive parts.
LARGEST, TEXT, MOST_NETWORKS = 5 * 10**6, 150_000, 10
#: Attributes of cells with the verdict on a claim.
_MARKS = {"holds": ' class="holds"', "does not hold": ' class="fails"'}
#: Bytes of three that become four letters.
_BASE64 = 4 / 3
#: Largest SVG figure in bytes; a larger one is embedded as PNG.
_LARGEST_SVG = 400_000
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
    """Write the page of `runs` to `output`, atomically. Raises UsageError if that fails."""
    write_page(_page(runs), output)


def write_page(page: str, output: Path) -> None:
    """Write a page to `output`, atomically. Raises UsageError if that fails."""
    if not output.parent.is_dir():
        raise UsageError(f"cannot write {output}: its folder is not there; choose another file.")
    write_named_file(output, page.encode())


def _page(runs: Sequence[Run]) -> str:
    names, sources, compared = ", ".join(run.name for run in runs), list[str](), list[str]()
    if len(runs) > 1:
        best = [run.best for run in runs]
        settings, results, _ = differences(best)
        if results:
            compared += [_tag("h3", "Results"), _table(as_columns(best, results))]
        if settings:
            table = _table(as_columns(best, settings))
            compared.append(_folded("Settings that differ", table))
    room = (LARGEST - TEXT) // len(runs)
    sections = [f"<section>{_section(run, sources, room)}</section>" for run in runs]
    body = [_tag("h1", names), *compared, *sections, *sources]
    return html_page(f"kanrun: {names}", body, ("network.js", "page.js"))


def html_page(title: str, body: Sequence[str], scripts: Sequence[str]) -> str:
    """Return a page of this body with files of this folder as its only scripts."""
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


def _section(run: Run, sources: list[str], room: int) -> str:
    """Return all of one run; figures are left out once they would need more than `room` bytes."""
    single = run.best
    parts = [_tag("h2", run.name), _tag("p", f"Status: {run.status}"), _results(single)]
    parts += [_tag("p", text) for text in (run.labels.note, ", ".join(run.labels.tags)) if text]
    if run.has_points:
        parts.append(
            _tag("p", f"A run of {len(run.points)} points; below is its best, {single.name}.")
        )
    before = len(sources)
    parts += _living(single, sources, room)
    room -= sum(map(len, sources[before:]))
    parts.append(_claims(single))
    for path in _figures(single, run):
        image, kind = path.read_bytes(), {".svg": "svg+xml", ".png": "png"}[path.suffix]
        room -= round(_BASE64 * len(image))
        if room < 0:
            text = f"Further figures are in {path.parent}: the page would be too large."
            parts.append(_tag("p", text))
            break
        data_uri = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        name = escape(path.stem, quote=True)
        image_tag = f'<img alt="figure {name}" src="{data_uri}">'
        parts.append(f"<figure>{image_tag}<figcaption>{name}</figcaption></figure>")
    if run.has_points:
        parts.append(_folded("Points", _points(run)))
    parts += [_folded(name, _table(columns)) for name, columns in _tables(single)]
    with contextlib.suppress(KanrunError):
        parts.append(_details("Settings", flattened(single.config)))
    parts.append(_environment(single))
    return "\n".join(parts)


def _living(run: Run, sources: list[str], room: int) -> Iterable[str]:
    """Yield the interactive parts of a run; their data are added to `sources`."""
    for data in interactive_data(run):
        yield _tag("h3", data["title"])
        if data["kind"] == "absent":
            yield _tag("p", data["said"])
            continue
        name = f"living-{len(sources)}"
        content = json_script(name, data)
        room -= len(content)
        if room < 0 or len(sources) >= MOST_NETWORKS:
            text = f"It is left out: a page holds {MOST_NETWORKS} networks at most, and 5 MB."
            yield _tag("p", f"{text} Write a page of fewer runs.")
            return
        sources.append(content)
        yield f'<div class="living" data-source="{name}"></div>'


def _results(run: Run) -> str:
    """Return the metrics of a run in a line, and how to repeat it."""
    try:
        manifest = run.manifest
    except KanrunError as error:
        return _tag("p", str(error))
    pairs = ", ".join(f"{name} {shown(value)}" for name, value in manifest.metrics.items())
    words = f"kanrun {manifest.command} {shlex.join(manifest.overrides)}".strip()
    words = words if run.point else shlex.join(manifest.argv) or words
    parts = [f'<p class="number">{escape(pairs)}</p>'] if pairs else []
    parts.append(f"<p>Asked for by <code>{escape(words)}</code></p>")
    parts.append(f"<p>Run it again by <code>kanrun runs rerun {escape(run.name)}</code></p>")
    if manifest.reason:
        parts.append(_tag("p", manifest.reason))
    return "\n".join(parts)


def _claims(run: Run) -> str:
    """Return the claims and the notes of a run."""
    try:
        manifest = run.manifest
    except KanrunError:
        return ""
    parts = []
    if manifest.claims:
        claims = {
            "": ["holds" if claim.holds else "does not hold" for claim in manifest.claims],
            "claim": [claim.sentence for claim in manifest.claims],
            "measured": [shown(claim.measured) for claim in manifest.claims],
            "bound": [claim.bound for claim in manifest.claims],
            "spread": [claim.spread or "" for claim in manifest.claims],
        }
        parts += [_tag("h3", "Claims"), _table(claims)]
    return "\n".join([*parts, *(_tag("p", f"Note: {note}") for note in manifest.notes)])


def _tables(run: Run) -> Iterable[tuple[str, Mapping[str, Sequence[Any]]]]:
    for name in _TABLES:
        with contextlib.suppress(KanrunError):
            columns = run.columns(name)
            if columns and len(next(iter(columns.values()))):
                yield name, columns


def _environment(run: Run) -> str:
    try:
        manifest = run.manifest
    except KanrunError:
        return ""
    facts = {
        "started": local_time(manifest.started),
        "seconds": manifest.seconds,
        "host": manifest.host,
        "device": manifest.device,
        "precision": manifest.precision,
        "threads": manifest.threads,
        **flattened(manifest.git or {}, "git."),
        **manifest.versions,
    }
    return _details("Environment", facts)


def _points(run: Run) -> str:
    rows: list[dict[str, Any]] = []
    for point in run.points[:_MOST_ROWS]:
        row: dict[str, Any] = {"point": point.name, "status": point.status}
        row |= point.point.values if point.point else {}
        with contextlib.suppress(KanrunError):
            row |= point.manifest.metrics
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    more = len(run.points) - len(rows)
    table = _table({name: [row.get(name) for row in rows] for name in names})
    return table + (_tag("p", f"{more} more points in the run's folder") if more else "")


def _figures(single: Run, run: Run) -> Iterable[Path]:
    """Yield one file per figure of a run and its best point: a small SVG, or PNG."""
    for folder in dict.fromkeys([run.figures_folder, single.figures_folder]):
        files = [path for path in folder.glob("*.*g") if not path.is_symlink()]
        for stem in sorted({path.with_suffix("") for path in files}):
            png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
            small = svg in files and svg.stat().st_size <= _LARGEST_SVG
            yield svg if small or png not in files else png


def _table(columns: Mapping[str, Sequence[Any]]) -> str:
    heads = "".join(
        f'<th scope="col"><button type="button">{escape(str(name))}</button></th>'
        for name in columns
    )
    values = list(zip(*columns.values(), strict=True))
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in values[:_MOST_ROWS])
    more = len(values) - _MOST_ROWS
    rest = _tag("p", f"{more} more rows in the run's folder") if more > 0 else ""
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{rows}</tbody>"
    return f'<div class="wide"><table class="sorts">{head}{body}</table></div>{rest}'


def _cell(value: Any) -> str:
    text = shown(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    mark = _MARKS.get(text, ' class="n"' if is_number else "")
    return f"<td{mark}>{escape(text)}</td>"


def _details(title: str, pairs: Mapping[str, Any]) -> str:
    """Return names and values that are folded below a title."""
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(shown(value))}</td></tr>"
        for name, value in pairs.items()
    )
    return _folded(title, f'<div class="wide"><table><tbody>{rows}</tbody></table></div>')


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def json_script(name: str, value: Any) -> str:
    """Return an element of JSON that cannot end it or hold a number that JSON lacks."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(finite, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{text}</script>'
