"""Runs that cannot fit into this machine are refused before a folder, and the estimate stays below what runs take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kanrun.cli.app import main
from kanrun.config.experiments import FitConfig
from kanrun.config.models import KANConfig, MLPConfig
from kanrun.config.targets import SamplingConfig
from kanrun.study.resources import need_of

TOO_LARGE = {
    "a fine grid": "model.intervals=100000000",
    "a wide layer": "model.hidden=[5,1000000]",
    "a wide MLP": "model=mlp model.hidden=[1000000,100000]",
    "many points": "sampling.train=10000000000",
    "many threads": "threads=100000",
    "a Bezier curve": "target=runge model=bezier model.control_points=100000000",
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_too_large_a_run_is_refused_before_its_folder(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *TOO_LARGE[case].split(), "--outputs", str(tmp_path / "outputs")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "GiB" in said or "is more than" in said or "from 2 to 1001" in said
    assert not (tmp_path / "outputs").exists()


def test_the_numbers_of_a_network_are_counted_as_they_are_made() -> None:
    kan = FitConfig(model=KANConfig(hidden=[5, 4], intervals=[3, 20], degree=3))
    assert need_of(kan).parameters == (1 * 5 + 5 * 4 + 4 * 1) * 23
    mlp = FitConfig(model=MLPConfig(hidden=[16, 8]), sampling=SamplingConfig(train=500, test=200))
    assert need_of(mlp).parameters == 16 + 16 * 8 + 8
    assert need_of(mlp).points == 700


@pytest.mark.slow
@pytest.mark.parametrize("words", ["solver=adam solver.steps=3 model.hidden=[400,400]", "solver=lbfgs solver.steps=3"])
def test_runs_take_more_than_the_estimate(words: str, tmp_path: Path) -> None:
    code = "import resource, sys; from kanrun.cli.app import main; main(); " \
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"  # fmt: skip
    command = [sys.executable, "-c", code, "fit", "-q", "sampling.train=200000", *words.split()]
    peak = int(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()[-1])
    hidden = [400, 400] if "hidden" in words else [5]
    cfg = FitConfig(model=KANConfig(hidden=hidden), sampling=SamplingConfig(train=200_000))
    unit = 1 if sys.platform == "darwin" else 1024
    assert need_of(cfg).memory < peak * unit
