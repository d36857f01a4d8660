"""Pure Python work within an effort: sympy's simplifications have no limit of their own.

Calls of Python functions are counted, through the interpreter's trace hook, and not seconds: a simplification gets as
far on a busy machine as on an idle one. What sympy still has in its caches saves it a few per cent of its calls, so one
that is ended by the limit may leave an expression in another of its equal forms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Calls in a unit of effort: about a second of one core, the hook's own time included.
_CALLS = 2e6
#: What sympy raises at expressions that one of its transforms cannot take.
CANNOT = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)


class OverLimit(BaseException):
    """The effort is used up. It is no Exception, which sympy catches here and there to go on in another way."""


def within(effort: float) -> Callable[..., Any]:
    """A caller `call(function, *arguments)` whose calls together take at most `effort`, then OverLimit.

    Only what runs in Python can be counted: one long operation of a library in C is not ended.
    """
    most, made = effort * _CALLS, 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise OverLimit

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        if made > most:
            raise OverLimit
        before = sys.gettrace()
        sys.settrace(count)
        try:
            value = function(*arguments)
        finally:
            sys.settrace(before)
        if made > most:  # the function caught it and went on
            raise OverLimit
        return value

    return call
