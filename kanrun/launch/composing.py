"""Compose the configurations of a call: Hydra chooses and merges files, and nothing more.

Hydra gets the choices of groups alone, once for each combination of them. All other arguments are
set on the result as plain values, which get their types in `kanrun.config.composed`. Nothing in a
configuration is ever built by naming a class.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf

from kanrun.config import EXPERIMENTS, GROUPS, EquationConfig
from kanrun.config.composed import resolve_interpolations, set_value, unknown_key
from kanrun.config.keys import keys_of
from kanrun.config.registry import implied_choices, module_of
from kanrun.errors import UsageError, closest_names, did_you_mean
from kanrun.launch.arguments import Argument, ArgumentReader, full_key, split
from kanrun.launch.config_security import OWN_FOLDER, CheckedFiles, check_address
from kanrun.launch.error_messages import CONFIGURATION_ERRORS, explain
from kanrun.runs import Run
from kanrun.study.points import Point, Study

HYDRA_VERSION_BASE = "1.3"
#: An added key that resembles one of the command's by this ratio or more is a mistyped one.
NEARLY = 0.75
#: Points of one call.
MAX_POINTS = 100_000


@dataclass(frozen=True)
class Source:
    """Sources of a call's configuration, and the folder of its runs.

    Attributes:
        command: The command, such as "fit".
        outputs: Folder of the runs that `from_run` names.
        config_dir: Folder with further groups and choices.
        config_name: Primary configuration, if not the command's.
        config_path: Folder of the primary configuration, instead of kanrun's.
    """

    command: str
    outputs: Path = Path("outputs")
    config_dir: str | None = None
    config_name: str | None = None
    config_path: str | None = None

    @property
    def primary(self) -> str:
        """The name of the primary configuration."""
        return self.config_name or module_of(self.command)


class _Folders(SearchPathPlugin):
    """The folders of a call in Hydra's search path: the primary one first, the further one last."""

    source: ClassVar[Source | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put checked folders in the place of the package, which Hydra would read unchecked."""
        if self.source is not None:
            entries = search_path.get_path()
            entries[:] = [one for one in entries if one.provider != "main"]
            primary = self.source.config_path or OWN_FOLDER
            search_path.prepend("main", f"checked://{Path(primary).absolute()}")
            if self.source.config_dir is not None:
                folder = Path(self.source.config_dir).absolute()
                search_path.append("command-line", f"checked://{folder}")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[ConfigLoader]:
    """Give Hydra's loader over the folders of a call; its global state is as before afterwards.

    Raises UsageError for folders that cannot be used.
    """
    for option, folder in (
        ("--config-path", source.config_path),
        ("--config-dir", source.config_dir),
    ):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"{option} {folder} is not a folder.")
    if source.config_dir is not None and Path(source.config_dir, "run.json").exists():
        raise UsageError(
            f"--config-dir {source.config_dir} is the folder of a run, and --config-dir only adds "
            f"groups. To use its configuration, write --config-path {source.config_dir} "
            "--config-name config."
        )
    _register()
    for plugin in (_Folders, CheckedFiles):
        with contextlib.suppress(ValueError):  # registered already
            Plugins.instance().register(plugin)
    _Folders.source = source
    try:
        hydra = initialize_config_module("kanrun.conf", "kanrun", HYDRA_VERSION_BASE)
    finally:
        _Folders.source = None
    with hydra:
        yield GlobalHydra.instance().config_loader()


def compose(
    source: Source, words: Sequence[str], *, several: bool = False, argv: Sequence[str] = ()
) -> Study:
    """Return the points of a call and their configurations.

    Args:
        source: The command and the folders of its configuration.
        words: Arguments as typed: key=value, group=choice, +key=value, ~key.
        several: Whether arguments may have several values, each combination being a point (-m).
        argv: The whole call, for the record.

    Raises:
        UsageError: If an argument or a file cannot be used.
    """
    with opened(source) as loader:
        reader = ArgumentReader(source.command, loader, source.outputs, several)
        arguments = _last_of_each([reader.read(word) for word in words])
        sizes = [range(max(1, len(one.values))) for one in arguments]
        combinations = list(itertools.islice(itertools.product(*sizes), MAX_POINTS + 1))
        if len(combinations) > MAX_POINTS:
            raise UsageError(
                f"the arguments give more than {MAX_POINTS} points; give fewer values."
            )
        keys = [one.key for one in arguments if one.sign != "~"]
        bases: dict[tuple[str, ...], int] = {}
        composed, points = [], []
        for number, chosen in enumerate(combinations):
            pairs = list(zip(arguments, chosen, strict=True))
            groups = {one.key: one.typed(index) for one, index in pairs if one.is_group}
            choices = {name: word.partition("=")[2] for name, word in groups.items()}
            implied = implied_choices(EXPERIMENTS[source.command], choices, keys)
            key = (*implied, *groups.values())
            if key not in bases:
                bases[key] = len(bases)
                plain = _composed(source, loader, key, arguments)
                composed.append(_with_arguments(source.command, plain, pairs))
            values = {one.key: one.values[i] for one, i in pairs if len(one.values) > 1}
            overrides = (*implied, *(one.typed(index) for one, index in pairs))
            points.append(Point(number, overrides, values, bases[key]))
    return Study(source.command, tuple(argv), tuple(composed), tuple(points))


def shown_config(study: Study, resolve: bool = False) -> str:
    """Return the first configuration of a study as YAML. Raises UsageError."""
    plain = dict(study.bases[0])
    return OmegaConf.to_yaml(OmegaConf.create(resolve_interpolations(plain) if resolve else plain))


#: Options that say where the configuration of a run came from.
_FOLDERS = {
    **dict.fromkeys(("--config-dir", "-cd"), "config_dir"),
    **dict.fromkeys(("--config-path", "-cp"), "config_path"),
    **dict.fromkeys(("--config-name", "-cn"), "config_name"),
}


def compose_again(run: Run, words: Sequence[str], outputs: Path) -> Study:
    """Return the study of a recorded run with further arguments. Raises UsageError."""
    command, argv = run.manifest.command, run.manifest.argv
    recorded = dict[str, dict[str, str]]()
    for point in run.points:
        for key, equals, text in (word.partition("=") for word in point.manifest.overrides):
            quoted = f"'{text}'" if run.has_points and len(split(text)) > 1 else text
            recorded.setdefault(key + equals, {})[text] = quoted
    given = {full_key(command, word) for word in words}
    kept = [
        f"{key}{','.join(texts.values())}"
        for key, texts in recorded.items()
        if full_key(command, key) not in given
    ]
    folders: dict[str, Any] = {
        _FOLDERS[one]: value for one, value in pairwise(argv) if one in _FOLDERS
    }
    return compose(
        Source(command, outputs, **folders),
        [*kept, *words],
        several=run.has_points,
        argv=("kanrun", *sys.argv[1:]),
    )


def _last_of_each(arguments: Sequence[Argument]) -> list[Argument]:
    """Return the arguments, of those with several values for one key the last."""
    several = {one.key: one for one in arguments if len(one.values) > 1}
    return [one for one in arguments if several.get(one.key, one) is one]


def _composed(
    source: Source, loader: ConfigLoader, groups: Sequence[str], arguments: Sequence[Argument]
) -> dict[str, Any]:
    """Return the files that the choices of groups select, merged, as plain values."""
    prefix = f"study={module_of(source.command)}/"
    words = [
        word.replace("study=", prefix, 1) if word.lstrip("+").startswith("study=") else word
        for word in groups
        if word != "study=null"
    ]
    names = loader.get_group_options("")
    if source.primary not in names:
        raise UsageError(
            f"there is no configuration {source.primary} in {source.config_path or 'kanrun'}"
            f"{did_you_mean(source.primary, names)} (choices: {', '.join(names)})."
        )
    try:
        whole = loader.load_configuration(source.primary, words, RunMode.RUN)
        plain: Any = OmegaConf.to_container(whole, resolve=False)
    except CONFIGURATION_ERRORS as error:
        place = source.config_path or source.config_dir or "kanrun"
        raise explain(error, place) from error
    del plain["hydra"]
    known = EXPERIMENTS[source.command].settings.__dataclass_fields__
    for name in plain:
        if name not in known:
            raise unknown_key(str(name), "", sorted(known))
    settings = {one.key for one in arguments if not one.is_group}
    if not settings & {"executor", "executor.address"}:
        check_address(plain)
    if isinstance(plain.get("equation"), dict):
        plain["equation"] = {**_defaults(EquationConfig), **plain["equation"]}
    for group in GROUPS:
        chosen = plain.get(group)
        if isinstance(chosen, dict) and chosen.get("kind") in GROUPS[group]:
            plain[group] = {**_defaults(GROUPS[group][chosen["kind"]].settings), **chosen}
    return {str(name): value for name, value in plain.items()}


def _with_arguments(
    command: str, plain: dict[str, Any], pairs: Sequence[tuple[Argument, int]]
) -> dict[str, Any]:
    """Set the values of the arguments on a composed configuration. Raises UsageError."""
    paths = {key.path for key in keys_of(command)}
    free = paths - {path.rpartition(".")[0] for path in paths} - set(GROUPS)
    for one, index in pairs:
        if not one.is_group:
            _check_key(command, plain, one, free)
            if one.sign == "~":
                _remove(plain, one.key)
            else:
                set_value(plain, one.key, one.values[index])
    return plain


def _check_key(command: str, plain: Mapping[str, Any], argument: Argument, free: set[str]) -> None:
    """Raise UsageError for an argument whose key is not there, or may not be set so.

    Below the keys in `free`, a mapping or a list takes any key.
    """
    key, parts, node = argument.key, argument.key.split("."), _node(plain, argument.key)
    if parts[-1] == "kind" and parts[0] in GROUPS:
        raise UsageError(
            f"{key}={argument.texts[0] if argument.texts else ''} cannot be set; choose with "
            f"{parts[0]}=NAME, in a file with `override /{parts[0]}: NAME` in its defaults."
        )
    if node is not _ABSENT:
        if argument.sign == "~" and key in free:
            raise UsageError(f"{key} cannot be taken away; set it to another value.")
        if argument.sign == "+" and node is not None and not isinstance(node, dict | list):
            raise UsageError(f"{key} exists already: leave out the +.")
        return
    below = any(".".join(parts[:depth]) in free for depth in range(1, len(parts)))
    if below and argument.sign != "~":
        return
    top = EXPERIMENTS[command].settings.__dataclass_fields__
    added = argument.sign in ("+", "++") and parts[0] not in top
    if added and not closest_names(parts[0], top, cutoff=NEARLY):
        return
    known = {*free, *top, "study"}
    parent = _node(plain, ".".join(parts[:-1])) if len(parts) > 1 else plain
    if isinstance(parent, dict):
        at = f"{'.'.join(parts[:-1])}." if len(parts) > 1 else ""
        raise unknown_key(parts[-1], at, sorted(parent), str(parent.get("kind", "")))
    raise UsageError(f"there is no key {key}{did_you_mean(key, known, max_names=1) or '.'}")


_ABSENT = object()


def _node(plain: Any, key: str) -> Any:
    node = plain
    for part in key.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        else:
            return _ABSENT
    return node


def _remove(plain: Any, key: str) -> None:
    parent, _, last = key.rpartition(".")
    node = _node(plain, parent) if parent else plain
    del node[int(last) if isinstance(node, list) else last]


def _register() -> None:
    """Give Hydra the defaults of all settings, as the schemas that files name."""
    store = ConfigStore.instance()
    for group, kinds in GROUPS.items():
        for name, kind in kinds.items():
            defaults = _defaults(kind.settings)
            store.store(group=f"schema/{group}", name=name, node=defaults, provider="kanrun")
            if kind.is_plugin:
                store.store(group=group, name=name, node=defaults, provider="kanrun")
    for one in EXPERIMENTS.values():
        defaults = _defaults(one.settings)
        store.store(one.file, defaults, group="schema", package="_global_", provider="kanrun")
        if one.is_plugin:
            store.store(name=one.file, node={"defaults": one.defaults}, provider="kanrun")


def _defaults(settings: Any) -> dict[str, Any]:
    """Return the default values of a dataclass as plain values."""
    plain = {}
    for one in fields(settings):
        value = one.default_factory() if one.default_factory is not NO_DEFAULT else one.default
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        plain[one.name] = value
    return plain
