"""The commit that a run records, and that reading it runs nothing that a repository names."""

import subprocess

import pytest
from run_files import record_of

from kanrun.runs import Manifest, RunFolder
from kanrun.runs.folder import repository


def git(place, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", *identity, *words], check=True, cwd=place, capture_output=True, text=True
    ).stdout


def commit(place, **files):
    for name, text in files.items():
        path = place / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(place, "init", "-q")
    git(place, "add", ".")
    git(place, "commit", "-qm", "first")
    return git(place, "rev-parse", "HEAD").strip()


@pytest.fixture
def source(tmp_path):
    """A checkout that looks like kanrun's."""
    place = tmp_path / "source"
    place.mkdir()
    commit(place, kanrun__engine__a_py="one", experiments__b_py="two", notes="three")
    return place


def test_of_a_checkout_the_commit_and_whether_its_code_differs(source, tmp_path):
    at, kanrun = git(source, "rev-parse", "HEAD").strip(), source / "kanrun" / "engine"

    def is_dirty():
        found = repository(source, tmp_path)
        assert found == {"of": "kanrun", "commit": at, "dirty": found["dirty"]}
        return found["dirty"]

    assert is_dirty() is False
    (source / "notes").write_text("other")
    (kanrun / "__pycache__").mkdir()
    (kanrun / "__pycache__" / "a.pyc").write_text("")
    assert is_dirty() is False
    (source / "experiments" / "b.py").write_text("TWO")
    assert is_dirty() is True
    (source / "experiments" / "b.py").write_text("two")
    (source / "experiments" / "new.py").write_text("")
    assert is_dirty() is True
    (source / "experiments" / "new.py").unlink()
    (kanrun / "a.py").unlink()
    assert is_dirty() is True


def test_of_an_installed_package_the_working_directorys(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    work = tmp_path / "work"
    work.mkdir()
    assert repository(tmp_path / "site-packages", work) is None
    at = commit(work, table="1")
    assert repository(tmp_path / "site-packages", work) == {"of": "working directory", "commit": at}
    (work / "site-packages").mkdir()  # a package inside someone's repository is not that repository
    assert repository(work / "site-packages", work) == {"of": "working directory", "commit": at}


def test_run_json_says_whose_commit_it_is(tmp_path, monkeypatch):
    for commit_of in ({"of": "kanrun", "commit": "a", "dirty": False}, None):
        monkeypatch.setattr("kanrun.runs.folder.repository", lambda commit_of=commit_of: commit_of)
        path = RunFolder.create(tmp_path, Manifest("fit")).path
        assert record_of(path).get("git") == commit_of


def test_programs_that_a_repository_names_are_not_started(source, tmp_path):
    trap = tmp_path / "trap"
    program = f"touch {trap}; cat"
    (source / ".gitattributes").write_text("* filter=trap diff=trap\n")
    settings = {
        "filter.trap.clean": program,
        "filter.trap.process": program,
        "diff.trap.textconv": program,
        "diff.external": program,
        "core.fsmonitor": program,
        "core.pager": program,
        "core.sshCommand": program,
    }
    for key, value in settings.items():
        git(source, "config", key, value)
    hook = source / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{program}\n")
    hook.chmod(0o755)
    for path in source.rglob("*.py"):
        path.touch()
    assert repository(source, source) is not None
    assert repository(tmp_path / "site-packages", source) is not None
    assert not trap.exists()
