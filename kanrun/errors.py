"""Errors that kanrun raises on purpose, with exit codes, and suggestions for their texts."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

#: What reading data of another form than expected raises.
MALFORMED = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)


class KanrunError(Exception):
    """Something kanrun rejects or could not do; its text is one sentence for the user.

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
    """A value that breaks a rule: names the value, the rule and what to do instead."""

    exit_code = 2


class InvalidData(UsageError, ValueError):
    """Invalid array, DataFrame or label passed to a library function; also a ValueError."""


class TrainingFailed(KanrunError):
    """Training met a value that is not finite, or could not make any step; says where and why."""


class StorageFailed(KanrunError):
    """Unwritable (full disk, read-only folder) or damaged file of a run; names file and cause."""


class Terminated(KeyboardInterrupt):
    """Raised by the handler of the signal that its text names; what was recorded is kept."""

    exit_code = 143


def closest_names(
    name: object, known: Iterable[str], max_names: int = 3, cutoff: float = 0.5
) -> list[str]:
    """Return the known names that resemble `name`, ignoring case, the closest first.

    `cutoff` is the least ratio of `difflib.SequenceMatcher`, in [0, 1].
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), by_folded, max_names, cutoff)
    return [by_folded[folded] for folded in close]


def did_you_mean(name: object, known: Iterable[str], max_names: int = 3) -> str:
    """Return "; did you mean ...?" with the known names that resemble `name`, or ""."""
    close = closest_names(name, known, max_names)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def no_file(path: str | Path) -> str:
    """Return the sentence on a file that is not there: its folder, and similar names in it."""
    file = Path(os.path.expanduser(path))
    if not file.parent.is_dir():
        return f"there is no file {str(path)!r}: the folder {file.parent.absolute()} is not there."
    near = did_you_mean(file.name, [each.name for each in file.parent.iterdir()])
    return f"there is no file {str(path)!r} in {file.parent.absolute()}{near or '.'}"


def printable(value: object) -> str:
    """Return a value as text with blanks for control characters, which a stored text may have."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def tell(sentence: str) -> None:
    """Print a sentence for the user on standard error, after the name of the program."""
    print(f"kanrun: {sentence}", file=sys.stderr)
