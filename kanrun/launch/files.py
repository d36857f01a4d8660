"""Folders of configuration files, as a source of Hydra's that checks each file before it is used.

A file of a user is refused if it

- names `hydra`, whose settings would import packages;
- is too large, or has aliases of aliases, which a few lines multiply to any number of values;
- names a file outside its folder in its defaults.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf

from kanrun.config import CONF
from kanrun.errors import UsageError
from kanrun.runs.reader import CONFIG_LIMIT

#: Number of values of a file, including those that its aliases repeat.
MAX_VALUES = 10**6
#: The word `hydra` in a package or among the defaults, but not inside a longer name.
_HYDRA = re.compile(r"(?<![\w-])hydra(?![\w-])")
#: The name of a file or group outside the folder.
_OUTSIDE = re.compile(r"[^\s'\"]*(//|\.\.)[^'\"]*")


class CheckedFolder(ConfigSource):
    """A folder of configuration files, named as checked://FOLDER in Hydra's search path."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of such a folder."""
        return "checked"

    def available(self) -> bool:
        """Return whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Return whether the folder has this group."""
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Return whether the folder has this file."""
        # Hydra's own groups are its own: files of a user do not replace them.
        own = config_path.partition("/")[0] == "hydra"
        return not own and Path(self.path, self._normalize_file_name(config_path)).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of files and groups in a group."""
        names: list[str] = []
        for path in sorted(Path(self.path, config_path).iterdir()):
            place = f"{config_path}/{path.name}".lstrip("/")
            self._list_add_result(names, place, path.name, results_filter)
        return sorted(set(names))

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file of the folder. Raises UsageError for a file that could do harm."""
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
        raise UsageError(f"{file} has {size} bytes, more than the {CONFIG_LIMIT} that are read.")
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        if CONF not in file.parents and _size(yaml.compose(text), {}) > MAX_VALUES:
            raise UsageError(
                f"{file} stands for more than {MAX_VALUES} values by its aliases; write fewer."
            )
        config = OmegaConf.load(io.StringIO(text))
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
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
        f"{file} names hydra, but a file may not set anything of Hydra's, whose search path "
        "imports packages. Remove it."
    )


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values of a node, including those that aliases repeat."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")  # a node that holds itself
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
