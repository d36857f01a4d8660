"""Checkpoints: arrays as safetensors with their description inside, and the description as JSON beside.

The description that is read back is the one in the header of the safetensors file, so that arrays and
description are written in one rename and always belong together; the JSON file is for people and scripts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kanrun.errors import StorageFailed
from kanrun.runs.atomic import JSON_LIMIT, json_from, to_json, write_atomic
from kanrun.runs.names import file_name
from kanrun.runs.records import Checkpoint

_KEY = "kanrun"
_KINDS = "biuf"  # what both numpy and safetensors have, without objects and text


def checkpoint_path(folder: Path, name: str) -> Path:
    """Return `folder/<name>.safetensors`; the description lies beside it with the suffix `.json`."""
    return folder / f"{file_name(name)}.safetensors"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Store `checkpoint` in `folder`, replacing one of the same name.

    Raises ValueError for an array that holds no plain numbers or a description that JSON cannot hold,
    StorageFailed if it cannot be written.
    """
    import safetensors.numpy

    arrays = {}
    for key, value in checkpoint.arrays.items():
        array = np.asarray(value, order="C")
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"array {key!r} of checkpoint {checkpoint.name!r} has the type {array.dtype}")
        arrays[key] = array
    try:
        description = {"name": checkpoint.name, "meta": checkpoint.meta}
        text = to_json(description)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the meta of checkpoint {checkpoint.name!r} cannot be written as JSON: {error}") from error
    path = checkpoint_path(folder, checkpoint.name)
    content = safetensors.numpy.save(arrays, metadata={_KEY: json.dumps(json.loads(text))})
    write_atomic(path, content)
    write_atomic(path.with_suffix(".json"), text.encode() + b"\n")


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint stored in the safetensors file `path`.

    Raises StorageFailed if it is missing or damaged; nothing in the file is ever run.
    """
    import safetensors

    if path.is_symlink() or not path.is_file():
        raise StorageFailed(f"{path} is missing or not a regular file.")
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            text = (stored.metadata() or {}).get(_KEY, "{}")
            arrays = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, TypeError, AttributeError, ValueError) as error:
        raise StorageFailed(f"{path} is not a readable safetensors file: {error}.") from error
    if len(text) > JSON_LIMIT:
        raise StorageFailed(f"the description inside {path} has more than {JSON_LIMIT} bytes.")
    description = json_from(text, path)
    description = description if isinstance(description, dict) else {}
    meta, name = description.get("meta"), description.get("name")
    return Checkpoint(name if isinstance(name, str) else path.stem, arrays, meta if isinstance(meta, dict) else {})
