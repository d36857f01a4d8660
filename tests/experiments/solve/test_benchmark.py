"""The benchmark of equations: errors against known solutions, and the table that it writes."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

SCRIPT = Path(__file__).parents[3] / "benchmarks/equations.py"


def judged(tmp_path, *words):
    line = [sys.executable, SCRIPT, *words, "--out", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(tmp_path / "table.csv"), done.stdout


def test_bounds_of_a_list_are_compared_with_medians(tmp_path):
    table, said = judged(tmp_path, "published", "--only", "pendulum", "--seeds", "2")
    assert table["seed"].tolist() == [0, 1]
    assert (table["l2"] < 1e-9).all()
    assert "pendulum: median l2" in said


def test_errors_near_narrow_features_are_measured(tmp_path):
    """A problem with a pulse, and one whose solution is tabulated from its inverse."""
    table, said = judged(tmp_path, "needles", "--only", "rectangle_19", "dip_sech2_46")
    assert (table["verdict"] == "solved").all()
    assert table["l2"].between(0, 10 * table["estimate"] + 1e-10, inclusive="neither").all()
    assert "wrongly called solved (above 10): none" in said
