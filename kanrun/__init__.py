"""kanrun: Kolmogorov-Arnold Networks from the command line and from Python.

Public names are imported on first use, and the version is read on first use, so that `import
kanrun` and `kanrun --help` stay fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanrun.engine.layers import EdgeSpec
    from kanrun.engine.layers import SplineLayer as KANLayer
    from kanrun.engine.networks import KAN, MLP
    from kanrun.errors import KanrunError
    from kanrun.experiments.interpret.interpretation import interpret
    from kanrun.experiments.solve.solution import solve
    from kanrun.library import fit
    from kanrun.library.estimators import KANClassifier, KANRegressor
    from kanrun.model.model import Model, load_run
    from kanrun.runs.finding import runs

# `conf` and `experiments` lie beside this folder in a checkout and inside it in a wheel. An
# editable installation consists of links to the files of a checkout; follow the link to this file.
_FOLDER = os.path.dirname(os.path.realpath(__file__))
__path__ = [_FOLDER]
if not os.path.isdir(os.path.join(_FOLDER, "conf")):
    __path__.append(os.path.dirname(_FOLDER))

#: Module and attribute of each public name.
_LOCATIONS = {
    "EdgeSpec": "kanrun.engine.layers:EdgeSpec",
    "KAN": "kanrun.engine.networks:KAN",
    "KANClassifier": "kanrun.library.estimators:KANClassifier",
    "KANLayer": "kanrun.engine.layers:SplineLayer",
    "KANRegressor": "kanrun.library.estimators:KANRegressor",
    "KanrunError": "kanrun.errors:KanrunError",
    "MLP": "kanrun.engine.networks:MLP",
    "Model": "kanrun.model.model:Model",
    "fit": "kanrun.library:fit",
    "interpret": "kanrun.experiments.interpret.interpretation:interpret",
    "load_run": "kanrun.model.model:load_run",
    "runs": "kanrun.runs.finding:runs",
    "solve": "kanrun.experiments.solve.solution:solve",
}

__all__ = [
    "KAN",
    "MLP",
    "EdgeSpec",
    "KANClassifier",
    "KANLayer",
    "KANRegressor",
    "KanrunError",
    "Model",
    "fit",
    "interpret",
    "load_run",
    "runs",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kanrun")
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'kanrun' has no attribute {name!r}")
    module, _, attribute = _LOCATIONS[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
