from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

# Worker processes inherit the path, and import the toy experiment by its name.
sys.path.append(str(Path(__file__).parent / "toys"))

import toy_experiment

from kanrun.config import ExecutorConfig
from kanrun.runs import Manifest, Run, RunFolder
from kanrun.study.execute import check, execute

Started = tuple[Manifest, Run]


@pytest.fixture
def run_toy(tmp_path: Path) -> Callable[..., Started]:
    """Run the toy experiment to its end; settings by name, `executor` as (kind, workers, address)."""

    def run(executor: tuple[object, ...] = ("serial",), **settings: object) -> Started:
        settings.setdefault("marks", str(tmp_path))
        cfg = toy_experiment.ToyConfig(executor=ExecutorConfig(*executor), **settings)  # type: ignore[arg-type]
        check(toy_experiment, cfg)
        folder = RunFolder.create(tmp_path / "outputs", "toy")
        outcome = execute(toy_experiment, cfg, folder, manifest=Manifest("", ("toy",)))
        return outcome, Run(folder.path)

    return run


@pytest.fixture
def same_tables() -> Callable[[Run, Run], None]:
    """Check that two runs have the same tables to the bit, up to times and process numbers."""

    def check_tables(a: Run, b: Run) -> None:
        assert a.tables == b.tables
        for name in a.tables:
            left, right = (
                run.table(name).drop(columns=["seconds", "pid"], errors="ignore") for run in (a, b)
            )
            pandas.testing.assert_frame_equal(left, right, check_exact=True)

    return check_tables
