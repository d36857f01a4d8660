"""The wheel contains all of kanrun under one name, and works without the checkout."""

import ast
import re
import shutil
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import processes
import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(*words, cwd, path=None):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    return processes.python(*words, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the checkout, because setuptools writes files next to its input."""
    place = tmp_path_factory.mktemp("holder") / "kanrun"
    for name in ("kanrun", "conf", "experiments"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / name, place)
    (place / "tests").mkdir()
    return place


@pytest.fixture(scope="module")
def wheel(checkout):
    place = checkout.parent
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(place / "dist")]
    python("-m", "pip", "wheel", *options, checkout, cwd=place)
    (built,) = (place / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    place = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(place)
    return place


def test_nothing_but_kanrun_is_installed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "kanrun",
        f"kanrun-{PROJECT['project']['version']}.dist-info",
    }


def test_the_wheel_has_every_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "kanrun/py.typed",
        "kanrun/cli/app.py",
        "kanrun/conf/__init__.py",
        "kanrun/experiments/__init__.py",
    } <= names
    for folder, prefix in (
        ("kanrun", "kanrun"),
        ("conf", "kanrun/conf"),
        ("experiments", "kanrun/experiments"),
    ):
        files = [
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in {".py", ".yaml", ".csv", ".js", ".css", ".c", ".mplstyle"}
        ]
        assert {f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}" for path in files} <= names


def test_the_wheel_works_from_any_folder(installed, tmp_path):
    code = (
        "import kanrun, sys; print(kanrun.__file__); from kanrun.cli.app import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = python(
        "-c", code, "fit", "--cfg", "job", "study=toy_suite", cwd=tmp_path, path=installed
    )
    assert done.stdout.startswith(str(installed))
    assert "exp_sin_square" in done.stdout
    shown = python("-c", code, "fit", "--help", cwd=tmp_path, path=installed)
    assert "toy_suite" in shown.stdout


def test_conf_and_experiments_are_no_packages_of_their_own(tmp_path):
    code = """
from importlib.util import find_spec
for name in ("conf", "experiments"):
    assert find_spec(f"kanrun.{name}"), name
    assert find_spec(name) is None, name
"""
    python("-c", code, cwd=tmp_path)


#: Folders of installed packages.
SHARED = [path for path in sys.path if path.endswith("-packages")]
IMPORTS = """
import sys
from importlib.util import find_spec
from pathlib import Path
import kanrun.config
assert "fit" in dir(kanrun)
place = Path(sys.argv[1], "experiments", "fit", "__init__.py")
assert Path(find_spec("kanrun.experiments.fit").origin) == place
"""


def test_a_checkout_is_imported_without_an_installation(checkout):
    code = f"import sys; sys.path += {SHARED}\n{IMPORTS}"
    python("-S", "-c", code, checkout, cwd=checkout)  # -S ignores installed packages


def test_an_editable_installation_is_imported_from_any_folder(checkout, tmp_path):
    """Also from the parent folder of the checkout, after `make clean`, and with new files."""
    venv.create(tmp_path / "venv")
    own = str(tmp_path / "venv" / "bin" / "python")
    (site,) = tmp_path.glob("venv/lib/*/site-packages")
    (site / "shared.pth").write_text("\n".join(SHARED))
    options = ["-q", "--no-deps", "--no-build-isolation", "--ignore-installed", "-e"]
    processes.run([own, "-m", "pip", "install", *options, str(checkout)], cwd=tmp_path)
    processes.run(["make", "clean"], cwd=checkout)
    (checkout / "experiments" / "new.py").write_text("")
    code = """
import kanrun.experiments.new
assert [name for name in ("conf", "experiments", "tests") if find_spec(name)] == []
"""
    for folder in (tmp_path, checkout.parent):
        processes.run([own, "-c", IMPORTS + code, str(checkout)], cwd=folder)


def test_no_dependency_excludes_a_python_that_is_declared():
    """The dependencies that are installed here state which versions of Python they support.

    Only this and later versions are tested: for earlier ones, earlier releases are installed.
    """
    declared = {entry.rpartition(" ")[2] for entry in PROJECT["project"]["classifiers"]}
    versions = [version for version in declared if version.startswith("3.")]
    assert "3.14" in versions
    versions = [one for one in versions if int(one.removeprefix("3.")) >= sys.version_info.minor]
    asked = [PROJECT["project"]["requires-python"]]
    for need in PROJECT["project"]["dependencies"]:
        name = re.split(r"[<>=!\[; ]", need)[0]
        asked.append(metadata.metadata(name).get("Requires-Python") or "")
    assert [one for one in asked for version in versions if version not in SpecifierSet(one)] == []


def test_every_package_that_is_imported_is_declared():
    """Every imported package is a dependency, or in an extra.

    Libraries that the benchmark compares with kanrun are not declared; users install them.
    """
    declared = {
        re.split(r"[<>=!\[; ]", one)[0].lower().replace("-", "_")
        for named in (PROJECT["project"]["dependencies"], *_extras())
        for one in named
    }
    imported = {}
    for folder in ("kanrun", "experiments"):
        for path in set((ROOT / folder).rglob("*.py")) - set(
            (ROOT / "experiments" / "bench").glob("*.py")
        ):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [str(node.module)]
                imported |= {name.split(".")[0]: path for name in names}
    own = {"kanrun", *sys.stdlib_module_names}
    distributions = metadata.packages_distributions()
    missing = {
        name: path
        for name, path in imported.items()
        if name not in own
        and not {one.lower().replace("-", "_") for one in (*distributions.get(name, ()), name)}
        & declared
    }
    assert missing == {}


def _extras():
    """Return the packages of all extras except `dev`."""
    return [
        packages
        for name, packages in PROJECT["project"]["optional-dependencies"].items()
        if name != "dev"
    ]
