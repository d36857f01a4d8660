"""kanrun: command-line experiments with Kolmogorov-Arnold Networks, and the engine behind them.

`kanrun.load_run` and `kanrun.interpret` load what they need when they are first asked for, so that importing kanrun, and
`kanrun --help`, stay fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("kanrun")

_LAZY = {"load_run": "kanrun.study.saved"}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kanrun' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
