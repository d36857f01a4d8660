"""YAML files whose aliases stand for more values than memory holds: aliases of aliases grow like a power."""

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
    """Raises UsageError for a configuration file in `folder` that stands for more than a million values.

    Files that cannot be read are left to Hydra, which tells what is wrong with those that it needs.
    """
    for path in _files(folder):
        with contextlib.suppress(OSError, yaml.YAMLError, RecursionError):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "&" in text and "*" in text and _values(yaml.compose(text), {}) > _MOST_VALUES:
                raise UsageError(f"{path} stands for more than {_MOST_VALUES} values by its aliases; write fewer.")


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in sorted(names) if name.endswith((".yaml", ".yml")))


def _values(node: Any, known: dict[int, float]) -> float:
    """How many values a node is, those behind its aliases included; infinite if it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
