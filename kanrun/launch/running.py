"""One call of an experiment's command: compose and check, number a folder, let Hydra run, say how it ended."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.errors import UsageError
from kanrun.launch.composing import CONFIGURATIONS, HYDRA_VERSION_BASE, Plan, compose, flags_of, open_loader
from kanrun.launch.ending import ended_well, say_how_to_go_on, sweep_verdict
from kanrun.launch.gathering import gather_summaries
from kanrun.launch.job import Job, load_experiment
from kanrun.launch.literal import literal
from kanrun.launch.process import lent_to_hydra, sigterm_raises, stdout_kept_clean
from kanrun.launch.request import Request
from kanrun.launch.schemas import typed
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain
from kanrun.runs import Run, RunFolder, Sweep, SweepJob
from kanrun.runs.lock import holding
from kanrun.study import execute as study


def launch(request: Request) -> int:
    """Runs, sweeps or shows what a request asks for, and returns the exit code.

    Standard output gets the folder of the run or sweep as its only line, or what --cfg and --info show.
    Raises UsageError, before any folder exists, for what cannot be composed, built or written.
    """
    plan = _composed(request)
    if request.cfg is not None or request.info is not None:
        _show(request)
        return 0
    experiment = load_experiment(request.command)
    for composed in plan.jobs:
        prepared = study.check(experiment, _typed(request, composed))
    if "${" in str(request.outputs.absolute()):
        raise UsageError(f"--outputs {request.outputs.absolute()} has ${{ in it, which Hydra would replace.")
    folder = RunFolder.create(request.outputs, request.command).path
    job = Job(request.command, request.argv, request.quiet, plan.sweep, prepared={} if plan.sweep else prepared)
    with sigterm_raises() as signals:
        try:
            with _stored(request, plan, folder):
                _run(request, job, folder)
        except KeyboardInterrupt:
            if plan.sweep:
                gather_summaries(folder, plan.overrides)
            say_how_to_go_on(folder, None, OmegaConf.select(plan.jobs[0], "executor.address"))
            print(folder)
            return signals.exit_code
        except BaseException:
            _discard_unused(folder)
            raise
    if job.refused:
        _discard_unused(folder)
        raise job.refused[0]
    print(folder)
    if plan.sweep:
        return sweep_verdict(folder, plan.overrides, request)
    return 0 if ended_well(Run(folder).manifest, request) else 1


def _composed(request: Request) -> Plan:
    loader = open_loader(request)
    try:
        return compose(request, loader)
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, loader) from error


def _typed(request: Request, composed: DictConfig) -> ExperimentConfig:
    try:
        return typed(request.command, composed, warn=lambda text: print(f"kanrun: {text}", file=sys.stderr))
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, open_loader(request)) from error


@contextlib.contextmanager
def _stored(request: Request, plan: Plan, folder: Path) -> Iterator[None]:
    """A sweep's jobs are stored before the first begins, and while it runs no other process goes on with them."""
    if not plan.sweep:
        yield
        return
    jobs = tuple(map(SweepJob, plan.overrides, map(_plain, plan.jobs)))
    Sweep(request.command, request.argv, jobs).store(folder)
    with holding(folder):
        yield


def _plain(composed: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
    return values


def _show(request: Request) -> None:
    """Hydra's --cfg and --info; they print to standard output and leave no folder."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            _call_hydra(request, Job(request.command), [])
    except SystemExit as error:
        raise UsageError(" ".join(said.getvalue().split()) or "Hydra refused the call") from error
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, open_loader(request)) from error
    sys.stderr.write(said.getvalue())


def _run(request: Request, job: Job, folder: Path) -> None:
    place = literal(str(folder.absolute()))
    with stdout_kept_clean(), _hydra_quiet(request.quiet):
        _call_hydra(request, job, [f"hydra.run.dir={place}", f"hydra.sweep.dir={place}"])


def _call_hydra(request: Request, job: Job, overrides: Sequence[str]) -> None:
    arguments = [*request.overrides, *overrides, *flags_of(request)]
    with lent_to_hydra(arguments):
        hydra.main(config_path=CONFIGURATIONS, config_name=request.module, version_base=HYDRA_VERSION_BASE)(job)()


def _discard_unused(folder: Path) -> None:
    """Removes a folder in which no run has started."""
    if not (folder / "run.json").exists() and not any(folder.glob("*/run.json")):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _hydra_quiet(quiet: bool) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("hydra", "hydra_plugins")] if quiet else []
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
