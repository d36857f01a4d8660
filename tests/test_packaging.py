"""The wheel contains all of kanrun under one name, and works without the checkout."""

import ast
import re
import shutil
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import processes
import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(*words, cwd, path=None):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(path or "")}
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


def test_the_wheel_has_every_file_and_nothing_but_kanrun(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    information = f"kanrun-{PROJECT['project']['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"kanrun", information}
    suffixes = {".py", ".yaml", ".csv", ".js", ".css", ".c", ".mplstyle", ".typed"}
    paths = chain(*((ROOT / folder).rglob("*") for folder in ("kanrun", "conf", "experiments")))
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.suffix in suffixes}
    inside = {name.removeprefix("kanrun/") for name in names}
    assert {file.removeprefix("kanrun/") for file in files} - inside == set()


def test_the_wheel_works_from_any_folder(wheel, tmp_path):
    installed = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    code = "import kanrun; print(kanrun.__file__); from kanrun.cli.app import main; main()"
    for words, said in (("--cfg job study=toy_suite", "exp_sin_square"), ("--help", "toy_suite")):
        done = python("-c", code, "fit", *words.split(), cwd=tmp_path, path=installed)
        assert done.stdout.startswith(str(installed))
        assert said in done.stdout


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


def name_of(requirement):
    return re.split(r"[<>=!\[; ]", requirement)[0].lower().replace("-", "_")


def test_no_dependency_excludes_a_python_that_is_declared():
    """The dependencies that are installed here state which versions of Python they support.

    Only this and later versions are tested: for earlier ones, earlier releases are installed.
    """
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert "3.14" in declared
    later = [one for one in declared if int(one.removeprefix("3.")) >= sys.version_info.minor]
    needed = map(name_of, PROJECT["project"]["dependencies"])
    asked = [metadata.metadata(name).get("Requires-Python") or "" for name in needed]
    asked.append(PROJECT["project"]["requires-python"])
    assert [one for one in asked for version in later if version not in SpecifierSet(one)] == []


def imported(path):
    """Yield the packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_every_package_that_is_imported_is_declared():
    """Every imported package is a dependency, or in an extra other than `dev`."""
    extras = PROJECT["project"]["optional-dependencies"] | {"dev": ()}
    declared = {*map(name_of, [*PROJECT["project"]["dependencies"], *chain(*extras.values())])}
    files = {*(ROOT / "kanrun").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")}
    found = set(chain(*map(imported, files))) - {"kanrun", *sys.stdlib_module_names}
    distributions = metadata.packages_distributions()
    sources = {name: {name, *map(name_of, distributions.get(name, ()))} for name in found}
    assert [name for name in found if declared.isdisjoint(sources[name])] == []
