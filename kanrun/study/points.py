"""A study: points x cells x seeds of one run, and all that can be said before the run exists."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kanrun.config import ExecutorConfig, ExperimentConfig, rules
from kanrun.config.rules import MissingSettings, typed_config, with_values
from kanrun.errors import UsageError
from kanrun.runs.files import write_atomic
from kanrun.runs.reader import Run, config_path, read_config
from kanrun.runs.records import (
    POINTS_FILE,
    Manifest,
    Point,
    Status,
    check_tags,
    read_points,
    write_points,
)
from kanrun.study.experiment import Experiment, Prepared, check_size, names_of, tasks_of
from kanrun.study.resources import (
    check_memory,
    device_of,
    estimate_memory,
    resident_memory,
    threads_of,
    using_threads,
)

#: Names that a sentence lists: of columns, and of points or cells.
MAX_COLUMNS, MAX_NAMES = 20, 12
#: Settings in which runs differ that a sentence names.
MAX_DIFFERENCES = 4
MEBIBYTE = 2**20
#: Bytes by which the process may grow while it keeps what was prepared for tasks.
MOST_PREPARED = 128 * MEBIBYTE
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


@dataclass(frozen=True)
class Study:
    """A command, its points, and the configurations that they are made of.

    Attributes:
        command: The command, such as "fit".
        argv: Arguments as typed, for the record.
        bases: Composed configurations as plain values, interpolations kept; one for each
            combination of group choices. Each has every key of the values that are set on it.
        points: The points in the order of their numbers.
        source: File that the bases were read from, for errors.
    """

    command: str
    argv: tuple[str, ...] = ()
    bases: tuple[Mapping[str, Any], ...] = ()
    points: tuple[Point, ...] = (Point(0),)
    source: str = ""

    def config(self, number: int) -> ExperimentConfig:
        """Return the typed and checked configuration of the point `number`. Raises UsageError."""
        try:
            return self._config(self.points[number])
        except UsageError as error:
            raise UsageError(f"{self.source}: {error}" if self.source else str(error)) from error

    def _config(self, point: Point) -> ExperimentConfig:
        plain = with_values(self.bases[point.base], point.values)
        try:
            cfg: ExperimentConfig = typed_config(self.command, plain)
            return cfg
        except MissingSettings as error:
            table = dict(plain.get("target") or {}).get("path")
            if error.paths[0] != "target.outputs" or not isinstance(table, str):
                raise
            from kanrun.targets.table_files import column_names

            columns = _some(column_names(Path(table)), ", ", MAX_COLUMNS)
            raise UsageError(
                f"target.outputs must be given, as target.outputs=[NAME], of the columns {columns}."
            ) from error

    def on(self, executor: ExecutorConfig) -> Study:
        """Return the study on another executor."""
        return replace(
            self, bases=tuple({**base, "executor": asdict(executor)} for base in self.bases)
        )

    def store(self, folder: Path) -> None:
        """Write `config.yaml`, `config-1.yaml`, ..., and of several points `points.csv`."""
        for number, base in enumerate(self.bases):
            text = OmegaConf.to_yaml(OmegaConf.create(dict(base)))
            write_atomic(config_path(folder, number), text.encode(), durable=True)
        if len(self.points) > 1:
            write_points(folder, self.points)

    @classmethod
    def read(cls, folder: Path) -> Study:
        """Return the study that the run in `folder` stored. Raises StorageFailed."""
        manifest = Run(folder).manifest
        points: tuple[Point, ...] = (Point(0, manifest.overrides),)
        if (folder / POINTS_FILE).is_file():
            points = tuple(read_points(folder))
        bases = range(max(point.base for point in points) + 1)
        configs = tuple(read_config(config_path(folder, number)) for number in bases)
        source = str(config_path(folder, 0))
        return cls(manifest.command, manifest.argv, configs, points, source)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that are not settings.

    Attributes:
        outputs: Folder of run folders.
        quiet: Print warnings and errors only.
        verbose: Print how choices were made.
        strict: Exit with code 1 if a claim does not hold.
        force: Run what may not fit into memory; resume a run that another host started.
        dry_run: Say what would run, and write nothing.
        began: CPU seconds of this process when the run was asked for.
        executor: Executor to resume on; default: the original one.
        address: Address of the Dask scheduler to resume on.
    """

    outputs: Path = Path("outputs")
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    force: bool = False
    dry_run: bool = False
    began: float | None = None
    executor: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Checked:
    """A study whose points can run: numbers of cells and seeds, and what tasks need.

    What was prepared for the first task is there, and for others as far as memory goes.
    """

    cells: tuple[int, ...]
    seeds: tuple[int, ...]
    prepared: Prepared

    @property
    def trainings(self) -> tuple[int, ...]:
        """Number of trainings of each point."""
        return tuple(cells * seeds for cells, seeds in zip(self.cells, self.seeds, strict=True))


def check(experiment: Experiment, study: Study, *, force: bool = False) -> Checked:
    """Check everything that can be checked before a run exists, and write nothing.

    Calls `check` of the experiment for each point, and `prepare` for the first seed of each cell,
    if it has them. `force` skips the memory check. Raises UsageError, which names the point if
    there are several.
    """
    cells, seeds, prepared = list[int](), list[int](), Prepared()
    prepare: Any = getattr(experiment, "prepare", None)
    limit = getattr(experiment, "using_threads", using_threads)
    before = 0
    for point in study.points:
        try:
            cfg = study.config(point.number)
            rules.check_files(cfg)
            check_memory(cfg, force=force)
            check_tags(cfg.tags)
            if cfg.device not in {"auto", "cpu"}:
                device_of(cfg)
            if hasattr(experiment, "check"):
                experiment.check(cfg)
            tasks = tasks_of(experiment, cfg, point)
            check_size(sum(cells) + len(tasks))
            most = MOST_PREPARED if cfg.executor.kind == "serial" else 0
            for task in tasks if prepare is not None else ():
                if task.seed == cfg.seed:
                    with limit(threads_of(cfg)):
                        ready = prepare(cfg, task.cell, task.seed)
                    # What the first one has loaded stays in any case.
                    before = before or resident_memory()
                    if not prepared or resident_memory() - before < most:
                        prepared[task.key] = ready
        except UsageError as error:
            if not point.values:
                raise
            raise UsageError(f"{point}: {error}") from error
        cells.append(tasks[-1].index + 1)
        seeds.append(cfg.n_seeds)
    if cfg.executor.kind == "dask":
        from kanrun.study.executors import dask_client

        with dask_client(str(cfg.executor.address)):
            pass
    return Checked(tuple(cells), tuple(seeds), prepared)


def manifest_of(study: Study, checked: Checked) -> Manifest:
    """Return the record of a run that is about to begin."""
    cfg, first = study.config(0), study.points[0]
    return Manifest(
        study.command,
        study.argv,
        first.overrides if len(study.points) == 1 else (),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.n_seeds)),
        cells=checked.cells[0],
        points=len(study.points),
        trainings=sum(checked.trainings),
        device=device_of(cfg),
        precision=cfg.precision,
        threads=threads_of(cfg),
        executor=asdict(cfg.executor),
    )


def describe_plan(
    experiment: Experiment, study: Study, checked: Checked, outputs: Path
) -> Iterator[str]:
    """Yield sentences on the run of a study that was checked: its size, memory and time."""
    cfg, points, trainings = study.config(0), len(study.points), sum(checked.trainings)
    cells, seeds = checked.cells[0], checked.seeds[0]
    parts = [_plural(points, "point")] if points > 1 else []
    parts += [_plural(cells, "cell"), _plural(seeds, "seed")]
    differ = len({*zip(checked.cells, checked.seeds, strict=True)}) > 1
    each = " (of the first point)" if differ else ""
    yield f"{_plural(trainings, 'training')}: {' x '.join(parts)}{each}"
    if points > 1:
        yield f"points: {_some([str(point) for point in study.points])}"
    if cells > 1:
        yield f"cells: {_some(names_of(list(experiment.cells(cfg))))}"
    first: Any = next(iter(checked.prepared.values()), None)
    if (line := getattr(first, "summary_line", None)) is not None:
        yield f"the first: {line}"
    unit = MEBIBYTE if sys.platform == "darwin" else MEBIBYTE // 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    least = estimate_memory(cfg).memory / MEBIBYTE
    yield (
        f"memory: {used:.0f} MiB with the data of the first training, and at least {least:.3g} MiB "
        "to train"
    )
    yield _estimated_time(study, trainings, outputs, getattr(first, "problem", None))


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _some(names: Sequence[str], mark: str = "; ", most: int = MAX_NAMES) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{mark.join(names[:most])}{more}"


def _estimated_time(study: Study, trainings: int, outputs: Path, problem: Any) -> str:
    """Return the time per training and in total, from the most similar comparable run that ended.

    Runs are comparable if target, model and solver are of the same kinds. Their time is multiplied
    by the ratios of rows and of inputs of the training data.
    """
    from kanrun.runs import find_run
    from kanrun.runs.index import RunIndex, flattened

    def differing(name: str) -> list[str]:
        settings = index.settings(name)
        names = sorted(name for name in {*wanted, *settings} if not name.startswith(_EVEN))
        return [name for name in names if settings.get(name) != wanted.get(name)]

    wanted, index = flattened(asdict(study.config(0))), RunIndex(outputs)
    ended = index.rows(
        f"status = '{Status.COMPLETED}' AND command = '{study.command}' AND seconds > 0"
    )
    found = [(differing(row["name"]), row) for row in ended]
    found = [pair for pair in found if not any(name.endswith(".kind") for name in pair[0])]
    if not found:
        return f"time: unknown, since no comparable run of {study.command} in {outputs} has ended"
    names, row = min(found, key=lambda pair: len(pair[0]))
    about = f", which differs in {_some(names, ', ', MAX_DIFFERENCES)}" if names else ""
    seconds = row["seconds"] / (row["trainings"] or 1)
    summary = find_run(row["name"], outputs).columns("summary")
    if problem is not None and {"train_points", "shape"} <= summary.keys():
        data, then = problem.dataset, int(summary["train_points"][0])
        rows = sum(len(part.x) for part in (data.train, data.validation) if part is not None)
        now, inputs = data.train.x.shape[1], int(str(summary["shape"][0]).partition("-")[0])
        seconds *= rows / then * now / inputs
        if (rows, now) != (then, inputs):
            about += f"; scaled from {then} rows of {inputs} inputs to {rows} of {now}"
    return (
        f"estimated time: {seconds:.3g} s per training, {seconds * trainings:.3g} s in total "
        f"(from run {row['name']}{about})"
    )
