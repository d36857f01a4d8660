"""What Hydra calls once a configuration: one run, whose failure is recorded and does not end a sweep."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.launch.schemas import experiment_of, typed
from kanrun.runs import Manifest, Run, RunFolder, Status
from kanrun.runs.files import storing, write_atomic
from kanrun.study.experiment import Prepared


def load_experiment(command: str) -> ModuleType:
    """The experiment's module; UsageError if there is none of that name."""
    return importlib.import_module(experiment_of(command).builder)


@dataclass(frozen=True)
class Job:
    """The function that Hydra's launchers run, here or in another process (so it holds plain values only)."""

    command: str
    argv: tuple[str, ...] = ()
    quiet: bool = False
    verbose: bool = False
    sweep: bool = False
    began: float | None = None  # CPU seconds of this process when a single run was asked for
    settings: ExperimentConfig | None = None  # of a single run, checked already
    refused: list[UsageError] = field(default_factory=list)  # by a single run that had not started
    prepared: Prepared = field(default_factory=dict)  # of a single run, while it was checked

    def __call__(self, composed: DictConfig) -> None:
        if multiprocessing.current_process().name.startswith("LokyProcess"):
            end_with_launcher()
        settings = HydraConfig.get()
        overrides = [str(override) for override in settings.overrides.task]
        self.run(Path(settings.runtime.output_dir), overrides, lambda: self.settings or typed(self.command, composed))

    def run(self, path: Path, overrides: Sequence[str], configuration: Callable[[], ExperimentConfig]) -> None:
        """One run, into the folder `path`."""
        from kanrun.study import execute as study

        folder = RunFolder(path, self.command)
        try:
            study.execute(
                load_experiment(self.command),
                configuration(),
                folder,
                quiet=self.quiet,
                verbose=self.verbose,
                origin=study.Origin(self.argv, tuple(overrides), self.began),
                prepared=self.prepared,
            )
        except KeyboardInterrupt:
            self._end(folder, overrides, Status.INTERRUPTED, None)
            raise
        except UsageError as error:
            if self.sweep or folder.started:
                self._end(folder, overrides, Status.FAILED, error)
            else:
                self.refused.append(error)
        except Exception as error:
            self._end(folder, overrides, Status.FAILED, error)

    def _end(self, folder: RunFolder, overrides: Sequence[str], status: Status, error: Exception | None) -> None:
        """Records how a run ended that could not do so itself; one that another process began is left to that."""
        show_trace()
        if not folder.started:
            if Run(folder.path).has_begun:
                return
            folder.start(Manifest(command=self.command, argv=self.argv, overrides=tuple(overrides)))
        if Run(folder.path).manifest.status == Status.RUNNING:
            trace = None if error is None else "".join(traceback.format_exception(error))
            folder.finish(status, reason=sentence(error), trace=trace)


@functools.cache
def end_with_launcher() -> None:
    """Ends this process, a worker of joblib's, once the one that launched it is gone: nothing else would."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def store_settings(folder: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Writes a run's configuration into its folder, where Hydra would write it. Raises StorageFailed."""
    hydra = folder / ".hydra"
    with storing(hydra):
        hydra.mkdir(parents=True, exist_ok=True)
    write_atomic(hydra / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode(), durable=True)
    write_atomic(hydra / "overrides.yaml", OmegaConf.to_yaml(list(overrides)).encode())


def sentence(error: BaseException | None) -> str:
    """An error as one line for the user; kanrun's own say what to do, others name their type."""
    if error is None:
        return "interrupted"
    text = " ".join(str(error).split())
    return text if isinstance(error, KanrunError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def show_trace() -> None:
    """Prints the traceback of the exception being handled, where KANRUN_DEBUG=1 asks for it."""
    if os.environ.get("KANRUN_DEBUG") == "1":
        traceback.print_exc(file=sys.stderr)
