"""The documentation as a site: generated pages are complete, its code runs, and it builds without the network."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kanrun.cli.app import main
from kanrun.config import EXPERIMENTS, TARGETS
from kanrun.config.keys import keys_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
GUIDES = sorted(DOCS.glob("*.md"))
QUICK = ("training_loop", "experiment")  # pages whose Python needs no run


@pytest.fixture(scope="module")
def generated() -> Any:
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and content of each block of code that is to run."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_lecture_is_whole_in_its_chapters(generated: Any) -> None:
    chapters, text = generated.lecture(), (DOCS / "lecture.md").read_text(encoding="utf-8")
    assert len(chapters) == text.count("\n## ") + 1
    assert sum(len(chapter.split()) for chapter in chapters.values()) == len(text.split())
    for name, chapter in chapters.items():
        for path, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", chapter):
            beside = f"lecture/{path}" if path else name
            there = beside in chapters or (DOCS / "lecture" / path).resolve().is_file()
            assert there, path
            if anchor and beside in chapters:
                headings = re.findall(r"^#+ (.*)$", chapters[beside], flags=re.MULTILINE)
                assert anchor in map(generated.slug, headings)


def test_every_key_is_on_its_page(generated: Any) -> None:
    page = generated.keys()
    assert [key.path for key in keys_of() if f"| `{key.path}` |" not in page] == []


def test_every_figure_of_the_lecture_has_its_command_in_the_gallery(generated: Any) -> None:
    page = generated.gallery()
    shown = set(re.findall(r"!\[[^\]]+\]\(figures/([\w.]+)\)", page))
    assert shown == set(re.findall(r"\(figures/([\w.]+)\)", (DOCS / "lecture.md").read_text(encoding="utf-8")))
    assert page.count("```sh\nkanrun ") == page.count("![")


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(generated: Any) -> None:
    import kanrun

    page = generated.reference()
    assert page.count("\n::: ") + page.count("\n## ") == len(kanrun.__all__)
    assert ("KAN", "::: kanrun.engine.networks.kan.KAN\n") in [
        (name, f"::: {path}\n") for path, name in re.findall(r"::: ([\w.]+\.(\w+))\n", page)
    ]


def test_every_page_is_in_the_navigation(generated: Any) -> None:
    named = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | {
        *generated.lecture(),
        "keys.md",
        "gallery.md",
        "reference.md",
        "export.md",
    }
    assert {page for page in pages if not page.startswith("lecture/")} - named == set()


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a page's Python, in a module of its own; kinds that it declares are forgotten afterwards."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.setattr(TARGETS, "_kinds", {name: TARGETS[name] for name in TARGETS})
    return vars(module)


@pytest.mark.parametrize("name", QUICK)
def test_python_of_a_page_runs(name: str, space: dict[str, Any]) -> None:
    for language, text in blocks(DOCS / "tutorials" / f"{name}.md"):
        if language == "python":
            exec(compile(text, f"{name}.md", "exec"), space)


@pytest.fixture
def cluster() -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local:
        yield str(local.scheduler_address)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has docs/examples/, and two runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    for seed in (0, 1):
        settings = [f"seed={seed}", "target=product", "model.hidden=[]", "model.intervals=[5]", "sampling.train=100"]
        assert main(["fit", "-q", *settings]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_a_guide_runs(page: Path, space: dict[str, Any]) -> None:
    """With two runs there; trainings, of which the lecture has hours, are planned (--dry-run), all else is done.

    Lines that name a file of the reader's own are not tried.
    """
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), space)
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)[1:]
            own = [word for word in words if word.startswith("target.path=") and not Path(word[12:]).exists()]
            if words and not own:
                planned = ["--dry-run"] if words[0] in EXPERIMENTS else ["--yes"] if "remove" in words else []
                assert main([*words, *planned]) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    space: dict[str, Any],
) -> None:
    """In a folder that has docs/examples/, in the order of the page; a cluster's address is that of one made here."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), space)
            continue
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if "executor=dask" in words:
                address = request.getfixturevalue("cluster")
                words = [f"executor.address={address}" if w.startswith("executor.address") else w for w in words]
                words += ["model.hidden=[2]", "model.intervals=[5]", "sampling.train=100"]
            assert main(words[1:]) == 0, line


@pytest.mark.slow
def test_the_site_builds_without_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]+)"', page.read_text()
        )
        assert loaded == [], page
    assert "<math" in (tmp_path / "lecture" / "2-why-activations.html").read_text()
    assert (tmp_path / "reference.html").read_text().count("doc-heading") > 1
