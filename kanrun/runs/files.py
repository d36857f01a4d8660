"""Files that are whole or absent, JSON with types, and safe file names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kanrun.errors import StorageFailed, UsageError

T = TypeVar("T")
JSON_LIMIT = 64 * 2**20  # bytes of a JSON file that are read


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise an OSError of the body as StorageFailed, which names the file and the cause."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"cannot write {path}: {error.strerror or error or type(error).__name__}."
        ) from error


def write_atomic(path: Path, content: bytes | Iterable[bytes], durable: bool = False) -> None:
    """Replace `path` in one rename: readers see the old file or the new one, whatever kills kanrun.

    `content` may come in parts. `durable` waits until the new file would survive a power cut.
    Raises StorageFailed; the old file is then unharmed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storing(path):
        try:
            with open(temporary, "xb") as stream:
                for part in (content,) if isinstance(content, bytes) else content:
                    stream.write(part)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            sync(path.parent)


def write_named_file(file: Path, content: bytes) -> None:
    """Write a file that the user named, atomically. Raises UsageError if that fails."""
    if file.is_dir():
        raise UsageError(f"cannot write {file}: it is a directory; choose another file.")
    try:
        write_atomic(file, content)
    except StorageFailed as error:
        raise UsageError(f"{str(error).rstrip('.')}; choose another file.") from error


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut, if the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_regular(path: Path, limit: float = math.inf) -> None:
    """Raise StorageFailed unless `path` is a regular file, not a link, of at most `limit` bytes."""
    if path.is_symlink() or not path.is_file():
        raise StorageFailed(f"{path} is missing or not a regular file.")
    if (size := path.stat().st_size) > limit:
        raise StorageFailed(f"{path} has {size} bytes, more than the {limit} that are read.")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises StorageFailed."""
    try:
        check_regular(path, limit)
        return path.read_bytes()
    except OSError as error:
        raise StorageFailed(f"cannot read {path}: {error.strerror or error}.") from error


def plain(value: Any) -> Any:
    """Return a dataclass, numbers, arrays, paths, ... as dicts, lists, text and numbers.

    Raises TypeError for a type that JSON does not have.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def to_json(value: Any) -> bytes:
    """Return `value` as one line of JSON; numbers that are not finite become null.

    Raises TypeError as `plain` does.
    """
    return msgspec.json.encode(value, enc_hook=_plain)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write `value` as indented JSON, as `to_json`. Raises StorageFailed."""
    write_atomic(path, msgspec.json.format(to_json(value), indent=2) + b"\n", durable)


def read_json(path: Path, kind: type[T]) -> T:
    """Return the JSON file `path` as a `kind`, such as a dataclass, without keys that it lacks.

    Raises StorageFailed if the file is missing, too large or not JSON, and, naming the key, for a
    value of another type.
    """
    return json_as(read_bytes(path, JSON_LIMIT), kind, path)


def json_as(text: str | bytes, kind: type[T], path: Path) -> T:
    """Return the JSON `text` of the file `path` as a `kind`. Raises StorageFailed."""
    try:
        return msgspec.convert(json.loads(text), kind)
    except msgspec.ValidationError as error:
        raise StorageFailed(f"{path} does not hold what is expected: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageFailed(f"{path} is not valid JSON: {error}.") from error


def file_name(name: str, longest: int = 100) -> str:
    """Return `name` as a plain file name: itself if it is safe, else cleaned, cut and hashed.

    ASCII letters, digits and `_.=+,-` are kept; all else, and a leading dot or dash, becomes `_`.
    Different names give different files, up to a collision of 32 bits of SHA-256.
    """
    cleaned = re.sub(r"[^\w.=+,-]", "_", name, flags=re.ASCII)[:longest]
    if cleaned[:1] in {".", "-"}:
        cleaned = "_" + cleaned[1:]
    if cleaned and cleaned == name:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cleaned or 'unnamed'}-{mark}"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, range):
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
