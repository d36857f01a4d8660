"""The commit that a run records."""

from processes import run
from run_files import record_of

from kanrun.runs import Manifest, RunFolder
from kanrun.runs.folder import repository


def commit(place):
    """Commit a file of a package in a new repository, and return the commit."""

    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return run(command, cwd=place).stdout.strip()

    (place / "kanrun").mkdir(parents=True)
    (place / "kanrun" / "a.py").write_text("one")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return git("rev-parse", "HEAD")


def test_checkout_reports_its_own_commit(tmp_path):
    at = commit(tmp_path / "source")
    assert repository(tmp_path / "source", tmp_path) == {"of": "kanrun", "commit": at}


def test_installed_package_reports_the_commit_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    work = tmp_path / "work"
    work.mkdir()
    assert repository(tmp_path / "site-packages", work) is None
    at = commit(work)
    assert repository(tmp_path / "site-packages", work) == {"of": "working directory", "commit": at}
    (work / "site-packages").mkdir()  # a package inside someone's repository is not that repository
    assert repository(work / "site-packages", work) == {"of": "working directory", "commit": at}


def test_run_json_says_whose_commit_it_is(tmp_path, monkeypatch):
    for commit_of in ({"of": "kanrun", "commit": "a"}, None):
        monkeypatch.setattr("kanrun.runs.folder.repository", lambda commit_of=commit_of: commit_of)
        path = RunFolder.create(tmp_path, Manifest("fit")).path
        assert record_of(path).get("git") == commit_of
