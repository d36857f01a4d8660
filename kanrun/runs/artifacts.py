"""Checkpoints and figures of a run as files.

A checkpoint is a safetensors file of arrays with a description in its header. Both are in one file,
so they always belong together. A SHA-256 checksum over both reveals damage, such as a flipped bit,
a truncated file or an exchanged array. The checksum does not protect against someone who edits the
file and computes the checksum again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kanrun.errors import MALFORMED, StorageFailed, UsageError
from kanrun.runs.files import (
    JSON_LIMIT,
    check_regular,
    file_name,
    json_as,
    plain,
    storing,
    write_atomic,
    write_json,
)
from kanrun.runs.records import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

#: Name of the description in the header of a checkpoint. A file without it is refused.
_KEY = "kanrun"
#: Name of the checksum in the header of a checkpoint. A file without it counts as corrupted.
_CHECKSUM = "sha256"
DOTS_PER_INCH = 200
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
    # The settings matter here, because matplotlib makes ticks and their labels only when it saves.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        if (engine := figure.get_layout_engine()) is not None:
            # The layout is computed once for all formats, since with an engine each saving draws
            # the figure twice. The resolution is set to that of the file first, because the size of
            # text, and with it the layout of long labels, depends on the resolution.
            figure.set_dpi(DOTS_PER_INCH)
            FigureCanvasAgg(figure)
            engine.execute(figure)
            figure.set_layout_engine(None)
        for kind in formats:
            buffer = io.BytesIO()
            options, metadata, key = _SAVING[kind]
            described = metadata | {key: str(figure.get_label())}
            figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=described, **options)
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
