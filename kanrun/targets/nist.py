"""NIST's nonlinear regression sets (Statistical Reference Datasets) from its data files.

A file holds its model as text, two starts, the certified parameters and residual sum of squares, and the data.
https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sympy

from kanrun.config import NistTarget
from kanrun.errors import UsageError
from kanrun.formulas.parsing import parse_expression
from kanrun.suggestions import near
from kanrun.targets.data import Array, Points, Target

_LINES = re.compile(r"(Certified Values|Data)\s+\(lines\s+(\d+)\s+to\s+(\d+)\)")
_MODEL = re.compile(r"^ +(?P<left>log\[y\]|y) *=(?P<right>[^=]*?)\+ *e *$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?")


@dataclass(frozen=True)
class NistSet:
    """x (N, d) and y (N,), of which the logarithm is taken where the model is one of it; `model` in x0, ... and
    `parameters`; `starts` (2, p), `certified` (p,) and the certified residual `sum_of_squares`."""

    name: str
    x: Array
    y: Array
    model: sympy.Expr
    parameters: tuple[str, ...]
    starts: Array
    certified: Array
    sum_of_squares: float


def read_nist(folder: str, name: str) -> NistSet:
    """The set of `folder`/`name`.dat. Raises UsageError where there is none, and for a file of another format."""
    path = Path(folder) / f"{name}.dat"
    if not path.is_file():
        known = sorted(each.stem for each in Path(folder).glob("*.dat"))
        raise UsageError(f"target.name={name!r}: {folder} has no file {name}.dat{near(name, known)}.")
    try:
        return _read(name, path.read_text(encoding="ascii"))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a file of NIST's nonlinear regression sets: {error}.") from error


def _read(name: str, text: str) -> NistSet:
    lines = text.splitlines()
    spans = {what: (int(first) - 1, int(last)) for what, first, last in _LINES.findall(text)}
    rows = [line for line in lines[slice(*spans["Certified Values"])] if "=" in line]
    numbers = np.array([_floats(row.split("=")[1])[:3] for row in rows])
    data = np.array([_floats(line) for line in lines[slice(*spans["Data"])] if line.strip()])
    match = _MODEL.search(text)
    if match is None or numbers.shape != (len(rows), 3) or data.ndim != 2:
        raise ValueError("its model, parameters or data are not where they are expected")
    parameters = tuple(row.split("=")[0].strip() for row in rows)
    inputs = [f"x{i}" for i in range(data.shape[1] - 1)]
    right = " ".join(match["right"].split()).translate(str.maketrans("[]", "()"))
    for number, ours in enumerate(inputs, 1):
        right = re.sub(r"\bx\b" if len(inputs) == 1 else rf"\bx{number}\b", ours, right)
    model = parse_expression(right, [*inputs, *parameters])
    residual = next(line for line in lines if line.startswith("Residual Sum of Squares"))
    y = np.log(data[:, 0]) if match["left"].startswith("log") else data[:, 0]
    return NistSet(name, data[:, 1:], y, model, parameters, numbers[:, :2].T, numbers[:, 2], _floats(residual)[0])


def _floats(text: str) -> list[float]:
    return [float(number.replace("D", "E")) for number in _NUMBER.findall(text)]


def build_nist(config: NistTarget) -> Target:
    """All points of a set; there is no truth between them."""
    found = read_nist(config.path, config.name)
    points = Points(found.x, found.y[:, None])
    inputs = tuple(f"x{i}" for i in range(found.x.shape[1]))
    return Target(found.name, inputs, ("y",), points.box, points=points)
