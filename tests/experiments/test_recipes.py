"""Recipes are cheap to import: help, errors and registries need no packages of training."""

import json
import re
import subprocess
import sys
from pathlib import Path

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


def test_columns_that_are_not_explained_are_found(page, tmp_path):
    explained, unexplained = page
    assert {"x_data", "seen"} <= explained["All commands"]
    (tmp_path / "tables").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"command": "solve"}))
    (tmp_path / "summary.csv").write_text("seed,verdict,D,D_error,D_true,sed\n")
    (tmp_path / "tables" / "solution_0.csv").write_text("x,u\n")
    (tmp_path / "tables" / "knots_0.csv").write_text("window,at,input:a,best\n")
    assert unexplained(tmp_path) == {"solve summary sed", "solve knots_0 best"}
    (tmp_path / "run.json").unlink()


def test_columns_that_are_explained_are_written_somewhere(page):
    root = Path(__file__).parents[2]
    sources = [*(root / "kanrun").rglob("*.py"), *(root / "experiments").rglob("*")]
    text = "\n".join(
        file.read_text(encoding="utf-8")
        for file in sources
        if file.suffix in (".py", ".csv") and file.is_file()
    )
    explained, _ = page
    words = {word for section in explained.values() for word in section if word.isidentifier()}
    # Names such as cv_rmse_std, and those with a number, are put together.
    ends = re.compile(r"^(cv|test|train|start_[12])_|_(std|bound|N|COLUMN|NAME)$")
    names = {ends.sub("", ends.sub("", word)) for word in words if "NAME" not in word}
    assert sorted(name for name in names if name not in text and not name.isupper()) == []
