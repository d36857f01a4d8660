"""One call of an experiment's command: compose and check, number a folder, let Hydra run, say how it ended."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from kanrun.config import ExperimentConfig
from kanrun.errors import KanrunError, UsageError
from kanrun.launch import refusals
from kanrun.launch.composing import CONFIGURATIONS, HYDRA_VERSION_BASE, Plan, compose, flags_of, open_loader
from kanrun.launch.gathering import gather_summaries
from kanrun.launch.job import Job, load_experiment
from kanrun.launch.literal import literal
from kanrun.launch.process import lent_to_hydra, sigterm_raises, stdout_kept_clean
from kanrun.launch.request import Request
from kanrun.launch.schemas import typed
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain, explain_stored
from kanrun.runs import Manifest, Run, RunFolder, Status
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
        study.check(experiment, _typed(request, composed))
    if "${" in str(request.outputs.absolute()):
        raise UsageError(f"--outputs {request.outputs.absolute()} has ${{ in it, which Hydra would replace.")
    folder = RunFolder.create(request.outputs, request.command).path
    job = Job(request.command, request.argv, request.quiet, plan.sweep)
    with sigterm_raises() as signals:
        try:
            _run(request, job, folder)
        except KeyboardInterrupt:
            if plan.sweep:
                gather_summaries(folder, plan.overrides)
            else:
                _say_how_to_go_on(folder)
            print(folder)
            return signals.exit_code
        except BaseException:
            _discard_unused(folder)
            raise
    if job.refused:
        _discard_unused(folder)
        raise job.refused[0]
    print(folder)
    return _verdict(request, folder, plan)


def resume(
    folder: Path,
    *,
    quiet: bool = False,
    strict: bool = False,
    force: bool = False,
    executor: str | None = None,
    address: str | None = None,
) -> int:
    """Goes on with the run in `folder` from its stored configuration, and returns the exit code.

    `force` takes it that a run of another host has ended; `executor` is where to go on, if not where it ran; `address`
    is that of the Dask scheduler. Numbers are the same in every executor.
    """
    run = Run(folder)
    command = run.manifest.command
    request = Request(command, quiet=quiet, strict=strict)
    if run.manifest.status == Status.COMPLETED and not run.manifest.failures:
        print(f"kanrun: {folder} is complete; there is nothing left to do", file=sys.stderr)
        print(folder)
        return 0
    experiment = load_experiment(command)
    stored = OmegaConf.create(run.config)
    try:
        config = typed(command, stored, extras=True)
    except CONFIGURATION_ERRORS as error:
        raise explain_stored(error, folder) from error
    if executor is not None:
        config.executor.kind = executor
    config.executor.address = refusals.address_of(config.executor, address, folder)
    study.check(experiment, config)
    with sigterm_raises() as signals, stdout_kept_clean(), _logging_to(folder / "run.log"):
        interrupted = False
        try:
            study.execute(
                experiment,
                config,
                RunFolder.reopen(folder, force=force),
                resume=True,
                quiet=quiet,
                argv=run.manifest.argv,
                overrides=run.manifest.overrides,
            )
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        _say_how_to_go_on(folder)
        print(folder)
        return signals.exit_code
    print(folder)
    return 0 if _ended_well(Run(folder).manifest, "", request) else 1


def _composed(request: Request) -> Plan:
    loader = open_loader(request)
    try:
        return compose(request, loader)
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, loader) from error


def _typed(request: Request, composed: DictConfig) -> ExperimentConfig:
    try:
        return typed(request.command, composed)
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, open_loader(request)) from error


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


def _verdict(request: Request, folder: Path, plan: Plan) -> int:
    """The exit code, after saying on standard error which jobs failed."""
    if not plan.sweep:
        return 0 if _ended_well(Run(folder).manifest, "", request) else 1
    gather_summaries(folder, plan.overrides)
    good = 0
    for number, overrides in enumerate(plan.overrides):
        name = f"job {number} ({' '.join(overrides)}): "
        try:
            good += _ended_well(Run(folder / str(number)).manifest, name, request)
        except KanrunError as error:
            print(f"kanrun: {name}left no record: {error}", file=sys.stderr)
    if good < len(plan.jobs):
        print(f"kanrun: {len(plan.jobs) - good} of {len(plan.jobs)} jobs failed", file=sys.stderr)
    return 0 if good == len(plan.jobs) else 1


def _ended_well(manifest: Manifest, name: str, request: Request) -> bool:
    good = manifest.status == Status.COMPLETED and not manifest.failures
    if not good and (name or manifest.status != Status.COMPLETED):
        print(f"kanrun: {name}{manifest.reason or f'the run ended {manifest.status}'}", file=sys.stderr)
    # a study with several trainings has listed what failed already, unless it was told to be quiet
    for failure in manifest.failures if request.quiet and len(manifest.failures) > 1 else ():
        where = ", ".join(f"{key} {failure[key]}" for key in ("cell", "seed") if key in failure)
        print(f"kanrun: {name}{where}: {failure.get('reason', 'failed')}", file=sys.stderr)
    broken = [claim for claim in manifest.claims if not claim.holds] if request.strict else []
    for claim in broken:
        print(f"kanrun: {name}does not hold: {claim.sentence} ({claim.measured}, {claim.bound})", file=sys.stderr)
    return good and not broken


def _say_how_to_go_on(folder: Path) -> None:
    words = ["kanrun", "runs", "resume", str(folder)]
    with contextlib.suppress(KanrunError):
        if address := Run(folder).manifest.executor.get("address"):
            words += ["--address", str(address)]
    print(f"kanrun: interrupted; `{shlex.join(words)}` goes on from there", file=sys.stderr)


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


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Appends the log of the body to a file, as Hydra does in a first run. Raises UsageError for a link."""
    if path.is_symlink():
        raise UsageError(f"{path} is a link; a run that goes on must lie in one folder.")
    root = logging.getLogger()
    level, handler = root.level, logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
