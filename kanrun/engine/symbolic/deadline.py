"""Pure Python work within a time limit, in any thread: sympy's simplifications have no limit of their own."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

#: What sympy raises at expressions that one of its transforms cannot take.
CANNOT = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)


class OutOfTime(Exception):
    """The time is used up."""


def within(seconds: float) -> Callable[..., Any]:
    """A caller `call(function, *arguments)` whose calls together take at most `seconds`, then OutOfTime.

    Work past the deadline is ended by an exception raised inside its thread, which Python code (such as sympy's)
    meets at its next instruction.
    """
    end = time.monotonic() + seconds

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        left = end - time.monotonic()
        if left <= 0:
            raise OutOfTime
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append((True, function(*arguments)))
            except Exception as error:  # handed to the caller below, whatever it is
                outcome.append((False, error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(left)
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(OutOfTime))
            thread.join(1.0)
            raise OutOfTime
        done, value = outcome[0]
        if not done:
            raise value
        return value

    return call
