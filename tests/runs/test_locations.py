"""Locations of runs: unique numbers, one process per run, and folders that cannot be written."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from cases import refuses

from kanrun.errors import StorageFailed
from kanrun.runs import Manifest, Run, RunFolder, Status

#: Programs that wait for a line on standard input; their argument is a folder.
ALLOCATE = """
import sys
from pathlib import Path
from kanrun.runs.folder import allocate
sys.stdin.readline()
for _ in range(25):
    print(allocate(Path(sys.argv[1]), "fit", lambda _: None).name)
"""
GO_ON = """
import sys
from pathlib import Path
from kanrun.errors import UsageError
from kanrun.runs import RunFolder
sys.stdin.readline()
try:
    folder = RunFolder.reopen(Path(sys.argv[1]))
    print("in", flush=True)
    sys.stdin.readline()
except UsageError as error:
    print(error, flush=True)
"""


def started(count, code, folder):
    """Start processes that run a program, and let them go at the same time."""
    command = [sys.executable, "-c", code, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    return children


def made(outputs, command="fit"):
    return RunFolder.create(outputs, Manifest(command)).path


def test_numbers_go_up_and_are_never_used_again(tmp_path):
    names = [made(tmp_path).name for _ in range(3)]
    assert names == ["v0001", "v0002", "v0003"]
    assert os.readlink(tmp_path / "fit" / "latest") == "v0003"
    assert made(tmp_path, "curves") == tmp_path / "curves" / "v0001"
    shutil.rmtree(tmp_path / "fit" / "v0003")
    assert made(tmp_path).name == "v0004"
    (tmp_path / "fit" / "v9999").mkdir()
    assert [made(tmp_path).name for _ in range(2)] == ["v10000", "v10001"]


def test_two_processes_never_share_a_folder(tmp_path):
    children = started(2, ALLOCATE, tmp_path)
    names = [name for child in children for name in child.communicate(timeout=120)[0].split()]
    assert len(names) == len(set(names)) == 50
    assert os.readlink(tmp_path / "fit" / "latest") == max(names) == "v0050"
    assert not list((tmp_path / "fit").glob(".*.tmp"))


def test_a_place_without_links_still_gives_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=OSError("no links here")))
    assert made(tmp_path).is_dir()
    assert not (tmp_path / "fit" / "latest").exists()


def test_outputs_that_cannot_be_written_are_refused(tmp_path, monkeypatch):
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=denied))  # root can write anywhere
    with refuses("cannot make a run folder ... denied; choose another place with --outputs"):
        made(tmp_path / "other")


def ended(outputs):
    folder = RunFolder.create(outputs, Manifest("fit"))
    folder.finish(Status.INTERRUPTED)
    return folder.path


def test_only_one_process_can_resume_a_run(tmp_path):
    path = ended(tmp_path)
    children = started(4, GO_ON, path)
    said = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("end\n", timeout=120)
    said.remove("in")
    assert len(said) == 3
    running = rf"{path} is still running( \(process \d+\))?\. Wait, or stop it first\."
    assert all(re.fullmatch(running, sentence) for sentence in said)
    assert len(Run(path).manifest.resumed) == 1


def test_run_cannot_be_resumed_between_its_lock_and_run_json(tmp_path, monkeypatch):
    """At this moment, run.json does not yet name a process."""
    path = ended(tmp_path)
    save = RunFolder._save
    tried = Mock()

    def meanwhile(self, **changes):
        tried()
        with refuses("still running"):
            RunFolder.reopen(path)
        save(self, **changes)

    monkeypatch.setattr(RunFolder, "_save", meanwhile)
    RunFolder.reopen(path)
    tried.assert_called_once()


@pytest.mark.parametrize("locks", [True, False])
def test_running_run_cannot_be_resumed_until_it_ends(tmp_path, monkeypatch, locks):
    """Where locks do not work, run.json shows that it is running."""
    if not locks:
        no_locks = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        monkeypatch.setattr("fcntl.flock", Mock(side_effect=no_locks))
    folder = RunFolder.create(tmp_path, Manifest("fit"))
    for force in (False, True):
        with refuses("still running"):
            RunFolder.reopen(folder.path, force=force)
    folder.finish(Status.FAILED)
    RunFolder.reopen(folder.path).finish(Status.COMPLETED)
    RunFolder.reopen(folder.path)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    path = ended(tmp_path)
    (path / ".lock").unlink()
    (path / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(StorageFailed, match="cannot write"):
        RunFolder.reopen(path)
    assert not (tmp_path / "other").exists()
