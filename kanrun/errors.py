"""The errors that kanrun raises on purpose; each carries the exit code the command line ends with."""

from __future__ import annotations


class KanrunError(Exception):
    """Something kanrun refuses or could not do; its text is one sentence for the user.

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
    """An array, a DataFrame or a label that a function of the library cannot take; a ValueError to Python's eyes."""


class TrainingFailed(KanrunError):
    """Training met a value that is not finite, or could not make any step; says where and why."""


class StorageFailed(KanrunError):
    """A file of a run could not be written (full disk, read-only folder) or is damaged; names file and cause."""


class Terminated(KeyboardInterrupt):
    """Raised by the handler of SIGTERM; what was recorded is kept, as after Ctrl-C."""

    exit_code = 143
