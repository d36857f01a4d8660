"""What the command line asks of Hydra and of kanrun, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

from kanrun.config.registry import module_of


@dataclass(frozen=True)
class Request:
    """One call of an experiment's command; `overrides` are in Hydra's grammar already."""

    command: str
    overrides: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()  # as typed, for the record
    outputs: Path = Path("outputs")
    multirun: bool = False
    quiet: bool = False
    verbose: bool = False  # how choices were made is shown too
    strict: bool = False  # a claim that does not hold ends with exit code 1
    force: bool = False  # also a training that this machine's memory does not seem to hold
    dry_run: bool = False  # say what would run, and write nothing
    cfg: str | None = None
    resolve: bool = False
    package: str | None = None
    info: str | None = None
    config_dir: str | None = None
    config_name: str | None = None
    config_path: str | None = None
    began: float = field(
        default_factory=process_time
    )  # CPU seconds of this process when the command was given

    @property
    def module(self) -> str:
        """The command's name as a module and a file have it."""
        return module_of(self.command)

    @property
    def primary(self) -> str:
        """The name of the primary configuration."""
        return self.config_name or self.module
