"""What must stay light: a listing of runs loads neither torch nor pandas."""

import subprocess
import sys

import pytest

LIGHT = [  # in this order: who loads more comes later
    {
        "kanrun.runs": ["torch", "pandas", "matplotlib"],
        "kanrun.config": ["torch"],
        "kanrun.study.execute": ["torch", "distributed", "matplotlib"],
        "kanrun.figures": ["torch", "matplotlib.pyplot"],
        "kanrun.targets.functions": ["torch"],
        "kanrun.formulas": ["torch"],
    },
    {"kanrun.study.saved": ["sympy", "scipy.optimize", "sklearn"]},  # what `kanrun predict` needs
]


@pytest.mark.parametrize("modules", LIGHT)
def test_importing_loads_nothing_heavy(modules):
    code = f"""
import importlib, sys
for module, absent in {modules!r}.items():
    importlib.import_module(module)
    assert not (loaded := [name for name in absent if name in sys.modules]), (module, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
