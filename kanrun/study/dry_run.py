"""What a run would be, said before it begins and without writing anything: trainings, sizes, time and memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kanrun.config import ExperimentConfig
from kanrun.runs.index import RunIndex, flattened
from kanrun.runs.manifest import Status
from kanrun.study.experiment import Experiment, Prepared, names_of, tasks_of
from kanrun.study.resources import need_of

#: Settings by which trainings do not take longer.
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
_MOST_CELLS = 12


def plan_in_words(
    experiment: Experiment, command: str, cfg: ExperimentConfig, prepared: Prepared, outputs: Path
) -> Iterator[str]:
    """Sentences on the run that `cfg` asks for. `prepared` is what was built for its first training."""
    tasks = tasks_of(experiment, cfg)
    cells = list({task.index: task.cell for task in tasks}.values())
    several = "s" * (len(cells) > 1)
    yield f"{len(tasks)} training{'s' * (len(tasks) > 1)}: {len(cells)} cell{several} x {cfg.n_seeds} seeds"
    if len(cells) > 1:
        names = names_of(cells)
        more = f" and {len(cells) - _MOST_CELLS} more" if len(cells) > _MOST_CELLS else ""
        yield f"cells: {'; '.join(names[:_MOST_CELLS])}{more}"
    first: Any = next(iter(prepared.values()), None)
    if (words := getattr(first, "words", None)) is not None:
        yield f"the first: {words}"
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    least = need_of(cfg).memory / 2**20
    yield f"memory: {megabytes:.0f} MiB with the data of the first training, and at least {least:.3g} MiB to train"
    yield _time_of(command, cfg, len(tasks), outputs)


def _time_of(command: str, cfg: ExperimentConfig, trainings: int, outputs: Path) -> str:
    """How long the finished run took that has the most settings in common, a training and all of them."""
    wanted = _telling(flattened(asdict(cfg)))
    nearest: tuple[int, float, str, list[str]] | None = None
    index = RunIndex(outputs)
    for run in index.single_runs:
        row = run.row(settings=False)
        if (
            run.entry.status != Status.COMPLETED
            or row.get("command") != command
            or not row.get("seconds")
        ):
            continue
        settings = _telling(run.settings)
        differ = [name for name in {*wanted, *settings} if settings.get(name) != wanted.get(name)]
        seconds = float(row["seconds"]) / max(1, int(row["seeds"] or 1) * int(row["cells"] or 1))
        if nearest is None or len(differ) < nearest[0]:
            nearest = len(differ), seconds, run.name, sorted(differ)
    if nearest is None:
        return f"time: unknown, since no run of {command} in {outputs} has ended"
    _, seconds, name, differ = nearest
    unlike = (
        f", which differs in {', '.join(differ[:4])}{' and more' if len(differ) > 4 else ''}"
        if differ
        else ""
    )
    return f"time: about {seconds:.3g} s a training, {seconds * trainings:.3g} s in all, by {name}{unlike}"


def _telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(_EVEN)}
