"""Reads run folders back, whatever state they are in and whoever wrote them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.near import near_names
from kanrun.runs import environment
from kanrun.runs.allocation import VERSION
from kanrun.runs.atomic import read_bytes, read_json
from kanrun.runs.checkpoint_file import checkpoint_path, read_checkpoint
from kanrun.runs.csv_file import read_table
from kanrun.runs.lock import still_running
from kanrun.runs.manifest import Manifest, Status
from kanrun.runs.names import file_name
from kanrun.runs.records import Checkpoint
from kanrun.runs.sweep import SWEEP_FILE, Sweep

if TYPE_CHECKING:
    import pandas

TOP_TABLES = ("metrics", "summary")
_CONFIG_LIMIT = 4 * 2**20
_JOB = re.compile(r"\d{1,9}")


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
        path = self.path / "run.json"
        content = read_json(path)
        try:
            return Manifest.from_dict(content)
        except ValueError as error:
            raise StorageFailed(f"{path} does not describe a run: {error}.") from error

    @property
    def is_alive(self) -> bool:
        """Whether the run goes on: RUNNING, and its process exists (taken for granted on other hosts)."""
        manifest = self.manifest
        if manifest.status != Status.RUNNING:
            return False
        return self.is_elsewhere or environment.is_alive(manifest.pid, manifest.process_start)

    @property
    def is_elsewhere(self) -> bool:
        """Whether another host ran it, whose processes cannot be seen from here."""
        return self.manifest.host != environment.host()

    def check_ended(self, force: bool = False) -> None:
        """Raise UsageError if the run still goes on, or may do so on another host and `force` does not say it ended."""
        host, pid = self.manifest.host, self.manifest.pid
        if self.is_alive and not self.is_elsewhere:
            raise UsageError(still_running(self.path, host, pid))
        if self.is_alive and not force:
            raise UsageError(
                f"{self.path} was started on the host {host} (process {pid}), and whether it still runs there cannot "
                "be seen from here; if it has ended, add --force."
            )

    @property
    def status(self) -> str:
        """The status in words: `INTERRUPTED (killed)` for a run whose process is gone, never an error."""
        if not (self.path / "run.json").exists():
            in_sweep = (self.path.parent / SWEEP_FILE).is_file()
            return "NOT BEGUN" if in_sweep else "INTERRUPTED (killed before it started)"
        try:
            if self.manifest.status == Status.RUNNING and not self.is_alive:
                return "INTERRUPTED (killed)"
            return str(self.manifest.status)
        except KanrunError:
            return "UNREADABLE"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration in `.hydra/config.yaml` as plain values, interpolations left as they stand.

        Raises StorageFailed if it is missing, damaged, or uses YAML aliases (which can blow up memory).
        """
        import yaml  # type: ignore[import-untyped]
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        path = self.path / ".hydra" / "config.yaml"
        text = read_bytes(path, _CONFIG_LIMIT).decode("utf-8", "replace")
        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise StorageFailed(f"{path} uses YAML aliases, which are not read.")
            config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
            raise StorageFailed(f"{path} is not a configuration: {error}.") from error
        if not isinstance(config, dict):
            raise StorageFailed(f"{path} is not a configuration: it holds a {type(config).__name__}.")
        return {str(key): value for key, value in config.items()}

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

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints that are there."""
        return tuple(path.stem for path in sorted((self.path / "checkpoints").glob("*.safetensors")))

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint; KanrunError if there is none of that name or it is damaged."""
        path = checkpoint_path(self.path / "checkpoints", name)
        if not path.is_file():
            there = ", ".join(self.checkpoints) or "none yet"
            raise KanrunError(f"run {self.name} has no checkpoint {name!r}; there are: {there}.")
        return read_checkpoint(path)

    @property
    def figures(self) -> tuple[Path, ...]:
        """Files of the figures that are there."""
        there = (self.path / "figures").glob("*.*")
        return tuple(sorted(path for path in there if path.suffix in {".png", ".svg"}))


def find_runs(outputs: Path) -> list[Run]:
    """Return all runs below `outputs`, jobs of sweeps included, in order of command and number.

    Their names are as `resolve_run` takes them: `fit/v0003`, or `fit/v0003/0` for a job of a sweep.
    """
    found = []
    for command in _folders(outputs):
        versions = (folder for folder in _folders(command) if VERSION.fullmatch(folder.name))
        for version in sorted(versions, key=lambda folder: int(folder.name[1:])):
            name = f"{command.name}/{version.name}"
            jobs = _jobs(version)
            if (version / "run.json").exists() or not jobs:
                found.append(Run(version, name))
            found += [Run(job, f"{name}/{job.name}") for job in jobs]
    return found


def resolve_run(text: str, outputs: Path) -> Run:
    """Return the run that `text` names: `latest`, `fit/latest`, `fit/v0003`, `fit/v0003/0`, or a path.

    `latest` is the run that started last. Raises UsageError if there is no such run, with near names.
    """
    runs = find_runs(outputs)
    wanted = text.strip().rstrip("/")
    command, _, last = wanted.rpartition("/")
    if last == "latest":
        started = [run for run in runs if not command or run.name.startswith(f"{command}/")]
        if started:
            return max(started, key=_start)
    for run in runs:
        if run.name == wanted:
            return run
    path = Path(os.path.expanduser(text))  # unlike Path's, it takes a name such as ~old for what it is
    if text.strip() and (path / "run.json").is_file():
        return Run(path, str(path))
    raise UsageError(_unknown(text, path if text.strip() else outputs, runs, outputs))


def resolve_sweep(text: str, outputs: Path) -> Path | None:
    """Return the folder of the sweep that `text` names, or whose job `latest` is; None if it names none."""
    wanted = text.strip().rstrip("/")
    if wanted.rpartition("/")[2] == "latest":
        with contextlib.suppress(UsageError):
            folder = resolve_run(text, outputs).path.parent
            return folder if (folder / SWEEP_FILE).is_file() else None
    for folder in (outputs / wanted, Path(os.path.expanduser(text))):
        if wanted and (folder / SWEEP_FILE).is_file():
            return folder
    return None


def _unknown(text: str, path: Path, runs: list[Run], outputs: Path) -> str:
    inside = path if path.is_dir() else outputs / text
    jobs = _jobs(inside)
    if jobs:
        one = f"{text.rstrip('/')}/{jobs[0].name}"
        return f"{text!r} is a sweep of {len(jobs)} runs; name one of them, such as {one} (`runs resume` takes all)."
    if not runs:
        return f"there is no run {text!r}: {outputs} holds no runs yet."
    offer = ", ".join(near_names(text, [run.name for run in runs]) or [run.name for run in runs[-3:]])
    return f"there is no run {text!r} in {outputs}; there are {offer} (see `kanrun runs list`)."


def _start(run: Run) -> tuple[str, str]:
    try:
        return run.manifest.started or "", run.name
    except KanrunError:
        return "", run.name


def _folders(parent: Path) -> Iterator[Path]:
    try:
        entries = sorted(parent.iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir() and not entry.is_symlink():
            yield entry


def _jobs(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, those that are still to begin among them."""
    names = {job.name for job in _folders(folder) if _JOB.fullmatch(job.name) and (job / "run.json").exists()}
    if (folder / SWEEP_FILE).is_file():
        with contextlib.suppress(StorageFailed):
            names |= {str(number) for number in range(len(Sweep.read(folder).jobs))}
    return [folder / name for name in sorted(names, key=int)]
