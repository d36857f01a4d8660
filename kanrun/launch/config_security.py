"""Restrictions on configuration files from other people.

kanrun builds no object that a configuration names. A file could still run code or fill the memory
in four ways. Each is closed when the file is read, before anything in it has an effect:

- a `hydra` key: Hydra imports the packages of its search path while it composes;
- `executor.address`: what a Dask scheduler sends back is unpickled;
- aliases of aliases, which a few lines multiply to any number of values;
- a file outside the folder that is named in its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult

import kanrun.conf
from kanrun.errors import UsageError

OWN_FOLDER = str(Path(kanrun.conf.__path__[0]).absolute())
#: Values of a file, those behind its aliases included.
MAX_VALUES = 10**6
_NAMES_HYDRA = re.compile(r"(^|[\s/@.])hydra($|[\s/@.:])")


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
        name = self._normalize_file_name(self._inside(config_path))
        file = Path(self.path, name)
        if self.path != OWN_FOLDER and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            check_text(text, file, [name, str(self._get_header_dict(text).get("package"))])
        return super().load_config(config_path)

    def _inside(self, config_path: str) -> str:
        if ".." in Path(config_path).parts or Path(config_path).is_absolute():
            raise UsageError(
                f"{config_path} among the defaults of a file is outside its folder. "
                "Name a file in it."
            )
        return config_path


def check_text(text: str, file: Path, names: Iterable[str] = ()) -> None:
    """Raise UsageError for a configuration file that could run code or fill the memory.

    `names` are the file's name in its folder and the package of its header.
    """
    try:
        root = yaml.compose(text)
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply.") from None
    except yaml.YAMLError:
        return  # Hydra reports what is wrong with it
    if _size(root, {}) > MAX_VALUES:
        raise UsageError(
            f"{file} stands for more than {MAX_VALUES} values by its aliases; write fewer."
        )
    found = next((one for one in (*names, *_names(root)) if _NAMES_HYDRA.search(one)), None)
    if found is not None:
        raise UsageError(
            f"{file} sets {found}: a file may not set anything of Hydra's, whose search path "
            "imports packages. Remove it."
        )


def check_address(composed: Mapping[str, Any]) -> None:
    """Raise UsageError for a Dask scheduler that the files of a configuration name."""
    executor = composed.get("executor")
    address = executor.get("address") if isinstance(executor, Mapping) else None
    if address is not None:
        raise UsageError(
            f"executor.address={address} is refused in a file, since who answers there can run "
            "code here. Give it on the command line."
        )


def _names(node: Any, seen: set[int] | None = None, inside: bool = False) -> Iterator[str]:
    """Yield the keys of all mappings, and the entries of defaults lists (`inside` one)."""
    seen = set() if seen is None else seen
    if isinstance(node, yaml.ScalarNode) and inside:
        yield str(node.value)
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    seen.add(id(node))
    for part in node.value:
        key, value = part if isinstance(node, yaml.MappingNode) else (None, part)
        if isinstance(key, yaml.ScalarNode):
            yield str(key.value)
        yield from _names(value, seen, inside or (key is not None and key.value == "defaults"))


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
