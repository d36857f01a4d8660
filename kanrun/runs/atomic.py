"""Files that are either whole or absent, whatever kills the process in between."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kanrun.errors import StorageFailed

JSON_LIMIT = 64 * 2**20
_numbers = itertools.count()


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence that names the file and the cause."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error) or type(error).__name__
        raise StorageFailed(f"cannot write {path}: {cause}.") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: temporary file beside it, fsync, rename, fsync of the folder.

    Raises StorageFailed; the old file is then still there, unharmed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    with storing(path):
        try:
            with open(temporary, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system lets folders be synced."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Delete what a killed `write_atomic` left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def to_json(value: Any) -> str:
    """Return `value` as indented JSON; numpy scalars and arrays become plain numbers and lists."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def read_json(path: Path) -> Any:
    """Return what the JSON file holds; StorageFailed if it is missing, too large, or not JSON."""
    return json_from(read_bytes(path, JSON_LIMIT), path)


def json_from(text: str | bytes, path: Path) -> Any:
    """Return the parsed `text` that came from `path`; StorageFailed if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StorageFailed(f"{path} is not valid JSON: {error}.") from error


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes, else raise StorageFailed."""
    try:
        if path.is_symlink() or not path.is_file():
            raise StorageFailed(f"{path} is missing or not a regular file.")
        size = path.stat().st_size
        if size > limit:
            raise StorageFailed(f"{path} has {size} bytes, more than the {limit} that are read.")
        return path.read_bytes()
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror or error}.") from error


def _plain(value: Any) -> Any:
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset, range)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
