"""Run folders: numbers that never repeat, processes that collide, places that cannot be written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from kanrun.errors import UsageError
from kanrun.runs import Manifest, RunFolder

ALLOCATE = """
import sys
from pathlib import Path
from kanrun.runs.folder import allocate
sys.stdin.readline()
for _ in range(25):
    print(allocate(Path(sys.argv[1]), "fit").name)
"""


def made(outputs, command="fit"):
    return RunFolder.create(outputs, Manifest(command)).path


def test_numbers_go_up_and_latest_follows(tmp_path):
    names = [made(tmp_path).name for _ in range(3)]
    assert names == ["v0001", "v0002", "v0003"]
    assert os.readlink(tmp_path / "fit" / "latest") == "v0003"
    assert made(tmp_path, "bench") == tmp_path / "bench" / "v0001"


def test_a_deleted_number_is_not_used_again(tmp_path):
    made(tmp_path)
    shutil.rmtree(made(tmp_path))
    assert made(tmp_path).name == "v0003"


def test_numbers_beyond_four_digits_count_as_numbers(tmp_path):
    (tmp_path / "fit" / "v9999").mkdir(parents=True)
    assert made(tmp_path).name == "v10000"
    assert made(tmp_path).name == "v10001"


def test_two_processes_never_share_a_folder(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ALLOCATE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    names = [name for child in children for name in child.communicate(timeout=120)[0].split()]
    assert len(names) == len(set(names)) == 50
    assert os.readlink(tmp_path / "fit" / "latest") == max(names) == "v0050"
    assert not list((tmp_path / "fit").glob(".*.tmp"))


def test_a_place_without_links_still_gives_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=OSError("no links here")))
    assert made(tmp_path).is_dir()
    assert not (tmp_path / "fit" / "latest").exists()


def test_outputs_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "outputs").write_text("not a folder")
    with pytest.raises(UsageError, match="cannot make a run folder"):
        made(tmp_path / "outputs")


def test_a_read_only_place_is_refused(tmp_path, monkeypatch):
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=denied))  # root may write anywhere
    with pytest.raises(UsageError, match="Permission denied; choose another place with --outputs"):
        made(tmp_path / "outputs")
