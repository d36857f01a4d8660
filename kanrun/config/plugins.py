"""Plug-ins: modules of other packages, imported when a registry is first read.

They are named by entry points of the group `kanrun.plugins`, by `--plugin MODULE` on the command
line, and by the variable KANRUN_PLUGINS (separated by commas). `--plugin` adds to the variable, so
that child processes load the same modules; a Dask worker is told their names. A configuration file
cannot name a plug-in: reading a file must not run code.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import (
    PackageNotFoundError,
    entry_points,
    packages_distributions,
    version,
)

from kanrun.errors import UsageError

GROUP, VARIABLE, OPTION = "kanrun.plugins", "KANRUN_PLUGINS", "--plugin"
RECORDED = "plug-in "  # before a module's name, among the versions of a run

_DIGITS = 16  # of the digest of a module without a package
_loaded: dict[str, str] = {}  # modules, and their origin
_seen: list[str] = []  # the values of the variable when it was read


def load_plugins() -> None:
    """Import the plug-ins of other packages and those that the variable names.

    An entry point that cannot be imported is skipped with a warning. Raises UsageError for a module
    of the variable.
    """
    text = os.environ.get(VARIABLE, "")
    if _seen[-1:] == [text]:
        return
    first = not _seen
    _seen.append(text)
    for point in entry_points(group=GROUP) if first else ():
        module = point.value.partition(":")[0]
        try:
            point.load()
        except Exception as error:  # whatever a package raises, kanrun itself continues
            reason = _why(error)
            warnings.warn(f"the plug-in {point.value} is left out: {reason}", stacklevel=2)
        else:
            package = point.dist
            _loaded[module] = f"{package.name} {package.version}" if package else _origin(module)
    for name in typed_plugins():
        if name in _loaded:
            continue
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: a module that lies here hides no other
        try:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ImportError("not the name of a module, such as my_package.models")
            importlib.import_module(name)
        except Exception as error:
            _seen.clear()
            reason = _why(error).rstrip(".")
            raise UsageError(f"the plug-in {name} cannot be loaded: {reason}.") from error
        _loaded[name] = _origin(name)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _origin(module: str) -> str:
    """Return the package of a module with its version, or a digest of the module's file."""
    for package in packages_distributions().get(module.partition(".")[0], ()):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return "no file"
    with open(file, "rb") as source:
        return f"sha256 {hashlib.file_digest(source, 'sha256').hexdigest()[:_DIGITS]}"


def typed_plugins() -> tuple[str, ...]:
    """Return the modules that the variable names."""
    names = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    return tuple(name for name in names if name)


def add_plugins(modules: Iterable[str]) -> None:
    """Add modules to the variable and import them. Raises UsageError if one cannot be imported."""
    if names := dict.fromkeys([*typed_plugins(), *modules]):
        os.environ[VARIABLE] = ",".join(names)
    load_plugins()


def loaded_plugins() -> Mapping[str, str]:
    """Return all modules that are loaded, entry points first, with their packages and versions."""
    load_plugins()
    return _loaded


def require_plugins(versions: Iterable[str]) -> None:
    """Raise UsageError if the recorded `versions` of a run name plug-ins that are not loaded."""
    used = [name.removeprefix(RECORDED) for name in versions if name.startswith(RECORDED)]
    if missing := [name for name in used if name not in loaded_plugins()]:
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
