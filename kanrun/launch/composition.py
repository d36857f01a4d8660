"""Selection and merging of configuration files by `hydra.compose`.

A user's file is rejected if it contains `hydra`, because Hydra's settings could import packages; if
it is too large or has YAML aliases, with which a few lines can stand for any number of values; or
if its defaults name a file outside its folder.

Hydra gets only the choices of groups, never values of settings. The files of a command override the
default values of the command's settings, and the files of a group override the default values of
the chosen kind. A configuration cannot instantiate classes: Hydra's own settings are composed and
discarded, and files cannot change them. When Hydra starts, it imports installed modules in the
namespace `hydra_plugins`; its public interface cannot prevent this.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml  # type: ignore[import-untyped]
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import CONF, EXPERIMENTS, GROUPS, defaults_of, groups_of, stored_choices
from kanrun.config.registry import is_plugin, module_of
from kanrun.config.rules import merged
from kanrun.errors import UsageError, did_you_mean

#: Name under which the primary configuration is registered with Hydra.
PRIMARY = "kanrun_primary"
#: Largest number of bytes of a configuration file that is read.
CONFIG_LIMIT = 4 * 2**20
#: Beginnings of lines that are removed from messages of OmegaConf and Hydra.
_MARKS = ("full_key:", "object_type=", "reference_type=", "See http")


@dataclass(frozen=True)
class Source:
    """Sources of the configuration of one command line.

    Attributes:
        command: The command, such as "fit".
        outputs: Folder of runs, in which the setting `from_run` is looked up.
        config_dir: Folder with additional groups and choices.
        config_name: Name of the primary configuration; None: that of the command.
    """

    command: str
    outputs: Path = Path("outputs")
    config_dir: str | None = None
    config_name: str | None = None

    @property
    def folders(self) -> list[Path]:
        """Folders in which configuration files are looked up, in this order.

        Raises UsageError if a folder does not exist or cannot be used.
        """
        if self.config_dir is not None and not Path(self.config_dir).is_dir():
            raise UsageError(f"--config-dir {self.config_dir} is not a folder.")
        if self.config_dir is not None and Path(self.config_dir, "run.json").exists():
            raise UsageError(
                f"--config-dir {self.config_dir} is the folder of a run, and --config-dir only "
                f"adds groups. `kanrun runs rerun {self.config_dir}` repeats the run."
            )
        places = (CONF, self.config_dir)
        return [Path(place).absolute() for place in places if place is not None]

    def choices(self, group: str) -> list[str]:
        """Return the choices of a group, such as "target" or "study/fit", sorted."""
        if ".." in group or group.startswith("/"):  # this would lead outside the folders
            return []
        files = (path.stem for folder in self.folders for path in (folder / group).glob("*.yaml"))
        return sorted({*files, *stored_choices(group)})


def compose_files(source: Source, choices: Sequence[str], keys: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a command, composed from the files that `choices` of groups select.

    `choices` are words such as "model=kan", and `keys` the keys that the command line sets. Raises
    UsageError if a file is missing or invalid.
    """
    file = module_of(source.command)
    overrides = [
        re.sub(r"^(\+*study=)", rf"\g<1>{file}/", word) for word in choices if word != "study=null"
    ]
    places = (f"checked://{folder}".replace("'", r"\'") for folder in source.folders)
    path = ", ".join(f"'{place}'" for place in places)
    _store(source.config_name or file)
    try:
        with hydra.initialize(config_path=None, job_name="kanrun", version_base="1.3"):
            config = hydra.compose(PRIMARY, [f"hydra.searchpath=[{path}]", *overrides])
        composed: Any = OmegaConf.to_container(config, resolve=False)
    except MissingConfigException as error:
        raise _missing(source, error) from error
    except RecursionError as error:
        raise UsageError("the configuration is nested too deeply.") from error
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        raise _translated(source, error, overrides) from error
    _check_address(composed, keys)
    for group, kinds in GROUPS.items():
        chosen = composed.get(group)
        if isinstance(chosen, dict) and chosen.get("kind") in kinds:
            composed[group] = defaults_of(kinds[chosen["kind"]]) | chosen
    plain: dict[str, Any] = merged(defaults_of(EXPERIMENTS[source.command].settings), composed)
    return {str(name): value for name, value in plain.items()}


def _store(primary: str) -> None:
    """Register `CheckedFolder`, the primary configuration and choices without files with Hydra."""
    Plugins.instance().register(CheckedFolder)
    store = ConfigStore.instance()
    store.store(PRIMARY, {"defaults": [primary]}, provider="kanrun")
    for group, kinds in GROUPS.items():
        for name in stored_choices(group):
            store.store(name, defaults_of(kinds[name]), group, provider="kanrun")
    for experiment in EXPERIMENTS.values():
        if is_plugin(experiment.settings):
            chosen = [{group: choice} for group, choice in experiment.groups.items()]
            defaults = [*chosen, "_self_", {"study": None}]
            store.store(experiment.file, {"defaults": defaults}, provider="kanrun")


def _missing(source: Source, error: MissingConfigException) -> UsageError:
    """Return the error for a missing configuration, with similar names."""
    name = error.missing_cfg_file or ""
    options = error.options or [choice for choice in source.choices("") if choice[0] != "_"]
    choices = f"{did_you_mean(name, options)} (choices: {', '.join(options)})"
    place = source.config_dir or "kanrun"
    return UsageError(f"there is no configuration {name} in {place}{choices}.")


def _translated(source: Source, error: Exception, overrides: Sequence[str]) -> UsageError:
    """Convert an error of Hydra or OmegaConf to a UsageError of one sentence."""
    groups = dict(groups_of(source.command))
    foreign = {word.partition("=")[0] for word in overrides} - {*groups}
    if source.config_dir is None and foreign:
        return UsageError(
            f"{min(foreign)} is not a group of {source.command}; its groups: {', '.join(groups)}."
        )
    lines = (line.strip() for line in str(error.__cause__ or error).splitlines())
    reason = "; ".join(line for line in lines if line and not line.startswith(_MARKS))
    return UsageError(f"{reason.rstrip('.')}.")


def _check_address(composed: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise UsageError if a file names a Dask scheduler that the command line does not replace."""
    address = composed.get("scheduler")
    if address is not None and "scheduler" not in keys:
        raise UsageError(
            f"scheduler={address} may not be set in a file, because a scheduler can run "
            "code on this machine. Give it on the command line."
        )


#: Pattern of the word `hydra` in a package or in the defaults, but not inside a longer name.
_HYDRA = re.compile(r"(?<![\w-])hydra(?![\w-])")
#: Pattern of the name of a file or group outside the folder.
_OUTSIDE = re.compile(r"[^\s'\"]*(//|\.\.)[^'\"]*")


class CheckedFolder(ConfigSource):
    """A folder of configuration files whose content is checked before Hydra uses it.

    In Hydra's search path it is called checked://FOLDER.
    """

    @staticmethod
    def scheme() -> str:
        return "checked"

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        # Files of users must not replace Hydra's own groups.
        is_of_hydra = config_path.partition("/")[0] == "hydra"
        return not is_of_hydra and Path(self.path, self._normalize_file_name(config_path)).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of the files and subgroups in a group."""
        names: list[str] = []
        for path in sorted(Path(self.path, config_path).iterdir()):
            place = f"{config_path}/{path.name}".lstrip("/")
            self._list_add_result(names, place, path.name, results_filter)
        return sorted(set(names))

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file of the folder. Raises UsageError if the file could do harm."""
        file = Path(self.path, self._normalize_file_name(config_path))
        text, config = read_checked(file)
        header = self._get_header_dict(text)
        if _HYDRA.search(str(header.get("package"))):
            raise _names_hydra(file)
        return ConfigResult(self.provider, self.full_path(), config, header)


def read_checked(file: Path) -> tuple[str, DictConfig | ListConfig]:
    """Return the text and the content of a configuration file.

    Raises UsageError if the file is not valid YAML, names `hydra` or could fill the memory.
    """
    if CONF not in file.parents and (size := file.stat().st_size) > CONFIG_LIMIT:
        raise UsageError(
            f"{file} has {size} bytes; configurations may have at most {CONFIG_LIMIT}."
        )
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        if CONF not in file.parents:
            yaml.compose(text)  # soon fails if the file is nested too deeply, unlike the events
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
                raise UsageError(f"{file} has YAML aliases (*name); write the values out.")
        config = OmegaConf.load(io.StringIO(text))
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", error)
        place = f"{file}, line {mark.line + 1}," if mark else str(file)
        raise UsageError(f"{place} is not valid YAML: {problem}.") from error
    plain: Any = OmegaConf.to_container(config, resolve=False)
    if isinstance(plain, dict):
        defaults = str(plain.get("defaults"))
        if "hydra" in plain or _HYDRA.search(defaults):
            raise _names_hydra(file)
        if outside := _OUTSIDE.search(defaults):
            raise UsageError(
                f"{outside[0]} among the defaults of {file} is outside its folder. Name a file in "
                "it."
            )
    return text, config


def _names_hydra(file: Path) -> UsageError:
    return UsageError(
        f"{file} has settings of Hydra, which a file may not change, because they can import "
        "packages. Remove them."
    )
