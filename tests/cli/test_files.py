"""Files named on the command line: inputs are never changed, outputs only with `--force`."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import run
from run_files import finished

STATE = Path(__file__).parents[1] / "engine" / "networks" / "states" / "efficient_kan_a.pt"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return an outputs folder with one run: a polynomial fitted to a table."""
    place = tmp_path_factory.mktemp("fitted")
    x = np.linspace(0, 1, 40)
    np.savetxt(place / "t.csv", np.stack([x, x**2], 1), "%.17g", ",", header="x,y", comments="")
    line = f"fit target.path={place}/t.csv target.outputs=y model=polynomial figures=none"
    finished(line, place / "outputs")
    return place / "outputs"


def test_inputs_are_read_and_never_written(command, fitted, tmp_path):
    inputs = tmp_path / "inputs"
    (inputs / "target").mkdir(parents=True)
    (inputs / "target" / "mine.yaml").write_text("defaults: [table, _self_]\npath: inputs/t.csv\n")
    for name in ("t.csv", "more.csv"):
        shutil.copy(fitted.parent / "t.csv", inputs / name)
    shutil.copy(STATE, inputs / "net.pt")

    def state():
        files = (path for path in inputs.rglob("*") if path.is_file())
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    model = "target.outputs=y model=polynomial figures=none -q"
    command(f"fit --config-dir inputs target=mine target.test_path=inputs/more.csv {model}")
    command("runs rerun latest -q")
    command("predict latest inputs/more.csv -o out.csv")
    command("interpret target.path=inputs/t.csv target.outputs=y budget=1 figures=none -q")
    command("import inputs/net.pt figures=none -q")
    assert state() == before
    linked = tmp_path / "linked.csv"
    linked.symlink_to(inputs / "more.csv")
    for output in ("inputs/more.csv", "linked.csv"):
        said = command(f"predict fit/1 inputs/more.csv -o {output} --force", code=2).err
        assert f"--output {output} is the input file" in said
    assert state() == before


@pytest.mark.parametrize(
    "line",
    [
        "predict latest t.csv -o out.csv",
        "export latest --format python -o out.py",
        "runs report latest -o out.html",
        "lesson -o out.html",
    ],
)
def test_outputs_are_replaced_only_with_force(command, fitted, tmp_path, monkeypatch, line):
    monkeypatch.setattr(
        "kanrun.study.page.STUDIES", {}
    )  # because the studies of the lecture take a minute
    monkeypatch.setattr("kanrun.study.page.write_lesson", lambda _, file: file.write_text("new"))
    shutil.copy(fitted.parent / "t.csv", "t.csv")
    output = tmp_path / line.split()[-1]
    output.write_text("mine")
    said = command(f"{line} --outputs {fitted}", code=2).err
    assert f"{output.name} exists. Add --force to replace it, or name another file." in said
    assert output.read_text() == "mine"
    command(f"{line} --outputs {fitted} --force")
    assert output.read_text() != "mine"


def test_output_that_nobody_reads_is_no_error(tmp_path):
    command = f"{sys.executable} -m kanrun runs list 2>&1 | head -c 0; exit ${{PIPESTATUS[0]}}"
    done = run(["bash", "-c", command], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
