"""What must stay light: names, help and errors load no packages of training."""

import subprocess
import sys

import pytest

from kanrun.config import EXPERIMENTS

HEAVY = ["torch", "pandas", "matplotlib", "scipy", "sympy", "kanrun.engine"]
LIGHT = [  # in this order: who loads more comes later
    {
        "kanrun": [*HEAVY, "numpy", "omegaconf", "rich"],
        **{kind.builder: HEAVY for kind in EXPERIMENTS.values()},
    },
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


@pytest.mark.parametrize("modules", LIGHT, ids=len)
def test_importing_loads_nothing_heavy(modules):
    code = f"""
import importlib, sys
for module, absent in {modules!r}.items():
    importlib.import_module(module)
    assert not (loaded := [name for name in absent if name in sys.modules]), (module, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
