"""The commit that a run records."""

import subprocess

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


def test_checkout_reports_its_own_commit(tmp_path):
    at = commit(tmp_path / "source", kanrun__a_py="one")
    assert repository(tmp_path / "source", tmp_path) == {"of": "kanrun", "commit": at}


def test_installed_package_reports_the_commit_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    work = tmp_path / "work"
    work.mkdir()
    assert repository(tmp_path / "site-packages", work) is None
    at = commit(work, table="1")
    assert repository(tmp_path / "site-packages", work) == {"of": "working directory", "commit": at}
    (work / "site-packages").mkdir()  # a package inside someone's repository is not that repository
    assert repository(work / "site-packages", work) == {"of": "working directory", "commit": at}


def test_run_json_says_whose_commit_it_is(tmp_path, monkeypatch):
    for commit_of in ({"of": "kanrun", "commit": "a"}, None):
        monkeypatch.setattr("kanrun.runs.folder.repository", lambda commit_of=commit_of: commit_of)
        path = RunFolder.create(tmp_path, Manifest("fit")).path
        assert record_of(path).get("git") == commit_of
