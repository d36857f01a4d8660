"""A study, and everything that can be checked before its run folder exists.

A study is what one run executes: its points, the cells of each point, and their seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from kanrun.config import EXPERIMENTS, TARGETS, ExperimentConfig
from kanrun.config.rules import (
    MissingSettings,
    check_choices,
    check_files,
    typed,
    typed_config,
    with_values,
)
from kanrun.errors import UsageError
from kanrun.runs.files import Key
from kanrun.runs.reader import Run
from kanrun.runs.records import MANIFEST_FILE, Manifest, Point, check_tags
from kanrun.study import Experiment, check_size, names_of, tasks_of
from kanrun.study.resources import (
    check_memory,
    device_of,
    estimate_memory,
    threads_of,
    using_threads,
    workers_of,
)

#: Largest number of columns that a message lists; the others are counted.
MAX_COLUMNS = 20
#: Largest number of points or cells that a message lists; the others are counted.
MAX_NAMES = 12
MEBIBYTE = 2**20
#: Largest number of bytes by which the process may grow to keep the prepared data of tasks.
MOST_PREPARED = 128 * MEBIBYTE


@dataclass(frozen=True)
class Study:
    """A command, its points, and the configurations to which the points apply their values.

    Attributes:
        command: The command, such as "fit".
        argv: Arguments as typed, for the record.
        bases: Composed configurations as plain values, with interpolations unresolved; one for each
            combination of group choices. A point sets its values only on keys that its base has.
        points: The points in the order of their numbers.
        source: File from which the bases were read, for error messages; "" if there is none.
    """

    command: str
    argv: tuple[str, ...] = ()
    bases: tuple[Mapping[str, Any], ...] = ()
    points: tuple[Point, ...] = (Point(0),)
    source: str = ""

    @cached_property
    def experiment(self) -> Experiment:
        """Experiment of the command. Raises UsageError if the command is unknown."""
        experiment: Experiment = EXPERIMENTS.find(self.command).build()
        return experiment

    def config(self, number: int) -> ExperimentConfig:
        """Return the typed and checked configuration of the point `number`. Raises UsageError."""
        point = self.points[number]
        plain = with_values(self.bases[point.base], point.values)
        try:
            cfg: ExperimentConfig = typed_config(self.command, plain)
            return cfg
        except UsageError as error:
            text = str(error)
            missing = isinstance(error, MissingSettings) and error.paths[0] == "target.outputs"
            if missing and isinstance(table := plain["target"].get("path"), str):
                from kanrun.targets.table_files import ReadOptions, column_names

                options = typed(ReadOptions, plain["target"].get("read", {}), "target.read.")
                text = "target.outputs must be given, as target.outputs=[NAME], of the columns "
                text += f"{_some(column_names(table, options), ', ', MAX_COLUMNS)}."
            elif isinstance(error, MissingSettings) and error.paths[0] == "target.name":
                path = error.paths[0]
                names = ", ".join(TARGETS[plain["target"]["kind"]].names())
                text = f"{path} must be given, as {path}=NAME; known are {names}."
            raise UsageError(f"{self.source}: {text}" if self.source else text) from error

    @classmethod
    def read(cls, folder: Path) -> Study:
        """Read the study of the run in `folder`. Raises StorageFailed if `run.json` is damaged."""
        manifest = Run(folder).manifest
        source = str(folder / MANIFEST_FILE)
        return cls(manifest.command, manifest.argv, manifest.bases, manifest.points, source)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not settings.

    Attributes:
        outputs: Folder that contains the run folders.
        quiet: Print only warnings and errors.
        verbose: Print how choices were made.
        strict: Exit with code 1 if a claim does not hold.
        force: Run even if memory may not suffice, and resume a run that another host started.
        dry_run: Print what would run, and write nothing.
        began: CPU time of this process when the command began, in seconds; default: now.
        n_jobs: Number of processes with which to resume or repeat a run; default: the run's.
        scheduler: Address of the Dask scheduler on which to do so.
    """

    outputs: Path = Path("outputs")
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    force: bool = False
    dry_run: bool = False
    began: float | None = None
    n_jobs: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class Checked:
    """A study that has passed all checks.

    Attributes:
        study: The study.
        cells: Number of cells of each point.
        trainings: Number of training runs of each point.
        prepared: Results of the experiment's `prepare` for the first task, and for as many other
            tasks as fit in memory, by the key of the task.
    """

    study: Study
    cells: tuple[int, ...]
    trainings: tuple[int, ...]
    prepared: Mapping[Key, Any]


def check(study: Study, *, force: bool = False) -> Checked:
    """Check everything that can be checked before a run exists, and write nothing.

    For each point, the experiment's `check` is called, and its `prepare` for the first seed of each
    cell, if the experiment has these functions. With `force`, memory is not checked. Raises
    UsageError; the message names the point if there are several.
    """
    cells = list[int]()
    trainings = list[int]()
    prepared = dict[Key, Any]()
    before = 0
    for point in study.points:
        try:
            cfg = study.config(point.number)
            _check_settings(cfg, force)
            # Loading the experiment may import torch, so the checks that do not need it come first.
            experiment = study.experiment
            prepare: Any = getattr(experiment, "prepare", None)
            limit = getattr(experiment, "using_threads", using_threads)
            if hasattr(experiment, "check"):
                experiment.check(cfg)
            tasks = tasks_of(experiment, cfg, point)
            check_size(sum(trainings) + len(tasks))
            for task in tasks if prepare is not None else ():
                if task.seed == cfg.seed:
                    with limit(threads_of(cfg)):
                        ready = prepare(cfg, task.cell, task.seed)
                    # Memory is counted from the end of the first `prepare`: the libraries that it
                    # loaded stay in memory, whether or not results are kept.
                    used = psutil.Process().memory_info().rss
                    before = before or used
                    has_room = (
                        cfg.scheduler is None
                        and workers_of(cfg) == 1
                        and used - before < MOST_PREPARED
                    )
                    if has_room or not prepared:
                        prepared[task.key] = ready
        except UsageError as error:
            if not point.values:
                raise
            raise UsageError(f"{point}: {error}") from error
        cells.append(tasks[-1].index + 1)
        trainings.append(len(tasks))
    if cfg.scheduler is not None:
        from kanrun.study.executors import dask_client

        with dask_client(cfg.scheduler):
            pass
    return Checked(study, tuple(cells), tuple(trainings), prepared)


def _check_settings(cfg: ExperimentConfig, force: bool) -> None:
    """Check what can be checked without the experiment. Raises UsageError."""
    check_files(cfg)
    check_choices(cfg)
    check_memory(cfg, force=force)
    if cfg.tags:
        check_tags(cfg.tags)
    if cfg.device not in {"auto", "cpu"}:
        device_of(cfg)


def manifest_of(checked: Checked) -> Manifest:
    """Return the content of `run.json` for a run that is about to begin."""
    study = checked.study
    cfg = study.config(0)
    return Manifest(
        study.command,
        study.argv,
        study.points,
        tuple(map(dict, study.bases)),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.n_seeds)),
        cells=checked.cells[0],
        trainings=sum(checked.trainings),
        device=device_of(cfg),
        precision=cfg.precision,
        threads=threads_of(cfg),
        tags=tuple(cfg.tags),
        note=" ".join((cfg.note or "").split()),
    )


def describe_plan(checked: Checked) -> Iterator[str]:
    """Yield lines about the run of a checked study: its size and memory."""
    study = checked.study
    trainings = sum(checked.trainings)
    cfg = study.config(0)
    points = len(study.points)
    cells = checked.cells[0]
    counts = {"point": points, "cell": cells, "seed": checked.trainings[0] // cells}
    if points == 1:
        del counts["point"]
    differ = len({*zip(checked.cells, checked.trainings, strict=True)}) > 1
    parts = " x ".join(_plural(number, noun) for noun, number in counts.items())
    yield f"{_plural(trainings, 'training')}: {parts}{' (of the first point)' * differ}"
    if points > 1:
        yield f"points: {_some(list(map(str, study.points)))}"
    if cells > 1:
        yield f"cells: {_some(names_of(list(study.experiment.cells(cfg))))}"
    first: Any = next(iter(checked.prepared.values()), None)
    if (line := getattr(first, "summary_line", None)) is not None:
        yield f"the first: {line}"
    used = psutil.Process().memory_info().rss / MEBIBYTE
    least = estimate_memory(cfg).memory / MEBIBYTE
    yield (
        f"memory: {used:.0f} MiB with the data of the first training, and at least {least:.3g} MiB "
        "to train"
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _some(names: Sequence[str], mark: str = "; ", most: int = MAX_NAMES) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{mark.join(names[:most])}{more}"
