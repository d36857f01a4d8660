"""Tools for the files of a run: atomic writing, typed JSON, safe names, appended lines, and CSV.

CSV files hold text unchanged, even a formula that begins with a minus sign. Only line breaks become
blanks, so that every row is one line.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kanrun.errors import StorageFailed, UsageError

if TYPE_CHECKING:
    import pandas


T = TypeVar("T")
JSON_LIMIT = 64 * 2**20  # largest number of bytes of a JSON file that is read
#: Largest number of bytes of a table in the journal that is read.
TABLE_LIMIT = 4 * 2**30
#: Columns that identify the training run to which a row belongs.
MARKS = ("point", "cell", "seed")
Columns = Mapping[str, Any]  # arrays or sequences of equal lengths
Key = tuple[int, int, int]  # numbers of the point and the cell, and the seed
#: Pattern of numbers. `_FORMULA` is the pattern of text that a spreadsheet would run as a formula,
#: and `_MARKED` that of such text after apostrophes.
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"(?:[=@\t\r]|[+-](?!{_NUMBER}\Z|inf\Z|nan\Z))")
_MARKED = re.compile(rf"'+{_FORMULA.pattern}")


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert an OSError in the body to a StorageFailed that names `path` and the cause."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"cannot write {path}: {error.strerror or error or type(error).__name__}."
        ) from error


def write_atomic(path: Path, content: bytes | Iterable[bytes], durable: bool = False) -> None:
    """Write a file so that readers see either the old or the new content, even if kanrun is killed.

    Args:
        path: The file. It is replaced by renaming a temporary file.
        content: Bytes, or an iterable of blocks of bytes.
        durable: Whether to wait until the new file would survive a power cut.

    Raises:
        StorageFailed: If the file cannot be written. The old file is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storing(path):
        try:
            with open(temporary, "xb") as stream:
                for block in (content,) if isinstance(content, bytes) else content:
                    stream.write(block)
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
    """Flush a file, or the names in a folder, to disk, so that they survive a power cut.

    Nothing happens if the system cannot do this.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Make the folder `path` if it is missing, so that it survives a power cut, and return `path`.

    Raises StorageFailed if the folder cannot be made.
    """
    if not path.is_dir():
        with storing(path):
            path.mkdir(exist_ok=True)
        sync(path.parent)
    return path


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
    """Convert dataclasses, arrays, paths and other values to dicts, lists, text and numbers.

    Raises TypeError for a type that cannot be converted to JSON.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by path: {"model": {"degree": 3}} becomes {"model.degree": 3}."""
    flat = dict[str, Any]()
    for key, value in settings.items():
        path = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value
        flat |= flattened(value, f"{path}.") if nested else {path: value}
    return flat


def to_json(value: Any) -> bytes:
    """Return `value` as one line of JSON; numbers that are not finite become null.

    Raises TypeError for a type that cannot be converted to JSON.
    """
    return msgspec.json.encode(value, enc_hook=_plain)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write `value` as indented JSON; see `to_json` and `write_atomic`."""
    write_atomic(path, msgspec.json.format(to_json(value), indent=2) + b"\n", durable)


def read_json(path: Path, kind: type[T]) -> T:
    """Read the JSON file `path` as an object of the type `kind`, such as a dataclass.

    Keys that `kind` does not have are ignored. Raises StorageFailed if the file is missing, too
    large or not JSON, or if a value has another type; the message then names the key.
    """
    return json_as(read_bytes(path, JSON_LIMIT), kind, path)


def json_as(text: str | bytes, kind: type[T], path: Path) -> T:
    """Convert the JSON `text` to the type `kind`; `path` is for messages. Raises StorageFailed."""
    try:
        return msgspec.convert(json.loads(text), kind)
    except msgspec.ValidationError as error:
        raise StorageFailed(f"{path} does not hold what is expected: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageFailed(f"{path} is not valid JSON: {error}.") from error


def file_name(name: str, longest: int = 100) -> str:
    """Return a safe file name for `name`: `name` itself if it is safe and not too long.

    Otherwise, all characters except ASCII letters, digits and `_.=+,-` become `_`, and so does a
    leading dot or dash; the name is cut to `longest` characters, and a hash is appended. Different
    names give different file names, except for collisions of 32 bits of SHA-256.
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


class Appender:
    """A file to which whole lines are appended. It is opened when it is first used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _descriptor(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o666)

    def write(self, lines: bytes) -> None:
        """Append whole lines, unbuffered. Raises StorageFailed."""
        with storing(self.path):
            while lines:
                lines = lines[os.write(self._descriptor, lines) :]

    def size(self) -> int:
        """Return the size in bytes. Raises StorageFailed."""
        with storing(self.path):
            return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Flush all lines to disk, so that they survive a power cut. Raises StorageFailed."""
        with storing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file. The next write opens it again."""
        with storing(self.path):
            os.close(self._descriptor)
            del self._descriptor


def frame_of(columns: Mapping[str, Sequence[Any]]) -> pandas.DataFrame:
    """Convert columns to a DataFrame.

    Empty text becomes a missing value, as in CSV. A column without any value becomes NaN.
    """
    import pandas

    frame = {}
    for name, values in columns.items():
        known = [None if value == "" else value for value in values]
        frame[name] = (
            known if any(value is not None for value in known) else [math.nan] * len(known)
        )
    return pandas.DataFrame(frame)


def plain_value(value: Any) -> Any:
    """Convert a value to what tables store: a Python number, or text without line breaks."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str) and not value.isprintable():
        return " ".join(value.replace("\0", " ").splitlines())
    return value


def csv_lines(columns: Iterable[Sequence[Any]]) -> bytes:
    """Return columns as lines of CSV, encoded in UTF-8. Line breaks in text become blanks."""
    buffer = io.StringIO()
    # Most columns hold only numbers, which need no conversion.
    plain_columns = (
        column if {*map(type, column)} <= {int, float} else map(plain_value, column)
        for column in columns
    )
    csv.writer(buffer, lineterminator="\n").writerows(zip(*plain_columns, strict=True))
    return buffer.getvalue().encode("utf-8", "replace")


def as_text(value: Any) -> Any:
    """Return `value` so that spreadsheets show it as text instead of running it as a formula.

    An apostrophe is put before text that would run, and before such text that already begins with
    apostrophes. Removing one apostrophe restores the text. Other values are returned unchanged.
    """
    risky = isinstance(value, str) and (_FORMULA.match(value) or _MARKED.match(value))
    return f"'{value}" if risky else value


def formulas_in(values: Sequence[Any]) -> int:
    """Count the values that a spreadsheet would run as formulas."""
    return sum(isinstance(value, str) and bool(_FORMULA.match(value)) for value in values)
