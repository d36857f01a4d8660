"""One call of an experiment's command: compose and check, number a folder, run, say how it ended."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kanrun.config.plugins import loaded_plugins
from kanrun.config.rules import check_files
from kanrun.errors import UsageError
from kanrun.launch.composing import Composition, compose, opened, typed
from kanrun.launch.quoting import hydra_words
from kanrun.launch.request import Request
from kanrun.launch.sentences import CONFIGURATION_ERRORS, explain
from kanrun.runs import Point, Run
from kanrun.study.points import Study
from kanrun.study.process import logging_kept
from kanrun.study.running import RunOptions, run_study

#: Options that say where a run's configuration came from.
_FOLDERS = {
    "--config-dir": "config_dir",
    "-cd": "config_dir",
    "--config-path": "config_path",
    "-cp": "config_path",
    "--config-name": "config_name",
    "-cn": "config_name",
}


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
    options = RunOptions(
        request.outputs,
        request.quiet,
        request.verbose,
        request.strict,
        request.force,
        request.dry_run,
        request.began,
    )
    return run_study(_study(request, plan), options)


@contextlib.contextmanager
def _explained(request: Request, loader: ConfigLoader) -> Iterator[None]:
    """Errors of Hydra and OmegaConf as one sentence of kanrun's."""
    try:
        yield
    except CONFIGURATION_ERRORS as error:
        raise explain(error, request, loader) from error


def _study(request: Request, plan: Composition) -> Study:
    """Return the study of the jobs that Hydra composed."""
    bases = tuple(map(_plain, plan.jobs))
    keyed = [dict(word.split("=", 1) for word in one if "=" in word) for one in plan.overrides]
    swept = [key for key in keyed[0] if len({one.get(key) for one in keyed}) > 1]
    points = tuple(
        Point(number, words, {key: _swept_value(base, key, one[key]) for key in swept}, number)
        for number, (words, one, base) in enumerate(zip(plan.overrides, keyed, bases, strict=True))
    )
    return Study(request.command, request.argv, bases, points)


def _swept_value(base: dict[str, Any], key: str, word: str) -> Any:
    node: Any = base
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return word if node is None or isinstance(node, dict) else node


def _plain(composed: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
    return values


def relaunch(run: Run, further: Sequence[str], options: RunOptions) -> int:
    """Run `run` again with further overrides, and return the exit code."""
    manifest, values = run.manifest, dict[str, list[str]]()
    for point in run.points:
        for word in point.manifest.overrides:
            key, _, value = word.partition("=")
            if value not in values.setdefault(key, []):
                values[key].append(value)
    new = hydra_words(list(further), manifest.command, run.has_points)
    keys = {word.partition("=")[0].lstrip("+~") for word in new}
    words = [f"{key}={','.join(each)}" for key, each in values.items() if key.lstrip("+~") not in keys]
    folders = {
        _FOLDERS[option]: value for option, value in pairwise(manifest.argv) if option in _FOLDERS
    }
    request = Request(
        command=manifest.command,
        overrides=(*words, *new),
        argv=("kanrun", *sys.argv[1:]),
        outputs=options.outputs,
        multirun=run.has_points,
        quiet=options.quiet,
        strict=options.strict,
        **folders,  # type: ignore[arg-type]
    )
    return launched(request)[0]


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
