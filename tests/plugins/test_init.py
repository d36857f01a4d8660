"""The package written by `kanrun init`, and runs whose plug-ins are not installed."""

import sys
from pathlib import Path

import pytest
from processes import python
from processes import run as run_to_end
from run_files import change_record, finished

from kanrun.cli.app import main


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    place = tmp_path_factory.mktemp("typed") / "waves"
    assert main(["init", str(place)]) == 0
    return place


def test_an_interrupted_run_asks_for_its_plugins(tmp_path, capsys):
    run = finished("curves parts=[identities] figures=none", tmp_path)
    change_record(run, status="INTERRUPTED", versions={"plug-in waves.rings": "waves 1.0"})
    assert main(["runs", "resume", str(run)]) == 2
    assert "used the plug-in waves.rings, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kanrun", "json", "class", "3d", "---"])
def test_init_refuses_names_that_are_taken_or_invalid(name, refused, tmp_path):
    assert "is not a valid name for a pack" in refused(f"init new --name={name}")
    assert not (tmp_path / "new").exists()


def test_init_refuses_a_folder_with_files(package, refused):
    assert "not an empty folder" in refused(f"init {package}")


def test_tests_of_the_written_package_say_that_it_must_be_installed(package):
    done = python("-m", "pytest", "-q", package / "tests", code=2, cwd=package)
    assert "waves is not installed; install it first: pip install -e ." in done.stdout + done.stderr


@pytest.mark.slow
def test_the_written_package_installs_and_passes_its_own_test(package, tmp_path):
    """In a new environment that can import only the dependencies of kanrun."""
    place = tmp_path / "env"
    root = Path(__file__).parents[2]
    python("-m", "venv", "--without-pip", place)
    (site,) = place.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    program = place / "bin" / "python"
    words = f"-m pip --python {program} install -q --no-deps --no-build-isolation"
    python(*words.split(), root, package, cwd=tmp_path)
    run_to_end([program, "-m", "pytest", "-q", package / "tests"], cwd=tmp_path)
