"""Description of a run before it begins: trainings, sizes, time and memory; writes nothing."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanrun.runs.index import RunIndex, flattened
from kanrun.runs.manifest import Status
from kanrun.study.execute import Checked, Studied
from kanrun.study.experiment import Experiment, names_of
from kanrun.study.resources import estimate_memory

#: Settings that do not change the time of a training.
_EVEN = (
    "seed",
    "n_seeds",
    "tags",
    "note",
    "tracker",
    "figure_formats",
    "max_cpu_seconds",
    "executor.",
    "sampling.n_test",
)
_MOST_NAMED = 12


def describe_plan(
    experiment: Experiment, study: Studied, checked: Checked, outputs: Path
) -> Iterator[str]:
    """Yield sentences on the run of a study that was checked."""
    cfg, points = study.config(0), len(study.points)
    trainings = sum(many * n for many, n in zip(checked.cells, checked.seeds, strict=True))
    cells, seeds = checked.cells[0], checked.seeds[0]
    parts = [_plural(points, "point")] if points > 1 else []
    parts += [_plural(cells, "cell"), _plural(seeds, "seed")]
    each = (
        " (of the first point)"
        if len({*zip(checked.cells, checked.seeds, strict=True)}) > 1
        else ""
    )
    yield f"{_plural(trainings, 'training')}: {' x '.join(parts)}{each}"
    if points > 1:
        yield f"points: {_some([str(point) for point in study.points])}"
    if cells > 1:
        yield f"cells: {_some(names_of(list(experiment.cells(cfg))))}"
    first: Any = next(iter(checked.prepared.values()), None)
    if (line := getattr(first, "words", None)) is not None:
        yield f"the first: {line}"
    unit = 2**20 if sys.platform == "darwin" else 2**10
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    least = estimate_memory(cfg).memory / 2**20
    yield (
        f"memory: {used:.0f} MiB with the data of the first training, and at least {least:.3g} MiB "
        "to train"
    )
    yield _estimated_time(study, trainings, outputs)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{'; '.join(names[:_MOST_NAMED])}{more}"


def _estimated_time(study: Studied, trainings: int, outputs: Path) -> str:
    """Return the time per training and in total, from the most similar run that finished."""
    wanted = _relevant(flattened(asdict(study.config(0))))
    nearest: tuple[int, float, str, list[str]] | None = None
    index = RunIndex(outputs)
    for row in index.rows(
        "status = ? AND command = ? AND seconds > 0", (Status.COMPLETED, study.command)
    ):
        settings = _relevant(index.settings(row["name"]))
        differ = [name for name in {*wanted, *settings} if settings.get(name) != wanted.get(name)]
        seconds = float(row["seconds"]) / max(1, int(row["trainings"] or 1))
        if nearest is None or len(differ) < nearest[0]:
            nearest = len(differ), seconds, row["name"], sorted(differ)
    if nearest is None:
        return f"time: unknown, since no run of {study.command} in {outputs} has ended"
    _, seconds, name, differ = nearest
    more = " and more" if len(differ) > 4 else ""
    unlike = f", which differs in {', '.join(differ[:4])}{more}" if differ else ""
    return (
        f"estimated time: {seconds:.3g} s per training, {seconds * trainings:.3g} s in total "
        f"(from run {name}{unlike})"
    )


def _relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(_EVEN)}
