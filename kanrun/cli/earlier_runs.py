"""Runs that an override names, found where `--outputs` says, as `kanrun runs show` finds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanrun.launch.quoting import split

_KEY = "from_run"


def with_run_folders(words: Sequence[str], outputs: Path, multirun: bool) -> list[str]:
    """The overrides with `from_run=NAME` as the absolute path of that run's folder, so that a configuration tells for
    ever which run `latest` was. With -m, commas separate names. Raises UsageError for a run that is not there."""
    return [_located(word, outputs, multirun) for word in words]


def _located(word: str, outputs: Path, multirun: bool) -> str:
    from kanrun.runs import find_run

    key, equals, value = word.partition("=")
    text = value.strip()
    special = not text or text.lower() == "null" or text.startswith("choice(") or "${" in text
    if key.lstrip("+") != _KEY or not equals or special:
        return word
    names = split(text) if multirun else [text]
    folders = [find_run(_bare(name), outputs, sweeps=False).path.absolute() for name in names]
    return f"{key}={','.join(_quoted(str(folder)) if multirun else str(folder) for folder in folders)}"


def _bare(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"" else name


def _quoted(folder: str) -> str:
    """Quoted where a comma would separate values; `kanrun.launch.quoting` does the rest."""
    return f"'{folder}'" if "," in folder and "'" not in folder else folder
