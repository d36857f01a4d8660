"""Composes what Hydra would run, before anything counts as started."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from kanrun.errors import UsageError
from kanrun.launch import refusals
from kanrun.launch.expansion import check_expansion
from kanrun.launch.request import Request
from kanrun.launch.schemas import register

HYDRA_VERSION_BASE = "1.3"
CONFIGURATIONS = "pkg://kanrun.conf"


@dataclass(frozen=True)
class Plan:
    """What a request comes to: one composed configuration a job, Hydra's own settings apart."""

    jobs: tuple[DictConfig, ...]
    overrides: tuple[tuple[str, ...], ...]
    sweep: bool


def flags_of(request: Request) -> list[str]:
    """Hydra's flags for a request, paths made absolute (Hydra takes them relative to a Python file)."""
    flags = ["--multirun"] if request.multirun else []
    for name, value in (
        ("--cfg", request.cfg),
        ("--package", request.package),
        ("--info", request.info),
        ("--config-name", request.config_name),
        ("--config-path", search_place(request)),
        ("--config-dir", _absolute(request.config_dir)),
    ):
        flags += [name, value] if value is not None else []
    return flags + (["--resolve"] if request.resolve else [])


def search_place(request: Request) -> str:
    """Where the primary configuration lies: kanrun's own folder, or the one that --config-path names."""
    return _absolute(request.config_path) or CONFIGURATIONS


def _absolute(folder: str | None) -> str | None:
    return folder if folder is None or "://" in folder else str(Path(folder).absolute())


def check_flags(request: Request) -> None:
    """Raises UsageError for flags that do not go together."""
    shows = [flag for flag, given in (("--cfg", request.cfg), ("--info", request.info)) if given is not None]
    if len(shows) + request.multirun > 1:
        flags = [*shows, *(["--multirun"] if request.multirun else [])]
        raise UsageError(f"{' and '.join(flags)} do not go together; give one of them.")
    for flag, given in (("--resolve", request.resolve), ("--package", request.package is not None)):
        if given and request.cfg is None:
            raise UsageError(f"{flag} says how --cfg shows the configuration; add --cfg job.")


def check_folders(request: Request) -> None:
    """Raises UsageError for a --config-dir or --config-path that cannot be what is meant."""
    for option, folder in (("--config-path", request.config_path), ("--config-dir", request.config_dir)):
        if folder is None or "://" in folder:
            continue
        path = Path(folder)
        if not path.is_dir():
            raise UsageError(f"{option} {folder} is not a folder.")
        check_expansion(path)
        if option == "--config-dir" and (path / "overrides.yaml").exists() and (path / "config.yaml").exists():
            raise UsageError(
                f"--config-dir {folder} would only add groups to kanrun's own configuration; "
                f"to take a run's configuration write --config-path {folder} --config-name config."
            )


def open_loader(request: Request) -> ConfigLoaderImpl:
    """Hydra's loader over the folders that a request names; imports and instantiates nothing they hold."""
    version.setbase(HYDRA_VERSION_BASE)
    register()
    setup_globals()
    check_flags(request)
    check_folders(request)
    search_path = create_config_search_path(search_place(request))
    folder = _absolute(request.config_dir)
    if folder is not None:
        search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def compose(request: Request, loader: ConfigLoaderImpl) -> Plan:
    """All configurations of a request, checked so that Hydra may run them.

    Raises UsageError for what kanrun refuses, and Hydra's own errors for what cannot be composed.
    """
    overrides = list(request.overrides)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    refusals.check_overrides(parsed)
    refusals.check_search_path(request.primary, parsed, loader)
    master = loader.load_configuration(request.primary, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
    mode = master.hydra.mode
    sweep = request.multirun or mode == RunMode.MULTIRUN
    refusals.check_hydra(master.hydra, parsed)
    if not sweep:
        cfg = loader.load_configuration(request.primary, overrides, RunMode.RUN)
        refusals.check_cluster(cfg, parsed)
        return Plan((_job(cfg),), ((),), False)
    loader.validate_sweep_overrides_legal(parsed, RunMode.MULTIRUN, from_shell=True)
    swept = sweep_overrides(master, loader)
    jobs = []
    for job in swept:
        cfg = loader.load_sweep_config(master, list(job))
        refusals.check_hydra(cfg.hydra, parsed)
        refusals.check_cluster(cfg, parsed)
        jobs.append(_job(cfg))
    return Plan(tuple(jobs), swept, True)


def readable(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that Hydra's grammar can read."""
    parser = OverridesParser.create()
    kept = []
    for override in overrides:
        with contextlib.suppress(HydraException):
            parser.parse_overrides([override])
            kept.append(override)
    return kept


def sweep_overrides(master: DictConfig, loader: ConfigLoaderImpl) -> tuple[tuple[str, ...], ...]:
    """The overrides of each job of a sweep, in the order in which Hydra's basic sweeper numbers them."""
    parameters = master.hydra.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in parameters.items()] + list(master.hydra.overrides.task)
    parsed: Sequence[Override] = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (batch,) = BasicSweeper.split_arguments(list(parsed), None)
    return tuple(tuple(job) for job in batch)


def _job(composed: DictConfig) -> DictConfig:
    job: Any = copy.deepcopy(composed)
    with open_dict(job):
        del job["hydra"]
    return job  # type: ignore[no-any-return]
