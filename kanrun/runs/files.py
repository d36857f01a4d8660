"""Files of a run: whole or absent ones, JSON with types, safe names, lines, and CSV.

CSV holds text as it is, such as a formula that begins with a minus sign, but for line breaks, which
become blanks: every row is one line.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kanrun.errors import StorageFailed, UsageError

if TYPE_CHECKING:
    import pandas


T = TypeVar("T")
JSON_LIMIT = 64 * 2**20  # bytes of a JSON file that are read
#: Bytes of a table from which on it is not read.
TABLE_LIMIT = 4 * 2**30
#: Columns that say which training a row belongs to.
MARKS = ("point", "cell", "seed")
Columns = Mapping[str, Any]  # arrays or sequences of equal lengths
Key = tuple[int, int, int]  # numbers of the point and the cell, and the seed
#: Text that a spreadsheet would run as a formula, and such text behind apostrophes.
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"(?:[=@\t\r]|[+-](?!{_NUMBER}\Z|inf\Z|nan\Z))")
_MARKED = re.compile(rf"'+{_FORMULA.pattern}")


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


def make_folder(path: Path) -> Path:
    """Make a folder that survives a power cut, if it is not there. Raises StorageFailed."""
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
    """Return a dataclass, numbers, arrays, paths, ... as dicts, lists, text and numbers.

    Raises TypeError for a type that JSON does not have.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their path: {"model": {"degree": 3}} is {"model.degree": 3}."""
    flat = dict[str, Any]()
    for key, value in settings.items():
        path = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value
        flat |= flattened(value, f"{path}.") if nested else {path: value}
    return flat


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


class Appender:
    """A file that grows by whole lines, opened at the first of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def write(self, lines: bytes) -> None:
        """Append whole lines; on return the operating system has them. Raises StorageFailed."""
        descriptor = self._opened()
        left = memoryview(lines)
        with storing(self.path):
            while left:
                left = left[os.write(descriptor, left) :]

    def size(self) -> int:
        """Return the size in bytes. Raises StorageFailed."""
        descriptor = self._opened()
        with storing(self.path):
            return os.fstat(descriptor).st_size

    def sync(self) -> None:
        """Make the lines written so far survive a power cut. Raises StorageFailed."""
        if self._descriptor is not None:
            with storing(self.path):
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; the next writing opens it again."""
        if self._descriptor is not None:
            descriptor = self._descriptor
            self._descriptor = None
            with storing(self.path):
                os.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with storing(self.path):
                self._descriptor = os.open(self.path, flags, 0o666)
        return self._descriptor


def frame_of(columns: Mapping[str, Sequence[Any]]) -> pandas.DataFrame:
    """Return columns as a DataFrame.

    Empty text is a missing value, as in CSV; a column without any value holds missing numbers.
    """
    import pandas

    known = {
        name: [None if one == "" else one for one in each] if "" in each else each
        for name, each in columns.items()
    }
    numbers = {
        name: [math.nan] * len(each) if all(one is None for one in each) else each
        for name, each in known.items()
    }
    return pandas.DataFrame(numbers)


def plain_value(value: Any) -> Any:
    """Return a value as tables hold it: numbers of Python, text of one line."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str):
        return value if value.isprintable() else " ".join(value.replace("\0", " ").splitlines())
    return value


def csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8", "replace")


def as_text(value: Any) -> Any:
    """Return text so that spreadsheets show it; without one apostrophe it is `value` again."""
    risky = isinstance(value, str) and (_FORMULA.match(value) or _MARKED.match(value))
    return f"'{value}" if risky else value


def formulas_in(values: Sequence[Any]) -> int:
    """Count the values that a spreadsheet would run."""
    return sum(isinstance(value, str) and bool(_FORMULA.match(value)) for value in values)
