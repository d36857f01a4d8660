"""Power cuts at any moment: unsynced writes are lost, and the remaining files can be read.

The program's writes, renames and syncs are recorded. All operations up to some moment are applied
to a model of a disk, on which a file keeps what was synced and a part of the rest, and a folder
keeps all of its entries, or only those that were synced.
"""

import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from run_files import numbers_of

import kanrun.runs.files
from kanrun.cli.app import main
from kanrun.runs import find_runs, reader

RUN = ("fit", "target=runge", "model=polynomial", "sampling.n_train=40", "-q")
SEEDS = (*RUN, "n_seeds=3")
POINTS = (*RUN, "n_seeds=2", "-m", "model.degree=3,5")


@dataclass
class File:
    data: bytes = b""
    synced: int = 0


@dataclass
class Folder:
    now: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)


class Disk:
    """A model of the files in a folder, changed by recorded operations."""

    def __init__(self, top):
        self.top, self.root = top, Folder()

    def _find(self, path):
        *parents, name = Path(path).relative_to(self.top).parts or ("",)
        place = self.root
        for parent in parents:
            place = place.now[parent]
        return place, name

    def apply(self, kind, path, more=None):
        place, name = self._find(path)
        if kind in ("mkdir", "create"):
            place.now.setdefault(name, Folder() if kind == "mkdir" else File())
        elif kind == "write":
            place.now[name].data += more
        elif kind == "sync":
            node = place.now.get(name) if name else self.root
            if isinstance(node, File):
                node.synced = len(node.data)
            else:
                node.synced = dict(node.now)
        elif kind == "rename" and name in place.now:  # links are not followed
            other, new = self._find(more)
            other.now[new] = place.now.pop(name)
        elif kind == "remove":
            place.now.pop(name, None)

    def write_to(self, place, entries, share):
        """Write the files that a power cut leaves, with or without unsynced entries and bytes."""

        def write(folder, at):
            at.mkdir(exist_ok=True)
            for name, node in (folder.now if entries else folder.synced).items():
                if isinstance(node, Folder):
                    write(node, at / name)
                else:
                    kept = node.synced + int(share() * (len(node.data) - node.synced))
                    (at / name).write_bytes(node.data[:kept])

        write(self.root, place)


def recorded(top, patch, body):
    """Run `body`, and return its operations on files below `top`."""
    operations = []
    paths = defaultdict(str)

    def note(kind, path, *more):
        if Path(path).is_relative_to(top):
            operations.append((kind, str(path), *more))

    def watch(name, tell):
        real = getattr(os, name)

        def call(*words, **options):
            result = real(*words, **options)
            if "dir_fd" not in options:
                tell(result, *words)
            return result

        patch.setattr(os, name, call)

    def opened(number, path, flags, *mode):
        paths[number] = str(path)
        if flags & os.O_CREAT:
            note("create", path)  # of a file that exists, without effect

    for name, tell in (
        ("open", opened),
        ("write", lambda count, number, data: note("write", paths[number], bytes(data)[:count])),
        ("fsync", lambda _, number: note("sync", paths[number])),
        ("mkdir", lambda _, path, *mode: note("mkdir", path)),
        ("unlink", lambda _, path: note("remove", path)),
        ("replace", lambda _, old, new: note("rename", old, str(new))),
        ("rename", lambda _, old, new: note("rename", old, str(new))),
    ):
        watch(name, tell)

    def opened_file(path, mode):
        return Unbuffered(path) if mode == "xb" else open(path, mode)

    patch.setattr(kanrun.runs.files, "open", opened_file, raising=False)
    body()
    patch.undo()
    return operations


class Unbuffered:
    """A replacement of `open(path, "xb")` that calls the recorded functions of `os`."""

    def __init__(self, path):
        self.number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.number)

    def write(self, data):
        os.write(self.number, data)

    def flush(self): ...

    def fileno(self):
        return self.number


def numbers(run):
    """Return the rows of all tables of a run and its points, without times, and their errors."""
    found = {}
    for part in dict.fromkeys((run, *run.points)):
        for name in part.tables:
            found[f"{part.name}/{name}"] = numbers_of(part.table(name)).splitlines()
        found[part.name] = [str(part.error)]
    return found


def check_left(outputs, whole):
    """Check that the runs left by a power cut can be read; return the status of the first one."""
    runs = find_runs(outputs) if outputs.exists() else []
    for run in runs:
        assert isinstance(run.config, dict)
        assert run.status != "UNREADABLE"
        for name in run.checkpoints:
            run.checkpoint(name)
        rows = numbers(run)
        if run.status == "COMPLETED":
            assert rows == whole
    return runs[0].status if runs else "not there"


def prefixes(top, operations, every):
    disk = Disk(top)
    for number, operation in enumerate(operations):
        disk.apply(*operation)
        if number % every == 0 or number == len(operations) - 1:
            yield number, disk


@pytest.mark.parametrize(
    "words, every, again",
    [
        pytest.param(POINTS, 90, 12, id="points"),
        pytest.param(SEEDS, 1, 50, id="seeds, everywhere", marks=pytest.mark.slow),
        pytest.param(POINTS, 1, 50, id="points, everywhere", marks=pytest.mark.slow),
    ],
)
def test_runs_can_be_read_and_resumed_after_a_power_cut(tmp_path, monkeypatch, words, every, again):
    top = tmp_path / "top"
    top.mkdir()
    command = [*words, "--outputs", str(top / "outputs")]
    operations = recorded(top, monkeypatch, lambda: main(command))
    monkeypatch.setattr(reader, "is_alive", lambda *_: False)  # no process survives a power cut
    whole = numbers(find_runs(top / "outputs")[0])
    rng = random.Random(0)
    found = []
    shares = {"nothing unsynced": lambda: 0.0, "part": rng.random, "all of it": lambda: 1.0}
    for number, disk in prefixes(top, operations, every):
        for entries, (name, share) in product((True, False), shares.items()):
            left = tmp_path / f"{number}-{entries}-{name}"
            disk.write_to(left, entries, share)
            found.append(check_left(left / "outputs", whole))
            if found[-1] not in ("not there", "COMPLETED") and len(found) % again == 1:
                (run,) = find_runs(left / "outputs")
                assert main(["runs", "resume", str(run.path), "-q"]) == 0
                assert check_left(left / "outputs", whole) == "COMPLETED"
    assert "COMPLETED" in found
