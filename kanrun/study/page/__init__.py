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
import math
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
from kanrun.study.comparison import RunComparison
from kanrun.study.page.interactive import PageLimits, interactive_data, network_values
from kanrun.study.report import shown

__all__ = ["PageLimits", "network_values", "write_report"]

#: Largest page in bytes, and number of its interactive parts.
LARGEST, MOST_NETWORKS = 5 * 10**6, 10
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
    if not output.parent.is_dir():
        raise UsageError(f"cannot write {output}: its folder is not there; choose another file.")
    write_named_file(output, _page(runs).encode())


def _page(runs: Sequence[Run]) -> str:
    asset = {
        name: (resources.files(__name__) / name).read_text("utf-8")
        for name in ("page.css", "network.js", "page.js")
    }
    body, room = [], LARGEST - sum(map(len, asset.values())) - 100_000
    names = ", ".join(run.name for run in runs)
    body.append(_tag("h1", names))
    if len(runs) > 1:
        body.append(_compared(runs))
    sources: list[str] = []
    for run in runs:
        parts = _section(run, sources, room // len(runs))
        body.append(f"<section>{parts}</section>")
    scripts = asset["network.js"], asset["page.js"]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
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
            f"{_tag('title', f'kanrun: {names}')}<style>{asset['page.css']}</style></head><body>",
            *body,
            *sources,
            *(f"<script>{text}</script>" for text in scripts),
            "</body></html>",
        ]
    )


def _section(run: Run, sources: list[str], room: int) -> str:
    """Return all of one run; figures are left out once they would need more than `room` bytes."""
    single = run.best
    parts = [_tag("h2", run.name), _tag("p", f"Status: {run.status}")]
    if run.has_points:
        parts.append(
            _tag("p", f"A run of {len(run.points)} points; below is its best, {single.name}.")
        )
        parts.append(_points(run))
    parts += [_tag("p", text) for text in (run.labels.note, ", ".join(run.labels.tags)) if text]
    parts.append(_record(single))
    for data in interactive_data(single):
        source, content = f"living-{len(sources)}", _json(data)
        parts.append(_tag("h3", data["title"]))
        if data["kind"] == "absent":
            parts.append(_tag("p", data["said"]))
            continue
        room -= len(content)
        if room < 0 or len(sources) >= MOST_NETWORKS:
            text = f"It is left out: a page holds {MOST_NETWORKS} networks at most, and 5 MB."
            parts.append(_tag("p", f"{text} Write a page of fewer runs."))
            break
        sources.append(f'<script type="application/json" id="{source}">{content}</script>')
        parts.append(f'<div class="living" data-source="{source}"></div>')
    for path in _figures(single, run):
        image, kind = path.read_bytes(), {".svg": "svg+xml", ".png": "png"}[path.suffix]
        room -= len(image) * 4 // 3
        if room < 0:
            text = f"Further figures are in {path.parent}: the page would be too large."
            parts.append(_tag("p", text))
            break
        data_uri = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        name = escape(path.stem, quote=True)
        image_tag = f'<img alt="figure {name}" src="{data_uri}">'
        parts.append(f"<figure>{image_tag}<figcaption>{name}</figcaption></figure>")
    parts.append(_settings(single))
    return "\n".join(parts)


def _record(run: Run) -> str:
    """Return how to rerun, claims, results and environment, from `run.json` and the tables."""
    try:
        manifest = run.manifest
    except KanrunError as error:
        return _tag("p", str(error))
    words = f"kanrun {manifest.command} {shlex.join(manifest.overrides)}".strip()
    words = words if run.point else shlex.join(manifest.argv) or words
    parts = [f"<p>Asked for by <code>{escape(words)}</code></p>"]
    parts.append(f"<p>Run it again by <code>kanrun runs rerun {escape(run.name)}</code></p>")
    if manifest.reason:
        parts.append(_tag("p", manifest.reason))
    if manifest.claims:
        rows = [
            {
                "": "holds" if claim.holds else "does not hold",
                "claim": claim.sentence,
                "measured": shown(claim.measured),
                "bound": claim.bound,
                "spread": claim.spread or "",
            }
            for claim in manifest.claims
        ]
        parts += [
            _tag("h3", "Claims"),
            _table({name: [row[name] for row in rows] for name in rows[0]}),
        ]
    parts += [_tag("p", f"Note: {note}") for note in manifest.notes]
    for name in _TABLES:
        try:
            columns = run.columns(name)
        except KanrunError:
            continue
        if columns and len(next(iter(columns.values()))):
            parts += [_tag("h3", name), _table(columns)]
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
    parts += ["<details><summary>Environment</summary>", _pairs(facts), "</details>"]
    return "\n".join(parts)


def _settings(run: Run) -> str:
    try:
        settings = flattened(run.config)
    except KanrunError:
        return ""
    return f"<details><summary>Settings</summary>{_pairs(settings)}</details>"


def _points(run: Run) -> str:
    rows: list[dict[str, Any]] = []
    for point in run.points[:_MOST_ROWS]:
        values = point.point.values if point.point else {}
        row: dict[str, Any] = {"point": point.name, "status": point.status, **values}
        with contextlib.suppress(KanrunError):
            row |= point.manifest.metrics
        rows.append(
            {
                name: value if isinstance(value, int | float) else str(value)
                for name, value in row.items()
                if value is not None
            }
        )
    names = dict.fromkeys(name for row in rows for name in row)
    more = len(run.points) - len(rows)
    table = _table({name: [row.get(name) for row in rows] for name in names})
    return table + (_tag("p", f"{more} more points in the run's folder") if more else "")


def _compared(runs: Sequence[Run]) -> str:
    comparison = RunComparison([run.best for run in runs])
    parts = []
    for title, side in (
        ("Settings that differ", comparison.settings),
        ("Results", comparison.results),
    ):
        if side:
            parts += [_tag("h3", title), _table(comparison.columns(side))]
    return "\n".join(parts)


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
    rows = []
    for values in list(zip(*columns.values(), strict=True))[:_MOST_ROWS]:
        rows.append("<tr>" + "".join(_cell(value) for value in values) + "</tr>")
    more = len(next(iter(columns.values()), ())) - _MOST_ROWS
    rest = _tag("p", f"{more} more rows in the run's folder") if more > 0 else ""
    head, body = f"<thead><tr>{heads}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table class="sorts">{head}{body}</table></div>{rest}'


def _cell(value: Any) -> str:
    text = shown(value)
    marks = {"holds": ' class="holds"', "does not hold": ' class="fails"'}
    number = (
        ' class="n"'
        if isinstance(value, int | float) and not isinstance(value, bool)
        else marks.get(text, "")
    )
    return f"<td{number}>{escape(text)}</td>"


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(shown(value))}</td></tr>"
        for name, value in pairs.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _json(value: Any) -> str:
    """Return JSON that cannot end its script element or hold a number that JSON lacks."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
