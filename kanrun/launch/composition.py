"""Hydra's part of a call: it chooses and merges files, by `hydra.compose`.

Hydra gets choices of groups alone, never values. The defaults of all settings lie beneath the files
of a command, and those of a kind beneath its group. Nothing in a configuration is built by naming a
class: Hydra's own settings are composed and dropped, and files cannot change them (`files.py`).
Hydra imports installed modules under `hydra_plugins` when it starts; its public interface has no
way to prevent that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanrun.config import CONF, EXPERIMENTS, GROUPS, defaults_of, groups_of, stored_choices
from kanrun.config.conversion import merged
from kanrun.config.registry import is_plugin, module_of
from kanrun.errors import UsageError, did_you_mean
from kanrun.launch.files import CheckedFolder, read_checked

#: Version of Hydra whose behaviour is used.
HYDRA_VERSION = "1.3"
#: Name under which Hydra finds the primary configuration of the call.
PRIMARY = "kanrun_primary"
#: Lines of OmegaConf's and Hydra's messages that do not help users.
_MARKS = ("full_key:", "object_type=", "reference_type=", "See http")


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
    def folders(self) -> list[Path]:
        """Folders of configuration files; the first one that has a file is used.

        Raises UsageError if one of them cannot be used.
        """
        for option in ("config_path", "config_dir"):
            folder = getattr(self, option)
            if folder is not None and not Path(folder).is_dir():
                raise UsageError(f"--{option.replace('_', '-')} {folder} is not a folder.")
        if self.config_dir is not None and Path(self.config_dir, "run.json").exists():
            raise UsageError(
                f"--config-dir {self.config_dir} is the folder of a run, and --config-dir only "
                f"adds groups. To use its configuration, write --config-path {self.config_dir} "
                "--config-name config."
            )
        places = (self.config_path or CONF, self.config_dir)
        return [Path(place).absolute() for place in places if place is not None]

    def choices(self, group: str) -> list[str]:
        """Return the choices of a group, such as "target" or "study/fit", sorted."""
        if ".." in group or group.startswith("/"):  # outside of the folders
            return []
        files = (path.stem for folder in self.folders for path in (folder / group).glob("*.yaml"))
        return sorted({*files, *stored_choices(group)})

    def study(self, name: str) -> set[str]:
        """Return the settings and groups that the study `name` of the command sets."""
        for folder in self.folders:
            file = folder / "study" / module_of(self.command) / f"{name}.yaml"
            if file.is_file():
                content = OmegaConf.to_container(read_checked(file)[1], resolve=False)
                chosen = re.findall(r"/(\w+)", str(dict(content or {}).pop("defaults", "")))  # type: ignore[arg-type]
                return {*map(str, content or ()), *chosen}
        return set()


def compose_files(source: Source, choices: Sequence[str], given: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a command with the files that `choices` of groups select.

    `given` are the keys that the command line sets. Raises UsageError.
    """
    file = module_of(source.command)
    words = [
        re.sub(r"^(\+*study=)", rf"\g<1>{file}/", word) for word in choices if word != "study=null"
    ]
    places = (f"checked://{folder}".replace("'", r"\'") for folder in source.folders)
    path = ", ".join(f"'{place}'" for place in places)
    _store(source.config_name or file)
    try:
        with hydra.initialize(config_path=None, job_name="kanrun", version_base=HYDRA_VERSION):
            config = hydra.compose(PRIMARY, [f"hydra.searchpath=[{path}]", *words])
        composed: Any = OmegaConf.to_container(config, resolve=False)
    except MissingConfigException as error:
        raise _missing(source, error) from error
    except RecursionError as error:
        raise UsageError("the configuration is nested too deeply.") from error
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        raise _translated(source, error, words) from error
    _check_address(composed, given)
    for group, kinds in GROUPS.items():
        chosen = composed.get(group)
        if isinstance(chosen, dict) and chosen.get("kind") in kinds:
            composed[group] = defaults_of(kinds[chosen["kind"]]) | chosen
    plain: dict[str, Any] = merged(defaults_of(EXPERIMENTS[source.command].settings), composed)
    return {str(name): value for name, value in plain.items()}


def _store(primary: str) -> None:
    """Tell Hydra about checked folders, the primary configuration, and choices without a file."""
    Plugins.instance().register(CheckedFolder)
    store = ConfigStore.instance()
    store.store(PRIMARY, {"defaults": [primary]}, provider="kanrun")
    for group, kinds in GROUPS.items():
        for name in stored_choices(group):
            store.store(name, defaults_of(kinds[name]), group, provider="kanrun")
    for one in EXPERIMENTS.values():
        if is_plugin(one.settings):
            chosen = [{group: choice} for group, choice in one.groups.items()]
            defaults = [*chosen, {"executor": "serial"}, "_self_", {"study": None}]
            store.store(one.file, {"defaults": defaults}, provider="kanrun")


def _missing(source: Source, error: MissingConfigException) -> UsageError:
    """Return the error for a configuration that is not there, with similar names."""
    name = error.missing_cfg_file or ""
    options = error.options or [one for one in source.choices("") if one[0] != "_"]
    choices = f"{did_you_mean(name, options)} (choices: {', '.join(options)})"
    place = source.config_path or source.config_dir or "kanrun"
    return UsageError(f"there is no configuration {name} in {place}{choices}.")


def _translated(source: Source, error: Exception, words: Sequence[str]) -> UsageError:
    """Return an error of Hydra or OmegaConf as one sentence."""
    own = dict(groups_of(source.command))
    foreign = {word.partition("=")[0] for word in words} - {*own}
    if source.config_path is source.config_dir is None and foreign:
        return UsageError(
            f"{min(foreign)} is not a group of {source.command}; its groups: {', '.join(own)}."
        )
    lines = (line.strip() for line in str(error.__cause__ or error).splitlines())
    reason = "; ".join(line for line in lines if line and not line.startswith(_MARKS))
    return UsageError(f"{reason.rstrip('.')}.")


def _check_address(composed: Mapping[str, Any], given: Iterable[str]) -> None:
    """Raise UsageError if a file names a Dask scheduler that the command line does not replace."""
    executor = composed.get("executor")
    address = executor.get("address") if isinstance(executor, Mapping) else None
    if address is not None and not {"executor", "executor.address"}.intersection(given):
        raise UsageError(
            f"executor.address={address} is refused in a file, since who answers there can run "
            "code here. Give it on the command line."
        )
