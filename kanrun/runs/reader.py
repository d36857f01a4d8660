"""Reads a run folder back, whatever state it is in and whoever wrote it; and who writes it, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs import environment
from kanrun.runs.artifacts import checkpoint_path, read_checkpoint
from kanrun.runs.files import file_name, read_bytes, read_json, storing, yaml_as_plain
from kanrun.runs.manifest import (
    LABELS_FILE,
    MANIFEST_FILE,
    SWEEP_FILE,
    Manifest,
    RunLabels,
    Status,
    StudyProgress,
    Sweep,
)
from kanrun.runs.records import Checkpoint
from kanrun.runs.tables import read_columns, read_table

if TYPE_CHECKING:
    import pandas

TOP_TABLES = ("metrics", "summary")
#: Errors by which runs compare, held-out points first: the test points choose nothing.
ERRORS = ("validation_rmse", "test_rmse", "rmse")
_JOB = re.compile(r"\d{1,9}")
_RESUME = re.compile(r"resume-\d+-\d+")
_CONFIG_LIMIT = 4 * 2**20
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # what file systems without locks answer


class Run:
    """A run folder, read only. Nothing is read before it is asked for; nothing in the folder is ever run."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or path.name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """The content of `run.json`; StorageFailed if it is missing or damaged."""
        return read_json(self.path / MANIFEST_FILE, Manifest)

    @property
    def labels(self) -> RunLabels:
        """Tags and note."""
        return RunLabels.read(self.path) if (self.path / LABELS_FILE).is_file() else RunLabels()

    @cached_property
    def jobs(self) -> tuple[Run, ...]:
        """The runs of a sweep in order, those that are still to begin among them; none of a single run."""
        if (self.path / MANIFEST_FILE).exists():
            return ()
        numbers = (name for name in subfolders(self.path) if _JOB.fullmatch(name))
        names = {name for name in numbers if (self.path / name / MANIFEST_FILE).exists()}
        if (self.path / SWEEP_FILE).is_file():
            with contextlib.suppress(StorageFailed):
                names |= {str(number) for number in range(len(Sweep.read(self.path).jobs))}
        return tuple(
            Run(self.path / name, f"{self.name}/{name}") for name in sorted(names, key=int)
        )

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep: a run that has jobs, and no record of its own."""
        return bool(self.jobs)

    @property
    def error(self) -> float | None:
        """The error by which runs compare: the median over seeds of the first of `ERRORS` that was measured."""
        try:
            metrics = self.manifest.metrics
        except KanrunError:
            return None
        return next((value for name in ERRORS if (value := metrics.get(name)) is not None), None)

    @property
    def best_job(self) -> Run | None:
        """The job with the lowest error; None where none has one."""
        known = [(error, job) for job in self.jobs if (error := job.error) is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    @property
    def single(self) -> Run:
        """The run itself; of a sweep its best job, or the first where none has an error."""
        return (self.best_job or self.jobs[0]) if self.is_sweep else self

    @property
    def is_alive(self) -> bool:
        """Whether the run continues: STARTING or RUNNING, and its process exists (assumed on other hosts)."""
        manifest = self.manifest
        if not manifest.is_open:
            return False
        return self.is_elsewhere or environment.is_alive(manifest.pid, manifest.process_start)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another host ran it, whose processes cannot be seen from here."""
        return self.manifest.host != environment.host()

    def check_ended(self, force: bool = False) -> None:
        """Raise UsageError if the run is still running, or may be on another host and `force` does not say it ended."""
        host, pid = self.manifest.host, self.manifest.pid
        if self.is_alive and not self.is_elsewhere:
            raise UsageError(f"{self.path} is still running (process {pid}); wait or end it first.")
        if self.is_alive and not force:
            raise UsageError(
                f"{self.path} was started on the host {host} (process {pid}), and whether it still runs there cannot "
                "be seen from here; if it has ended, add --force."
            )

    @property
    def has_begun(self) -> bool:
        """Whether trainings may have begun: its `run.json` is there, and not STARTING."""
        return (self.path / MANIFEST_FILE).exists() and self.manifest.status != Status.STARTING

    @property
    def status(self) -> str:
        """The status as text: `INTERRUPTED (killed)` for a run whose process is gone, never an error."""
        if not (self.path / MANIFEST_FILE).exists():
            if self.is_sweep:
                return status_of_all([job.status for job in self.jobs])
            in_sweep = (self.path.parent / SWEEP_FILE).is_file()
            return "NOT BEGUN" if in_sweep else "INTERRUPTED (killed before it started)"
        try:
            if self.manifest.is_open and not self.is_alive:
                return (
                    "INTERRUPTED (killed)"
                    if self.has_begun
                    else "INTERRUPTED (killed before it started)"
                )
            return str(self.manifest.status)
        except KanrunError:
            return "UNREADABLE"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration in `.hydra/config.yaml` as plain values, interpolations left as they stand.

        Raises StorageFailed if it is missing, damaged, or uses YAML aliases (which can blow up memory).
        """
        return read_config(self.path / ".hydra" / "config.yaml")

    @property
    def table_paths(self) -> dict[str, Path]:
        """The files of the tables that are there, by name."""
        found = {name: self.path / f"{name}.csv" for name in TOP_TABLES}
        found = {name: path for name, path in found.items() if path.is_file()}
        for path in sorted((self.path / "tables").glob("*.csv")):
            if path.is_file() and not path.is_symlink() and path.stem not in TOP_TABLES:
                found[path.stem] = path
        return found

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that are there."""
        return tuple(self.table_paths)

    def table(self, name: str) -> pandas.DataFrame:
        """Return a table as recorded so far; KanrunError if there is none of that name."""
        path = self.table_paths.get(file_name(name))
        if path is None:
            there = ", ".join(self.tables) or "none yet"
            raise KanrunError(f"run {self.name} has no table {name!r}; there are: {there}.")
        return read_table(path)

    def columns(self, name: str) -> dict[str, list[Any]]:
        """As `table`, as lists by column and without pandas; empty if there is none of that name."""
        path = self.table_paths.get(file_name(name))
        return {} if path is None else read_columns(path)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints that are there."""
        return tuple(
            path.stem for path in sorted((self.path / "checkpoints").glob("*.safetensors"))
        )

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint; KanrunError if there is none of that name or it is damaged."""
        path = checkpoint_path(self.path / "checkpoints", name)
        if not path.is_file():
            there = ", ".join(self.checkpoints) or "none yet"
            raise KanrunError(f"run {self.name} has no checkpoint {name!r}; there are: {there}.")
        return read_checkpoint(
            path, self.manifest.checkpoints.get(path.stem) if self._ended else None
        )

    def check_checkpoints(self) -> None:
        """Raise StorageFailed if a checkpoint that the run left, by its `run.json`, is no longer there."""
        if (
            gone := sorted(set(self.manifest.checkpoints) - set(self.checkpoints))
            if self._ended
            else []
        ):
            raise StorageFailed(
                f"{self.path} has lost its checkpoint {gone[0]}, which run.json names."
            )

    @property
    def _ended(self) -> bool:
        """Whether `run.json` is there and final: while a run continues, it writes checkpoints before `run.json`."""
        return (self.path / MANIFEST_FILE).exists() and not self.manifest.is_open

    @property
    def figures(self) -> tuple[Path, ...]:
        """Files of the figures that are there."""
        there = (self.path / "figures").glob("*.*")
        return tuple(sorted(path for path in there if path.suffix in {".png", ".svg", ".pdf"}))


def read_config(path: Path) -> dict[str, Any]:
    """Return a stored configuration as plain values, interpolations kept.

    Raises StorageFailed if it is missing, damaged, or uses YAML aliases (which can blow up memory).
    """
    config = yaml_as_plain(read_bytes(path, _CONFIG_LIMIT).decode("utf-8", "replace"), path)
    if not isinstance(config, dict):
        raise StorageFailed(f"{path} is not a configuration: it holds a {type(config).__name__}.")
    return {str(key): value for key, value in config.items()}


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold the run or sweep in `folder` for this process in the body.

    The lock is the system's, not the file's, which stays: it ends with the process that holds it and is never stale.
    Where a file system has no locks, nothing is held, and `run.json` alone says who writes.
    Raises UsageError if another process holds the run, StorageFailed if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    lock = FileLock(path)
    with storing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            with contextlib.suppress(StorageFailed):  # a sweep's folder has no record
                Run(folder).check_ended(force=True)
            raise UsageError(f"{folder} is still running; wait or end it first.") from error
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                raise
    try:
        yield
    finally:
        lock.release()


def status_of_all(jobs: Sequence[str]) -> str:
    """The status of a sweep: that of its jobs where they agree, else the worst of them and how many completed."""
    done = jobs.count(Status.COMPLETED)
    for status in (Status.RUNNING, Status.INTERRUPTED, "NOT BEGUN", Status.FAILED, "UNREADABLE"):
        if any(job.startswith(status) for job in jobs):
            shown = Status.INTERRUPTED if status == "NOT BEGUN" else status
            return f"{shown} ({done} of {len(jobs)} jobs)" if len(jobs) > 1 else str(shown)
    return str(Status.COMPLETED)


def subfolders(parent: Path) -> list[str]:
    """Names of the folders in `parent`, links and hidden ones left out; none where it cannot be read."""
    try:
        with os.scandir(parent) as entries:
            return [
                one.name
                for one in entries
                if one.name[0] != "." and one.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def unfinished(run: Run) -> Iterator[str]:
    """Sentences on a run that is not complete: what it has, and what `kanrun runs resume` does with it."""
    if run.is_sweep:
        yield from _sweep_left(run)
        return
    status = run.status
    if status in {Status.COMPLETED, Status.RUNNING, "UNREADABLE"} and not _failed(run):
        return
    path = os.path.relpath(
        run.path
    )  # also of other outputs than the ones that a name is looked for in
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
        sum(bool(_RESUME.fullmatch(name)) for name in run.checkpoints),
    )
    if last := _last_step(run):
        yield f"last recorded step: {last}"
    parts = [f"{finished} of {total} trainings are finished and kept" if total > 1 else ""]
    if begun:
        parts.append(f"{begun} continue{'s' if begun == 1 else ''} from the last checkpoint")
    if (rest := total - finished - begun) > 0:
        parts.append(
            "it starts again" if total == 1 else f"{rest} start{'s' if rest == 1 else ''} anew"
        )
    yield f"`kanrun runs resume {path}`: {', '.join(part for part in parts if part)}"


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
    return ", ".join(
        f"{name} {last[name]:.3g}" for name in shown if isinstance(last.get(name), int | float)
    )
