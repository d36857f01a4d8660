"""Importing names, help and error messages load no large packages."""

import pytest
from processes import python

HEAVY = ["torch", "pandas", "matplotlib", "scipy", "sympy", "kanrun.engine"]
LIGHT = [  # in this order; each loads more than the one before
    {"kanrun": [*HEAVY, "numpy", "omegaconf", "rich"]},
    {
        "kanrun.runs": ["torch", "pandas", "matplotlib"],
        "kanrun.config": ["torch"],
        "kanrun.study.execution": ["torch", "distributed", "matplotlib"],
        "kanrun.figures": ["torch", "matplotlib.pyplot"],
        "kanrun.targets.functions": ["torch"],
        "kanrun.formulas": ["torch"],
    },
    {
        "kanrun.model.loaded_run": ["sympy", "scipy.optimize", "sklearn"]
    },  # what `kanrun predict` needs
]


@pytest.mark.parametrize("modules", LIGHT, ids=len)
def test_importing_loads_nothing_heavy(modules):
    code = f"""
import importlib, sys
for module, absent in {modules!r}.items():
    importlib.import_module(module)
    assert not (loaded := [name for name in absent if name in sys.modules]), (module, loaded)
"""
    python("-c", code)


@pytest.mark.parametrize("words", ["fit --help", "fit model.degree=x", "compare-mlp tags=[a/b]"])
def test_help_and_refused_settings_load_nothing_heavy(words):
    code = f"""
import sys
from kanrun.__main__ import main
sys.argv = ["kanrun", *{words.split()!r}]
try:
    main()
except SystemExit:
    pass
assert not (loaded := [name for name in {HEAVY!r} if name in sys.modules]), loaded
"""
    python("-c", code)
