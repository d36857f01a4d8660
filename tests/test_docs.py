"""The documentation: its commands compose, its links work, and it is complete."""

import re
import runpy
import shlex
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main
import yaml
from run_files import finished

from kanrun.cli.app import add_experiments
from kanrun.cli.commands import kanrun_commands
from kanrun.config import EXPERIMENTS, groups_of
from kanrun.launch import Source, compose

ROOT = Path(__file__).parents[1]
README, LECTURE = ROOT / "README.md", ROOT / "docs" / "lecture.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FIGURES = sorted((ROOT / "docs" / "figures").iterdir())
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
SITE = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "generated.py")))
#: Names that the package written by `kanrun init` adds when it is installed.
OF_A_PLUGIN = {"noise-levels", "target=rings", "model=chebyshev"}
#: External sites to which the documentation may link.
SITES = {"jobqueue.dask.org", "hydra.cc", "keepachangelog.com", "semver.org", "arxiv.org"}


def named(page):
    return str(page.relative_to(ROOT))


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def command_lines():
    """Return every `kanrun ...` of the documentation, in code blocks and in running text."""
    found = []
    for text in TEXT.values():
        blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
        found += re.findall(r"^kanrun .*", blocks, flags=re.MULTILINE)
        for span in re.findall(r"`([^`\n]+)`", without_code(text)):
            calls = re.findall(r"(?<!from )\bkanrun [a-z-].*", span)
            found += [call.rstrip(")") for call in calls]
    return list(dict.fromkeys(found))


def commands(group=None, prefix=""):
    """Return the commands of the program by name, including those of groups such as `runs`."""
    add_experiments()
    found = {}
    for name, command in (group or typer.main.get_command(kanrun_commands)).commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, f"{name} ") if inner else {f"{prefix}{name}": command}
    return found


def choices(of_study):
    """Return pairs of a command and a choice: of its studies, or of its other groups."""
    return {
        (command, choice)
        for command in EXPERIMENTS
        for group, some in groups_of(command)
        if (group == "study") == of_study
        for choice in some
    }


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return an outputs folder with a run of `kanrun fit`, which commands with from_run need."""
    place = tmp_path_factory.mktemp("outputs")
    finished("fit model=polynomial target=runge sampling.n_train=20 figures=none", place)
    shutil.copytree(place / "fit", place / "import")  # the commands only need some run
    return place


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_is_accepted(line, outputs, monkeypatch):
    """The command and its options exist, and the overrides give a valid configuration."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-") or words == ["runs"] or OF_A_PLUGIN.intersection(words):
        return
    name = " ".join(words[:2]) if words[0] == "runs" else words[0]
    command = commands()[name]
    if words == name.split():
        return
    context = command.make_context(name, words[len(name.split()) :])
    if name not in EXPERIMENTS:
        return
    overrides = context.params["overrides"] or ()
    study = compose(Source(name, outputs), overrides, several=context.params["multirun"])
    assert all(study.config(point.number) for point in study.points)


def test_files_named_in_command_lines_exist():
    named_files = re.findall(r"docs/[\w./-]+", " ".join(command_lines()))
    assert [path for path in named_files if not (ROOT / path).is_file()] == []


def test_the_page_of_commands_is_up_to_date():
    """The page is generated from the registry by `python docs/generated.py`."""
    page = TEXT[ROOT / "docs" / "commands.md"]
    assert page == SITE.commands()
    names = [f"kanrun {name}" for name in commands()] + [one for _, one in choices(False)]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_readme_is_short_and_it_and_the_lecture_name_the_commands():
    text = TEXT[README]
    assert len(text.split()) <= 800
    assert [name for name in EXPERIMENTS if f"\nkanrun {name}" not in TEXT[LECTURE]] == []
    assert [name for name in EXPERIMENTS if f"`kanrun {name}`" not in text] == []
    block, *_ = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    first_screen = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert first_screen == ["make fit", "make test"]


def test_every_study_is_in_the_lecture():
    _, _, text = TEXT[LECTURE].partition("## The studies")
    listed = set()
    command = ""
    for first, study in re.findall(r"^\|([^|\n]*)\|([^|\n]*)\|", text, flags=re.MULTILINE)[2:]:
        command = first.strip(" `") or command
        listed.add((command, study.strip(" `")))
    assert listed == choices(True)


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_figures_exist(page):
    for target in re.findall(r"(?:\]\(|<img src=\")([^)\s\"]+)", without_code(TEXT[page])):
        if target.startswith("https://"):
            assert target.split("/")[2] in SITES, target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", without_code(TEXT[file.resolve()]), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff"], ids=named)
def test_no_path_of_a_machine_is_named(page):
    paths = r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|mnt|var|Users)/\S*"
    assert re.findall(paths, page.read_text(encoding="utf-8")) == []


def test_figures_are_used_and_small():
    targets = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", "".join(TEXT.values()))
    sizes = {figure.name: figure.stat().st_size for figure in FIGURES}
    assert set(sizes) == {Path(target).name for target in targets}
    assert {name: size for name, size in sizes.items() if size > 150_000} == {}
    assert sum(sizes.values()) < 3_000_000


PYTHON = TEXT[README] + TEXT[ROOT / "docs" / "python.md"]
BLOCKS = re.findall(r"```python\n(.*?)```", PYTHON, flags=re.DOTALL)


def test_python_on_the_pages_compiles_and_its_names_are_exported():
    import kanrun

    for block in BLOCKS:
        compile(block, "README.md", "exec")
    exported = set(kanrun.__all__)
    assert set(re.findall(r"kanrun\.(\w+)\(", "".join(BLOCKS))) <= exported
    assert exported <= set(re.findall(r"\w+", PYTHON))


@pytest.mark.slow  # It searches for formulas of noisy data.
def test_python_on_the_pages_prints_what_it_says(tmp_path, monkeypatch, capsys):
    """Each line with `print` has its output as a comment; a block that reads a run is skipped."""
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS:
        if expected := re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE):
            exec(compile(block, "README.md", "exec"), {})
            assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_and_tables_that_are_named_exist(name):
    """Paths in backticks (without a placeholder) exist, and so does a table `X` in `file`."""
    text = TEXT[ROOT / name]
    for path in re.findall(r"`((?:kanrun|conf|experiments|tests|docs)/[^`\s<]*)`", text):
        assert (ROOT / path).exists(), path
    for table, path in re.findall(r"`([A-Za-z_]+)` in `([\w/]+\.py)`", text):
        code = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def )?{table}\b", code, re.MULTILINE), table


def test_every_room_is_in_the_architecture():
    files = (ROOT / "kanrun").rglob("__init__.py")
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in files}
    text = TEXT[ROOT / "ARCHITECTURE.md"]
    assert {room for room in rooms if f"`{room}/`" not in text} <= {"kanrun", "kanrun/engine"}


def test_citation_and_changelog_have_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert citation["version"] == version
    assert f"## {version}" in TEXT[ROOT / "CHANGELOG.md"]
