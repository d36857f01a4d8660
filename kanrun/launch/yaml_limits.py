"""What Hydra would follow in YAML files: aliases of aliases, which grow like a power, and defaults outside a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from kanrun.errors import UsageError

_MOST_VALUES = 10**6


def check_expansion(folder: Path) -> None:
    """Raises UsageError for a configuration file in `folder` that stands for more than a million values, or whose
    defaults name a file outside the folder.

    Files that cannot be read are left to Hydra, which tells what is wrong with those that it needs.
    """
    for path in _files(folder):
        with contextlib.suppress(OSError, yaml.YAMLError, RecursionError):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "&" in text and "*" in text and _values(yaml.compose(text), {}) > _MOST_VALUES:
                raise UsageError(f"{path} stands for more than {_MOST_VALUES} values by its aliases; write fewer.")
            if "defaults" in text and ".." in text and (outside := _outside(yaml.compose(text))):
                raise UsageError(f"{path} has {outside} among its defaults, outside its folder; name a file in it.")


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in sorted(names) if name.endswith((".yaml", ".yml")))


def _outside(node: Any) -> str | None:
    """An entry of the defaults that leaves the folder by `..`; None without one."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "defaults":
                return next((text for text in _scalars(value) if ".." in text.split("/")), None)
    return None


def _scalars(node: Any) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    else:
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                yield from _scalars(inner)


def _values(node: Any, known: dict[int, float]) -> float:
    """How many values a node is, those behind its aliases included; infinite if it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
