"""One call of an experiment's command: compose and check, number a folder, let Hydra run, say how it ended."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.config.plugins import loaded_plugins
from kanrun.config.rules import check_files
from kanrun.errors import UsageError
from kanrun.launch.composing import Composition, compose, opened
from kanrun.launch.exit_status import ended_well, gather_summaries, say_how_to_go_on, sweep_verdict
from kanrun.launch.job import Job, load_experiment, store_settings
from kanrun.launch.process import logging_kept, signals_raise, stdout_kept_clean
from kanrun.launch.quoting import literal
from kanrun.launch.request import Request
from kanrun.launch.schemas import typed
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain
from kanrun.runs import Manifest, Run, RunFolder, Status, Sweep, SweepJob
from kanrun.runs.environment import now, process
from kanrun.runs.files import write_json
from kanrun.runs.lock import holding
from kanrun.runs.manifest import MANIFEST_FILE


def launch(request: Request) -> int:
    """Runs, sweeps or shows what a request asks for, and returns the exit code.

    Standard output gets the folder of the run or sweep as its only line, or what --cfg and --info show.
    Raises UsageError, before any folder exists, for what cannot be composed, built or written.
    """
    with opened(request) as loader:
        with _explained(request, loader):
            plan = compose(request, loader)
            if request.cfg is not None or request.info is not None:
                with logging_kept():  # --info turns on Hydra's own log
                    _show(request)
                return 0
            settings = [_typed(request, composed) for composed in plan.jobs]
        for one in settings:
            check_files(one)
        return _launched(request, loader, plan, settings)


def _launched(request: Request, loader: ConfigLoader, plan: Composition, settings: list[ExperimentConfig]) -> int:
    """Everything that needs the experiment itself, from its own check to the exit code."""
    from kanrun.study import execute as study

    experiment = load_experiment(request.command)
    for one in settings:
        prepared = study.check(experiment, one, force=request.force)
        if request.dry_run:
            _say_plan(request, experiment, one, prepared, len(settings))
    if request.dry_run:
        return 0
    if "${" in str(request.outputs.absolute()):
        raise UsageError(f"--outputs {request.outputs.absolute()} has ${{ in it, which Hydra would replace.")
    job = Job(request.command, request.argv, request.quiet, request.verbose, plan.sweep)
    if not plan.sweep:
        job = replace(job, settings=settings[0], prepared=prepared, began=request.began)
    with signals_raise() as signals:
        folder = RunFolder.create(request.outputs, request.command, lambda new: _store(request, plan, new)).path
        try:
            # while a sweep runs, no other process continues it; a run sees to that itself
            held = holding(folder) if plan.sweep else contextlib.nullcontext()
            with held, stdout_kept_clean(), logging_kept(), _hydra_quiet(request.quiet):
                _run(loader, plan, job, folder)
        except KeyboardInterrupt:
            if plan.sweep:
                gather_summaries(folder, plan.overrides)
            say_how_to_go_on(folder, None, OmegaConf.select(plan.jobs[0], "executor.address"))
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


def _say_plan(request: Request, experiment: Any, cfg: ExperimentConfig, prepared: Any, jobs: int) -> None:
    from kanrun.study.dry_run import plan_in_words

    lines = list(plan_in_words(experiment, request.command, cfg, prepared, request.outputs))
    print("; ".join(lines) if jobs > 1 else "\n".join(lines))


def _run(loader: ConfigLoader, plan: Composition, job: Job, folder: Path) -> None:
    """Let Hydra run the job, or the sweep through its launcher, in `folder`."""
    whole, place = plan.whole, str(folder.absolute())
    context = HydraContext(config_loader=loader, callbacks=Callback())  # type: ignore[arg-type]  # what is called of it
    if not plan.sweep:
        whole.hydra.mode, whole.hydra.run.dir = RunMode.RUN, place
        whole.hydra.output_subdir = None  # what `_store` wrote there is not written again: a kill would cut it
        _ = run_job(job, whole, "hydra.run.dir", None, context).return_value
        return
    configure_log(whole.hydra.hydra_logging, whole.hydra.verbose)
    whole.hydra.sweep.dir = place
    whole.hydra.overrides.hydra.append(f"hydra.sweep.dir={literal(place)}")  # from which jobs are composed
    sweeper = Plugins.instance().instantiate_sweeper(config=whole, hydra_context=context, task_function=job)
    sweeper.sweep(arguments=list(whole.hydra.overrides.task))


@contextlib.contextmanager
def _explained(request: Request, loader: ConfigLoader) -> Iterator[None]:
    """Errors of Hydra and OmegaConf as one sentence of kanrun's."""
    try:
        yield
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, loader) from error


def _typed(request: Request, composed: DictConfig) -> ExperimentConfig:
    return typed(request.command, composed, warn=lambda text: print(f"kanrun: {text}", file=sys.stderr))


def _store(request: Request, plan: Composition, folder: Path) -> None:
    """What `runs resume` needs, whenever this process is killed: the jobs of a sweep, or the settings of a run."""
    if plan.sweep:
        jobs = tuple(map(SweepJob, plan.overrides, map(_plain, plan.jobs)))
        Sweep(request.command, request.argv, jobs).store(folder)
        return
    store_settings(folder, _plain(plan.jobs[0]), plan.overrides[0])
    manifest = Manifest(
        request.command, request.argv, tuple(plan.overrides[0]), status=Status.STARTING, started=now(), **process()
    )
    write_json(folder / MANIFEST_FILE, manifest.to_dict(), durable=True)


def _plain(composed: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
    return values


def _show(request: Request) -> None:
    """Hydra's --cfg and --info; they print to standard output and leave no folder."""
    hydra, overrides, said = GlobalHydra.instance().hydra, list(request.overrides), io.StringIO()
    assert hydra is not None  # an invariant: it is open
    try:
        with contextlib.redirect_stderr(said):
            if request.info is not None:
                hydra.show_info(request.info, request.primary, overrides)
            else:
                hydra.show_cfg(request.primary, overrides, str(request.cfg), request.package, request.resolve)
    except SystemExit as error:
        raise UsageError(" ".join(said.getvalue().split()) or "Hydra refused the call") from error
    sys.stderr.write(said.getvalue())
    if request.info in ("all", "plugins"):
        for plugin in loaded_plugins():
            print(f"kanrun plug-in: {plugin.module} ({plugin.origin})")


def _discard_unused(folder: Path) -> None:
    """Removes a folder in which no run has begun."""
    if not any(Run(place).has_begun for place in (folder, *folder.glob("*/"))):
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
