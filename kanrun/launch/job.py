"""One run, in this process or one of Hydra's launchers, or going on with one: its failure is recorded, its end said."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kanrun.config import EXPERIMENTS, ExperimentConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.launch.composing import typed
from kanrun.launch.process import logging_to
from kanrun.monitoring import enable_gc
from kanrun.runs import Manifest, Run, RunFolder, Status, Sweep
from kanrun.runs.files import storing, write_atomic
from kanrun.runs.tables import csv_lines, read_rows
from kanrun.study.experiment import Failure, Prepared


def load_experiment(command: str) -> ModuleType:
    """The experiment's module; UsageError if there is none of that name."""
    return importlib.import_module(EXPERIMENTS.find(command).builder)


@dataclass(frozen=True)
class Job:
    """How runs are made; Hydra's launchers call it, here or in another process, so it holds plain values only."""

    command: str
    argv: tuple[str, ...] = ()
    quiet: bool = False
    verbose: bool = False
    sweep: bool = False  # where a refused run is recorded, and the others go on
    began: float | None = None  # CPU seconds of this process when a single run was asked for

    def __call__(self, composed: DictConfig) -> None:
        if multiprocessing.current_process().name.startswith("LokyProcess"):
            end_with_launcher()
        settings = HydraConfig.get()
        overrides = [str(override) for override in settings.overrides.task]
        self.run(
            Path(settings.runtime.output_dir), overrides, lambda: typed(self.command, composed)
        )

    def run(
        self,
        path: Path,
        overrides: Sequence[str],
        configuration: Callable[[], ExperimentConfig],
        prepared: Prepared | None = None,
    ) -> None:
        """A new run in the folder `path`. Raises UsageError where it is refused before it starts."""
        from kanrun.study import execute as study

        folder = RunFolder(path, self.command)
        enable_gc()
        with logging_to(path / "run.log"):
            try:
                study.execute(
                    load_experiment(self.command),
                    configuration(),
                    folder,
                    quiet=self.quiet,
                    verbose=self.verbose,
                    manifest=Manifest(self.command, self.argv, tuple(overrides)),
                    began=self.began,
                    prepared=prepared,
                )
            except KeyboardInterrupt:
                self._end(folder, overrides, Status.INTERRUPTED, None)
                raise
            except Exception as error:
                if isinstance(error, UsageError) and not (self.sweep or folder.started):
                    raise
                self._end(folder, overrides, Status.FAILED, error)

    def resume(
        self, run: Run, config: ExperimentConfig, force: bool, prepared: Prepared | None = None
    ) -> None:
        """What is left of `run`; a new run where none began."""
        if not run.has_begun:
            self.run(run.path, run.manifest.overrides, lambda: config, prepared)
            return
        from kanrun.study import execute as study

        enable_gc()
        with logging_to(run.path / "run.log"):
            folder = RunFolder.reopen(run.path, force=force)
            experiment = load_experiment(self.command)
            study.execute(
                experiment, config, folder, resume=True, quiet=self.quiet, prepared=prepared
            )

    def run_jobs(
        self,
        folder: Path,
        sweep: Sweep,
        configs: Mapping[int, ExperimentConfig],
        force: bool = False,
    ) -> None:
        """These jobs of a sweep one after the other, or what is left of them; one that fails does not stop the rest."""
        for number, config in configs.items():
            run, stored = Run(folder / str(number)), sweep.jobs[number]
            if not self.quiet:
                print(f"kanrun: job {number}: {' '.join(stored.overrides)}", file=sys.stderr)
            try:
                if run.has_begun:
                    self.resume(run, config, force)
                else:
                    store_settings(run.path, stored.config, stored.overrides)
                    self.run(run.path, stored.overrides, lambda config=config: config)  # type: ignore[misc]
            except Exception as error:  # whatever it is, it is recorded, and the others go on
                print(f"kanrun: job {number}: {Failure.of(error).reason}", file=sys.stderr)

    def _end(
        self, folder: RunFolder, overrides: Sequence[str], status: Status, error: Exception | None
    ) -> None:
        """Records how a run ended that could not do so itself; one that another process began is left to that."""
        if os.environ.get("KANRUN_DEBUG") == "1":
            traceback.print_exc(file=sys.stderr)
        if not folder.started:
            if Run(folder.path).has_begun:
                return
            folder.start(Manifest(self.command, self.argv, tuple(overrides)))
        if Run(folder.path).manifest.status == Status.RUNNING:
            failure = Failure("interrupted") if error is None else Failure.of(error)
            folder.finish(status, failure.reason, failure.trace)


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
    write_atomic(
        hydra / "config.yaml",
        OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode(),
        durable=True,
    )
    write_atomic(hydra / "overrides.yaml", OmegaConf.to_yaml(list(overrides)).encode())


def ended_well(manifest: Manifest, quiet: bool, strict: bool, name: str = "") -> bool:
    """Whether a run did what was asked of it; says why not, and `name` of whom."""
    good = is_complete(manifest)
    if not good and (name or manifest.status != Status.COMPLETED):
        print(
            f"kanrun: {name}{manifest.reason or f'the run ended {manifest.status}'}",
            file=sys.stderr,
        )
    # a study with several trainings has listed what failed already, unless it was told to be quiet
    for failure in manifest.failures if quiet and len(manifest.failures) > 1 else ():
        where = ", ".join(f"{key} {failure[key]}" for key in ("cell", "seed") if key in failure)
        print(f"kanrun: {name}{where}: {failure.get('reason', 'failed')}", file=sys.stderr)
    broken = [claim for claim in manifest.claims if not claim.holds] if strict else []
    for claim in broken:
        print(
            f"kanrun: {name}does not hold: {claim.sentence} ({claim.measured}, {claim.bound})",
            file=sys.stderr,
        )
    return good and not broken


def is_complete(manifest: Manifest) -> bool:
    return manifest.status == Status.COMPLETED and not manifest.failures


def sweep_verdict(folder: Path, quiet: bool, strict: bool) -> int:
    """Gathers, shows and draws the results of a sweep that is over, says what failed, and returns the exit code."""
    from kanrun.study import report
    from kanrun.study.comparison import draw_sweep, print_jobs

    gather_summaries(folder)
    sweep = Run(folder, f"{folder.parent.name}/{folder.name}")
    if not quiet:
        print_jobs(report.error_console(), sweep)
    try:
        draw_sweep(sweep)
    except Exception as error:  # the jobs are recorded, and nothing of them is lost
        print(
            f"kanrun: the sweep's figure was not drawn: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
    jobs, good = Sweep.read(folder).jobs, 0
    for number, job in enumerate(jobs):
        name = f"job {number} ({' '.join(job.overrides)}): "
        try:
            good += ended_well(Run(folder / str(number)).manifest, quiet, strict, name)
        except KanrunError as error:
            print(f"kanrun: {name}left no record: {error}", file=sys.stderr)
    if good < len(jobs):
        print(f"kanrun: {len(jobs) - good} of {len(jobs)} jobs failed", file=sys.stderr)
    return 0 if good == len(jobs) else 1


def say_how_to_go_on(folder: Path, executor: str | None, address: str | None) -> None:
    """Prints the command that goes on with an interrupted run or sweep, in the same place, and its folder."""
    words = ["kanrun", "runs", "resume", str(folder)]
    for option, value in (("--executor", executor), ("--address", address)):
        words += [option, value] if value is not None else []
    print(f"kanrun: interrupted; `{shlex.join(words)}` goes on from there", file=sys.stderr)
    print(folder)


def gather_summaries(folder: Path) -> None:
    """Writes `summary.csv` at the top of a sweep: the jobs' rows with `job` and what differs between jobs."""
    sweep, rows = Sweep.read(folder), list[dict[str, str]]()
    for number, settings in enumerate(sweep.settings):
        path = folder / str(number) / "summary.csv"
        if path.is_file():
            header, lines = read_rows(path)
            varying = {key: settings.get(key, "") for key in sweep.varied}
            rows += [
                {"job": str(number), **varying, **dict(zip(header, line, strict=False))}
                for line in lines
            ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        body = ([row.get(column, "") for column in columns] for row in rows)
        write_atomic(folder / "summary.csv", csv_lines([columns, *body]))
