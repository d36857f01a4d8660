"""Files of configurations that users write or are sent, checked before Hydra reads them.

A file is refused if it

- sets a `hydra` key, with which Hydra would import packages;
- sets `executor.address`, since what a Dask scheduler sends back is unpickled;
- is too large, or has aliases of aliases, which a few lines multiply to any number of values;
- names a file outside its folder in its defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult

import kanrun.conf
from kanrun.errors import UsageError
from kanrun.runs.reader import CONFIG_LIMIT

OWN_FOLDER = str(Path(kanrun.conf.__path__[0]).absolute())
#: Values of a file, those behind its aliases included.
MAX_VALUES = 10**6


class CheckedFiles(FileConfigSource):
    """A folder of configurations; every file of the user's is checked before it is loaded."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of such a folder in Hydra's search path."""
        return "checked"

    def is_group(self, config_path: str) -> bool:
        """Return whether the folder has this group. Raises UsageError for one outside of it."""
        return bool(super().is_group(self._inside(config_path)))

    def is_config(self, config_path: str) -> bool:
        """Return whether the folder has this file. Raises UsageError for one outside of it."""
        return bool(super().is_config(self._inside(config_path)))

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file of the folder. Raises UsageError for a file that could do harm."""
        file = Path(self.path, self._normalize_file_name(self._inside(config_path)))
        if self.path != OWN_FOLDER and file.is_file():
            if (size := file.stat().st_size) > CONFIG_LIMIT:
                raise UsageError(
                    f"{file} has {size} bytes, more than the {CONFIG_LIMIT} that are read."
                )
            check_text(file.read_text(encoding="utf-8", errors="replace"), file)
        try:
            return super().load_config(config_path)
        except yaml.YAMLError as error:  # a tag, or a key that is given twice
            raise _invalid(file, error) from error

    def _inside(self, config_path: str) -> str:
        if ".." in Path(config_path).parts or Path(config_path).is_absolute():
            raise UsageError(
                f"{config_path} among the defaults of a file is outside its folder. "
                "Name a file in it."
            )
        return config_path


def check_text(text: str, file: Path) -> None:
    """Raise UsageError for a configuration file that is not YAML, or could fill the memory."""
    try:
        root = yaml.compose(text)
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply.") from None
    except yaml.YAMLError as error:
        raise _invalid(file, error) from error
    if _size(root, {}) > MAX_VALUES:
        raise UsageError(
            f"{file} stands for more than {MAX_VALUES} values by its aliases; write fewer."
        )


def _invalid(file: Path, error: yaml.YAMLError) -> UsageError:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
    place = f"{file}, line {mark.line + 1}," if mark else str(file)
    return UsageError(f"{place} is not valid YAML: {problem}.")


def check_composed(composed: Mapping[str, Any], given: Iterable[str]) -> None:
    """Raise UsageError for what no file may set: Hydra's settings, and a Dask scheduler.

    A scheduler may stand in a file if `given`, the keys of the command line, take its place.
    """
    if "hydra" in composed:
        raise UsageError(
            "a configuration file sets hydra, but a file may not set anything of Hydra's, whose "
            "search path imports packages. Remove it."
        )
    executor = composed.get("executor")
    address = executor.get("address") if isinstance(executor, Mapping) else None
    if address is not None and not {"executor", "executor.address"}.intersection(given):
        raise UsageError(
            f"executor.address={address} is refused in a file, since who answers there can run "
            "code here. Give it on the command line."
        )


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values of a node, those behind its aliases included."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")  # a node that holds itself
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
