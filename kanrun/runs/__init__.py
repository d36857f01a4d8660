"""Run folders: the class that writes them, the class that reads them, and finding runs."""

import functools
import sys
from types import ModuleType
from typing import Any

from kanrun.runs.files import Checkpoint
from kanrun.runs.finding import find_run, find_runs, local_time, remove_run, run_at, runs
from kanrun.runs.folder import RunFolder
from kanrun.runs.reader import Run
from kanrun.runs.records import (
    Claim,
    Manifest,
    Note,
    Point,
    Record,
    Row,
    Status,
    Table,
    Value,
)


class _Callable(ModuleType):
    """This package, which is also the public function `kanrun.runs`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return runs(*args, **kwargs)


_package: Any = sys.modules[__name__]
_package.__class__ = _Callable
# `help`, the documentation and `inspect.signature` show the function.
functools.update_wrapper(_package, runs, ("__module__", "__qualname__", "__doc__"), ())
