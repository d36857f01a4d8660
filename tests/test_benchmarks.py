"""The module that the maintainers' benchmarks share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "_running.py"
spec = importlib.util.spec_from_file_location("_running", FILE)
assert spec is not None
assert spec.loader is not None
running = importlib.util.module_from_spec(spec)
spec.loader.exec_module(running)


def test_results_in_parallel_are_in_the_order_of_the_tasks() -> None:
    assert running.run([-3, 1, -2], abs, n_jobs=2) == running.run([-3, 1, -2], abs) == [3, 1, 2]


def test_an_unknown_name_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        running.chosen(["nguyen-1", "nguyen-2"], ["nguyen-9"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_table_that_is_printed_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = running.write_table("small", [{"problem": "a", "rmse": 0.5}], tmp_path)
    assert pd.read_csv(tmp_path / "table.csv").equals(table)
    assert "rmse" in capsys.readouterr().out
