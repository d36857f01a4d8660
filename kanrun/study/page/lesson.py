"""Lecture as one HTML page whose sections each have one thing to move.

Half of the sections draw what they compute (`lesson.js`), the others show recorded runs: those that
have the tag `lesson`, or small ones of `STUDIES`, which are run first.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from pathlib import Path

from kanrun.errors import UsageError
from kanrun.runs import Run, Status
from kanrun.runs.locations import find_runs
from kanrun.study.page import html_page, json_script, write_page
from kanrun.study.page.interactive import Living, interactive_data

#: Tag of the runs that the lesson shows.
TAG = "lesson"
#: Arguments of the small run of each command, if no run of it has the tag.
STUDIES: dict[str, tuple[str, ...]] = {
    "curves": ("parts=[bezier,bspline]",),
    "fit": ("model.hidden=[2]", "model.intervals=[3,6,12,24]", "sampling.n_test=300"),
    "extend-grid": (
        "parts=[schedules]",
        "schedules=[{kind: list, intervals: [3,6,12,24,48]}]",
        "n_seeds=1",
        "executor=serial",
    ),
    "interpret": ("budget=10",),
    "continual": (
        "parts=[learners]",
        "learners=[{name: KAN, kind: kan}, {name: MLP, kind: mlp, activation: tanh, depths: [2]}]",
        "trials=1",
        "n_seeds=1",
        "executor=serial",
    ),
}
#: Recorded parts: the command, and which of its interactive parts it is.
PARTS: dict[str, tuple[str, Callable[[Living], bool]]] = {
    "bezier": ("curves", lambda part: part["kind"] == "curve" and not part["knots"]),
    "local": ("curves", lambda part: part["kind"] == "curve" and bool(part["knots"])),
    "grid": ("fit", lambda part: part["kind"] == "network"),
    "staircase": ("extend-grid", lambda part: part["kind"] == "frames"),
    "formula": ("interpret", lambda part: part["kind"] == "frames"),
    "phases": ("continual", lambda part: part["kind"] == "frames"),
}


def recorded_runs(outputs: Path) -> dict[str, Run]:
    """Return the latest complete run with the tag of each command of the lesson."""
    found = [run for run in find_runs(outputs) if TAG in run.labels.tags]
    found = [run for run in found if run.status == Status.COMPLETED]
    found.sort(key=Run.began)
    return {run.manifest.command: run for run in found if run.manifest.command in STUDIES}


def write_lesson(runs: Mapping[str, Run], output: Path) -> None:
    """Write the page to `output`, atomically, from a run of each command of `STUDIES`.

    Raises UsageError if a run has no such part, and if the file cannot be written.
    """
    body = (resources.files(__package__) / "lesson.html").read_text("utf-8")
    sources = []
    for name, (command, fits) in PARTS.items():
        run = runs[command].best
        part = next(filter(fits, interactive_data(run)), None)
        if part is None:
            raise UsageError(
                f"{run.name} has nothing to show in the section {name}. Remove its tag {TAG!r}."
            )
        if name == "bezier":
            part = {**part, "kind": "casteljau"}
        words = f"kanrun {command} {shlex.join(run.manifest.overrides)}".strip()
        shown = f'<div class="living" data-source="{name}"></div><p class="source">Recorded by '
        body = body.replace(f"<!--recorded:{name}-->", f"{shown}<code>{escape(words)}</code></p>")
        sources.append(json_script(name, part))
    scripts = ("network.js", "lesson.js", "page.js")
    write_page(html_page("kanrun: the lecture", [body, *sources], scripts), output)
