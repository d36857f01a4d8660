"""How far a run or sweep is that did not end well, and what continuing it will do."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from kanrun.errors import KanrunError, StorageFailed
from kanrun.runs.manifest import Status, StudyProgress, Sweep
from kanrun.runs.reader import Run

_CHECKPOINT = re.compile(r"resume-\d+-\d+")


def unfinished(run: Run) -> Iterator[str]:
    """Sentences on a run that is not complete: what it has, and what `kanrun runs resume` does with it."""
    if run.is_sweep:
        yield from _sweep_left(run)
        return
    status = run.status
    if status in {Status.COMPLETED, Status.RUNNING, "UNREADABLE"} and not _failed(run):
        return
    path = os.path.relpath(run.path)  # also of other outputs than the ones that a name is looked for in
    if status == "NOT BEGUN":
        yield f"it never began; `kanrun runs resume {os.path.dirname(path)}` runs it with the rest of its sweep"
        return
    try:
        manifest = run.manifest
    except KanrunError:
        yield "it was killed before it recorded anything; start it again"
        return
    total = manifest.cells * len(manifest.seeds)
    finished, begun = (
        len(StudyProgress.read(run.path).finished),
        sum(bool(_CHECKPOINT.fullmatch(name)) for name in run.checkpoints),
    )
    if last := _last_step(run):
        yield f"last recorded step: {last}"
    parts = [f"{finished} of {total} trainings are finished and kept" if total > 1 else ""]
    if begun:
        parts.append(f"{begun} continue{'s' if begun == 1 else ''} from the last checkpoint")
    if (rest := total - finished - begun) > 0:
        parts.append("it starts again" if total == 1 else f"{rest} start{'s' if rest == 1 else ''} anew")
    yield f"`kanrun runs resume {path}`: {', '.join(part for part in parts if part)}"


def swept(run: Run) -> list[dict[str, Any]]:
    """The settings of each job of a sweep by their path, also of those that did not begin; empty where unknown."""
    from kanrun.runs.index import flattened

    stored: tuple[Any, ...] = ()
    with contextlib.suppress(StorageFailed):
        stored = Sweep.read(run.path).jobs
    settings = []
    for job in run.jobs:
        number = int(job.path.name)
        try:
            settings.append(flattened(stored[number].config if number < len(stored) else job.config))
        except KanrunError:
            settings.append({})
    return settings


def _sweep_left(run: Run) -> Iterator[str]:
    left = [job for job in run.jobs if job.status != Status.COMPLETED or _failed(job)]
    if left:
        done = len(run.jobs) - len(left)
        again = f"`kanrun runs resume {os.path.relpath(run.path)}`"
        yield f"{again}: {done} of {len(run.jobs)} jobs are complete and kept, the others run"


def _failed(run: Run) -> bool:
    try:
        return bool(run.manifest.failures)
    except KanrunError:
        return False


def _last_step(run: Run) -> str:
    try:
        metrics = run.columns("metrics")
    except StorageFailed:
        return ""
    last = {name: values[-1] for name, values in metrics.items() if values}
    shown = ("stage", "intervals", "step", "validation_rmse", "test_rmse")
    return ", ".join(f"{name} {last[name]:.3g}" for name in shown if isinstance(last.get(name), int | float))
