"""The documentation as a site: generated pages are complete, code runs, the build is offline.

All code blocks of README and the site are run, page by page, in their order. Shell commands are run
by bash. Commands that take more than a minute, as their comment says, and commands on a file of the
reader get the setting `max_cpu_seconds=60`.
"""

import os
import re
import runpy
import shutil
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from processes import python, run

from kanrun.config import TARGETS, keys_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
QUICK = ("training_loop", "experiment")  # pages whose Python needs no run
MINUTE = 60


SITE = SimpleNamespace(**runpy.run_path(str(DOCS / "generated.py")))
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - {DOCS / "lecture.md"})]
#: Text of each page with code, by name, or a function that makes it.
TEXTS = {page.stem: page.read_text(encoding="utf-8") for page in PAGES} | {
    name.removesuffix(".md"): text for name, text in SITE.lecture().items()
}
TEXTS = {name: text for name, text in TEXTS.items() if "```" in text}


def blocks(text):
    """Return the language and the content of each code block."""
    return re.findall(r"^```(.*?)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_lecture_is_whole_in_its_chapters():
    chapters = SITE.lecture()
    text = (DOCS / "lecture.md").read_text(encoding="utf-8")
    assert len(chapters) == text.count("\n## ") + 1
    assert sum(len(chapter.split()) for chapter in chapters.values()) == len(text.split())
    for name, chapter in chapters.items():
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", chapter):
            beside = f"lecture/{path}" if path else name
            assert beside in chapters or (DOCS / "lecture" / path).resolve().is_file(), path
            if anchor and beside in chapters:
                headings = re.findall(r"^#+ (.*)$", chapters[beside], flags=re.MULTILINE)
                assert anchor in [SITE.ascii_slug(SITE.slug(one)) for one in headings]


def test_generated_pages_have_every_key_and_every_figure_with_its_command():
    keys = SITE.keys()
    assert [key.path for key in keys_of() if f"| `{key.path}` |" not in keys] == []
    lecture = (DOCS / "lecture.md").read_text(encoding="utf-8")
    gallery = SITE.gallery()
    figure = r"\(figures/([\w.]+)\)"
    assert set(re.findall(figure, gallery)) == set(re.findall(figure, lecture))
    assert gallery.count("```sh\nkanrun ") == gallery.count("![")


@pytest.mark.slow
def test_every_public_name_is_in_the_reference():
    import kanrun

    page = SITE.reference()
    assert page.count("\n::: ") + page.count("\n## ") == len(kanrun.__all__)
    assert "::: kanrun.engine.networks.kan.KAN\n" in page


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {*pages, "keys.md", "gallery.md", "reference.md"} <= named


@pytest.fixture
def space(monkeypatch):
    """Return the namespace for the Python of a page; unregister its components afterwards."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.setattr(TARGETS, "_kinds", {name: TARGETS[name] for name in TARGETS})
    return vars(module)


@pytest.mark.parametrize("name", QUICK)
def test_python_of_a_page_runs(name, space):
    for language, text in blocks(TEXTS[name]):
        if language == "python":
            exec(compile(text, f"{name}.md", "exec"), space)


def shortened(block):
    """Return a block in which slow commands have the setting `max_cpu_seconds=60`.

    A command is slow if its comment says so, if it has a longer limit, or if it reads a file of the
    reader.
    """

    def limited(found):
        seconds = re.match(r"(\d+) s", found[2])
        long = int(seconds[1]) > MINUTE if seconds else "minutes" in found[2]
        return f"{found[1]} max_cpu_seconds={MINUTE}" if long else found[0]

    block = re.sub(r"max_cpu_seconds=\d{3,}", f"max_cpu_seconds={MINUTE}", block)
    block = re.sub(r"^(kanrun .*?)  # (.*)$", limited, block, flags=re.MULTILINE)
    return re.sub(r"(target\.path=(?!docs/)\S+)", rf"\1 max_cpu_seconds={MINUTE}", block)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """Return a folder with docs/examples/, three runs, and substitutes for the reader's files."""
    folder = tmp_path_factory.mktemp("furnished")
    shutil.copytree(DOCS / "examples", folder / "docs" / "examples")
    small = "model.hidden=[] model.intervals=[5] sampling.n_train=100"
    runs = [f"kanrun fit -q target=product seed={seed} {small}" for seed in (0, 1)]
    run_shell("\n".join([*runs, "kanrun interpret -q target=product"]), folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    states = ROOT / "tests" / "engine" / "networks" / "states"
    (folder / "model").mkdir()
    for part in ("state", "config.yml", "cache_data"):
        shutil.copy(states / f"trained_{part}", folder / "model" / f"0.5_{part}")
    shutil.copy(states / "efficient_kan_a.pt", folder / "kan.pt")
    rng = np.random.default_rng(0)
    length = rng.uniform(0.1, 2, 100)
    g = rng.uniform(5, 15, 100)
    period = 2 * np.pi * np.sqrt(length / g)
    pd.DataFrame({"length": length, "g": g, "period": period}).to_csv(
        folder / "pendulum.csv", index=False
    )
    counts = pd.DataFrame({"age": length, "exposure": g, "claims": rng.poisson(g * length)})
    counts.to_csv(folder / "counts.csv", index=False)
    counts.to_csv(folder / "new.csv", index=False)
    return folder


@pytest.fixture
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as local:
        yield str(local.scheduler_address)


def run_shell(block, folder):
    """Run a block by bash, answering y to questions; raise an error if a command fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    call = ["bash", "-euo", "pipefail", "-c", block]
    run(call, cwd=folder, env={**os.environ, "PATH": path}, input="y\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_every_block_of_a_page_runs(name, furnished, tmp_path, monkeypatch, request, space):
    shutil.copytree(furnished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    text = TEXTS[name]() if callable(TEXTS[name]) else TEXTS[name]
    for language, code in blocks(text):
        if language == "python":
            exec(compile(code, name, "exec"), space)
        elif language != "text" and not code.startswith("make "):
            # Blocks that begin with make install the project or run the tests; text is output.
            assert language == "sh"
            block = shortened(code)
            if (address := "tcp://10.0.0.1:8786") in block:  # the address of the reader's cluster
                block = block.replace(address, request.getfixturevalue("cluster"))
            run_shell(block, tmp_path)


@pytest.mark.slow
def test_the_site_builds_without_the_network(tmp_path):
    pytest.importorskip("mkdocs")
    python("-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path, cwd=ROOT)
    loaded = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?://')
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    assert "<math" in (tmp_path / "lecture" / "2-universal-approximation.html").read_text()
    reference = (tmp_path / "reference.html").read_text()
    assert reference.count("doc-heading") > 1
    assert "__doc__" not in reference
