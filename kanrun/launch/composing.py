"""Opens Hydra over the folders of a request, composes once what it would run, and types it.

A group's file names its schema (`/schema/target/named@_here_`), so a wrong key or type is refused where it is
typed. What reaches kanrun without one (a group file of the user's, a stored config.yaml) is checked by its `kind`:
nothing in a configuration is ever built by naming a class.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from kanrun.config import EXPERIMENTS, GROUPS, ExperimentConfig, check, former
from kanrun.config.registry import module_of
from kanrun.errors import UsageError
from kanrun.launch import refusals
from kanrun.launch.request import Request

HYDRA_VERSION_BASE = "1.3"
CONFIGURATIONS = "kanrun.conf"
#: Columns that a sentence names.
MOST_NAMES = 20


@dataclass(frozen=True)
class Composition:
    """What a request comes to: one composed configuration per job, Hydra's own settings apart.

    `whole` is what Hydra runs: the only job's configuration, or that of the sweep, with Hydra's settings.
    """

    jobs: tuple[DictConfig, ...]
    overrides: tuple[tuple[str, ...], ...]
    sweep: bool
    whole: DictConfig


class AddedFolder(SearchPathPlugin):
    """The folder that --config-dir names, searched after the primary configuration's."""

    folder: ClassVar[str | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.append("command-line", f"file://{self.folder}")


@contextlib.contextmanager
def opened(request: Request) -> Iterator[ConfigLoader]:
    """Hydra's loader over the folders that a request names; imports and instantiates nothing they hold.

    Hydra's global state is as before when the body ends. Raises UsageError for flags and folders that are not usable.
    """
    check_flags(request)
    check_folders(request)
    register()
    Plugins.instance().register(AddedFolder)
    AddedFolder.folder = (
        None if request.config_dir is None else str(Path(request.config_dir).absolute())
    )
    scheme, found, rest = (request.config_path or f"pkg://{CONFIGURATIONS}").partition("://")
    hydra: initialize_config_module | initialize_config_dir
    try:
        if found and scheme == "pkg":
            hydra = initialize_config_module(rest, request.module, HYDRA_VERSION_BASE)
        else:
            place = str(Path(rest if found else scheme).absolute())
            hydra = initialize_config_dir(place, request.module, HYDRA_VERSION_BASE)
    finally:
        AddedFolder.folder = None
    with hydra:
        yield GlobalHydra.instance().config_loader()


def check_flags(request: Request) -> None:
    """Raises UsageError for flags that do not go together."""
    shows = [
        flag
        for flag, given in (("--cfg", request.cfg), ("--info", request.info))
        if given is not None
    ]
    if len(shows) + request.multirun > 1:
        flags = [*shows, *(["--multirun"] if request.multirun else [])]
        raise UsageError(f"{' and '.join(flags)} do not go together; give one of them.")
    for flag, given in (("--resolve", request.resolve), ("--package", request.package is not None)):
        if given and request.cfg is None:
            raise UsageError(f"{flag} says how --cfg shows the configuration; add --cfg job.")


def check_folders(request: Request) -> None:
    """Raises UsageError for a --config-dir or --config-path that cannot be what is meant."""
    for option, folder in (
        ("--config-path", request.config_path),
        ("--config-dir", request.config_dir),
    ):
        if folder is None or "://" in folder:
            continue
        path = Path(folder)
        if not path.is_dir():
            raise UsageError(f"{option} {folder} is not a folder.")
        refusals.check_expansion(path)
        if (
            option == "--config-dir"
            and (path / "run.json").exists()
            and (path / "config.yaml").exists()
        ):
            raise UsageError(
                f"--config-dir {folder} would only add groups to kanrun's own configuration; "
                f"to take a run's configuration write --config-path {folder} --config-name config."
            )


def compose(request: Request, loader: ConfigLoader) -> Composition:
    """All configurations of a request, checked so that Hydra may run them.

    Raises UsageError for what kanrun refuses, and Hydra's own errors for what cannot be composed.
    """
    overrides = list(request.overrides)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    refusals.check_overrides(parsed)
    refusals.check_search_path(request, parsed)
    modes = {
        str(override.value()).upper()
        for override in parsed
        if override.key_or_group == "hydra.mode"
    }
    several = request.multirun or "MULTIRUN" in modes
    if not several:
        single = loader.load_configuration(request.primary, overrides, RunMode.RUN)
        if single.hydra.mode != RunMode.MULTIRUN:
            _check(request.command, single, parsed)
            words: Any = OmegaConf.to_container(single.hydra.overrides.task)
            return Composition((_job(single),), (tuple(words),), False, single)
    master = loader.load_configuration(request.primary, overrides, RunMode.MULTIRUN)
    refusals.check_hydra(request.module, master.hydra, parsed)
    swept = sweep_overrides(master, loader)
    jobs = []
    for job in swept:
        composed = loader.load_sweep_config(master, list(job))
        _check(request.command, composed, parsed)
        jobs.append(_job(composed))
    return Composition(tuple(jobs), swept, True, master)


def _check(command: str, composed: DictConfig, parsed: Sequence[Override]) -> None:
    refusals.check_added(command, parsed)
    refusals.check_hydra(module_of(command), composed.hydra, parsed)
    refusals.check_cluster(composed, parsed)


def readable(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that Hydra's grammar can read."""
    parser = OverridesParser.create()
    kept = []
    for override in overrides:
        with contextlib.suppress(HydraException):
            parser.parse_overrides([override])
            kept.append(override)
    return kept


def sweep_overrides(master: DictConfig, loader: ConfigLoader) -> tuple[tuple[str, ...], ...]:
    """The overrides of each job of a sweep, in the order in which Hydra's basic sweeper numbers them."""
    parameters = master.hydra.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in parameters.items()] + list(
        master.hydra.overrides.task
    )
    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(words):
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            kind = override.value_type.name if override.value_type is not None else "of this kind"
            raise ConfigCompositionException(
                f"the basic sweeper does not support sweeps {kind}: {override.input_line}"
            )
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    return tuple(itertools.product(*values.values()))


def _job(composed: DictConfig) -> DictConfig:
    job: Any = copy.deepcopy(composed)
    with open_dict(job):
        del job["hydra"]
    return job  # type: ignore[no-any-return]


def register() -> None:
    """Hands the dataclasses to Hydra; doing it again changes nothing."""
    store = ConfigStore.instance()
    for group, kinds in GROUPS.items():
        for name, kind in kinds.items():
            store.store(group=f"schema/{group}", name=name, node=kind.settings, provider="kanrun")
            if kind.is_plugin:
                store.store(
                    group=group, name=name, node=kind.settings, provider=kind.settings.__module__
                )
    for one in EXPERIMENTS.values():
        store.store(
            group="schema", name=one.file, node=one.settings, package="_global_", provider="kanrun"
        )
        if one.is_plugin:
            store.store(
                name=one.file, node={"defaults": one.defaults}, provider=one.settings.__module__
            )


def typed(
    command: str,
    composed: DictConfig,
    *,
    extras: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> ExperimentConfig:
    """The dataclass that a composed configuration is, its groups included; `warn` is told of renamed keys.

    With `extras`, keys that no schema knows are kept: a stored configuration may hold what its author added
    with `+key=value`. Raises UsageError for a kind that does not exist, for what is missing and for a value that
    breaks its rule, and leaves the errors of OmegaConf (a wrong key or type) to the caller.
    """
    schema = EXPERIMENTS.find(command).settings
    composed = copy.deepcopy(composed)
    with open_dict(composed):
        for warning in former.rename(composed, stored=extras):
            warn(warning)
    if OmegaConf.get_type(composed) is not schema:
        composed = _merged(schema, composed, extras)
    for group in GROUPS:
        if composed.get(group) is not None:
            OmegaConf.update(composed, group, _group(group, composed[group], extras), merge=False)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be given, as {missing[0]}={_columns(composed, missing[0])}."
        )
    settings: ExperimentConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    check(settings)
    return settings


def _columns(composed: DictConfig, missing: str) -> str:
    """What to write for a missing setting: of a table's outputs, its columns."""
    path = OmegaConf.select(composed, "target.path", throw_on_missing=False)
    if missing != "target.outputs" or path is None:
        return "VALUE"
    from kanrun.targets.table_reading import column_names

    names = column_names(path)
    return f"[NAME], of the columns {', '.join(names[:MOST_NAMES])}{' and more' if len(names) > MOST_NAMES else ''}"


def _group(group: str, node: Any, extras: bool) -> DictConfig:
    kinds = {name: kind.settings for name, kind in GROUPS[group].items()}
    if not isinstance(node, DictConfig) or node.get("kind") is None:
        raise UsageError(
            f"{group} is {node}, not a choice of the group, which has a kind: one of {', '.join(kinds)}."
        )
    kind = str(node.kind)
    if kind not in kinds:
        raise UsageError(f"{group}.kind is {kind}, which is not one of {', '.join(kinds)}.")
    if OmegaConf.get_type(node) is kinds[kind]:
        return node
    if dataclasses.is_dataclass(OmegaConf.get_type(node)):
        raise UsageError(
            f"{group}.kind={kind} cannot be set by hand; choose the kind with {group}=NAME, "
            f"in a file with `override /{group}: NAME` in its defaults."
        )
    return _merged(kinds[kind], node, extras)


def _merged(schema: type, node: DictConfig, extras: bool) -> DictConfig:
    base = OmegaConf.structured(schema)
    OmegaConf.set_struct(base, not extras)
    merged = OmegaConf.merge(base, node)
    assert isinstance(merged, DictConfig)
    return merged
