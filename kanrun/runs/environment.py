"""Environment of a run: versions, repository, host and process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kanrun.config.plugins import RECORDED, loaded_plugins

_PACKAGES = (
    "kanrun",
    "torch",
    "numpy",
    "scipy",
    "sympy",
    "pandas",
    "matplotlib",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "distributed",
)
#: Folder of kanrun's source, its parts that make numbers, and the kinds of their files.
_SOURCE = Path(__file__).parents[2]
_CODE = ("kanrun", "experiments", "conf")
_SUFFIXES = {".py", ".yaml", ".csv"}
#: Pids are below this; seconds that a git command may take; places of the start time in
#: /proc/PID/stat behind the name.
MAX_PID, GIT_SECONDS, START_FIELD = 2**31, 5, 19


def now() -> datetime:
    """Return the present time in UTC, to the millisecond."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def versions() -> dict[str, str]:
    """Return the versions of Python, platform, plug-ins, and packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {RECORDED + module: origin for module, origin in loaded_plugins().items()}


def repository(source: Path = _SOURCE, working: Path | None = None) -> dict[str, Any] | None:
    """Return the commit from which a run can be repeated, or None without one.

    It is `{"of": "kanrun", "commit": ..., "dirty": ...}` if kanrun's own `source` is a git
    checkout; `dirty` means that its code or configuration differ from the commit. Otherwise it is
    `{"of": "working directory", "commit": ...}` if that lies in a repository.
    """
    if (source / ".git").exists():
        commit = _git(source, "rev-parse", "HEAD")
        return {"of": "kanrun", "commit": commit, "dirty": _differs(source)} if commit else None
    commit = _git(working or Path.cwd(), "rev-parse", "HEAD")
    return {"of": "working directory", "commit": commit} if commit else None


def _differs(source: Path) -> bool | None:
    """Return whether code or configuration in `source` differ from HEAD; None if unknown.

    `git status` would run the filters that a repository's own settings name.
    """
    listed = _git(source, "ls-tree", "-r", "-z", "HEAD", "--", *_CODE)
    paths = (path for folder in _CODE for path in (source / folder).rglob("*"))
    names = [path.relative_to(source).as_posix() for path in paths if path.suffix in _SUFFIXES]
    blobs = _git(source, "hash-object", "--no-filters", "--", *names)
    if listed is None or blobs is None:
        return None
    entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
    committed = {name: kind.split()[2] for kind, _, name in entries}
    code = {name: blob for name, blob in committed.items() if Path(name).suffix in _SUFFIXES}
    return code != dict(zip(names, blobs.split(), strict=True))


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command that only reads objects, or None.

    Other commands start programs, such as filters, that a repository's own settings name, and a
    folder from elsewhere may be a repository.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def process_start(pid: int) -> str | None:
    """Return a mark of when process `pid` started, if the system has one (Linux), else None.

    Pids are used again; pairs of a pid and this mark are not.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = line.rpartition(")")[2].split()  # the command's name may hold blanks and brackets
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{fields[START_FIELD]}"
    except (OSError, IndexError):
        return None


def process() -> dict[str, Any]:
    """Return the manifest's fields `host`, `pid` and `process_start` for this process."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
    }


def is_alive(pid: int | None, start: str | None) -> bool:
    """Return whether the process `pid` of this host that started at the mark `start` exists."""
    if pid is None or not 0 < pid < MAX_PID:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and is someone else's
    current = process_start(pid)
    return start is None or current is None or start == current
