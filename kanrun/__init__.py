"""kanrun: command-line experiments with Kolmogorov-Arnold Networks, and the engine behind them.

`kanrun.interpret` and `kanrun.load_run` load what they need when first asked for, so that importing kanrun, and
`kanrun --help`, stay fast; so does the version.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {"interpret": "kanrun.experiments.interpret.interpretation", "load_run": "kanrun.study.saved"}

__all__ = ["interpret", "load_run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kanrun")
    if name not in _LAZY:
        raise AttributeError(f"module 'kanrun' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
