"""The files of a run: atomic writing, typed JSON, safe names, CSV, checkpoints and figures.

CSV files hold text unchanged, even a formula that begins with a minus sign. Only line breaks become
blanks, so that every row is one line.

A checkpoint is a safetensors file of arrays with a description in its header. Both are in one file,
so they always belong together. A SHA-256 checksum over both reveals damage, such as a flipped bit,
a truncated file or an exchanged array. The checksum does not protect against someone who edits the
file and computes the checksum again.
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
from dataclasses import dataclass, field
from functools import cached_property
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from kanrun.errors import MALFORMED, StorageFailed, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Checkpoint:
    """Arrays and a description (`meta`), stored in `checkpoints/<name>.safetensors`.

    `meta` must be convertible to JSON.
    """

    name: str
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any] = field(default_factory=dict)


#: Name of the description in the header of a checkpoint. A file without it is refused.
_KEY = "kanrun"
#: Name of the checksum in the header of a checkpoint. A file without it counts as corrupted.
_CHECKSUM = "sha256"
#: For each format: options of saving, metadata, and the metadata key of the caption. Dates are
#: removed because they would make the bytes differ each time. PNG's compression level 3 takes a
#: third of the default's time, for files that are 15% larger.
_SAVING: dict[str, tuple[dict[str, Any], dict[str, None], str]] = {
    "png": ({"pil_kwargs": {"compress_level": 3}}, {}, "Description"),
    "svg": ({}, {"Date": None}, "Description"),
    "pdf": ({}, {"CreationDate": None}, "Subject"),
}
FIGURE_FORMATS = tuple(_SAVING)
#: Settings of matplotlib while a figure is saved; all other settings have their default values.
_SETTINGS: Any = {
    "svg.hashsalt": "kanrun",
    "svg.fonttype": "path",
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
}


@dataclass(frozen=True)
class _Description:
    name: str
    meta: dict[str, Any]


def checkpoint_path(folder: Path, name: str) -> Path:
    """Return `folder/<name>.safetensors`."""
    return folder / f"{file_name(name)}.safetensors"


class SealedCheckpoint(NamedTuple):
    """The content of a checkpoint's file, its checksum, and its description as JSON."""

    checksum: str
    content: bytes
    description: str


def seal(checkpoint: Checkpoint) -> SealedCheckpoint:
    """Convert `checkpoint` to the content of its file, with a checksum.

    Raises ValueError if an array holds anything but numbers and booleans, or if the description
    cannot be written as JSON.
    """
    import numpy as np
    import safetensors.numpy

    arrays = {key: np.asarray(value, order="C") for key, value in checkpoint.arrays.items()}
    for key, array in arrays.items():
        # Booleans, integers and floating-point numbers: what numpy and safetensors both support.
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"array {key!r} of checkpoint {checkpoint.name!r} has the type {array.dtype}"
            )
    try:
        text = json.dumps(plain({"name": checkpoint.name, "meta": checkpoint.meta}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the meta of checkpoint {checkpoint.name!r} cannot be written as JSON: {error}"
        ) from error
    checksum = _checksum(arrays, text)
    header = {_KEY: text, _CHECKSUM: checksum}
    return SealedCheckpoint(checksum, safetensors.numpy.save(arrays, metadata=header), text)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` as the safetensors file `path`, with its description in JSON beside it.

    Raises ValueError if the checkpoint cannot be stored (see `seal`), and StorageFailed if the
    files cannot be written.
    """
    sealed = seal(checkpoint)
    write_atomic(path, sealed.content, durable=True)
    write_json(path.with_suffix(".json"), json.loads(sealed.description))


def read_checkpoint(path: Path, checksum: str | None = None) -> Checkpoint:
    """Return the checkpoint stored in the safetensors file `path`.

    Nothing in the file is executed. Raises StorageFailed if the file is missing or damaged, or if
    its checksum is not `checksum` (if given).
    """
    import safetensors

    check_regular(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            header = stored.metadata() or {}
            arrays = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, *MALFORMED) as error:
        raise StorageFailed(f"{path} is not a readable safetensors file: {error}.") from error
    if _KEY not in header:
        raise StorageFailed(
            f"{path} has no description of kanrun: it is damaged or was written by another program."
        )
    text = header[_KEY]
    if len(text) > JSON_LIMIT:
        raise StorageFailed(f"the description inside {path} has more than {JSON_LIMIT} bytes.")
    described = json_as(text, _Description, path)
    if header.get(_CHECKSUM) != _checksum(arrays, text):
        raise StorageFailed(
            f"{path} is corrupted (checksum mismatch). Restore it from a copy, or rerun "
            "the training."
        )
    if checksum not in (None, header[_CHECKSUM]):
        raise StorageFailed(
            f"{path} is not the checkpoint that its run wrote; run.json has another checksum."
        )
    return Checkpoint(described.name, arrays, described.meta)


def checksum_of(path: Path) -> str | None:
    """Return the checksum in the header of a checkpoint, or None if the header cannot be read."""
    import safetensors

    with (
        contextlib.suppress(OSError, safetensors.SafetensorError),
        safetensors.safe_open(path, "numpy") as stored,
    ):
        checksum: str | None = (stored.metadata() or {}).get(_CHECKSUM)
        return checksum
    return None


def checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of each readable checkpoint in `folder`, by name."""
    paths = sorted(folder.glob("*.safetensors"))
    return {path.stem: checksum for path in paths if (checksum := checksum_of(path))}


def _checksum(arrays: Mapping[str, np.ndarray], description: str) -> str:
    """Return the SHA-256 of the description and of each array's name, type, shape and bytes."""
    import numpy as np

    digest = hashlib.sha256(description.encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(json.dumps([key, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_figure(stem: Path, figure: Figure, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write `figure` to one file per format, such as `stem`.png, and return the paths.

    Each file is written atomically. The figure's label is stored as its caption. The layout engine
    is run once and removed from the figure. The bytes depend only on what is drawn, not on the time
    or the user's matplotlib settings.

    Raises:
        UsageError: If a format is not in `FIGURE_FORMATS`.
        StorageFailed: If a file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if unknown := set(formats).difference(FIGURE_FORMATS):
        raise UsageError(
            f"{unknown.pop()} is not a figure format. Choose from {', '.join(FIGURE_FORMATS)}."
        )
    with storing(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    dots_per_inch = 200
    # The settings matter here, because matplotlib makes ticks and their labels only when it saves.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        if (engine := figure.get_layout_engine()) is not None:
            # The layout is computed once for all formats, since with an engine each saving draws
            # the figure twice. The resolution is set to that of the file first, because the size of
            # text, and with it the layout of long labels, depends on the resolution.
            figure.set_dpi(dots_per_inch)
            FigureCanvasAgg(figure)
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in formats:
            buffer = io.BytesIO()
            options, metadata, key = _SAVING[kind]
            described = metadata | {key: str(figure.get_label())}
            figure.savefig(buffer, format=kind, dpi=dots_per_inch, metadata=described, **options)
            written.append(stem.parent / f"{stem.name}.{kind}")
            write_atomic(written[-1], buffer.getvalue())
    return written


def read_caption(path: Path) -> str:
    """Return the caption in the metadata of a .png or .svg file, or "" if it has none."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        described = re.search(rb"<dc:description>(.*?)</dc:description>", data, re.DOTALL)
        return unescape(described[1].decode(errors="replace")) if described else ""
    if (chunk := re.search(rb"(.{4})tEXt(Description\0)", data, re.DOTALL)) is None:
        return ""
    start = chunk.start(2)
    length = int.from_bytes(chunk[1], "big")
    return data[chunk.end() : start + length].decode("latin-1")
