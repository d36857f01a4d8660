"""Start, resume or repeat a run, and determine its exit code."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

from kanrun import monitoring
from kanrun.config.registry import require_plugins
from kanrun.errors import Terminated, UsageError, tell
from kanrun.runs import Point, Run, RunFolder, Status
from kanrun.runs.folder import holding, write_tables
from kanrun.study.studies import (
    Checked,
    RunOptions,
    Study,
    check,
    describe_plan,
    manifest_of,
)

#: Words that occur in the names of columns that measure the machine, not the training.
_TIMES = ("seconds", "time", "flops_per_second", "clock")


def run_study(study: Study, options: RunOptions) -> tuple[int, Path | None]:
    """Check all points, make the run folder and run; return the exit code and the folder.

    The path of the folder is the only line on standard output. With `options.dry_run`, the plan is
    printed instead, and the folder is None. Raises UsageError before the folder is made.
    """
    checked = check(study, force=options.force)
    if options.dry_run:
        for line in describe_plan(checked):
            print(line)
        return 0, None
    manifest = manifest_of(checked)
    return _run(partial(RunFolder.create, options.outputs, manifest), checked, options)


def resume_run(run: Run, options: RunOptions) -> int:
    """Continue a run that stopped early, from its stored configuration; return the exit code.

    Finished training runs are kept. If the run is complete, only its CSV tables are written again.
    Raises UsageError if the run is still running or cannot be resumed.
    """
    if run.point is not None:
        raise UsageError(f"{run.name} is a point of a run, which is resumed as a whole.")
    require_plugins(run.manifest.versions)
    if run.is_complete:
        with holding(run.path):
            write_tables(run.path)
        tell(
            f"{run.path} is complete, there is nothing left to do; its CSV tables were written anew"
        )
        return _end(run.path, options)
    run.check_ended(options.force)
    checked = check(_placed(Study.read(run.path), run.path, options), force=True)
    return _run(partial(RunFolder.reopen, run.path, force=options.force), checked, options)[0]


def rerun(run: Run, options: RunOptions) -> int:
    """Repeat a run, or one of its points, in a new folder, and compare the two summaries.

    Return 0 if all columns except times are equal, 1 if some differ, or the exit code of the new
    run if it failed. The same version on the same machine should reproduce all numbers.
    """
    require_plugins(run.manifest.versions)
    study = replace(Study.read(run.path), argv=("kanrun", *sys.argv[1:]))
    if run.point is not None:
        point = Point(0, run.point.overrides)
        study = replace(study, bases=(run.config,), points=(point,))
    code, folder = run_study(_placed(study, run.path, options), options)
    if folder is None or code:
        return code
    old = run.columns("summary")
    new = Run(folder).columns("summary")
    if not old:
        raise UsageError(f"{run.name} has no summary to compare with.")
    compared = [name for name in old if not any(word in name for word in _TIMES)]
    different = False
    for name in compared:
        # As text, NaN equals itself.
        rows = zip_longest(map(repr, old[name]), map(repr, new.get(name, ())), fillvalue="no row")
        pairs = (f"{then} then, {now} now" for then, now in rows if then != now)
        if difference := next(pairs, None):
            tell(f"{name} differs from {run.name}: {difference}")
            different = True
    if not different:
        same = f"all {len(compared)} columns of summary.csv are equal to the last digit"
        tell(f"the same numbers as {run.name}: {same}, except for times")
    return int(different)


def _placed(study: Study, folder: Path, options: RunOptions) -> Study:
    """Return a stored study, to be run where `options` say.

    The stored address of a Dask scheduler is not used, because whoever answers at that address
    could run code on this machine. Raises UsageError if an address is missing.
    """
    stored = study.config(0).scheduler
    place: dict[str, Any] = {}
    if options.n_jobs is not None or options.scheduler is not None:
        place = {"n_jobs": options.n_jobs or 1, "scheduler": options.scheduler}
    elif stored is not None:
        raise UsageError(
            f"{folder} is to run on a Dask cluster (scheduler={stored}). Name the scheduler again "
            "with --scheduler, since it can run code here, or add --n-jobs N."
        )
    return replace(study, bases=tuple({**base, **place} for base in study.bases))


def _run(
    opened: Callable[[], RunFolder], checked: Checked, options: RunOptions
) -> tuple[int, Path]:
    """Open the folder with `opened`, run in it, and print and return its path and the exit code."""
    # This import is slow, so it waits until the study has passed its checks.
    from kanrun.study.execution import execute

    monitoring.enable_gc()
    folder: RunFolder | None = None
    with signals_raise() as signals:
        try:
            with monitoring.uninterrupted():  # so that a signal cannot leave a folder behind
                folder = opened()
            with stdout_kept_clean(), logging_to(folder.path / "run.log"):
                execute(checked, folder, options)
        except KeyboardInterrupt:
            if folder is None:
                raise
            if folder.manifest.status == Status.RUNNING:
                folder.finish(Status.INTERRUPTED, "stopped before it began")
            words = ["kanrun", "runs", "resume", str(folder.path)]
            if options.n_jobs is not None:
                words += ["--n-jobs", str(options.n_jobs)]
            if options.scheduler is not None:
                words += ["--scheduler", options.scheduler]
            command = shlex.join(words)
            tell(f"interrupted; `{command}` continues from there")
            print(folder.path)
            return exit_code(signals), folder.path
        except Exception as error:
            # A run that cannot be resumed, for example because its cells have changed, is refused
            # with a message.
            if folder is None or (folder.manifest.resumed and isinstance(error, UsageError)):
                raise
            # Otherwise no traceback is needed, because run.json has the reason.
            if os.environ.get("KANRUN_DEBUG") == "1":
                traceback.print_exc(file=sys.stderr)
    return _end(folder.path, options), folder.path


def _end(path: Path, options: RunOptions) -> int:
    """Print the folder, and its result or why the run failed; return the exit code.

    With `options.strict`, print the claims that do not hold; the exit code is then 1.
    """
    print(path, flush=True)
    run = Run(path)
    status = run.manifest.status
    reason = run.manifest.reason
    if run.is_complete and not options.quiet and not run.has_points:
        from kanrun.study import report

        if reached := report.outcome(run.columns("summary")):
            print(reached, file=sys.stderr)
    if status != Status.COMPLETED or reason:
        tell(reason or f"the run ended {status}")
    code = 0 if run.is_complete else 1
    for point in run.points if options.strict else ():
        name = f"{point.point}: " if point.point else ""
        for claim in point.manifest.claims:
            if not claim.holds:
                code = 1
                detail = f"{claim.sentence} ({claim.measured}, {claim.bound})"
                tell(f"{name}does not hold: {detail}")
    return code


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append log messages of the body to the file `path`, and show warnings on standard error.

    Raises UsageError if the file is a link.
    """
    if path.is_symlink():
        raise UsageError(f"{path} is a link; a run that is resumed must lie in one folder.")
    file = logging.FileHandler(path, encoding="utf-8")
    console = logging.StreamHandler()
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console.setFormatter(logging.Formatter("kanrun: %(message)s"))
    console.setLevel(logging.WARNING)
    root = logging.getLogger()
    before = root.level, root.handlers
    root.handlers = [console, file]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        file.close()
        root.handlers = before[1]
        root.setLevel(before[0])


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send standard output of the body and its child processes to standard error.

    The path of the run folder then remains the only line on standard output, whatever libraries
    write to it, even if they bypass `sys.stdout`.
    """
    sys.stdout.flush()
    try:
        out, err = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
        kept = os.dup(out)
    except (AttributeError, OSError, ValueError):  # the streams are not real files
        out = err = kept = -1
    try:
        if kept >= 0:
            os.dup2(err, out)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        if kept >= 0:
            os.dup2(kept, out)
            os.close(kept)


@contextlib.contextmanager
def signals_raise() -> Iterator[list[int]]:
    """Stop the body cleanly: Ctrl-C as KeyboardInterrupt, SIGTERM and SIGHUP as Terminated.

    Yield the list of the numbers of received signals. Only the first signal raises. A second Ctrl-C
    ends the process at once; everything recorded so far is kept. If SIGHUP was ignored before (by
    nohup), it stays ignored.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        is_interrupt = number == signal.SIGINT
        if is_interrupt and came.count(number) > 1:  # safe, because files are written atomically
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(exit_code(came))
        if is_interrupt:
            # os.write bypasses Python's buffers, which the interrupted code may be using.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                text = b"kanrun: stopping after this step; Ctrl-C once more ends at once\n"
                os.write(sys.__stderr__.fileno(), text)  # type: ignore[union-attr]
        if len(came) == 1:
            name = signal.Signals(number).name
            monitoring.interrupt(KeyboardInterrupt() if is_interrupt else Terminated(name))

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        numbers.clear()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(signals: Sequence[int]) -> int:
    """Return the exit code of a command that these signals stopped: 130 for Ctrl-C, or 143."""
    return 143 if signals and signals[0] != signal.SIGINT else 130
