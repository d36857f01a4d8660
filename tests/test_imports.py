"""Importing names, help and error messages load no large packages."""

import shlex
from pathlib import Path

import pytest
from cases import cases
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
        "kanrun.formulas.equations": ["torch"],
    },
    {"kanrun.model.model": ["sympy", "scipy.optimize", "sklearn"]},  # what `kanrun predict` needs
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


#: Packages that a command must not load, by what it may load.
ABSENT = {
    "nothing": [*HEAVY, "hydra", "omegaconf", "numpy", "rich", "yaml"],
    "settings": [*HEAVY, "numpy"],
}


@pytest.mark.parametrize(
    "may_load, line, said",
    cases("""
        nothing | --help | First steps: kanrun fit
        nothing | fit --help | --multirun
        nothing | runs --help | resume
        nothing | --version | kanrun
        settings | fit model.degree=x | must be a whole number
        settings | compare-mlp tags=[a/b] | a/b
        settings | fit target.path=docs/examples/pendulum.csv target.outputs=x | has no column 'x'
        settings | fit 'target.formula=m*c**2 +' | it cannot be read at its end, after '+'
        settings | solve 'equation.variables={x: [0,1]}' 'equation.formula=u_xx = -u +' | at its end
    """),
)
def test_help_and_refusals_load_nothing_heavy(may_load, line, said):
    code = """
import atexit, sys
from kanrun.__main__ import main
atexit.register(lambda: print(*sys.modules))
main()
"""
    done = python("-c", code, *shlex.split(line), code=None, cwd=Path(__file__).parents[1])
    assert said in done.stdout + done.stderr
    assert not set(ABSENT[may_load]) & set(done.stdout.splitlines()[-1].split())
