"""Errors that kanrun raises on purpose, with their exit codes, and helpers for messages."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

#: Exceptions that may occur while data are read that do not have the expected form.
MALFORMED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class KanrunError(Exception):
    """Base class of the errors that kanrun raises on purpose, with a message for the user.

    Examples:
        >>> from kanrun import KAN, KanrunError
        >>> try:
        ...     KAN([2])
        ... except KanrunError as error:
        ...     print(error)
        shape=[2] must be widths, inputs first and outputs last, such as [2, 5, 1].
    """

    exit_code = 1


class UsageError(KanrunError):
    """Invalid input; the message names the value, the rule and what to do instead."""

    exit_code = 2


class InvalidData(UsageError, ValueError):
    """Invalid array, DataFrame or label in a call from Python; also a `ValueError`."""


class TrainingFailed(KanrunError):
    """NaN or infinity in training, or no step lowers the loss; the message says where and why."""


class StorageFailed(KanrunError):
    """Damaged or unwritable file of a run; the message names the file and the cause."""


class Terminated(KeyboardInterrupt):
    """Stop by the signal that the message names; records that were written are kept."""

    exit_code = 143


def closest_names(
    name: object, known: Iterable[str], max_names: int = 3, cutoff: float = 0.5
) -> list[str]:
    """Return up to `max_names` known names that resemble `name`, ignoring case, the closest first.

    `cutoff` is the smallest similarity, a ratio of `difflib.SequenceMatcher` in [0, 1].
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, max_names, cutoff)
    return [by_folded[folded] for folded in close]


def did_you_mean(name: object, known: Iterable[str], max_names: int = 3) -> str:
    """Return "; did you mean ...?" with similar known names, or "" if no name is similar."""
    close = closest_names(name, known, max_names)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def no_file(path: str | Path) -> str:
    """Return the message about a missing file: its folder, and files there with similar names."""
    file = Path(os.path.expanduser(path))
    if not file.parent.is_dir():
        return f"there is no file {str(path)!r}: the folder {file.parent.absolute()} is not there."
    suggestion = did_you_mean(file.name, [entry.name for entry in file.parent.iterdir()])
    place = "" if file.is_absolute() else f" in {file.parent.absolute()}"
    return f"there is no file {str(path)!r}{place}{suggestion or '.'}"


def printable(value: object) -> str:
    """Return a value as text, with a blank in place of each control character."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def tell(sentence: str) -> None:
    """Print a message for the user on standard error, preceded by `kanrun: `."""
    print(f"kanrun: {sentence}", file=sys.stderr)
