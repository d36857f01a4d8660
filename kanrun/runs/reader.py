"""Reads a run folder back, whatever state it is in and whoever wrote it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanrun.errors import KanrunError, StorageFailed, UsageError
from kanrun.runs import environment
from kanrun.runs.artifacts import checkpoint_path, read_checkpoint
from kanrun.runs.files import file_name, read_bytes, read_json
from kanrun.runs.lock import still_running
from kanrun.runs.manifest import MANIFEST_FILE, SWEEP_FILE, Manifest, Status, Sweep
from kanrun.runs.records import Checkpoint
from kanrun.runs.tables import read_table

if TYPE_CHECKING:
    import pandas

TOP_TABLES = ("metrics", "summary")
_CONFIG_LIMIT = 4 * 2**20
JOB = re.compile(r"\d{1,9}")
"""The name of a job's folder inside its sweep's."""


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
    def is_alive(self) -> bool:
        """Whether the run continues: RUNNING, and its process exists (assumed on other hosts)."""
        manifest = self.manifest
        if manifest.status != Status.RUNNING:
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
            raise UsageError(still_running(self.path, host, pid))
        if self.is_alive and not force:
            raise UsageError(
                f"{self.path} was started on the host {host} (process {pid}), and whether it still runs there cannot "
                "be seen from here; if it has ended, add --force."
            )

    @property
    def status(self) -> str:
        """The status as text: `INTERRUPTED (killed)` for a run whose process is gone, never an error."""
        if not (self.path / MANIFEST_FILE).exists():
            in_sweep = (self.path.parent / SWEEP_FILE).is_file()
            return "NOT BEGUN" if in_sweep else "INTERRUPTED (killed before it started)"
        try:
            if self.manifest.status == Status.RUNNING and not self.is_alive:
                return "INTERRUPTED (killed)"
            return str(self.manifest.status)
        except KanrunError:
            return "UNREADABLE"

    @cached_property
    def jobs(self) -> tuple[Run, ...]:
        """The runs of a sweep in their order, those that are still to begin among them; none of a single run."""
        names = {
            job.name for job in folders_in(self.path) if JOB.fullmatch(job.name) and (job / MANIFEST_FILE).exists()
        }
        if (self.path / SWEEP_FILE).is_file():
            with contextlib.suppress(StorageFailed):
                names |= {str(number) for number in range(len(Sweep.read(self.path).jobs))}
        return tuple(Run(self.path / name, f"{self.name}/{name}") for name in sorted(names, key=int))

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


def folders_in(parent: Path) -> Iterator[Path]:
    """The folders inside `parent`, by name; no links and no hidden ones, and none where it cannot be listed."""
    try:
        entries = sorted(parent.iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir() and not entry.is_symlink():
            yield entry
