"""Plug-ins: modules of other packages, imported when a registry is first read.

They are named by entry points of the group `kanrun.plugins`, by `--plugin MODULE` on the command
line, and by the variable KANRUN_PLUGINS (separated by commas). `--plugin` adds to the variable, so
that child processes load the same modules; a Dask worker is told their names. A configuration file
cannot name a plug-in: reading a file must not run code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import (
    EntryPoint,
    PackageNotFoundError,
    entry_points,
    packages_distributions,
    version,
)

from kanrun.errors import UsageError

GROUP, VARIABLE, OPTION = "kanrun.plugins", "KANRUN_PLUGINS", "--plugin"
RECORDED = "plug-in "  # before a module's name, among the versions of a run


@dataclass(frozen=True)
class Plugin:
    """A module that was loaded, and its package with its version (or a digest of its file)."""

    module: str
    origin: str


_loaded: dict[str, Plugin] = {}
_left_out: dict[str, str] = {}  # typed modules, and why
_seen: list[str | None] = [
    None
]  # the variable when it was last read; None before the entry points were


def load_plugins() -> None:
    """Import the plug-ins of other packages and those that the variable names.

    An entry point that cannot be imported is skipped with a warning; `add_plugins` raises for
    others.
    """
    text = os.environ.get(VARIABLE, "")
    if _seen[0] == text:
        return
    first, _seen[0] = _seen[0] is None, text
    if first:
        for point in entry_points(group=GROUP):
            _load_point(point)
    names = [name for name in _names(text) if name not in _loaded and name not in _left_out]
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a module that lies here hides no other
    for name in names:
        _load_typed(name)


def _load_point(point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:  # whatever a package raises, kanrun itself continues
        warnings.warn(f"the plug-in {point.value} is left out: {_why(error)}", stacklevel=2)
        return
    module = point.value.partition(":")[0]
    origin = (
        f"{point.dist.name} {point.dist.version}" if point.dist is not None else _origin(module)
    )
    _loaded[module] = Plugin(module, origin)


def _load_typed(name: str) -> None:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        _left_out[name] = "it is not the name of a module, such as my_package.models"
        return
    try:
        importlib.import_module(name)
    except Exception as error:
        _left_out[name] = _why(error)
        return
    _loaded[name] = Plugin(name, _origin(name))


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _origin(module: str) -> str:
    top = module.partition(".")[0]
    for package in packages_distributions().get(top, ()):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return "no file"
    with open(file, "rb") as source:
        return f"sha256 {hashlib.file_digest(source, 'sha256').hexdigest()[:16]}"


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def typed_plugins() -> tuple[str, ...]:
    """Return the modules that the variable names."""
    return tuple(_names(os.environ.get(VARIABLE, "")))


def add_plugins(modules: Iterable[str]) -> None:
    """Add modules to the variable and import them. Raises UsageError if one cannot be imported."""
    names = dict.fromkeys([*typed_plugins(), *modules])
    if names:
        os.environ[VARIABLE] = ",".join(names)
    load_plugins()
    for name in names:
        if name in _left_out:
            raise UsageError(f"the plug-in {name} cannot be loaded: {_left_out[name].rstrip('.')}.")


def loaded_plugins() -> tuple[Plugin, ...]:
    """Return all plug-ins that are loaded, entry points first."""
    load_plugins()
    return tuple(_loaded.values())


def require_plugins(versions: Iterable[str]) -> None:
    """Raise UsageError if the recorded `versions` of a run name plug-ins that are not loaded."""
    there = {f"{RECORDED}{plugin.module}" for plugin in loaded_plugins()}
    missing = [
        name.removeprefix(RECORDED)
        for name in versions
        if name.startswith(RECORDED) and name not in there
    ]
    if missing:
        words = " ".join(f"{OPTION} {name}" for name in missing)
        raise UsageError(
            f"the run used the plug-in {missing[0]}, which is not loaded. "
            f"If you trust it, add {words}."
        )


def named_in(words: Sequence[str]) -> list[str]:
    """Return the modules that `--plugin MODULE` and `--plugin=MODULE` name in a command line."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    apart = [following for word, following in pairs if word == OPTION and following]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{OPTION}=")]
