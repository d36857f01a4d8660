"""One call of an experiment's command: compose and check, number a folder, run, say how it ended."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, env_override
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.config.plugins import loaded_plugins
from kanrun.config.rules import check_files
from kanrun.errors import UsageError
from kanrun.launch.composing import Composition, compose, opened, typed
from kanrun.launch.job import (
    Job,
    ended_well,
    gather_summaries,
    load_experiment,
    say_how_to_go_on,
    store_settings,
    sweep_verdict,
)
from kanrun.launch.process import logging_kept, signals_raise, stdout_kept_clean
from kanrun.launch.quoting import literal
from kanrun.launch.refusals import LAUNCHERS
from kanrun.launch.request import Request
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain
from kanrun.runs import Manifest, Run, RunFolder, Status, Sweep, SweepJob
from kanrun.runs.environment import now, process
from kanrun.runs.files import write_json
from kanrun.runs.manifest import MANIFEST_FILE
from kanrun.runs.reader import holding
from kanrun.study.experiment import Prepared


def launch(request: Request) -> int:
    """Runs, sweeps or shows what a request asks for, and returns the exit code.

    Standard output gets the folder of the run or sweep as its only line, or what --cfg and --info show.
    Raises UsageError, before any folder exists, for what cannot be composed, built or written.
    """
    return launched(request)[0]


def launched(request: Request) -> tuple[int, Path | None]:
    """As `launch`, with the folder, None where there is none."""
    with opened(request) as loader:
        with _explained(request, loader):
            plan = compose(request, loader)
            if request.cfg is not None or request.info is not None:
                with logging_kept():  # --info turns on Hydra's own log
                    _show(request)
                return 0, None
            settings = [
                typed(
                    request.command,
                    composed,
                    warn=lambda text: print(f"kanrun: {text}", file=sys.stderr),
                )
                for composed in plan.jobs
            ]
        for one in settings:
            check_files(one)
        return _checked_and_run(request, loader, plan, settings)


def _checked_and_run(
    request: Request, loader: ConfigLoader, plan: Composition, settings: list[ExperimentConfig]
) -> tuple[int, Path | None]:
    """Everything that needs the experiment itself, from its own check to the exit code."""
    from kanrun.study import execute as study

    experiment, prepared = load_experiment(request.command), Prepared()
    for one in settings:
        prepared = study.check(experiment, one, force=request.force)
        if request.dry_run:
            from kanrun.study.dry_run import plan_in_words

            lines = plan_in_words(experiment, request.command, one, prepared, request.outputs)
            print(("; " if plan.sweep else "\n").join(lines))
    if request.dry_run:
        return 0, None
    if "${" in str(request.outputs.absolute()):
        raise UsageError(
            f"--outputs {request.outputs.absolute()} has ${{ in it, which Hydra would replace."
        )
    with signals_raise() as signals:
        folder = RunFolder.create(
            request.outputs, request.command, lambda new: _store(request, plan, new)
        ).path
        try:
            # while a sweep runs, no other process continues it; a run sees to that itself
            held = holding(folder) if plan.sweep else contextlib.nullcontext()
            with held, stdout_kept_clean(), env_override(plan.whole.hydra.job.env_set):
                _run(request, loader, plan, settings, prepared, folder)
        except KeyboardInterrupt:
            if plan.sweep:
                gather_summaries(folder)
            say_how_to_go_on(folder, None, OmegaConf.select(plan.jobs[0], "executor.address"))
            return signals.exit_code, folder
        except BaseException:  # a folder in which no run has begun is of no use
            if not any(Run(place).has_begun for place in (folder, *folder.glob("*/"))):
                shutil.rmtree(folder, ignore_errors=True)
            raise
    print(folder)
    if plan.sweep:
        return sweep_verdict(folder, request.quiet, request.strict), folder
    return 0 if ended_well(Run(folder).manifest, request.quiet, request.strict) else 1, folder


def _run(
    request: Request,
    loader: ConfigLoader,
    plan: Composition,
    settings: list[ExperimentConfig],
    prepared: Prepared,
    folder: Path,
) -> None:
    """Run the job, or those of the sweep here or through Hydra's launcher, in `folder`."""
    job = Job(
        request.command,
        request.argv,
        request.quiet,
        request.verbose,
        plan.sweep,
        None if plan.sweep else request.began,
    )
    if not plan.sweep:
        job.run(folder, plan.overrides[0], lambda: settings[0], prepared)
        return
    if LAUNCHERS[plan.whole.hydra.launcher["_target_"]] == "basic":
        job.run_jobs(folder, Sweep.read(folder), dict(enumerate(settings)))
        return
    whole, place = plan.whole, str(folder.absolute())
    if request.quiet:
        whole.hydra.hydra_logging.root.level = "WARNING"
    whole.hydra.sweep.dir = place
    whole.hydra.overrides.hydra.append(
        f"hydra.sweep.dir={literal(place)}"
    )  # from which jobs are composed
    context = HydraContext(config_loader=loader, callbacks=Callback())  # type: ignore[arg-type]  # what is called of it
    with logging_kept():
        configure_log(whole.hydra.hydra_logging)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=whole, hydra_context=context, task_function=job
        )
        sweeper.sweep(arguments=list(whole.hydra.overrides.task))


@contextlib.contextmanager
def _explained(request: Request, loader: ConfigLoader) -> Iterator[None]:
    """Errors of Hydra and OmegaConf as one sentence of kanrun's."""
    try:
        yield
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, loader) from error


def _store(request: Request, plan: Composition, folder: Path) -> None:
    """What `runs resume` needs, whenever this process is killed: the jobs of a sweep, or the settings of a run."""
    if plan.sweep:
        jobs = tuple(map(SweepJob, plan.overrides, map(_plain, plan.jobs)))
        Sweep(request.command, request.argv, jobs).store(folder)
        return
    store_settings(folder, _plain(plan.jobs[0]), plan.overrides[0])
    manifest = Manifest(
        request.command,
        request.argv,
        plan.overrides[0],
        status=Status.STARTING,
        started=now(),
        **process(),
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
                hydra.show_cfg(
                    request.primary, overrides, str(request.cfg), request.package, request.resolve
                )
    except SystemExit as error:
        raise UsageError(" ".join(said.getvalue().split()) or "Hydra refused the call") from error
    sys.stderr.write(said.getvalue())
    if request.info in ("all", "plugins"):
        for plugin in loaded_plugins():
            print(f"kanrun plug-in: {plugin.module} ({plugin.origin})")
