"""Model in integers (below), as the C file next to this one computes it; NumPy is all it needs.

    codes(MODEL, x)           inputs (rows, inputs) in the units of the data as integer codes
    evaluate(MODEL, codes)    integer outputs (rows, outputs), equal to those of C in every bit
    values(MODEL, y)          integer outputs in the units of the data; of a classifier, the scores
                              of MODEL["classes"], whose largest is the class
    predict(x)                all three

Run as a script, this file is the test bench: it compiles the C file by `cc` (or the compiler named
by CC), compares both on 100,000 points, and exits with 1 if a bit differs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Data = dict[str, Any]

POINTS = 100_000
"""Random points of the comparison; 1,000 are the ends of codes, and codes that are too large."""


def codes(model: Data, x: Any) -> Array:
    """Return the codes (rows, inputs): the domain in 2^input_bits - 1 equal steps."""
    low, high = np.transpose(model["domain"])
    steps = 2 ** model["input_bits"] - 1
    width = np.where(high > low, high - low, 1.0)
    place = (np.asarray(x, dtype=np.float64) - low) / width
    found: Array = np.rint(np.clip(place, 0, 1) * steps).astype(np.int64)
    return found


def evaluate(model: Data, x: Any) -> Array:
    """Return the integer outputs (rows, outputs) for codes (rows, inputs)."""
    tables = [np.array(table, dtype=np.int64) for table in model["tables"]]
    x = np.clip(np.asarray(x, dtype=np.int64), 0, 2 ** model["input_bits"] - 1)
    for layer in model["layers"]:
        sums = np.zeros((len(x), layer["sums"]), dtype=np.int64)
        bits = layer["fraction_bits"]  # the lowest bits interpolate between two entries
        for edge in layer["edges"]:
            table, code = tables[edge["table"]], x[:, edge["from"]]
            at, part = code >> bits, code & ((1 << bits) - 1)
            sums[:, edge["to"]] += table[at] << bits
            if bits:
                sums[:, edge["to"]] += (table[at + 1] - table[at]) * part
        plain = layer["sums"] - len(layer["zeros"])
        factors = sums[:, plain:] + np.array(layer["zeros"], dtype=np.int64)
        nodes = np.concatenate([sums[:, :plain], factors[:, ::2] * factors[:, 1::2]], 1)
        x = (nodes + np.array(layer["starts"])) >> np.array(layer["shifts"])
    outputs: Array = x
    return outputs


def values(model: Data, y: Any) -> Array:
    """Return integer outputs in the units of the data."""
    return np.asarray(np.ldexp(np.asarray(y, dtype=np.float64), -np.array(model["places"])))


def compiled(model: Data, source: Path, folder: str) -> Any:
    """Return the C function, which maps codes (rows, inputs) to integer outputs."""
    library = Path(folder) / "model.so"
    compiler = os.environ.get("CC", "cc")
    flags = ["-std=c99", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    function = getattr(ctypes.CDLL(str(library)), f"{model['name']}_evaluate")
    function.restype = None

    def run(x: Array) -> Array:
        x = np.ascontiguousarray(x, dtype=np.uint32)
        y = np.empty((len(x), len(model["places"])), dtype=f"int{model['result_bits']}")
        for row, into in zip(x, y, strict=True):
            function(ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(into.ctypes.data))
        return y

    return run


def main(model: Data, source: Path) -> int:
    """Compare the C file with `evaluate`; return the exit code, 1 if a point differs."""
    ends = [0, 1, 2 ** model["input_bits"] - 1, 2**32 - 1]
    random = np.random.default_rng(0)
    x = random.integers(0, 2 ** model["input_bits"], (POINTS, len(model["domain"])))
    x[:1000] = random.choice(ends, x[:1000].shape)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = compiled(model, source, folder)(x)
    except FileNotFoundError as error:
        print(f"{error.filename} is missing; name a C compiler by CC", file=sys.stderr)
        return 2
    wrong = np.any(found != evaluate(model, x), axis=1).sum()
    print(f"{source.name}: {wrong} of {POINTS} points differ from the reference")
    return int(wrong > 0)
