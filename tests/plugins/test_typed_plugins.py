"""Modules that `--plugin` and KANRUN_PLUGINS name, and the package that `kanrun init` writes."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from processes import python
from processes import run as run_to_end
from run_files import change_record, record_of

from kanrun.cli.app import main

CALL = "import sys; from kanrun.cli.app import main; sys.exit(main(sys.argv[1:]))"
QUICK = "sampling.n_train=60 sampling.n_test=30 solver.steps=3 -q"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    place = tmp_path_factory.mktemp("typed") / "waves"
    assert main(["init", str(place)]) == 0
    return place


def kanrun(place, line="", code=0, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return python("-c", CALL, *shlex.split(line), code=code, cwd=place, env=environment)


@pytest.fixture(scope="module")
def run(package, tmp_path_factory):
    """Two seeds of a target that a typed module brings, trained by a worker process."""
    outputs = tmp_path_factory.mktemp("runs")
    network = "model.hidden=[2] model.intervals=[3] solver.n_starts=1 figures=none"
    words = f"target=rings {network} n_seeds=2 solver.smoothness_weight=1e-12 {QUICK}"
    place = f"executor=local executor.workers=1 --outputs {outputs}"
    kanrun(package, f"fit --plugin waves.rings {words} {place}")
    return outputs / "fit" / "v0001"


def test_a_typed_module_is_used_by_workers_and_recorded(run):
    assert list(pd.read_csv(run / "summary.csv")["target"]) == ["rings", "rings"]
    recorded = record_of(run)["versions"]["plug-in waves.rings"]
    assert recorded.startswith("sha256 ")


def test_the_variable_names_several(package):
    line, plugins = "fit --cfg job target=rings solver=momentum", "waves.rings, waves.momentum"
    shown = kanrun(package, line, KANRUN_PLUGINS=plugins)
    assert "kind: rings" in shown.stdout
    assert "kind: momentum" in shown.stdout
    helped = kanrun(package, "noise-levels --plugin waves.noise_levels.settings --help")
    assert "Train on points with increasing noise." in helped.stdout


@pytest.mark.parametrize(
    "module, sentence",
    [
        ("waves.nothing", "ModuleNotFoundError"),
        ("no module", "not the name of a module"),
        ("../x", "not the name"),
    ],
)
def test_what_cannot_be_loaded_is_refused(package, module, sentence):
    done = kanrun(package, f"fit --plugin '{module}'", 2)
    assert done.stderr.startswith(f"kanrun: the plug-in {module} cannot be loaded: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_configuration_cannot_name_a_module(package):
    done = kanrun(package, "fit +plugin=waves.rings target=rings", 2)
    assert "rings" in done.stderr


def test_tab_knows_the_kinds_of_a_typed_module(package):
    words = "kanrun fit --plugin waves.rings target=ri"
    typed = {"_KANRUN_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    assert "rings" in kanrun(package, **typed).stdout


def test_an_interrupted_run_asks_for_its_plugins(package, run, tmp_path):
    shutil.copytree(run, tmp_path / "fit" / "v0001")
    change_record(tmp_path / "fit" / "v0001", status="INTERRUPTED")
    done = kanrun(package, f"runs resume fit/v0001 --outputs {tmp_path}", 2)
    assert "If you trust it, add --plugin waves.rings" in done.stderr


@pytest.mark.parametrize("name", ["kanrun", "json", "class", "3d", "---"])
def test_init_refuses_names_that_are_taken(tmp_path, capsys, name):
    assert main(["init", str(tmp_path / "new"), f"--name={name}"]) == 2
    assert "is not a valid name for a package" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_init_refuses_a_folder_with_files(package, capsys):
    assert main(["init", str(package)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_written_package_installs_and_passes_its_own_test(package, tmp_path):
    """In an environment that has nothing but the dependencies of kanrun, by their path."""
    place, root = tmp_path / "env", Path(__file__).parents[2]
    python("-m", "venv", "--without-pip", place)
    (site,) = place.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    program = place / "bin" / "python"
    words = f"-m pip --python {program} install -q --no-deps --no-build-isolation"
    python(*words.split(), root, package, cwd=tmp_path)
    run_to_end([program, "-m", "pytest", "-q", package / "tests"], cwd=tmp_path)
