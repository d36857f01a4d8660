"""Recipes are cheap to import: help, errors and registries need no packages of training."""

import subprocess
import sys

import pytest

NAMES = (
    "bench",
    "compare_mlp",
    "continual",
    "curves",
    "extend_grid",
    "fit",
    "imported",
    "interpret",
    "solve",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_nothing_heavy_and_has_the_four_functions(name, tmp_path):
    code = f"""
import sys
import kanrun.experiments.{name} as recipe
heavy = {{"torch", "pandas", "matplotlib", "scipy", "sympy", "kanrun.engine"}} & set(sys.modules)
names = ("cells", "run", "figures", "claims")
missing = [each for each in names if not callable(getattr(recipe, each, None))]
sys.exit(str(heavy or missing) if heavy or missing else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
