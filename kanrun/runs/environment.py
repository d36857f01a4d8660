"""Where a run happens: versions, repository, host and process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def now() -> str:
    """Return the present time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Return the versions of python, the platform, and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def repository(folder: Path) -> dict[str, Any] | None:
    """Return `{"commit": ..., "dirty": ...}` of the git repository around `folder`, or None without one.

    `dirty` means that tracked files differ from the commit.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # A repository's own settings must not start programs, hence no fsmonitor.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def host() -> str:
    return socket.gethostname()


def process_start(pid: int) -> str | None:
    """Return a mark of when process `pid` started, where the system tells (Linux), else None.

    Together with the pid it names a process for good: pids are used again, pairs of both are not.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = line.rpartition(")")[2].split()  # the command's name may hold blanks and brackets
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{fields[19]}"
    except (OSError, IndexError):
        return None


def process() -> dict[str, Any]:
    """Return the manifest's fields `host`, `pid` and `process_start` for this process."""
    return {"host": host(), "pid": os.getpid(), "process_start": process_start(os.getpid())}


def is_alive(pid: int | None, start: str | None) -> bool:
    """Return whether the process of this host that has `pid`, started at the mark `start`, still exists.

    True where the system does not tell (not POSIX): there, a run counts as going on.
    """
    if os.name != "posix":
        return True
    if pid is None or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists, and is someone else's
    current = process_start(pid)
    return start is None or current is None or start == current
