"""Errors that kanrun raises on purpose, each with the exit code of the command line."""

from __future__ import annotations


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
    """Raised by the handler of SIGTERM; what was recorded is kept, as after Ctrl-C."""

    exit_code = 143
